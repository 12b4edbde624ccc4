"""Several processes that train one model together: the same images, the same losses, the same run."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_went_on, noted, up_to
from in_processes import axes_of, finish, said, shown, together, torchrun, voice, wait_for
from PIL import Image

from mlpmixer import data, load
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.train.loop import fit

STEPS, HALF = 6, 3
UNREACHABLE = ((0, 200), (9, 200))  # a curve that no run can follow: the one validation pass warns
DDP, FSDP = {"machine.parallel": "ddp"}, {"machine.parallel": "fsdp"}
KINDS: dict[str, dict[str, Any]] = {
    "adamw": {"optim.ema": 0.7},
    "sam": {"optim.sharpness": "sam", "optim.rho": 0.2},
    "gsam": {"optim.sharpness": "gsam", "optim.rho": 0.2, "machine.micro_batch": 3},
    "lamb": {"optim.name": "lamb"},
    "muon": {"optim.name": "muon"},
    "agc": {"optim.name": "sgd", "optim.lr": 0.5, "optim.nesterov": True, "optim.agc": 0.01, "optim.clip": 0.05},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Without dropout, which every process draws by itself.

    The validation split has 18 images: 4 processes with 4 at once need two batches for it, of which the second is empty
    for some. A batch of 16 is never balanced over 3 classes: where one is, a gradient that should be zero is nearly so,
    and Adam makes much of it.
    """
    folder = tmp_path_factory.mktemp("images")
    whole = data.open("fashion_mnist_small")["train"]
    for label, name in ((1, "trouser"), (8, "bag"), (6, "shirt")):
        (folder / name).mkdir()
        for i in np.flatnonzero(whole.labels == label)[:60]:
            Image.fromarray(np.asarray(whole.read(int(i)))).save(folder / name / f"{i:05}.png")
    sizes = {"layers": 2, "channels": 32, "token_hidden": 16, "channel_hidden": 64}
    return toml.change(
        Recipe(name="together"),
        {
            "model.name": "mixer_pico",
            **{f"model.options.{name}": value for name, value in sizes.items()},
            "data.source": str(folder),
            "data.val": "10%",
            "data.test": "",
            "augment.crop": "pad",
            "augment.mixup": 0.2,
            "optim.lr": 0.004,
            "train.steps": STEPS,
            "train.batch_size": 16,
            "train.precision": "fp32",
            "evaluation.every_epochs": 0.5,
            "machine.workers": 0,
            "machine.save_every": HALF,
            "machine.keep_checkpoints": 100,
            "machine.log_every": 1,
        },
    )


QUICK, REST = ("adamw", "agc"), ("sam", "gsam", "lamb", "muon")


def locally(recipe: Recipe, kinds: Sequence[str], folder: Path) -> dict[str, Path]:
    """Each kind of run by one process."""
    for kind in kinds:
        fit(toml.change(recipe, KINDS[kind]), folder / kind, quiet=True)
    return {kind: folder / kind for kind in kinds}


def jobs_of_two(recipe: Recipe, kinds: Sequence[str], folder: Path) -> list[tuple[Recipe, Path]]:
    """The same by two processes, in both ways."""
    return [
        (
            toml.change(recipe, {**KINDS[kind], **way, "about.curve": UNREACHABLE}),
            folder / f"{kind} {way['machine.parallel']}",
        )
        for kind in kinds
        for way in (DDP, FSDP)
    ]


@pytest.fixture(scope="module")
def local(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return locally(recipe, QUICK, tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def by_two(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """And one whose batch cannot be shared."""
    folder = tmp_path_factory.mktemp("two")
    odd = toml.change(recipe, {"train.batch_size": 15})
    jobs = [(odd, folder / "odd"), *jobs_of_two(recipe, QUICK, folder)]
    finish(torchrun(2, jobs, folder))
    return {path.name: path for _, path in jobs}


@pytest.fixture(scope="module")
def rest(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, Path]]:
    """The other kinds, by one process and by two; and a grid of two, one of which diverges."""
    folder = tmp_path_factory.mktemp("rest")
    jobs = jobs_of_two(recipe, REST, folder)
    grid = toml.change(recipe, {"optim.name": "sgd", "optim.clip": 0.0})
    axes_of(folder / "grid").write_text("optim.lr=1e10,0.03")
    jobs.append((grid, folder / "grid"))
    together(2, jobs)
    return locally(recipe, REST, tmp_path_factory.mktemp("local rest")), {path.name: path for _, path in jobs}


@pytest.fixture(scope="module")
def by_four(recipe: Recipe, by_two: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By four processes: from the beginning, and from the middle of what two did."""
    folder = tmp_path_factory.mktemp("four")
    jobs = []
    for now in (DDP, FSDP):
        again = toml.change(recipe, {**KINDS["adamw"], **now})
        jobs.append((again, folder / f"adamw {now['machine.parallel']}"))
        for before in (DDP, FSDP):
            name = f"{before['machine.parallel']} to {now['machine.parallel']}"
            jobs.append((again, half(by_two[f"adamw {before['machine.parallel']}"], folder / name)))
    together(4, jobs)
    return {path.name: path for _, path in jobs}


def half(finished: Path, folder: Path) -> Path:
    """A copy of a run as it was after half of its steps."""
    shutil.copytree(finished, folder)
    for name in ("result.json", "weights.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints" / f"step-{STEPS:09}")
    return folder


def metrics(folder: Path) -> list[dict[str, Any]]:
    hasty = ("time", "images_per_s", "mfu")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in hasty} for line in lines]


def assert_same_losses(ours: Path, theirs: Path) -> None:
    """And all else that was measured, line by line, each once."""
    lines, wanted = metrics(ours), metrics(theirs)
    assert [(line["step"], line["kind"]) for line in lines] == [(line["step"], line["kind"]) for line in wanted]
    for line, like in zip(lines, wanted, strict=True):
        assert [*line] == [*like]
        assert [*line.values()][2:] == pytest.approx([*like.values()][2:], abs=1e-5, rel=1e-4), (line, like)
        losses = [name for name in ("loss", "cross_entropy") if name in line]
        wanted_losses = [like[name] for name in losses]
        assert [line[name] for name in losses] == pytest.approx(wanted_losses, abs=1e-5, rel=0), (line, like)
    assert (ours / "result.json").exists()


def assert_same_weights(ours: Path, theirs: Path) -> None:
    one, other = load(ours), load(theirs)
    assert one.metadata == other.metadata
    images = torch.randn(8, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(one(images), other(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
class TestTheSame:
    @pytest.mark.parametrize("kind", QUICK)
    def test_by_two(self, kind: str, way: str, local: dict[str, Path], by_two: dict[str, Path]):
        assert_same_losses(by_two[f"{kind} {way}"], local[kind])
        assert_same_weights(by_two[f"{kind} {way}"], local[kind])

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", REST)
    def test_other_kinds_by_two(self, kind: str, way: str, rest: tuple[dict[str, Path], dict[str, Path]]):
        local, by_two = rest
        assert_same_losses(by_two[f"{kind} {way}"], local[kind])
        assert_same_weights(by_two[f"{kind} {way}"], local[kind])

    @pytest.mark.slow
    def test_by_four(self, way: str, local: dict[str, Path], by_four: dict[str, Path]):
        assert_same_losses(by_four[f"adamw {way}"], local["adamw"])


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_only_the_first_process_prints(way: str, by_two: dict[str, Path]):
    folder = by_two[f"adamw {way}"]
    warning, val, weights = shown(folder)
    assert warning.endswith(" epochs is below the expected 200.0 ± 3 %")
    assert val.startswith("val (10% of train)  ")
    assert weights.endswith(f"--weights {folder})")


class TestResuming:
    @pytest.mark.parametrize("way", ["ddp", "fsdp"])
    def test_two_then_one(
        self, way: str, recipe: Recipe, local: dict[str, Path], by_two: dict[str, Path], tmp_path: Path
    ):
        folder = half(by_two[f"adamw {way}"], tmp_path / "run")
        fit(toml.change(recipe, KINDS["adamw"]), folder, quiet=True)
        assert_went_on(folder, noted(by_two[f"adamw {way}"]), HALF)
        assert_same_losses(folder, local["adamw"])

    @pytest.mark.slow
    @pytest.mark.parametrize("ways", ["ddp to ddp", "fsdp to fsdp", "ddp to fsdp", "fsdp to ddp"])
    def test_two_then_four(self, ways: str, local: dict[str, Path], by_two: dict[str, Path], by_four: dict[str, Path]):
        assert_went_on(by_four[ways], noted(by_two[f"adamw {ways.split()[0]}"]), HALF)
        assert_same_losses(by_four[ways], local["adamw"])


def test_a_batch_that_cannot_be_shared(by_two: dict[str, Path]):
    (line,) = {*said(by_two["odd"]).splitlines()}
    assert line == "a batch of 15 images cannot be shared evenly by 2 devices; change train.batch_size"


@pytest.mark.slow
def test_a_grid_by_two(rest: tuple[dict[str, Path], dict[str, Path]]):
    """Both leave out the trial that diverges, and one of them writes the summary."""
    folder = rest[1]["grid"]
    assert not voice(folder).exists()
    found = json.loads((folder / "grid.json").read_text())
    assert [trial["optim.lr"] for trial in found["trials"]] == ["0.03"]
    assert [trial["optim.lr"] for trial in found["diverged"]] == ["1e10"]
    assert found["best"] == str(folder / "optim.lr=0.03")
    assert sum("best on val" in line for line in shown(folder)) == 1


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """torchrun starts all of them again, and they go on from the last checkpoint."""
    long = toml.change(recipe, {"train.steps": 40})
    fit(long, tmp_path / "local", quiet=True)
    monkeypatch.setenv("DIE_AFTER", "3")
    finish(torchrun(4, [(long, tmp_path / "run")], tmp_path, "--max-restarts", "1"))
    before = up_to(3, (tmp_path / "run" / "died").read_text().splitlines())
    assert before
    assert noted(tmp_path / "run")[: len(before)] == before
    words = {*said(tmp_path / "run").splitlines()} if voice(tmp_path / "run").exists() else set()
    assert all(word.startswith("another process of this run has ended; its message names the cause") for word in words)
    assert_same_losses(tmp_path / "run", tmp_path / "local")


@pytest.mark.slow
def test_a_cluster_that_wants_its_machine_back(recipe: Recipe, tmp_path: Path):
    """torchrun hands SIGTERM on; all stop after the same step, and one process can go on."""
    how = {"train.steps": 300, "machine.save_every": 1000, "evaluation.every_epochs": 100.0}
    long, folder = toml.change(recipe, how), tmp_path / "run"
    process = torchrun(2, [(long, folder)], tmp_path)
    wait_for((folder / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    words = {*said(folder).splitlines()}
    assert len(words) == 1
    assert words.pop().startswith("stopped after step ")
    (checkpoint,) = (folder / "checkpoints").iterdir()
    before, step = noted(folder), int(checkpoint.name[5:])
    assert 0 < step < 300
    fit(long, folder, quiet=True)
    assert_went_on(folder, before, step)
