"""Runs from beginning to end, and all that can come between."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import assert_went_on, noted, up_to, write_idx
from in_processes import run_elsewhere, running, said, wait_for
from messages import Says
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from mlpmixer import Predictor, create, data, load, save
from mlpmixer.data.images import decode
from mlpmixer.data.loader import Batch
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.data.select import select
from mlpmixer.errors import DataError, Diverged, MixerError, RecipeError, RunError, RunStopped, UsageError
from mlpmixer.machine.distributed import Group
from mlpmixer.metadata import Preprocessing
from mlpmixer.recipe import About, Recipe
from mlpmixer.recipes import toml
from mlpmixer.run import index
from mlpmixer.run.folder import RunFolder
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.errors import suggest_micro_batch
from mlpmixer.train.grid import search
from mlpmixer.train.logger import RunLogger, off_the_curve
from mlpmixer.train.loop import StopSignals, crosses, fit
from mlpmixer.train.loss import distance_to
from mlpmixer.train.plan import init_model, length_of
from mlpmixer.train.progress import ProgressBar
from mlpmixer.train.step import TrainStep
from mlpmixer.train.teacher import Teacher

CLASSES = ("Trouser", "Bag")
STEPS = 12
CPU = Group(torch.device("cpu"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As in the processes that runs are compared with: sums over other numbers of threads end in other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred images of Fashion-MNIST, as its own files: trousers, bags and, few, shirts."""
    folder = tmp_path_factory.mktemp("clothes")
    whole = data.open("fashion_mnist_small")
    for split, stem, counts in (("train", "train", {1: 120, 8: 120, 6: 30}), ("test", "t10k", {1: 40, 8: 40, 6: 10})):
        labels = whole[split].labels
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:n] for label, n in counts.items()]))
        images = np.stack([np.asarray(whole[split].read(int(i))) for i in chosen])
        write_idx(folder / f"{stem}-images-idx3-ubyte", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels[chosen])
    return folder


@pytest.fixture(scope="module")
def small(clothes: Path) -> Recipe:
    """A tiny Mixer, all chance on: what else would show whether a resume is bit-exact?"""
    sizes = {"layers": 2, "channels": 32, "token_hidden": 16, "channel_hidden": 64, "dropout": 0.1}
    return toml.change(
        Recipe(name="small"),
        {
            "model.name": "mixer_pico",
            **{f"model.options.{name}": value for name, value in sizes.items()},
            "data.source": str(clothes),
            "data.classes": CLASSES,
            "data.val": "10%",
            "augment.crop": "pad",
            "augment.mixup": 0.2,
            "optim.lr": 0.004,
            "optim.ema": 0.8,
            "train.steps": STEPS,
            "train.batch_size": 16,
            "train.precision": "fp32",
            "evaluation.every_epochs": 0.4,
            "machine.workers": 0,
            "machine.save_every": 3,
            "machine.keep_checkpoints": 100,
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
    """BiT for bit: weights, optimizer, average, best, and what was measured on the way."""
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
        (board,) = (name for name in found if name.startswith("tensorboard/"))
        parts = {f"checkpoints/step-{n:09}/{part}" for n in (3, 6, 9, 12) for part in PARTS}
        assert found == {
            *("recipe.toml", "machine.json", "picks.json", "metrics.jsonl", "result.json", ".lock"),
            *("best.safetensors", "weights.safetensors"),
            *parts,
            board,
        }
        assert toml.read(uninterrupted / "recipe.toml") == small
        assert json.loads((uninterrupted / "picks.json").read_text()) == select(small.data).record
        machine = json.loads((uninterrupted / "machine.json").read_text())
        assert machine["torch"] == torch.__version__
        assert machine["devices"] == 1

    def test_the_weights_carry_all_that_is_needed(self, small: Recipe, uninterrupted: Path, clothes: Path):
        model = load(uninterrupted)
        assert model.metadata.classes == CLASSES
        assert model.metadata.preprocessing == Preprocessing.usual((28, 28))
        assert model.metadata.provenance["recipe"] == "small"
        assert model.metadata.provenance["data"] == str(clothes)
        test = select(small.data).test
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
        val = [line for line in lines if line["kind"] == "val"]
        assert [line["step"] for line in val] == [6, 11, 12]  # every 0.4 epochs of 13.5 steps, and last
        assert all(line["count"] == 24 for line in val)
        assert [line["kind"] for line in lines[-2:]] == ["final val", "final test"]

    def test_curves_in_tensorboard(self, uninterrupted: Path):
        assert_curves(EventAccumulator(str(uninterrupted / "tensorboard")), uninterrupted)

    @pytest.mark.parametrize("clock", [0, pytest.param(9_999_999_999, marks=pytest.mark.slow)])
    def test_curves_of_a_run_that_went_on(self, clock: int, small: Recipe, uninterrupted: Path, tmp_path: Path):
        """Each step once, whatever the clock said where it began; also for who was looking on meanwhile."""
        folder = as_after(6, uninterrupted, tmp_path / "run")
        (board,) = (folder / "tensorboard").iterdir()
        board.rename(board.with_name(f"events.out.tfevents.{clock:010}.elsewhere.1.0"))
        watched = EventAccumulator(str(folder / "tensorboard")).Reload()
        fit(small, folder, quiet=True)
        assert_curves(EventAccumulator(str(folder / "tensorboard")), folder)
        if not clock:  # a reader that stays goes from name to name
            assert_curves(watched, folder)

    def test_a_finished_run_is_not_run_again(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        folder = shutil.copytree(uninterrupted, tmp_path / "run")
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
        found = fit(small, folder, quiet=True)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == before
        assert found.weights == folder / "weights.safetensors"
        assert found.val == json.loads((folder / "result.json").read_text())["val"]

    def test_the_best_is_kept_if_wanted(self, small: Recipe, tmp_path: Path):
        """With a rate that ruins now and then what was learnt."""
        how = {
            "train.select": "best",
            "optim.name": "sgd",
            "optim.lr": 2.0,
            "optim.ema": 0.0,
            "evaluation.every_epochs": 0.1,
        }
        found = fit(toml.change(small, how), tmp_path / "run", quiet=True)
        measured = [line["top1"] for line in metrics(tmp_path / "run") if line["kind"] == "val"]
        assert found.val is not None
        assert found.val["top1"] == pytest.approx(max(measured), abs=1e-6)
        assert measured[-1] < max(measured)
        assert_same_file(found.weights, tmp_path / "run" / "best.safetensors")

    def test_the_resize_crop_is_what_is_measured(self, small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        recipe, _ = stopped_on_photos(small, tmp_path)
        how = {"augment.crop": "resize", "augment.flip": False, "augment.mixup": 0.0, "train.steps": 3}
        recipe = toml.change(recipe, {**how, "evaluation.shape": "stretch", "evaluation.interpolation": "bicubic"})
        step, seen = TrainStep.step, set()

        def spied(train_step: TrainStep, number: int, parts: list[Batch]) -> Any:
            seen.update(image.numpy().tobytes() for part in parts for image in part.images)
            return step(train_step, number, parts)

        monkeypatch.setattr(TrainStep, "step", spied)
        found = fit(recipe, tmp_path / "resized", quiet=True)
        info = load(found.weights).metadata
        assert info is not None
        split = select(recipe.data).train
        measured = [prepare(decode(split.read(n)), info.preprocessing) for n in range(len(split))]
        assert seen == {one.numpy().tobytes() for one in measured}

    def test_without_val_and_test(self, small: Recipe, tmp_path: Path):
        found = fit(toml.change(small, {"data.val": "", "data.test": "", "train.steps": 2}), tmp_path, quiet=True)
        assert (found.val, found.test) == (None, None)
        assert load(tmp_path).metadata is not None

    def test_it_leaves_nothing_open(self, small: Recipe, tmp_path: Path):
        fit(
            toml.change(small, {"train.steps": 1}), tmp_path / "first", quiet=True
        )  # brings what stays, such as modules
        files, threads = open_files(), {*threading.enumerate()}
        fit(toml.change(small, {"train.steps": 3, "machine.workers": 2}), tmp_path / "run", quiet=True)
        assert open_files() <= files
        wait_for(lambda: {*threading.enumerate()} <= threads)  # those of queues end a moment later
        assert multiprocessing.active_children() == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_from_another_thread(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        """As notebooks and services do."""
        thread = threading.Thread(target=fit, args=(small, tmp_path / "run"), kwargs={"quiet": True})
        thread.start()
        thread.join()
        assert_same_run(tmp_path / "run", uninterrupted)

    @pytest.mark.slow
    def test_two_runs_with_different_processes_learn_the_same(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        fit(toml.change(small, {"machine.workers": 2}), tmp_path / "run", quiet=True)
        assert_same_run(tmp_path / "run", uninterrupted)


def assert_curves(board: EventAccumulator, run: Path) -> None:
    """All that the metrics say, each once."""
    board.Reload()
    shown = {(event.step, tag): event.value for tag in board.Tags()["scalars"] for event in board.Scalars(tag)}
    said = {
        (line["step"], f"{line['kind']}/{name}"): value
        for line in map(json.loads, noted(run))
        for name, value in line.items()
        if name not in ("step", "kind", "time")
    }
    assert shown == pytest.approx(said, rel=1e-5)
    assert len(shown) == sum(len(board.Scalars(tag)) for tag in board.Tags()["scalars"])


PARTS = (".metadata", "__0_0.distcp", "sums.json")


def open_files() -> set[str]:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return set()
    links = (str(path.readlink()) for path in folder.iterdir() if path.is_symlink())
    return {link for link in links if not link.startswith("pipe:")}


class TestWhatIsSeen:
    def test_lines_for_measurements(self, small: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        fit(toml.change(small, {"train.steps": 2}), tmp_path / "run")
        out, err = capfd.readouterr()
        assert out == ""
        assert re.fullmatch(
            r"recipe  \w+: 2 steps in fp32 on cpu, in .*/run\n"
            r"model   \w+: 28×28 pixels, 0\.\d\d M parameters\n"
            r"data    .*, 2 classes: train 216, val 24 \(10% of train\), test 80\n"
            r"epoch 0\.1/0\.1  val: acc \d+\.\d\d %  loss \d\.\d{4}\n"
            r"epoch 0\.1/0\.1  final val: acc \d+\.\d\d %  loss \d\.\d{4}\n"
            r"epoch 0\.1/0\.1  final test: acc \d+\.\d\d %  loss \d\.\d{4}\n",
            err,
        )

    def test_a_run_that_is_mostly_warm_up_is_warned_of(
        self, small: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        """As 245 photographs once were: 100 of 104 steps, and not a word."""
        how = {"train.steps": 6, "optim.warmup_steps": 5, "evaluation.every_epochs": 9.0, "data.test": ""}
        fit(toml.change(small, how), tmp_path / "run", quiet=True)
        assert "warning: 5 of the run's 6 steps are warm-up" in capfd.readouterr().err
        fit(toml.change(small, how | {"optim.warmup_share": 0.3}), tmp_path / "other", quiet=True)
        assert capfd.readouterr().err == ""
        rates = [line["lr"] for line in RunFolder(tmp_path / "other").metrics() if line["kind"] == "train"]
        assert rates[-1] < small.optim.lr

    def test_classes_that_are_hardly_learnt_are_warned_of(
        self, small: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        counts = {"a": 0, "b": 0, "c": 0, "d": 0, "e": 1, "f": 8, "g": 8}
        for name, count in counts.items():
            for split, number in (("train", count), ("val", 1)):
                (tmp_path / "photos" / split / name).mkdir(parents=True)
                for n in range(number):
                    Image.new("RGB", (28, 28), (n, 9, 9)).save(tmp_path / "photos" / split / name / f"{n}.png")
        source = {"data.source": str(tmp_path / "photos"), "data.classes": (), "data.val": "auto", "train.steps": 1}
        fit(toml.change(small, source), tmp_path / "run", quiet=True)
        assert capfd.readouterr().err.splitlines() == [
            "warning: no training images, so never predicted correctly: classes 'a', 'b', 'c' and 1 more; add images, "
            "or choose others with data.classes",
            "warning: a single training image: class 'e'; add images, or choose others with data.classes",
        ]

    def test_images_that_are_much_enlarged_are_warned_of(
        self, small: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        how = {"train.steps": 1, "data.test": "", "model.image_size": (112,), "model.options": {"patch_size": 28}}
        fit(toml.change(small, how), tmp_path / "run", quiet=True)
        assert capfd.readouterr().err == (
            "warning: images of 28×28 pixels are enlarged to 112×112, which takes longer and adds no detail; "
            "--model.image_size 56 takes less time\n"
        )
        fit(toml.change(small, how | {"model.image_size": (84,)}), tmp_path / "other", quiet=True)
        assert capfd.readouterr().err == ""

    def test_quiet_is_quiet_but_for_warnings(self, small: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        curve = About(curve=((0.0, 10.0), (1.0, 12.0)), tolerance=2.0)
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
        assert "step 2/2" in text
        assert re.search(r"loss 0\.\d{3}  lr 0\.00\d+  (val acc [\d.]+ %  )?[\d,]+ images/s  MFU \d+%", text)
        assert "val: " in text
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor comes back

    def test_the_expected_curve(self):
        rows = [
            (1, 20.0, None),
            (2, 24.9, "24.9 % after 2 epochs is below the expected 30.0 ± 5 %"),
            (2, 25.1, None),
            (3, 45.5, "45.5 % after 3 epochs is above the expected 40.0 ± 5 %"),
            (0.5, 0.0, None),
            (9, 0.0, None),
        ]
        for epoch, accuracy, warning in rows:
            assert off_the_curve(((1, 20), (3, 40), (4, 41)), 5.0, epoch, accuracy) == warning

    def test_few_images_are_trained_on_for_longer_with_as_many_validation_passes(self, small: Recipe):
        """30 epochs of 50 photographs are 24 steps, in which nothing is learned."""
        three = {"train.steps": 0, "train.epochs": 3.0, "evaluation.every_epochs": 1.0}
        rows = [
            (three, 41, 3),
            ({**three, "train.min_steps": 41}, 41, 3),
            ({**three, "train.min_steps": 90}, 90, 3),
            ({"train.steps": 5, "train.min_steps": 90, "evaluation.every_epochs": 0.2}, 5, 1),
        ]
        for changes, steps, passes in rows:
            wanted, val_every = length_of(toml.change(small, changes), 216 / 16)
            assert wanted == steps
            assert sum(crosses(step, val_every) for step in range(1, steps + 1)) in (passes, passes - 1)

    def test_when_it_is_measured(self):
        assert [step for step in range(1, 12) if crosses(step, 2.5)] == [3, 5, 8, 10]
        assert [step for step in range(1, 4) if crosses(step, 0.3)] == [1, 2, 3]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def other_lines(folder: Path, before: int) -> bool:
    return lines_of(folder) != before


def newest(folder: Path) -> int:
    return max(steps_saved(folder), default=0)


def is_as_far_as(folder: Path, step: int) -> bool:
    return newest(folder) >= step


def users_of(folder: Path) -> set[str]:
    """The processes that have files of it open, such as those that load images for a run that is no more."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(link.readlink()).startswith(str(folder)):
                found.add(link.parts[2])
    return found


class TestKilled:
    """SIGKILL at any moment, again and again, and the same command again and again: nothing is different in the end."""

    @pytest.mark.parametrize("lives", [3, pytest.param(25, marks=pytest.mark.slow)])
    def test_at_many_moments(self, lives: int, small: Recipe, tmp_path: Path):
        """While it starts, while a checkpoint is written, and between, in turns."""
        how = {"machine.save_every": 1, "machine.keep_checkpoints": 2, "machine.workers": 1, "machine.log_every": 3}
        recipe = toml.change(small, {**how, "train.steps": 12 if lives == 3 else 60, "data.test": ""})
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        fit(recipe, whole, quiet=True)
        chance = random.Random(0)
        writing, before, step = 0, [], 0
        for life in range(lives):
            with running(recipe, killed) as process:
                if life % 3 == 0:
                    wait_for(lambda: (killed / "metrics.jsonl").exists() or chance.random() < 0.01, process)
                elif life % 3 == 1:
                    wait_for(lambda: [*(killed / "checkpoints").glob(".writing-*")], process)
                    writing += bool([*(killed / "checkpoints").glob(".writing-*")])
                else:
                    wait_for(partial(is_as_far_as, killed, newest(killed) + chance.choice([1, 2])), process)
                process.kill()
            for checkpoint in (killed / "checkpoints").glob("step-*") if killed.exists() else ():
                assert {path.name for path in checkpoint.iterdir()} == {*PARTS}
            kept = up_to(step, before)  # no life began anew
            if (killed / "metrics.jsonl").exists():
                before, step = noted(killed), newest(killed)
            assert before[: len(kept)] == kept
        assert not (killed / "result.json").exists()  # so that every kill hit something
        assert newest(killed) > 0
        assert lives == 3 or (writing > 0 and newest(killed) > 3)
        wait_for(lambda: not users_of(killed))
        fit(recipe, killed, quiet=True)
        assert_went_on(killed, before, step)
        assert_same_run(killed, whole)
        assert_curves(EventAccumulator(str(killed / "tensorboard")), killed)
        assert len(steps_saved(killed)) == 2
        assert not [path.name for path in killed.rglob(".*") if path.name not in (".lock", ".metadata")]

    @pytest.mark.slow
    def test_while_the_end_is_written(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        lines = lines_of(uninterrupted)
        moments: dict[str, Callable[[Path], object]] = {
            "begun": lambda folder: lines_of(folder) < lines,  # those of the end are forgotten
            "measured on val": lambda folder: lines_of(folder) >= lines - 1,
            "measured on test": lambda folder: lines_of(folder) >= lines,
            "weights": lambda folder: (folder / "weights.safetensors").exists(),
            "result": lambda folder: (folder / "result.json").exists(),
        }
        for moment, has_come in moments.items():
            folder = as_after(STEPS, uninterrupted, tmp_path / moment)
            with running(small, folder) as process:
                wait_for(lambda folder=folder: lines_of(folder) < lines, process)
                wait_for(lambda folder=folder, has_come=has_come: has_come(folder), process)
                process.kill()
            fit(small, folder, quiet=True)
            assert_went_on(folder, noted(uninterrupted), STEPS)
            assert_same_run(folder, uninterrupted)


class Stopping:
    """A transform that leaves images as they are, and asks the run to stop once it is armed."""

    armed = False

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if self.armed:
            os.kill(os.getpid(), signal.SIGTERM)
        return image

    def __str__(self) -> str:
        return "stopping"


class TestStopped:
    def test_while_the_finished_weights_are_measured(self, small: Recipe, tmp_path: Path, says: Says):
        transform = Stopping()
        short = toml.change(small, {"train.steps": 2, "evaluation.every_epochs": 9})
        wanted = fit(short, tmp_path, transform=transform, quiet=True)
        (tmp_path / "result.json").unlink()
        transform.armed = True
        with says(RunStopped):
            fit(short, tmp_path, transform=transform, quiet=True)
        transform.armed = False
        assert fit(short, tmp_path, transform=transform, quiet=True) == wanted

    @pytest.mark.parametrize(
        "asking",
        [
            [(os.killpg, signal.SIGINT)],
            pytest.param([(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM)], marks=pytest.mark.slow),
        ],
        ids=["Ctrl-C", "SIGTERM"],
    )
    def test_the_command(self, asking: list[Any], small: Recipe, uninterrupted: Path, tmp_path: Path):
        """Real processes of the command. Ctrl-C reaches all processes of a terminal, SIGTERM one or all of a job."""
        folder, file = tmp_path / "run", tmp_path / "small.toml"
        slow = toml.change(small, {"machine.workers": 2, "machine.save_every": 1000})
        file.write_text(toml.dumps(slow))
        command = [sys.executable, "-W", "error", "-m", "mlpmixer", "train", str(file), "--folder", str(folder)]
        done, lines = [], []
        for ask, asked in asking:
            before = lines_of(folder)
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            wait_for(partial(other_lines, folder, before), process)
            ask(process.pid, asked)
            out, err = process.communicate(timeout=120)
            assert process.returncode == 130, err
            assert out == ""
            assert "Traceback" not in err
            last = err.splitlines()[-1]
            found = re.fullmatch(r"mixer: stopped after step (\d+) of 12; saved, and the same command resumes it", last)
            assert found, last
            done.append(int(found[1]))
            assert steps_saved(folder)[-1] == done[-1]
            lines.append(noted(folder))
        assert sorted({*done, STEPS}) == [*done, STEPS]
        for earlier, later, step in zip(lines, lines[1:], done, strict=False):
            kept = up_to(step, earlier)
            assert later[: len(kept)] == kept
        fit(small, folder, quiet=True)
        assert_went_on(folder, lines[-1], done[-1])
        for name in ("weights.safetensors", "best.safetensors"):
            assert_same_file(folder / name, uninterrupted / name)

    def test_the_step_is_finished_first_and_a_second_ctrl_c_does_not_wait(self):
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with StopSignals() as signals:
            assert not signals.stop_asked
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.stop_asked
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    def test_in_a_notebook(self, small: Recipe, uninterrupted: Path, tmp_path: Path, says: Says):
        """Ctrl-C comes as an error that says how to go on, and nothing runs on behind it."""
        slow = toml.change(small, {"machine.workers": 1})
        folder = tmp_path / "run"
        threads = {*threading.enumerate()}
        killer = threading.Thread(
            target=lambda: (wait_for(lambda: lines_of(folder)), os.kill(os.getpid(), signal.SIGINT))
        )
        killer.start()
        with says(RunStopped) as caught:
            fit(slow, folder, quiet=True)
        assert caught.value.exit_code == 130
        killer.join()
        assert multiprocessing.active_children() == []
        wait_for(lambda: {*threading.enumerate()} == threads)
        before, step = noted(folder), newest(folder)
        fit(slow, folder, quiet=True)
        assert_went_on(folder, before, step)
        for name in ("weights.safetensors", "best.safetensors"):
            assert_same_file(folder / name, uninterrupted / name)


VARIANTS = {
    # fp16 is slow on a CPU.
    "fp16, gsam, lamb": {
        **{"train.precision": "fp16", "optim.sharpness": "gsam", "optim.name": "lamb"},
        **{"train.batch_size": 2, "data.val": "1%", "model.options.layers": 1},
    },
    "bf16, our kernels": {"train.precision": "bf16", "model.options.dropout": 0.0},
    "sgd, cutmix, parts": {"optim.name": "sgd", "augment.cutmix": 1.0, "machine.micro_batch": 5, "optim.ema": 0.0},
    "best, steps": {"train.select": "best", "optim.schedule": "steps", "model.options.stochastic_depth": 0.3},
}


SLOW = ("fp16, gsam, lamb", "sgd, cutmix, parts")


class TestResuming:
    @pytest.mark.parametrize(
        "changes",
        [pytest.param(how, marks=[pytest.mark.slow] * (name in SLOW)) for name, how in VARIANTS.items()],
        ids=[*VARIANTS],
    )
    def test_to_the_bit(self, changes: dict[str, Any], small: Recipe, tmp_path: Path):
        recipe = toml.change(small, {**changes, "data.test": "", "train.steps": 6})
        fit(recipe, tmp_path / "whole", quiet=True)
        fit(recipe, as_after(3, tmp_path / "whole", tmp_path / "parted"), quiet=True)
        assert_went_on(tmp_path / "parted", noted(tmp_path / "whole"), 3)
        assert_same_run(tmp_path / "parted", tmp_path / "whole")

    @pytest.mark.parametrize(
        ("damage", "fault"),
        [
            ("flip", "__0_0.distcp is not as it was written"),
            ("delete", ".metadata: No such file or directory"),
            pytest.param("cut", "__0_0.distcp is not as it was written", marks=pytest.mark.slow),
            pytest.param("sums", "sums.json cannot be read", marks=pytest.mark.slow),
            pytest.param("no sums", "sums.json is empty", marks=pytest.mark.slow),
        ],
    )
    def test_past_a_damaged_checkpoint(
        self,
        damage: str,
        fault: str,
        small: Recipe,
        uninterrupted: Path,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
    ):
        folder = as_after(9, uninterrupted, tmp_path / "run")
        newest = folder / "checkpoints" / "step-000000009"
        harm(newest, damage)
        fit(small, folder, quiet=True)
        assert capfd.readouterr().err == f"warning: {newest} is damaged ({fault}); resuming from step 6\n"
        assert_went_on(folder, noted(uninterrupted), 6)
        assert_same_run(folder, uninterrupted)

    def test_all_damaged(self, small: Recipe, uninterrupted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        folder = as_after(6, uninterrupted, tmp_path / "run")
        for step, damage in ((3, "cut"), (6, "flip")):
            harm(folder / "checkpoints" / f"step-{step:09}", damage)
        fit(small, folder, quiet=True)
        said = capfd.readouterr().err.splitlines()
        assert [line.split("; ")[1] for line in said] == ["there is no other: starting anew"] * 2
        assert_same_run(folder, uninterrupted)

    def test_a_damaged_checkpoint_takes_no_place_of_a_whole_one(self, uninterrupted: Path, tmp_path: Path):
        folder = as_after(9, uninterrupted, tmp_path / "run")
        harm(folder / "checkpoints" / "step-000000009", "flip")
        model = create("mixer_pico")
        checkpoints = Checkpoints(folder / "checkpoints", CPU, keep=1)
        with checkpoints:
            assert checkpoints.restore({})[0] == 6
            checkpoints.save(7, {"model": model.state_dict()})
        assert steps_saved(folder) == [7]

    def test_only_with_the_same_recipe(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        folder = as_after(6, uninterrupted, tmp_path / "run")
        changed = toml.change(small, {"optim.lr": 0.1, "data.seed": 1})
        words = refused(RunError, changed, folder)
        assert f"{folder} already holds a run with a different recipe (data.seed: 1, not 0; optim.lr: 0.1, " in words
        assert "--folder" in words
        assert toml.read(folder / "recipe.toml") == small

    def test_only_with_the_same_images(self, small: Recipe, tmp_path: Path):
        recipe, folder = stopped_on_photos(small, tmp_path)
        rows: list[tuple[dict[str, str], str]] = [
            (
                {"spare/0.png": "photos/train/cat/3.png", "spare/1.png": "photos/train/cat/4.png"},
                "train images: 8, not 6",
            ),
            ({"spare": "photos/train/fox"}, "classes: 3, not 2; train images: 8, not 6"),
            ({"photos/train/cat/2.png": "photos/train/dog/3.png"}, "train images: 6 as before, but not the same"),
            (
                {"photos/train/dog": "photos/train/fox", "photos/test/dog": "photos/test/fox"},
                "classes: 2 as before, but not the same",
            ),
            ({"photos/test": "elsewhere"}, "test images: 0, not 6"),
        ]
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for moves, words in rows:
            for old, new in moves.items():
                (tmp_path / old).rename(tmp_path / new)
            said = refused(RunError, recipe, folder)
            assert f"{folder} already holds a run on different images ({words}); choose another folder with" in said
            for old, new in moves.items():
                (tmp_path / new).rename(tmp_path / old)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert fit(recipe, folder, quiet=True).test is not None
        assert_went_on(folder, noted(tmp_path / "whole"), 1)

    def test_with_images_that_were_moved(self, small: Recipe, tmp_path: Path):
        recipe, folder = stopped_on_photos(small, tmp_path)
        (tmp_path / "photos").rename(tmp_path / "moved")
        moved = toml.change(recipe, {"data.source": str(tmp_path / "moved")})
        fit(moved, folder, quiet=True)
        assert_went_on(folder, noted(tmp_path / "whole"), 1)
        (_, arrays), (_, wanted) = (contents(run / "weights.safetensors") for run in (folder, tmp_path / "whole"))
        torch.testing.assert_close(arrays, wanted, rtol=0, atol=0)
        assert (folder / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()
        assert toml.read(folder / "recipe.toml") == moved

    @pytest.mark.parametrize("stage", ["stopped", pytest.param("finished", marks=pytest.mark.slow)])
    def test_not_with_others_that_look_the_same_in_a_list(self, stage: str, small: Recipe, tmp_path: Path):
        """As many, with the same names in the same classes; one of them shows something else."""
        recipe, folder = stopped_on_photos(small, tmp_path)
        folder = folder if stage == "stopped" else tmp_path / "whole"
        shutil.copytree(tmp_path / "photos", tmp_path / "other")
        moved = toml.change(recipe, {"data.source": str(tmp_path / "other")})
        Image.new("RGB", (40, 60)).save(tmp_path / "other" / "train" / "cat" / "1.png")
        words = refused(RunError, moved, folder)
        assert "already holds a run on different images (train images: 6 as before, but not the same)" in words
        shutil.copy(tmp_path / "photos" / "train" / "cat" / "1.png", tmp_path / "other" / "train" / "cat" / "1.png")
        assert fit(moved, folder, quiet=True).test is not None

    def test_not_elsewhere_with_a_record_that_lacks_their_digest_or_another_recipe(self, small: Recipe, tmp_path: Path):
        recipe, folder = stopped_on_photos(small, tmp_path)
        (tmp_path / "photos").rename(tmp_path / "moved")
        moved = toml.change(recipe, {"data.source": str(tmp_path / "moved")})
        words = refused(RunError, toml.change(moved, {"optim.lr": 0.1}), folder)
        sources = f'data.source: "{tmp_path}/moved", not "{tmp_path}/photos"'
        assert f"already holds a run with a different recipe ({sources}; " in words
        record = json.loads((folder / "picks.json").read_text())
        for split in ("train", "test"):
            del record[split]["images"]
        (folder / "picks.json").write_text(json.dumps(record))
        words = refused(RunError, moved, folder)
        assert "already holds a run on different images (train images: 6 as before, but not the same; " in words

    def test_a_record_of_another_hand(self, small: Recipe, tmp_path: Path):
        recipe, folder = stopped_on_photos(small, tmp_path)
        for record in ("{", '{"train": 1}', "[]", "[" * 100_000, '{"classes": 5}', '{"train": {"digest": [1]}}'):
            (folder / "picks.json").write_text(record)
            words = refused(RunError, recipe, folder)
            assert "picks.json is damaged; delete it" in words or "different images" in words, record

    def test_with_more_images_while_nothing_is_learnt(self, small: Recipe, tmp_path: Path):
        recipe, folder = stopped_on_photos(small, tmp_path)
        shutil.rmtree(folder / "checkpoints")
        (tmp_path / "spare" / "0.png").rename(tmp_path / "photos" / "train" / "cat" / "3.png")
        fit(recipe, folder, quiet=True)
        assert json.loads((folder / "picks.json").read_text())["train"]["count"] == 7

    def test_weights_that_are_not_there_yet(self, uninterrupted: Path, tmp_path: Path, says: Says):
        folder = as_after(6, uninterrupted, tmp_path / "run")
        with says(UsageError):
            load(folder)

    def test_on_another_machine(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        folder = as_after(6, uninterrupted, tmp_path / "run")
        changed = replace(
            toml.change(
                small,
                {"machine.micro_batch": 5, "machine.workers": 1, "machine.keep_checkpoints": 1, "machine.log_every": 1},
            ),
            about=About(description="says more now"),
        )
        fit(changed, folder, quiet=True)
        assert_went_on(folder, noted(uninterrupted), 6)
        assert steps_saved(folder) == [12]
        assert toml.read(folder / "recipe.toml") == changed
        losses, wanted = (
            {line["step"]: line["loss"] for line in metrics(run) if line["kind"] == "train"}
            for run in (folder, uninterrupted)
        )
        # Bit for bit up to there, then in other parts, with other dropout.
        assert [*losses] == [3, 4, 6, *range(7, 13)]
        assert {n: losses[n] for n in (3, 4, 6)} == {n: wanted[n] for n in (3, 4, 6)}

    def test_one_process_at_a_time(self, small: Recipe, tmp_path: Path):
        endless = toml.change(small, {"train.steps": 10_000, "machine.workers": 2})
        folder = tmp_path / "run"
        with running(endless, folder) as process:
            wait_for(lambda: lines_of(folder), process)
            assert "another process is running in" in refused(RunError, endless, folder)
            process.kill()
            process.join()
        # What loaded images for it may live on for a moment; that is no reason to wait.
        with RunFolder(folder).held():
            pass

    def test_what_a_killed_writer_left_is_tidied_up(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        folder = as_after(9, uninterrupted, tmp_path / "run")
        left = [folder / name for name in (".weights.safetensors.x1y2", ".result.json.77.part")]
        for path in left:
            path.write_text("half")
        half = folder / "checkpoints" / ".writing-000000012"
        shutil.copytree(folder / "checkpoints" / "step-000000009", half)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 10, "kind": "tr')
        fit(small, folder, quiet=True)
        assert not any(path.exists() for path in (*left, half))
        assert_went_on(folder, noted(uninterrupted), 9)
        assert_same_run(folder, uninterrupted)


def stopped_on_photos(small: Recipe, folder: Path) -> tuple[Recipe, Path]:
    """A run of two steps that was stopped after the first, on photos/ beside it; and spare/, two more images."""
    random = np.random.default_rng(0)
    counts = {f"photos/{split}/{kind}": 3 for split in ("train", "test") for kind in ("cat", "dog")}
    for place, count in {**counts, "spare": 2}.items():
        (folder / place).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{number}.png")
    source = {"data.source": str(folder / "photos"), "data.classes": (), "data.val": ""}
    recipe = toml.change(small, {**source, "train.steps": 2, "train.batch_size": 4, "machine.save_every": 1})
    fit(recipe, folder / "whole", quiet=True)
    return recipe, as_after(1, folder / "whole", folder / "run")


def harm(checkpoint: Path, damage: str) -> None:
    file, sums = checkpoint / "__0_0.distcp", checkpoint / "sums.json"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "delete":
        (checkpoint / ".metadata").unlink()
    else:
        sums.write_text("[1, 2" if damage == "sums" else "{}")


class TestDisk:
    def test_when_it_is_full(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        """A file may have as many bytes as the weights need, and fewer than a checkpoint."""
        folder = as_after(6, uninterrupted, tmp_path / "run")
        room = (uninterrupted / "weights.safetensors").stat().st_size + 1000
        assert room < (uninterrupted / "checkpoints" / "step-000000006" / "__0_0.distcp").stat().st_size
        assert run_elsewhere(small, folder, file_size=room) == 1
        warned, ended = said(folder).splitlines()
        cannot = f"cannot write a checkpoint to {folder}/checkpoints (File too large)"
        assert warned == f"warning: {cannot}; the one before is still there, and the next will be tried"
        assert ended == f"{cannot}; make room, and the same command resumes from the one before"
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000000003", "step-000000006"]
        fit(small, folder, quiet=True)  # there is room again
        assert_went_on(folder, noted(uninterrupted), 6)
        assert_same_run(folder, uninterrupted)

    def test_lines_that_cannot_be_written(self, tmp_path: Path, says: Says):
        """There is room for half of the second line, of which nothing is left."""
        run = RunFolder(tmp_path)
        run.log(1, "train", loss=1.0)
        before = (tmp_path / "metrics.jsonl").read_bytes()
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, usual[1]))
        try:
            with says(RunError):
                run.log(2, "train", loss=1.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert (tmp_path / "metrics.jsonl").read_bytes() == before

    @pytest.mark.parametrize("where", ["file/run", "file"])
    def test_where_nothing_can_be_written(self, where: str, small: Recipe, tmp_path: Path):
        (tmp_path / "file").write_text("in the way")
        words = refused(RunError, small, tmp_path / where)
        assert f"cannot write to {tmp_path / where}: " in words
        assert "choose another folder: --folder" in words

    def test_a_damaged_result(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        folder = shutil.copytree(uninterrupted, tmp_path / "run")
        (folder / "result.json").write_text("{")
        assert "result.json is damaged; delete it" in refused(RunError, small, folder)
        (folder / "result.json").unlink()
        fit(small, folder, quiet=True)
        assert_went_on(folder, noted(uninterrupted), STEPS)
        assert_same_run(folder, uninterrupted)


class TestDiverging:
    def test_no_number(self, small: Recipe, tmp_path: Path):
        how = {
            "optim.name": "sgd",
            "optim.lr": 1e10,
            "optim.clip": 0.0,
            "machine.save_every": 1,
            "machine.log_every": 50,
        }
        folder = tmp_path / "run"
        words = refused(RunError, toml.change(small, how), folder)
        found = re.search(
            r"(?:the loss|the gradient's norm) is (?:nan|inf) at step (\d+) \(steps (\d+) to (\d+) ", words
        )
        assert found, words
        step = int(found[1])
        assert 1 < step < STEPS
        assert f"the last good checkpoint is that of step {step - 1}" in words
        assert "try a lower optim.lr, a longer optim.warmup_steps, or optim.clip 1, in another --folder" in words
        assert steps_saved(folder)[-1] == step - 1
        kept = flat(state(folder, step - 1))
        assert all(value.isfinite().all() for value in kept.values() if torch.is_tensor(value))
        report = json.loads((folder / "diverged.json").read_text())
        assert report["steps"] == [int(found[2]), int(found[3])]
        assert len(report["losses"]) == len(report["norms"]) == 1
        assert all(re.fullmatch(r".* train\[\d+\]", where) for where in report["images"])
        assert 16 <= len(report["images"]) <= 17
        assert all(math.isfinite(line["loss"]) for line in metrics(folder) if line["kind"] == "train")
        # The same again, from the good checkpoint.
        before = noted(folder)
        assert f"at step {step} " in refused(Diverged, toml.change(small, how), folder)
        assert_went_on(folder, before, step - 1)

    def test_a_spoilt_weight(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        model = load(uninterrupted)
        with torch.no_grad():
            next(model.parameters()).fill_(1e38)
        save(model, tmp_path / "spoilt.safetensors")
        words = refused(
            RunError, toml.change(small, {"model.weights": str(tmp_path / "spoilt.safetensors")}), tmp_path / "run"
        )
        assert "the loss is nan at step 1 " in words
        assert "no checkpoint was written yet" in words
        assert not (tmp_path / "run" / "best.safetensors").exists()

    def test_a_gradient_that_is_no_number_behind_a_loss_that_is(self, small: Recipe, tmp_path: Path, says: Says):
        run, images = RunFolder(tmp_path), select(small.data)
        part = Batch(torch.zeros(2, 3, 28, 28, dtype=torch.uint8), torch.zeros(2), torch.tensor([4, 5]))
        with run.held(), Checkpoints(run.checkpoints, CPU, 1) as checkpoints:
            logger = RunLogger(run, small, images, (1.0, 1.0), CPU, checkpoints, ProgressBar(3, 0, quiet=True))
            logger.step(1, torch.tensor(0.7), torch.tensor(1.0), [part])
            logger.step(2, torch.tensor(0.7), torch.tensor(math.inf), [part])
            with says(RunError):
                logger.log_train(2, 0.1)

    def test_it_explodes(self, small: Recipe, tmp_path: Path):
        how = {
            "optim.name": "sgd",
            "optim.lr": 1e3,
            "optim.clip": 0.1,
            "machine.log_every": 2,
            "machine.save_every": 99,
        }
        words = refused(RunError, toml.change(small, how), tmp_path / "run")
        found = re.search(r"the loss has grown from ([\d.]+) to ([\d.e+]+) at step (\d+) ", words)
        assert found, words
        assert float(found[2]) > 5 * float(found[1])
        assert int(found[3]) % 2 == 0 or int(found[3]) > 2

    def test_a_resumed_run_is_diverged_no_longer(self, small: Recipe, tmp_path: Path):
        """As one may whose loss had only grown: nobody looks at it in time with so few lines."""
        long = {"train.steps": 30, "evaluation.every_epochs": 100.0}
        how = {**long, "optim.name": "sgd", "optim.lr": 100.0, "optim.clip": 0.1, "optim.weight_decay": 0.0}
        folder, often = tmp_path / "run", {"machine.save_every": 1, "machine.keep_checkpoints": 2}
        recipe = toml.change(small, {**how, **often})
        seldom = toml.change(recipe, {"machine.log_every": 1000})

        def states() -> list[str]:
            return [one.state for one in index.runs(tmp_path)]

        refused(Diverged, recipe, folder)
        assert states() == ["diverged"]
        before, step = noted(folder), newest(folder)
        fit(seldom, folder, quiet=True)
        assert states() == ["finished"]
        assert_went_on(folder, before, step)
        assert not (folder / "diverged.json").exists()

    def test_fine_tuning_may_begin_near_zero(self, small: Recipe, tmp_path: Path):
        """Five times next to nothing is nothing to worry about."""
        run, images = RunFolder(tmp_path), select(small.data)
        part = Batch(torch.zeros(2, 3, 28, 28, dtype=torch.uint8), torch.zeros(2), torch.tensor([4, 5]))
        with run.held(), Checkpoints(run.checkpoints, CPU, 1) as checkpoints:
            logger = RunLogger(run, small, images, (1.0, 1.0), CPU, checkpoints, ProgressBar(9, 0, quiet=True))
            for step, loss in enumerate([0.01, 0.01, 0.01, 0.01, 0.5, 0.5, 0.5, 0.5], 1):
                logger.step(step, torch.tensor(loss), torch.tensor(1.0), [part])
                if step % 4 == 0:
                    logger.log_train(step, 0.1)
        assert [line["loss"] for line in run.metrics()] == pytest.approx([0.01, 0.5])


def test_a_micro_batch_that_fits_is_found_by_trying():
    """With a quarter more images than it suggests."""
    tried = []

    def attempt(images: int) -> None:
        tried.append(images)
        if images > 5:
            raise MemoryError

    error = suggest_micro_batch(32, attempt)
    assert tried == [20, 10, 5]
    assert str(error).startswith("out of memory with 32 images at once; 4 fit: --machine.micro_batch 4 accumulates")
    assert "try --machine.micro_batch 16" in str(suggest_micro_batch(32, None))
    with pytest.raises(ZeroDivisionError):
        suggest_micro_batch(32, lambda images: images // 0)


@pytest.mark.slow
def test_out_of_memory_says_what_fits_and_that_does_fit(small: Recipe, tmp_path: Path):
    wide = {"model.options.channels": 128, "model.options.channel_hidden": 512, "model.options.token_hidden": 64}
    how = {**wide, "train.batch_size": 1024, "train.steps": 2, "augment.crop": "none", "augment.mixup": 0.5}
    recipe = toml.change(small, {**how, "evaluation.resize": 28, "evaluation.every_epochs": 100.0, "data.test": ""})
    assert run_elsewhere(recipe, tmp_path / "run", memory=700 << 20) == 1
    words = said(tmp_path / "run")
    found = re.fullmatch(
        r"out of memory with 1024 images at once; (\d+) fit: --machine\.micro_batch \1 accumulates the same gradients "
        r"from smaller parts \(the same command resumes the run\)\n",
        words,
    )
    assert found, words
    fits = int(found[1])
    assert 1 <= fits < 1024
    recipe = toml.change(recipe, {"machine.micro_batch": fits})
    assert run_elsewhere(recipe, tmp_path / "run", memory=700 << 20) == 0, said(tmp_path / "run")
    assert len(steps_saved(tmp_path / "run")) == 1


class TestStartingFromWeights:
    def test_other_classes_get_a_fresh_head(self, small: Recipe, uninterrupted: Path):
        classes = ("Trouser", "Shirt", "Bag")
        recipe = toml.change(small, {"model.weights": str(uninterrupted), "data.classes": classes})
        before, model = load(uninterrupted), init_model(recipe, classes)
        arrays = {name: array for name, array in before.state_dict().items() if not name.startswith("head")}
        assert all(torch.equal(model.state_dict()[name], array) for name, array in arrays.items())
        assert model.state_dict()["head.weight"].shape == (3, 32)
        assert not model.state_dict()["head.weight"].any()
        assert model.training
        assert model.metadata.classes == classes
        assert model.metadata.provenance == {
            "recipe": "small",
            "data": small.data.source,
            "from": str(uninterrupted),
        }

    def test_the_same_classes_keep_it(self, small: Recipe, uninterrupted: Path):
        recipe = toml.change(small, {"model.weights": str(uninterrupted), "model.options.dropout": 0.5})
        before, model = load(uninterrupted), init_model(recipe, CLASSES)
        assert all(torch.equal(model.state_dict()[name], array) for name, array in before.state_dict().items())
        assert model.config.dropout == 0.5  # pyright: ignore[reportAttributeAccessIssue]
        swapped = init_model(recipe, CLASSES[::-1])
        assert not swapped.state_dict()["head.weight"].any()

    def test_another_size_and_a_whole_run(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        how = {"model.weights": str(uninterrupted), "model.image_size": 36, "train.steps": 4}
        recipe = toml.change(small, {**how, "data.classes": ("Trouser", "Shirt", "Bag")})
        fit(recipe, tmp_path / "run", quiet=True)
        model = load(tmp_path / "run")
        assert model.config.image_size == (36, 36)
        assert model.metadata.preprocessing == Preprocessing.usual((36, 36))
        assert model.metadata.classes == ("Trouser", "Shirt", "Bag")
        losses = [line["loss"] for line in metrics(tmp_path / "run") if line["kind"] == "train"]
        assert losses[0] == pytest.approx(math.log(3), abs=0.1)

    def test_what_cannot_be_is_refused_before_the_data_is_opened(self, small: Recipe, tmp_path: Path):
        rows = [
            ({"model.options.layers": "two"}, "model.options has a value of the wrong type"),
            ({"model.options.lairs": 2}, "no option is called 'lairs'; did you mean 'layers'?"),
            ({"model.options.groups": 3}, "groups must be a divisor of 32 channels; got 3"),
            ({"model.weights": "mixer_cifar10", "model.options.lairs": 9}, "no option is called 'lairs'"),
            ({"model.name": "mixer_b15"}, "no model is called 'mixer_b15'; did you mean 'mixer_b16'?"),
            ({"model.weights": "mixer_b15"}, "there is no file 'mixer_b15'"),
            (
                {"model.weights": "mixer_cifar10", "model.options.layers": 12},
                "model.weights have layers 9, and model.options.layers is 12; --model.grow true makes",
            ),
            (
                {"model.weights": "mixer_cifar10", "model.name": "vit_s16", "model.options": {}},
                "model.weights are of a Mixer, and model.name is vit_s16, a ViT; change one of them",
            ),
            ({"machine.device": "gpu"}, "a device is cpu, cuda, cuda:N or auto, not 'gpu'"),
            ({"machine.device": "cpu:x"}, "a device is cpu, cuda, cuda:N or auto, not 'cpu:x'"),
            ({"machine.micro_batch": -1}, "machine.micro_batch must be 0 or more; got -1"),
        ]
        for changes, words in rows:
            recipe = toml.change(small, {"data.source": str(tmp_path / "nowhere"), **changes})
            assert words in refused(UsageError, recipe, tmp_path / "run"), changes

    def test_processes_that_cannot_meet(self, small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("WORLD_SIZE", "8")
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        words = refused(UsageError, small, tmp_path)
        assert "WORLD_SIZE says that this is one of 8 processes, but not how they connect: start them with" in words


class TestTeacher:
    def test_the_loss_is_what_the_formula_says(self, small: Recipe, uninterrupted: Path):
        how = {"loss.teacher": str(uninterrupted), "loss.teacher_share": 0.3, "loss.temperature": 2.0}
        recipe = toml.change(small, {**how, "model.options.dropout": 0.0, "augment.mixup": 0.0})
        model = init_model(recipe, CLASSES)
        chance = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (16, 3, 28, 28), dtype=torch.uint8, generator=chance)
        labels = torch.randint(0, 2, (16,), generator=chance)
        seen = normalize(images, model.metadata.preprocessing)
        with torch.no_grad():
            ours, theirs = model(seen), load(uninterrupted)(seen)
        far = distance_to(theirs, ours, recipe.loss)
        wanted = (0.7 * F.cross_entropy(ours, labels, reduction="none") + 0.3 * far).mean()
        loss, _ = TrainStep(recipe, model, 10, CPU).step(0, [Batch(images, labels, torch.arange(16))])
        assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
        assert far.mean() > 1e-3

    def test_a_whole_run(self, small: Recipe, uninterrupted: Path, tmp_path: Path):
        how = {"loss.teacher": str(uninterrupted), "train.steps": 3, "data.test": ""}
        fit(toml.change(small, how), tmp_path / "run", quiet=True)
        assert [*state(tmp_path / "run", 3)["model"]] == [*state(uninterrupted, 3)["model"]]  # the teacher is not kept

    def test_ours_sees_the_images_in_its_own_size_and_scale(self, small: Recipe, tmp_path: Path):
        other = init_model(toml.change(small, {"model.image_size": 36}), CLASSES).eval()
        torch.nn.init.normal_(other.get_parameter("head.weight"))
        how = Preprocessing(resize=40, crop=(36, 36), mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))
        save(other, tmp_path / "teacher.safetensors", preprocessing=how)
        student = init_model(small, CLASSES)
        teacher = Teacher(str(tmp_path / "teacher.safetensors"), student, torch.device("cpu"))
        images = torch.full((1, 3, 28, 28), 51, dtype=torch.uint8)
        large = torch.full((1, 3, 36, 36), 51, dtype=torch.uint8)
        with torch.no_grad():
            wanted = other(normalize(large, how))
        torch.testing.assert_close(teacher(normalize(images, student.metadata.preprocessing)), wanted)

    def test_timms(self, small: Recipe, tmp_path: Path, timm: Any):
        other = timm.create_model("test_vit", num_classes=2).eval()
        torch.save(other.state_dict(), tmp_path / "vit.pth")
        student = init_model(small, CLASSES)
        teacher = Teacher(f"timm:test_vit={tmp_path}/vit.pth", student, torch.device("cpu"))
        wants = other.pretrained_cfg
        side = wants["input_size"][1]
        images = torch.full((2, 3, 28, 28), 102, dtype=torch.uint8)
        mean, std = (torch.tensor(wants[name])[:, None, None] for name in ("mean", "std"))
        with torch.no_grad():
            wanted = other((torch.full((2, 3, side, side), 0.4) - mean) / std)
        torch.testing.assert_close(
            teacher(normalize(images, student.metadata.preprocessing)), wanted, rtol=1e-4, atol=1e-5
        )
        assert not any(parameter.requires_grad for parameter in teacher.model.parameters())

    @pytest.mark.parametrize("ending", ["pth", "safetensors"])
    def test_timms_with_counts_beside_its_weights(self, ending: str, small: Recipe, tmp_path: Path, timm: Any):
        other = timm.create_model("test_resnet", num_classes=2).eval()
        other.bn1.num_batches_tracked += 7
        if ending == "pth":
            torch.save({"state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "r.pth")
        else:
            safetensors.torch.save_file(other.state_dict(), tmp_path / "r.safetensors")
        student = init_model(small, CLASSES)
        teacher = Teacher(f"timm:test_resnet={tmp_path}/r.{ending}", student, torch.device("cpu"))
        assert all(torch.equal(teacher.model.state_dict()[k], v) for k, v in other.state_dict().items())

    @pytest.mark.usefixtures("timm")
    def test_a_file_for_timm_runs_no_code_whatever_timm_would_do(self, small: Recipe, tmp_path: Path):
        class Payload:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.system, (f"touch {tmp_path}/canary",)

        torch.save({"state_dict": {"w": torch.ones(1)}, "args": Payload()}, tmp_path / "evil.pth")
        words = refused(
            UsageError, toml.change(small, {"loss.teacher": f"timm:test_vit={tmp_path}/evil.pth"}), tmp_path
        )
        assert "holds more than plain weights (posix.system), and loading that could run code" in words
        assert not (tmp_path / "canary").exists()

    @pytest.mark.parametrize(
        ("teacher", "words"),
        [
            ("timm:test_vitt", "timm has no model 'test_vitt'; did you mean 'test_vit'?"),
            ("timm:test_vit=nowhere.pth", "timm cannot load test_vit=nowhere.pth: "),
            ("timm:test_vit={three}", "timm cannot load test_vit="),
            ("{others}", "teacher and data set have different classes"),
            ("nowhere.pth", "there is no file 'nowhere.pth'"),
        ],
    )
    @pytest.mark.usefixtures("timm")
    def test_what_cannot_teach(
        self, teacher: str, words: str, small: Recipe, uninterrupted: Path, tmp_path: Path, timm: Any
    ):
        torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "three.pth")
        save(load(uninterrupted), tmp_path / "others.safetensors", classes=("cat", "dog"))
        source = teacher.format(three=tmp_path / "three.pth", others=tmp_path / "others.safetensors")
        assert words in refused(UsageError, toml.change(small, {"loss.teacher": source}), tmp_path / "run")


class TestBrokenImages:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> Recipe:
        chance = np.random.default_rng(0)
        for split, count in (("train", 12), ("val", 4)):
            for label in ("cat", "dog"):
                (tmp_path / "photos" / split / label).mkdir(parents=True)
                for n in range(count):
                    image = Image.fromarray(chance.integers(0, 256, (12, 12, 3), dtype=np.uint8))
                    image.save(tmp_path / "photos" / split / label / f"{n}.png")
        for broken in ("train/cat/3.png", "val/dog/1.png"):
            (tmp_path / "photos" / broken).write_bytes(b"no image")
        return toml.change(
            Recipe(),
            {
                "model.name": "mixer_pico",
                "model.image_size": 12,
                "model.options.layers": 1,
                "data.source": str(tmp_path / "photos"),
                "augment.mixup": 0.2,
                "train.batch_size": 8,
                "train.epochs": 3.0,
                "train.precision": "fp32",
                "machine.workers": 0,
            },
        )

    def test_strict_stops_and_names_it(self, photos: Recipe, tmp_path: Path):
        words = refused(DataError, photos, tmp_path / "run")
        assert "train/cat/3.png is not a readable image" in words
        assert 'set data.on_bad_image to "skip"' in words
        assert words.count("3.png") == 1
        assert "`mixer doctor` lists all" in words

    @pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
    def test_skip_lists_each_once(
        self, workers: int, photos: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        how = {"data.on_bad_image": "skip", "machine.workers": workers, "machine.micro_batch": 3}
        found = fit(toml.change(photos, how), tmp_path / "run", quiet=True)
        listed = [json.loads(line) for line in (tmp_path / "run" / "bad_images.jsonl").read_text().splitlines()]
        names = [str(Path(line["image"]).relative_to(tmp_path / "photos")) for line in listed]
        assert sorted(names) == ["train/cat/3.png", "val/dog/1.png"]
        assert all("is not a readable image" in line["why"] and line["step"] in (1, 2, 3) for line in listed)
        assert found.val is not None
        assert found.val["count"] == 7
        assert capfd.readouterr().err == ""


class TestGrid:
    def test_the_best_on_val_first_and_the_diverged_left_out(self, small: Recipe, tmp_path: Path):
        how = {"optim.name": "sgd", "optim.clip": 0.0, "optim.ema": 0.0, "data.test": ""}
        recipe = toml.change(small, how)
        trials = search(recipe, tmp_path, {"optim.lr": ["1e-9", "0.03", "1e10"]}, quiet=True)
        assert [trial.values for trial in trials] == [{"optim.lr": "0.03"}, {"optim.lr": "1e-9"}]
        assert trials[0].score > trials[1].score
        written = json.loads((tmp_path / "grid.json").read_text())
        assert written["best"] == str(tmp_path / "optim.lr=0.03")
        assert [trial["optim.lr"] for trial in written["diverged"]] == ["1e10"]
        again = search(recipe, tmp_path, {"optim.lr": ["1e-9", "0.03"]}, quiet=True)
        assert [trial.result for trial in again] == [trial.result for trial in trials]

    def test_when_all_diverge(self, small: Recipe, tmp_path: Path, says: Says):
        recipe = toml.change(small, {"optim.name": "sgd", "optim.clip": 0.0})
        with says(RunError):
            search(recipe, tmp_path, {"optim.lr": [1e10]}, quiet=True)

    def test_other_trouble_is_reported_where_a_trial_diverged_before(self, small: Recipe, tmp_path: Path, says: Says):
        recipe = toml.change(small, {"optim.name": "sgd", "optim.clip": 0.0})
        with says(RunError):
            search(recipe, tmp_path, {"optim.lr": ["1e10"]}, quiet=True)
        other = toml.change(recipe, {"train.seed": 1})
        with says(RunError):
            search(other, tmp_path, {"optim.lr": ["1e10"]}, quiet=True)

    def test_what_cannot_be_searched(self, small: Recipe, tmp_path: Path, says: Says):
        with says(RecipeError):
            search(toml.change(small, {"data.val": ""}), tmp_path, {"optim.lr": [1]}, quiet=True)
        with says(RecipeError):
            search(small, tmp_path, {"optim.lr": [1], "optim.lrr": [1]}, quiet=True)
        with says(RecipeError):
            search(small, tmp_path, {"optim.lr": ["0.01", "-1"]}, quiet=True)
        assert not [*tmp_path.iterdir()]  # all of it is checked before anything runs
