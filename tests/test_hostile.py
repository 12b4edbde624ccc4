"""Files that are broken, or made to do harm: each gets one line, runs nothing, and costs no memory.

What the collection of `hostile_files.py` leaves out is looked for by mutating good files.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import re
import signal
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hostile_files import (
    CASES,
    LINEN,
    OURS,
    Build,
    Payload,
    execute,
    linen,
    npz,
    pth,
    safe,
    saved,
    timm,
    touch,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import mlpmixer
from mlpmixer.errors import UsageError, WeightsError

LONGEST = 1500  # letters of a message; most have a tenth of that
MOST_MEMORY = 300  # MiB that all files together may add to a process


# What is no ordinary file.


def folder_of_weights(path: Path) -> Path:
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def listener(path: Path) -> Path:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # a longer one may be too long
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


def link_to_nowhere(path: Path) -> Path:
    path.symlink_to(path.parent / "nowhere")
    return path


def link_to_zeros(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def closed(path: Path) -> Path:
    path.write_bytes(b"")
    path.chmod(0)
    return path


PLACES: dict[str, Callable[[Path], Path]] = {
    "folder": folder_of_weights,
    "pipe": pipe,
    "socket": listener,
    "link to itself": loop,
    "link to nowhere": link_to_nowhere,
    "link to a device": link_to_zeros,
    "/dev/zero": lambda _: Path("/dev/zero"),
    "/dev/null": lambda _: Path("/dev/null"),
    "/proc/self/mem": lambda _: Path("/proc/self/mem"),
    "file without permission": closed,
    "no file": lambda path: path,
}

Zoo = Callable[[str], Path]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Where the file of a case is; made when it is first asked for."""
    folder = tmp_path_factory.mktemp("zoo")

    @functools.cache
    def find(name: str) -> Path:
        ending, build = CASES[name]
        path = folder / f"{list(CASES).index(name):03}{ending}"
        path.write_bytes(build(folder))
        return path

    return find


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """What waits for ever fails instead."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def check_message(error: Exception, path: Path) -> None:
    message = str(error)
    assert str(path) in message
    assert len(message) < LONGEST
    assert message.isprintable(), "more than one line, or something for the terminal"


def faults(path: Path) -> str | None:
    """What is wrong with how `load` refuses a file; None: nothing."""
    try:
        mlpmixer.load(path)
    except (WeightsError, UsageError) as error:
        message = str(error)
        if str(path) not in message or len(message) >= LONGEST or not message.isprintable():
            return f"says {message!r}"
    except Exception as error:
        return f"lets {error!r} out"
    else:
        return "is loaded"
    return "runs code" if (path.parent / "canary").exists() else None


@pytest.mark.slow
def test_one_line_no_harm_and_no_memory(zoo: Zoo, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    good.write_bytes(OURS(tmp_path))
    paths = {name: zoo(name) for name in CASES}
    mlpmixer.load(good)  # what loading costs at all
    before = begin_peak()
    failures = {}
    for name, path in paths.items():
        signal.alarm(60)  # for each
        if (fault := faults(path)) is not None:
            failures[name] = fault
        (path.parent / "canary").unlink(missing_ok=True)
    assert not failures
    assert peak() - before < MOST_MEMORY


def begin_peak() -> int:
    """Forgets how much memory this process had at most; says how much it has, in MiB."""
    if Path("/proc/self/status").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """MiB; 0 where no Linux tells it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM")), 0)


def test_what_is_no_ordinary_file(tmp_path: Path) -> None:
    failures = {}
    for number, (name, make) in enumerate(PLACES.items()):
        if name == "file without permission" and os.geteuid() == 0:  # who may read every file
            continue
        (tmp_path / str(number)).mkdir()
        if (fault := faults(make(tmp_path / str(number) / "weights.pth"))) is not None:
            failures[name] = fault
    assert not failures


@pytest.mark.parametrize("payload", [touch, execute])
def test_payloads_are_live(payload: Callable[[Path], Payload], tmp_path: Path) -> None:
    """Else it would prove nothing that they do not run."""
    pickle.loads(pickle.dumps(payload(tmp_path), 2))
    assert (tmp_path / "canary").exists()


# Mutations of good files.


def padded(whole: bytes, length: int) -> bytes:
    """The safetensors file with spaces after its header."""
    (before,) = struct.unpack("<Q", whole[:8])
    return safe(whole[8 : 8 + before].ljust(length), whole[8 + before :])


GOOD: dict[str, Build] = {
    "ours.safetensors": OURS,
    "ours with a length that reads as a web page.safetensors": lambda folder: padded(OURS(folder), 0x3C20),
    "timm.safetensors": saved("timm.safetensors", layout="timm"),
    "linen.npz": LINEN,
    "older.npz": saved("older.npz", layout="older"),
    "deflated.npz": lambda folder: npz(linen(folder), zipfile.ZIP_DEFLATED),
    "timm.pth": saved("timm.pth"),
    "old form.pth": lambda folder: pth(timm(folder), zipped=False),
    "training.pth": lambda folder: pth({"epoch": 3, "state_dict": timm(folder), "betas": (0.9, 0.999)}),
    "vit.safetensors": saved("vit.safetensors", "vit_ti32"),
    "vit.npz": saved("vit.npz", "vit_ti32"),
    "vit.pth": saved("vit.pth", "vit_ti32"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    return {name: build(folder) for name, build in GOOD.items()}


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def test_good_files_load(good: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
        assert mlpmixer.load(tmp_path / name)(torch.zeros(1, 3, 8, 8)).shape == (1, 3), name


NUMBERS = [0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
WORDS = [
    b"0",
    b"-1",
    b"3",
    b"1e9",
    b"1" + b"0" * 19,
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"x"',
    b"()",
    b"\n",
    b"'",
]


@st.composite
def accidents(draw: st.DrawFn, content: bytes, other: bytes) -> bytes:
    """Up to four accidents, most of them near the ends, where the formats keep what they claim."""
    changed = bytearray(content)

    def place() -> int:
        near, far = st.integers(0, 400), st.integers(0, len(changed))
        at = draw(st.one_of(near, near.map(lambda n: len(changed) - n), far))
        return min(max(at, 0), len(changed))

    for _ in range(draw(st.integers(1, 4))):
        begin, end = sorted((place(), place()))
        kind = draw(
            st.sampled_from(["flip", "write", "number", "word", "word", "insert", "delete", "cut", "splice", "swap"])
        )
        if kind == "flip" and begin < len(changed):
            changed[begin] ^= 1 << draw(st.integers(0, 7))
        elif kind in ("write", "insert"):
            new = draw(st.binary(min_size=1, max_size=16))
            changed[begin : begin + len(new) * (kind == "write")] = new
        elif kind == "number":
            new = draw(st.sampled_from(NUMBERS)).to_bytes(8, "little")[: draw(st.sampled_from([2, 4, 8]))]
            changed[begin : begin + len(new)] = new
        elif kind == "word" and (found := re.search(rb"\d+|\w+|\"\w*\"", changed[begin:])):
            changed[begin + found.start() : begin + found.end()] = draw(st.sampled_from(WORDS))
        elif kind == "delete":
            del changed[begin : min(end, begin + 64)]
        elif kind == "cut":
            del changed[end:]
        elif kind == "splice":
            changed[end:] = other[end:]
        elif kind == "swap":
            middle = (begin + end) // 2
            changed[begin:end] = changed[middle:end] + changed[begin:middle]
    return bytes(changed)


@st.composite
def mutations(draw: st.DrawFn, good: dict[str, bytes]) -> tuple[str, bytes]:
    """A good file after some accidents: to the whole, or to a part that is then packed again as if all were well."""
    name, other = draw(st.sampled_from(sorted(good))), draw(st.sampled_from(sorted(good)))
    content = good[name]
    if draw(st.booleans()):
        return name, draw(accidents(content, good[other]))
    if name.endswith(".safetensors"):
        (length,) = struct.unpack("<Q", content[:8])
        header = draw(accidents(content[8 : 8 + length], good[other][8:]))
        return name, safe(header, content[8 + length :])
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        chosen = draw(st.sampled_from([member for member in members if "data/" not in member]))
        return name, npz(members | {chosen: draw(accidents(members[chosen], good[other]))})
    return name, draw(accidents(content, content[::-1]))


@settings(max_examples=400, derandomize=True, database=None)
@given(data=st.data())
def test_mutations_load_or_are_refused(data: st.DataObject, good: dict[str, bytes], fuzz_folder: Path) -> None:
    name, content = data.draw(mutations(good))
    path = fuzz_folder / name
    path.write_bytes(content)
    try:
        model = mlpmixer.load(path)
    except (WeightsError, UsageError) as error:
        check_message(error, path)
    else:
        assert all(bool(torch.isfinite(array).all()) for array in model.state_dict().values())
