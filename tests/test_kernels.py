"""Our own CPU kernels: the same function and the same gradients as the model that is written to be read."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from conftest import shaken
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mlpmixer
from mlpmixer.engines import trainable
from mlpmixer.kernels.__main__ import main as compile_all
from mlpmixer.kernels.library import Name, library
from mlpmixer.kernels.mixing import channel_mixing, token_mixing
from mlpmixer.kernels.weights import GeluForm, HalfWeights
from mlpmixer.models.mixer import Mixer

library_module = import_module("mlpmixer.kernels.library")
missing = library("mixing")
DRAWS = 3
needs_kernels = pytest.mark.skipif(not isinstance(missing, ctypes.CDLL), reason=f"no kernels here: {missing}")


def gradients(run: nn.Module, model: nn.Module, images: Tensor, *, bf16: bool) -> dict[str, Tensor]:
    """Of a loss that weighs all logits differently, and the logits themselves."""
    model.zero_grad()
    torch.manual_seed(3)  # stochastic depth draws the same
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = run(images).float()
    (logits.sin() * torch.arange(1, logits.shape[1] + 1)).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **found}


def mixer(name: str, **options: Any) -> Mixer:
    model = shaken(mlpmixer.create(name, num_classes=10, **options)).train()
    assert isinstance(model, Mixer)
    return model


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@needs_kernels
@pytest.mark.parametrize(
    ("name", "count", "options"),
    [
        ("mixer_pico", 3, {"image_size": 28}),  # 49 tokens: an odd number of rows
        ("mixer_nano", 5, {"gelu": "erf", "layers": 3}),  # 96 channels: half a panel
        ("mixer_nano", 4, {"image_size": (20, 12), "channels": 32, "token_hidden": 16, "channel_hidden": 32}),
        ("mixer_nano", 7, {"layers": 3, "stochastic_depth": 0.5}),
        ("mixer_nano", 7, {"layers": 3, "stochastic_depth": 0.5, "rescale_branches": True}),
        ("mixer_pico", 5, {"image_size": 32, "untied": True}),
        ("mixer_pico", 5, {"image_size": 32, "groups": 2, "group_projection": True, "stochastic_depth": 0.5}),
        ("mixer_pico", 5, {"image_size": 32, "pyramid": (1,)}),  # only that layer's token mixing is another one
        ("mixer_pico", 5, {"image_size": 30}),  # sides that are no multiples of the patch
        ("mixer_s32", 3, {"layers": 2}),
        ("mixer_b16", 5, {"layers": 1}),  # 980 rows: more than one chunk on the way back
    ],
)
def test_a_mixer_through_the_kernels(name: str, count: int, options: dict):
    model = mixer(name, **options)
    run = trainable.Trainable(model)
    # The squares of distances, over several draws: one alone may favor either.
    ours, eager = defaultdict(float), defaultdict(float)
    for _ in range(DRAWS):
        images = torch.randn(count, 3, *model.config.image_size)
        true = gradients(model, model, images, bf16=False)
        for found, way in ((ours, run), (eager, model)):
            given = gradients(way, model, images, bf16=True)
            assert true.keys() == given.keys()
            for key, value in true.items():
                if value.norm() > 1e-3:  # not what is only rounding: nothing depends on a shift of a whole column
                    found[key] += distance(given[key], value) ** 2 / DRAWS
    for key, square in ours.items():
        # As near to float32 as autocast is, or within one part in a hundred.
        assert square**0.5 < max(0.01, 1.5 * eager[key] ** 0.5), key


def plain(x: Tensor, w: HalfWeights, scale: Tensor, *, columns: bool, gelu: GeluForm) -> Tensor:
    """One half of a layer, as the formula says it."""
    normed = nn.functional.layer_norm(x, x.shape[-1:], w.gamma, w.beta, 1e-6)
    normed = normed.mT if columns else normed
    hidden = nn.functional.gelu(normed @ w.w1.T + w.b1, approximate="none" if gelu == "erf" else "tanh")
    mixed = hidden @ w.w2.T + w.b2
    return x + scale[:, None, None] * (mixed.mT if columns else mixed)


@needs_kernels
@settings(max_examples=25, derandomize=True)
@given(
    images=st.integers(1, 5),
    tokens=st.integers(1, 70),
    channels=st.integers(1, 5).map(lambda n: 32 * n),
    hidden=st.integers(1, 7).map(lambda n: 32 * n),
    columns=st.booleans(),
    gelu=st.sampled_from(["tanh", "erf"]),
    low_memory=st.booleans(),
    threads=st.integers(1, 3),
)
def test_one_half_at_any_size(
    images: int, tokens: int, channels: int, hidden: int, columns: bool, gelu: GeluForm, low_memory: bool, threads: int
):
    torch.manual_seed(tokens)
    wide = tokens if columns else channels
    weights = HalfWeights(
        *(torch.randn(channels) * 0.1 + 1, torch.randn(channels) * 0.1),
        *(torch.randn(hidden, wide) * wide**-0.5, torch.randn(hidden) * 0.1),
        *(torch.randn(wide, hidden) * hidden**-0.5, torch.randn(wide) * 0.1),
    )
    weights = HalfWeights(*(tensor.requires_grad_() for tensor in weights))
    x = torch.randn(images, tokens, channels).bfloat16().requires_grad_()
    scale = torch.tensor([0.0, 1.0, 1.0, 2.0, 1.0])[:images]
    weigh = torch.randn(images, tokens, channels).bfloat16().float()
    half = partial(token_mixing, low_memory=low_memory) if columns else channel_mixing

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = half(x, weights, scale, gelu=gelu)
        ours = torch.autograd.grad((y.float() * weigh).sum(), [x, *weights])
        again = torch.autograd.grad((half(x, weights, scale, gelu=gelu).float() * weigh).sum(), [x, *weights])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))

    true = plain(x.float(), weights, scale, columns=columns, gelu=gelu)
    theirs = torch.autograd.grad((true * weigh).sum(), [x, *weights])
    assert distance(y.float(), true) < 0.01
    for a, b in zip(ours, theirs, strict=True):
        assert (a.float() - b.float()).norm() < 0.02 * b.float().norm() + 0.02


@needs_kernels
def test_they_keep_less_for_the_way_back():
    from mlpmixer.models.measure import kept_for_backward

    model = mixer("mixer_s16", layers=2)
    images = torch.randn(2, 3, 224, 224)
    with torch.autocast("cpu", torch.bfloat16):
        runners = (model, trainable.Trainable(model), trainable.Trainable(model, low_memory=True))
        eager, ours, low_memory = (kept_for_backward(runner, images) for runner in runners)
    assert ours < 0.5 * eager
    assert low_memory < 0.9 * ours


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dropout": 0.1}, "no dropout"),
        ({"channels": 40}, "multiples of 32"),
    ],
)
def test_what_they_do_not_know_runs_as_before(options: dict, why: str):
    assert why in (trainable.why_not(mlpmixer.create("mixer_pico", **options)) or "")


def test_only_mixers():
    assert "Mixers only" in (trainable.why_not(mlpmixer.create("vit_ti32", layers=1)) or "")


@needs_kernels
def test_without_them_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path))
    for variable, value, why in (
        ("MLPMIXER_KERNELS", "off", "says off"),
        ("CXX", "/bin/false", "cannot compile"),
        ("MLPMIXER_CACHE", "/proc/nowhere", "cannot be written"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert why in str(loaded("mixing"))


@pytest.mark.slow
@needs_kernels
def test_they_can_be_compiled_ahead_of_time(tmp_path: Path):
    """As in a container's image: what runs there later needs no compiler. (One that takes what there is already.)"""
    ready = {name: library(name) for name in get_args(Name)}
    assert all(isinstance(built, ctypes.CDLL) for built in ready.values())
    cases = "".join(f'*{name}.cpp*) cp {built._name} "$out";; ' for name, built in ready.items())  # pyright: ignore[reportAttributeAccessIssue]
    command = [sys.executable, "-m", "mlpmixer.kernels"]
    environment = {**ours(), "MLPMIXER_CACHE": str(tmp_path), "CXX": compiler(tmp_path, f'case "$*" in {cases}esac')}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert {line.split(": ")[0] for line in told.splitlines()} == {*ready}
    assert all(Path(line.split(": ")[1]).is_relative_to(tmp_path) for line in told.splitlines())
    assert len([*(tmp_path / "kernels").glob("*.so")]) == 3
    without = {**environment, "PATH": str(tmp_path), "CXX": ""}
    assert subprocess.run(command, env=without, capture_output=True, text=True, check=True).stdout == told


def test_compiling_ahead_of_time_tells_what_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLPMIXER_KERNELS", "off")
    library.cache_clear()
    try:
        assert compile_all() == 1
    finally:
        library.cache_clear()
    assert capsys.readouterr().out.count("says off") == 3


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a new cache, where a compiler is at work that takes from another cache what it is asked for."""
    ready = library("resize")
    if isinstance(ready, str):
        pytest.skip(f"no kernels here: {ready}")
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", compiler(tmp_path, f'echo ran >> {tmp_path}/log; cp {ready._name} "$out"'))
    return tmp_path / "cache" / "kernels"


def compiler(folder: Path, does: str) -> str:
    """A script; `$out` is where the library is to be."""
    script = folder / "compiler"
    script.write_text(f"#!/bin/sh\nfor out; do :; done\n{does}\n")
    script.chmod(0o755)
    return str(script)


def loaded(name: Name = "resize") -> ctypes.CDLL | str:
    """As in a new process."""
    return library.__wrapped__(name)


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "log").read_text().splitlines())


def test_what_was_compiled_once_is_taken_from_the_cache(kernels: Path, tmp_path: Path):
    for _ in range(2):
        assert isinstance(loaded(), ctypes.CDLL)
    assert runs(tmp_path) == 1
    assert [path.suffix for path in sorted(kernels.iterdir())] == ["", ".so"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda whole: whole[:3000],
    "empty": lambda _: b"",
    "a bit": lambda whole: whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:],
    "a page of zeros": lambda whole: whole[:4096] + bytes(4096) + whole[8192:],  # as a power cut leaves it
}
LOAD = """
import os, sys
from mlpmixer.kernels.library import library
for os.environ["MLPMIXER_CACHE"] in sys.argv[1:]:
    print(library.__wrapped__("resize"), flush=True)
"""


def test_a_damaged_file_in_the_cache_is_made_anew(kernels: Path, tmp_path: Path):
    """In a process of its own: loading it would end the process, or do anything."""
    assert isinstance(loaded(), ctypes.CDLL)
    (built,) = kernels.glob("*.so")
    whole = built.read_bytes()
    caches = {name: tmp_path / name for name in (*DAMAGES, "a folder")}
    for cache in caches.values():
        shutil.copytree(kernels.parent, cache)
    files = {name: cache / "kernels" / built.name for name, cache in caches.items()}
    for name, damaged in DAMAGES.items():
        files[name].write_bytes(damaged(whole))
    files["a folder"].unlink()
    files["a folder"].mkdir()
    command = [sys.executable, "-c", LOAD, *map(str, caches.values())]
    told = subprocess.run(command, capture_output=True, text=True, env=ours())
    *others, folder = told.stdout.splitlines()
    assert [line[:5] for line in others] == ["<CDLL"] * len(DAMAGES), told
    assert all(files[name].read_bytes() == whole for name in DAMAGES)
    assert "cannot be written" in folder  # it is somebody's: that is for them to remove
    assert runs(tmp_path) == 1 + len(caches)


def ours() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize(
    "does", ['echo "no ELF" > "$out"', 'printf "\\177ELF" > "$out"', 'cp /lib64/ld-linux-x86-64.so.2 "$out"']
)
def test_what_cannot_be_loaded_is_not_kept(does: str, kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = os.environ["CXX"]
    (tmp_path / "bad").mkdir()
    monkeypatch.setenv("CXX", compiler(tmp_path / "bad", does))
    assert "compiler made of them cannot be loaded" in str(loaded())
    assert not [*kernels.glob("*.so")]
    monkeypatch.setenv("CXX", good)
    assert isinstance(loaded(), ctypes.CDLL)


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(library_module, "TIMEOUT_S", 0.3)
    monkeypatch.setenv("CXX", compiler(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child; wait"))
    assert str(loaded()).endswith("was not ready after 0 s; name another compiler by the variable CXX")
    assert not [*kernels.glob("build-*")]
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    assert not child.exists() or child.read_text().rsplit(")")[1].split()[0] == "Z"  # gone, or as good as gone


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (r"printf '\377\376 \033[2J nein\nmore' >&2; exit 1", "cannot compile them: \ufffd\ufffd \\x1b[2J nein"),
        ("exit 3", "cannot compile them: exit code 3"),
        ("exit 0", "made.so cannot be written or loaded: No such file"),
        ("kill -9 $$", "cannot compile them: exit code -9"),
    ],
)
@needs_kernels
def test_what_a_compiler_says_is_one_line(does: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", compiler(tmp_path, does))
    assert why in str(loaded())
    assert str(loaded()).isprintable()


@pytest.mark.usefixtures("kernels")
def test_a_compiler_may_be_a_command_with_arguments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", f"env LANG=C {os.environ['CXX']}")
    assert isinstance(loaded(), ctypes.CDLL)
    monkeypatch.setenv("CXX", "g++ 'unclosed")
    assert loaded() == "the variable CXX is no command: No closing quotation"


def test_what_killed_builds_left_is_removed(kernels: Path):
    kernels.mkdir(parents=True)
    for name in ("build-old", "build-young"):
        (kernels / name).mkdir()
        (kernels / name / "made.so").touch()
    os.utime(kernels / "build-old", (1e9, 1e9))
    assert isinstance(loaded(), ctypes.CDLL)
    assert [path.name for path in kernels.glob("build-*")] == ["build-young"]  # somebody may be at it


ALL_AT_ONCE = """
import multiprocessing, sys
from pathlib import Path
from mlpmixer.kernels.library import library

def found(number):
    Path(sys.argv[1], str(number)).touch()
    return str(library("resize"))

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        print("\\n".join(pool.map(found, range(4), chunksize=1)))
"""


@pytest.mark.usefixtures("kernels")
def test_of_processes_that_start_together_one_compiles(tmp_path: Path):
    """The compiler is not ready before all of them have asked."""
    (tmp_path / "asked").mkdir()
    with Path(os.environ["CXX"]).open("a") as script:
        script.write(f"until [ $(ls {tmp_path}/asked | wc -l) = 4 ]; do sleep 0.01; done\n")
    command = [sys.executable, "-c", ALL_AT_ONCE, str(tmp_path / "asked")]
    told = subprocess.run(command, capture_output=True, text=True, env=ours())
    assert [line[:5] for line in told.stdout.splitlines()] == ["<CDLL"] * 4, told
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("which", ["cache", "kernels", "file"])
def test_code_that_others_could_have_written_is_not_loaded(which: str, kernels: Path):
    assert isinstance(loaded(), ctypes.CDLL)
    (built,) = kernels.glob("*.so")
    place = {"cache": kernels.parent, "kernels": kernels, "file": built}[which]
    place.chmod(0o777)
    assert loaded() == (
        f"{place} can be written to by other users and is not trusted: run chmod go-w {place}; "
        "or choose another folder by the variable MLPMIXER_CACHE"
    )
    place.chmod(0o755)
    assert isinstance(loaded(), ctypes.CDLL)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["cache", "kernels", "file"])
def test_code_of_another_user_is_not_loaded(which: str, kernels: Path):
    assert isinstance(loaded(), ctypes.CDLL)
    (built,) = kernels.glob("*.so")
    place = {"cache": kernels.parent, "kernels": kernels, "file": built}[which]
    os.chown(place, 54321, 0)
    assert f"{place} belongs to another user and is not trusted: make it yours by chown 0 {place}" in str(loaded())
    os.chown(place, 0, 54321)
    place.chmod(0o775)
    assert f"{place} can be written to by other users" in str(loaded())
    os.chown(place, 0, 0)  # a group of root alone
    assert isinstance(loaded(), ctypes.CDLL)


def test_folders_of_the_cache_are_for_nobody_else_to_write_to(kernels: Path):
    before = os.umask(0)
    try:
        assert isinstance(loaded(), ctypes.CDLL)
    finally:
        os.umask(before)
    for path in (kernels.parent, kernels, *kernels.glob("*.so")):
        assert path.stat().st_mode & 0o022 == 0, path


@needs_kernels
def test_any_sizes_work_or_raise():
    """In a process of its own, since they might end it."""
    script = Path(__file__).with_name("kernel_calls.py")
    told = subprocess.run([sys.executable, "-O", str(script), "150"], capture_output=True, text=True, env=ours())
    assert told.returncode == 0, told.stderr[-3000:]
    assert min(json.loads(told.stdout).values()) > 10, told.stdout
