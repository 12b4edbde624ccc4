"""CPU kernels in C++, compiled once on the machine where they run, and kept.

`mixing.cpp` is for training, `forward.cpp` for inference, `resize.cpp` for images.

They are an extra. Without a compiler, or on a processor that lacks the instructions, `library` says why there is none,
and models run as PyTorch runs them. What was compiled is code: it is loaded only from folders and files no one else
can write to, and only if it is whole, as the checksum at the end of its name tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from mlpmixer import files, text
from mlpmixer.files import cache_folder, make_folder
from mlpmixer.machine import processor

Name = Literal["mixing", "forward", "resize"]

# What each needs, as Linux calls what a processor can do. Compilers leave the underscores out.
ALL = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "fma")
NEEDS: dict[Name, tuple[str, ...]] = {
    "mixing": (*ALL, "avx512_bf16"),
    "forward": (*ALL, "avx512_bf16", "avx512_vnni"),
    "resize": (*ALL, "avx512_vnni", "avx512vbmi"),
}
# What products are quicker with: the matrix units of Intel's servers. All three, or none.
HELPS = ("amx_tile", "amx_bf16", "amx_int8")
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC", "-w")
EXACT: dict[Name, tuple[str, ...]] = {"resize": ("-ffp-contract=off",)}  # weights are to be PyTorch's, bit for bit
TIMEOUT_S = 120.0  # of a compiler: they take some seconds
MOST = 1 << 26  # of a size that these functions take, as in door.h


class Size(ctypes.c_int64):
    """ctypes itself cuts off what is too large, without a word."""

    @classmethod
    def from_param(cls, value: Any) -> ctypes.c_int64:
        if not 0 <= value <= MOST:
            raise ValueError(f"a size of {value:,}: the kernels take 0 to {MOST:,}")
        return ctypes.c_int64(value)


POINTER = ctypes.c_void_p
TAKES: dict[Name, dict[str, list[type]]] = {
    "mixing": {
        **dict.fromkeys(("token_mixing", "channel_mixing"), [POINTER] * 8 + [Size] * 6 + [POINTER] * 3),
        **dict.fromkeys(
            ("token_mixing_backward", "channel_mixing_backward"), [POINTER] * 10 + [Size] * 6 + [POINTER] * 7
        ),
    },
    "forward": {"forward": [POINTER] * 2 + [Size] * 2 + [POINTER] * 2, "multiply": [Size] * 6},
    "resize": {"resize": [POINTER, ctypes.c_int64] + [Size] * 9 + [POINTER]},
}


@cache
def library(name: Name) -> ctypes.CDLL | str:
    """The compiled functions, or why there are none. The first call on a machine takes some seconds."""
    if os.environ.get("MLPMIXER_KERNELS") == "off":
        return "the variable MLPMIXER_KERNELS says off"
    lacking = {*NEEDS[name]} - processor.abilities()
    if platform.system() != "Linux" or lacking:
        return f"this processor has no instructions for them ({', '.join(sorted(lacking)) or 'they are for Linux'})"
    try:
        compiler = shlex.split(os.environ.get("CXX", ""))  # "ccache g++" is usual
    except ValueError as error:
        return f"the variable CXX is no command: {error}"
    compiler = compiler or [found for found in map(shutil.which, ("g++", "clang++")) if found][:1]
    if {*HELPS} <= processor.abilities():
        helped = _compiled(name, compiler, (*NEEDS[name], *HELPS))
        if isinstance(helped, ctypes.CDLL):  # a compiler may be too old for them
            return helped
    return _compiled(name, compiler, NEEDS[name])


def _compiled(name: Name, compiler: Sequence[str], abilities: Sequence[str]) -> ctypes.CDLL | str:
    source, *headers = Path(__file__).with_name(f"{name}.cpp"), *sorted(Path(__file__).parent.glob("*.h"))
    flags = [
        *FLAGS,
        *EXACT.get(name, ()),
        *(f"-m{ability.replace('_', '').replace('amx', 'amx-')}" for ability in abilities),
    ]
    parts = [*(file.read_bytes() for file in (source, *headers)), *map(str.encode, flags)]
    start = f"{name}-{_checksum(bytes([0]).join(parts))}"
    folder = cache_folder() / "kernels"
    try:
        for place in (folder.parent, folder):
            if place.exists():
                files.require_ours(place.resolve())
        if (found := _kept(name, folder, start)) is not None:
            return found
        if not compiler:
            return "there is no C++ compiler"
        make_folder(folder)
        with files.locked(folder / ".lock", wait=True):  # of several processes one compiles
            if (found := _kept(name, folder, start)) is not None:
                return found
            built = _build([*compiler, *flags, str(source)], folder, start)
        try:
            return _loaded(name, built)
        except (OSError, AttributeError) as error:
            built.unlink()
            return f"what {compiler[0]} made of them cannot be loaded: {_first_line(str(error))}"
    except subprocess.TimeoutExpired as error:
        return f"{compiler[0]} was not ready after {error.timeout:.0f} s; name another compiler by the variable CXX"
    except subprocess.CalledProcessError as error:
        return f"{compiler[0]} cannot compile them: {_first_line(error.stderr) or f'exit code {error.returncode}'}"
    except files.NotOurs as error:
        return f"{error}; or choose another folder by the variable MLPMIXER_CACHE"
    except OSError as error:
        return f"{error.filename or folder} cannot be written or loaded: {error.strerror or error}"


def _kept(name: Name, folder: Path, start: str) -> ctypes.CDLL | None:
    """From the cache. What is damaged there is deleted: it would end the process with SIGBUS."""
    for built in sorted(folder.glob(f"{start}-*.so")):
        files.require_ours(built)
        with contextlib.suppress(OSError, AttributeError):
            if built.stem == f"{start}-{_checksum(files.read(built, follow=False))}":
                return _loaded(name, built)
        with contextlib.suppress(OSError):
            built.unlink()
    return None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _loaded(name: Name, built: Path) -> ctypes.CDLL:
    # PyTorch has brought OpenMP along; what is not linked against another one uses the same threads.
    library = ctypes.CDLL(str(built))
    for function, takes in TAKES[name].items():
        found = getattr(library, function)
        found.argtypes, found.restype, found.errcheck = takes, ctypes.c_int32, _raised
    return library


def _raised(answer: int, function: Any, _: object) -> int:
    """The answers that are errors, as in door.h."""
    if answer == -1:
        raise MemoryError(f"the kernels' {function.__name__} needs more memory than there is")
    if answer == -2:
        raise ValueError(f"the kernels' {function.__name__} was given more than it can count")
    if answer < 0:
        raise RuntimeError(f"the kernels' {function.__name__} failed")
    return answer


def _build(command: list[str], folder: Path, start: str) -> Path:
    if sys.stderr.isatty():
        print("compiling the CPU kernels, once on this machine", file=sys.stderr)
    for left in folder.glob("build-*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > 2 * TIMEOUT_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as within:
        made = Path(within) / "made.so"
        _run([*command, "-o", str(made)])
        with made.open("rb") as file:
            content = file.read()
            os.fsync(file.fileno())  # a power cut must not leave a name without its bytes
        built = folder / f"{start}-{_checksum(content)}.so"
        made.chmod(0o755 & made.stat().st_mode)
        return made.replace(built)


def _run(command: list[str]) -> None:
    """With all that it starts, in a group of processes that ends with it."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        try:
            code = process.wait(TIMEOUT_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if code:
            said.seek(0)
            raise subprocess.CalledProcessError(code, command, stderr=said.read(1 << 16).decode(errors="replace"))


def _first_line(said: str) -> str:
    return text.printable(next(iter(said.strip().splitlines()), ""), 300)


def address(tensor: torch.Tensor | None, kind: torch.dtype, shape: Sequence[int]) -> int | None:
    """Of its numbers, which must be so many, of that kind, one after the other in this machine's memory."""
    if tensor is None:
        return None
    if (
        (*tensor.shape,) != (*shape,)
        or tensor.dtype != kind
        or tensor.device.type != "cpu"
        or not tensor.is_contiguous()
    ):
        found = f"{tensor.dtype} {(*tensor.shape,)} on {tensor.device}"
        raise ValueError(f"a kernel wants {kind} {(*shape,)}, one number after the other on the CPU, not {found}")
    return tensor.data_ptr()
