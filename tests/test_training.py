"""Runs from beginning to end, and all that can come between."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_processes import run_elsewhere, running, said
from PIL import Image
from safetensors import safe_open
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from mlpmixer import Predictor, create, data, load, save
from mlpmixer.data.choose import choose
from mlpmixer.data.loader import Batch
from mlpmixer.data.preprocess import normalise
from mlpmixer.errors import DataError, MixerError, RecipeError, RunError, RunStopped, UsageError
from mlpmixer.passport import Passport, Preprocessing
from mlpmixer.recipe import About, Recipe
from mlpmixer.recipes import toml
from mlpmixer.run.folder import RunFolder
from mlpmixer.train.begin import begin
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.diary import Diary, off_the_curve
from mlpmixer.train.grid import search
from mlpmixer.train.loop import crosses, fit
from mlpmixer.train.loss import as_targets, distance_to
from mlpmixer.train.progress import Bar
from mlpmixer.train.stop import Stop
from mlpmixer.train.teacher import Teacher
from mlpmixer.train.team import Team, device_of, joined
from mlpmixer.train.update import Update

CLASSES = ("Trouser", "Bag")
STEPS = 12
CPU = Team(torch.device("cpu"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As in the processes that runs are compared with: sums over other numbers of threads end in other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred pictures of Fashion-MNIST, as its own files: trousers, bags and, few, shirts."""
    folder = tmp_path_factory.mktemp("clothes")
    whole = data.open("fashion_mnist_small")
    for split, stem, counts in (("train", "train", {1: 120, 8: 120, 6: 30}), ("test", "t10k", {1: 40, 8: 40, 6: 10})):
        labels = whole[split].labels
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:n] for label, n in counts.items()]))
        pictures = np.stack([np.asarray(whole[split].read(int(i))) for i in chosen])
        write_idx(folder / f"{stem}-images-idx3-ubyte", pictures)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels[chosen])
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sides + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def small(clothes: Path) -> Recipe:
    """A tiny Mixer, all chance on: what else would show whether a run goes on to the bit?"""
    sizes = {"layers": 2, "channels": 32, "token_hidden": 16, "channel_hidden": 64, "dropout": 0.1}
    return toml.change(
        Recipe(name="small"),
        {
            "model.name": "mixer_pico",
            **{f"model.options.{name}": value for name, value in sizes.items()},
            "data.source": str(clothes),
            "data.classes": CLASSES,
            "data.dev": "10%",
            "augment.crop": "pad",
            "augment.mixup": 0.2,
            "optim.lr": 0.004,
            "optim.ema": 0.8,
            "train.steps": STEPS,
            "train.batch_size": 16,
            "train.precision": "fp32",
            "evaluation.every": 0.4,
            "machine.workers": 0,
            "machine.save_every": 3,
            "machine.keep": 100,
            "machine.log_every": 4,
        },
    )


@pytest.fixture(scope="module")
def uninterrupted(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all its checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    fit(small, folder, quiet=True)
    return folder


def as_after(step: int, finished: Path, folder: Path) -> Path:
    """A copy of a run as it was when it was stopped after that step."""
    shutil.copytree(finished, folder)
    for name in ("result.json", "weights.safetensors"):
        (folder / name).unlink()
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    return folder


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))


def state(folder: Path, step: int) -> dict[str, Any]:
    """All that is in a checkpoint."""
    file = folder.with_name(f"{folder.name}.{step}.pt")
    dcp_to_torch_save(folder / "checkpoints" / f"step-{step:09}", file)
    return torch.load(file, weights_only=False)


def flat(content: Any, name: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one."""
    if isinstance(content, dict | list | tuple):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        return {inner: value for key, part in pairs for inner, value in flat(part, f"{name}/{key}").items()}
    return {name: content}


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What does not depend on the hour and the haste."""
    hasty = ("time", "images_per_s", "mfu")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in hasty} for line in lines]


def contents(file: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and arrays. (safetensors writes its metadata in an order of chance.)"""
    with safe_open(file, "pt") as opened:
        return opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def assert_same_file(ours: Path, theirs: Path) -> None:
    (about, arrays), (about_too, arrays_too) = contents(ours), contents(theirs)
    assert about == about_too
    torch.testing.assert_close(arrays, arrays_too, rtol=0, atol=0)


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Bit for bit: weights, optimiser, average, best, and what was measured on the way."""
    for name in ("weights.safetensors", "best.safetensors"):
        assert_same_file(ours / name, theirs / name)
    assert (ours / "result.json").read_bytes() == (theirs / "result.json").read_bytes()
    assert metrics(ours) == metrics(theirs)
    last = steps_saved(theirs)[-1]
    assert steps_saved(ours)[-1] == last
    ours_last, theirs_last = flat(state(ours, last)), flat(state(theirs, last))
    assert [*ours_last] == [*theirs_last]
    for name, value in theirs_last.items():
        assert torch.equal(ours_last[name], value) if torch.is_tensor(value) else ours_last[name] == value, name


def refused(error: type[MixerError], recipe: Recipe, folder: Path) -> str:
    with pytest.raises(error) as caught:
        fit(recipe, folder, quiet=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestWholeRuns:
    def test_it_learns(self, small: Recipe, tmp_path: Path):
        recipe = toml.change(small, {"train.epochs": 6.0, "train.steps": 0, "machine.save_every": 1000})
        found = fit(recipe, tmp_path / "run", quiet=True)
        assert found.test is not None
        assert found.test["top1"] > 0.9
        losses = [line["loss"] for line in metrics(tmp_path / "run") if line["kind"] == "train"]
        assert losses[0] == pytest.approx(math.log(2), abs=0.1)  # it knows nothing yet
        assert losses[-1] < losses[0] - 0.1

    def test_what_it_leaves_behind(self, small: Recipe, uninterrupted: Path):
        found = {str(path.relative_to(uninterrupted)) for path in uninterrupted.rglob("*") if path.is_file()}
        parts = {f"checkpoints/step-{n:09}/{part}" for n in (3, 6, 9, 12) for part in PARTS}
        assert found == {
            *("recipe.toml", "machine.json", "picks.json", "metrics.jsonl", "result.json", ".lock"),
            *("best.safetensors", "weights.safetensors"),
            *parts,
        }
        assert toml.read(uninterrupted / "recipe.toml") == small
        assert json.loads((uninterrupted / "picks.json").read_text()) == choose(small.data).record
        machine = json.loads((uninterrupted / "machine.json").read_text())
        assert machine["torch"] == torch.__version__
        assert machine["devices"] == 1

    def test_the_weights_carry_all_that_is_needed(self, small: Recipe, uninterrupted: Path, clothes: Path):
        model = load(uninterrupted)
        assert model.passport is not None
        assert model.passport.classes == CLASSES
        assert model.passport.preprocessing == Preprocessing.usual((28, 28))
        assert model.passport.provenance["recipe"] == "small"
        assert model.passport.provenance["data"] == str(clothes)
        test = choose(small.data).test
        assert test is not None
        predictor = Predictor(model)
        right = [predictor(test.read(i)).label == CLASSES[test.labels[i]] for i in range(len(test))]
        result = json.loads((uninterrupted / "result.json").read_text())
        assert sum(right) / len(right) == pytest.approx(result["test"]["top1"])
        assert result["test"]["count"] == 80

    def test_the_average_is_what_is_kept(self, uninterrupted: Path):
        model, last = load(uninterrupted), state(uninterrupted, STEPS)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, last["average"][name])
            assert not torch.equal(parameter, last["model"][name])

    def test_metrics(self, uninterrupted: Path):
        lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
        trained = [line for line in lines if line["kind"] == "train"]
        assert [line["step"] for line in trained] == [3, 4, 6, 8, 9, 11, 12]  # before all that is kept, too
        for line in trained:
            assert {*line} == {"step", "kind", "epoch", "loss", "lr", "norm", "images_per_s", "mfu", "time"}
            assert line["epoch"] == pytest.approx(line["step"] * 16 / 216, rel=1e-4)
            assert line["lr"] == pytest.approx(
                0.004 * (1 + math.cos(math.pi * (line["step"] - 1) / STEPS)) / 2, rel=1e-4
            )
        dev = [line for line in lines if line["kind"] == "dev"]
        assert [line["step"] for line in dev] == [6, 11, 12]  # every 0.4 epochs of 13.5 steps, and last
        assert all(line["count"] == 24 for line in dev)
        assert [line["kind"] for line in lines[-2:]] == ["final dev", "final test"]

    def test_a_finished_run_is_not_run_again(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        folder = shutil.copytree(uninterrupted, tmp_path / "run")
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
        found = fit(small, folder, quiet=True)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == before
        assert found.weights == folder / "weights.safetensors"
        assert found.dev == json.loads((folder / "result.json").read_text())["dev"]

    def test_the_best_is_kept_if_wanted(self, small: Recipe, tmp_path: Path):
        """With a rate that ruins now and then what was learnt."""
        how = {"train.keep": "best", "optim.name": "sgd", "optim.lr": 2.0, "optim.ema": 0.0, "evaluation.every": 0.1}
        found = fit(toml.change(small, how), tmp_path / "run", quiet=True)
        measured = [line["top1"] for line in metrics(tmp_path / "run") if line["kind"] == "dev"]
        assert found.dev is not None
        assert found.dev["top1"] == pytest.approx(max(measured), abs=1e-6)
        assert measured[-1] < max(measured)
        assert_same_file(found.weights, tmp_path / "run" / "best.safetensors")

    def test_without_dev_and_test(self, small: Recipe, tmp_path: Path):
        found = fit(toml.change(small, {"data.dev": "", "data.test": "", "train.steps": 2}), tmp_path, quiet=True)
        assert (found.dev, found.test) == (None, None)
        assert load(tmp_path).passport is not None

    def test_it_leaves_nothing_open(self, small: Recipe, tmp_path: Path):
        fit(
            toml.change(small, {"train.steps": 1}), tmp_path / "first", quiet=True
        )  # brings what stays, such as modules
        files, threads = open_files(), {*threading.enumerate()}
        fit(toml.change(small, {"train.steps": 3, "machine.workers": 2}), tmp_path / "run", quiet=True)
        assert open_files() <= files
        assert {*threading.enumerate()} <= threads
        assert multiprocessing.active_children() == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_from_another_thread(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        """As notebooks and services do."""
        thread = threading.Thread(target=fit, args=(small, tmp_path / "run"), kwargs={"quiet": True})
        thread.start()
        thread.join()
        assert_same_run(tmp_path / "run", uninterrupted)

    def test_two_runs_with_different_processes_learn_the_same(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        fit(toml.change(small, {"machine.workers": 2}), tmp_path / "run", quiet=True)
        assert_same_run(tmp_path / "run", uninterrupted)


PARTS = (".metadata", "__0_0.distcp", "sums.json")


def open_files() -> set[str]:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return set()
    links = (os.readlink(path) for path in folder.iterdir() if path.is_symlink())
    return {link for link in links if not link.startswith("pipe:")}


class TestWhatIsSeen:
    def test_lines_for_measurements(self, small: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        fit(toml.change(small, {"train.steps": 2}), tmp_path / "run")
        out, err = capfd.readouterr()
        assert out == ""
        assert re.fullmatch(
            r"epoch +0\.1481  dev: \d+\.\d\d % right, \d\.\d{4} nats\n"
            r"epoch +0\.1481  final dev: \d+\.\d\d % right, \d\.\d{4} nats\n"
            r"epoch +0\.1481  final test: \d+\.\d\d % right, \d\.\d{4} nats\n",
            err,
        )

    def test_quiet_is_quiet_but_for_warnings(self, small: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        curve = About(curve=((0.0, 10.0), (1.0, 12.0)), band=2.0)
        fit(replace(toml.change(small, {"train.steps": 2}), about=curve), tmp_path / "run", quiet=True)
        out, err = capfd.readouterr()
        assert out == ""
        assert re.fullmatch(r"warning: \d+\.\d % after 0\.148 epochs is above the expected 10\.3 ± 2 %\n", err)

    def test_a_bar_on_a_terminal(self, small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "150")
        ours, theirs = os.openpty()
        seen = b""
        with os.fdopen(theirs, "w") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            fit(toml.change(small, {"train.steps": 2}), tmp_path / "run")
            terminal.flush()
            os.set_blocking(ours, False)
            while part := _read(ours):
                seen += part
        os.close(ours)
        text = seen.decode()
        assert "2/2" in text
        assert re.search(r"loss 0\.\d{3}  lr 0\.00\d+  [\d,]+ images/s  MFU \d+%", text)
        assert "dev: " in text
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor comes back

    @pytest.mark.parametrize(
        ("epoch", "accuracy", "said"),
        [
            (1, 20.0, None),
            (2, 24.9, "24.9 % after 2 epochs is below the expected 30.0 ± 5 %"),
            (2, 25.1, None),
            (3, 45.5, "45.5 % after 3 epochs is above the expected 40.0 ± 5 %"),
            (0.5, 0.0, None),
            (9, 0.0, None),
        ],
    )
    def test_the_expected_curve(self, epoch: float, accuracy: float, said: str | None):
        assert off_the_curve(((1, 20), (3, 40), (4, 41)), 5.0, epoch, accuracy) == said

    def test_when_it_is_measured(self):
        assert [step for step in range(1, 12) if crosses(step, 2.5)] == [3, 5, 8, 10]
        assert [step for step in range(1, 4) if crosses(step, 0.3)] == [1, 2, 3]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""


def wait_for(holds: Callable[[], object], process: Any = None) -> None:
    """Until `holds` does, or the process is over."""
    until = time.monotonic() + 120
    while not holds() and (process is None or process.is_alive()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.002)


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


class TestKilled:
    """SIGKILL at any moment, again and again, and the same command again and again: nothing is different in the end."""

    def test_at_25_moments(self, small: Recipe, tmp_path: Path):
        recipe = toml.change(
            small,
            {
                "machine.save_every": 1,
                "machine.keep": 2,
                "machine.workers": 1,
                "machine.log_every": 3,
                "train.steps": 20,
            },
        )
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        assert run_elsewhere(recipe, whole) == 0, said(whole)
        chance = random.Random(0)
        writing = 0
        for life in range(25):
            with running(recipe, killed) as process:
                if life % 3 == 0:
                    time.sleep(chance.uniform(0, 0.8))  # anywhere, the beginning as well
                elif life % 3 == 1:
                    wait_for(lambda: [*(killed / "checkpoints").glob(".writing-*")], process)
                    time.sleep(chance.uniform(0, 0.02))
                    writing += bool([*(killed / "checkpoints").glob(".writing-*")])
                else:
                    before = lines_of(killed)
                    wait_for(lambda before=before: lines_of(killed) > before, process)
                    time.sleep(chance.uniform(0, 0.1))
                process.kill()
            for checkpoint in (killed / "checkpoints").glob("step-*") if killed.exists() else ():
                assert {path.name for path in checkpoint.iterdir()} == {*PARTS}
        assert writing > 0
        assert run_elsewhere(recipe, killed) == 0, said(killed)
        assert_same_run(killed, whole)
        assert len(steps_saved(killed)) == 2
        assert not [path.name for path in killed.rglob(".*") if path.name not in (".lock", ".metadata")]

    def test_while_the_end_is_written(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        chance = random.Random(0)
        for life in range(5):
            folder = as_after(STEPS, uninterrupted, tmp_path / f"run{life}")
            lines = lines_of(folder)
            with running(small, folder) as process:
                wait_for(lambda: lines_of(folder) < lines, process)  # it has begun to tidy up
                time.sleep(chance.uniform(0, 0.25))
                process.kill()
            fit(small, folder, quiet=True)
            assert_same_run(folder, uninterrupted)
