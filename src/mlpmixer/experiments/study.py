"""Studies: the runs that answer one question of the paper, and what their results say about its claims.

Each run has its own folder and is resumed where it stopped; a study that is run again does what is left. Its outcome is
kept as NAME.study.json in its folder, for the report.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mlpmixer import data as dataset
from mlpmixer.data.loader import Transform
from mlpmixer.data.sources import vtab
from mlpmixer.errors import DataError, RunError, UsageError
from mlpmixer.evaluation.card import Card
from mlpmixer.evaluation.card_files import own_card
from mlpmixer.evaluation.evaluate import evaluate
from mlpmixer.machine.description import describe_machine
from mlpmixer.machine.devices import device_of
from mlpmixer.machine.distributed import Group
from mlpmixer.metrics.intervals import of_mean
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.run.folder import RunFolder, training_seconds
from mlpmixer.train.loop import fit

Scale = Literal["tiny", "small", "paper"]
Key = tuple[tuple[str, str], ...]

REAL = "real.json"  # ReaL's labels, beside the data sets
FEW_SHOT_POOL = 50_000  # images from which few shots of another data set are drawn: 50 of each class of ImageNet


@dataclass(frozen=True)
class PlannedRun:
    """A run that a study needs.

    Attributes:
        cell: what is varied, and its value, such as {"model": "Mixer", "data": "3 %"}; the same for all seeds.
        recipe: how the model is trained.
        weights: makes, or finds, the weights that it begins with: (the study's folder, recipe) → their path.
        real: ReaL's label file, if its test images are ImageNet's.
        few_shot_source: the data set of few-shot evaluation; empty: the run's own.
        transform: applied to every image, in training and evaluation.
        train_images: that few-shot accuracy, k-NN and linear probes are fitted on; 0: without these metrics.
    """

    cell: Mapping[str, str]
    recipe: Recipe
    weights: Callable[[Path, Recipe], Path] | None = None
    real: Path | None = None
    few_shot_source: str = ""
    transform: Transform | None = None
    train_images: int = 10_000

    @property
    def folder(self) -> str:
        """The name of its folder in the study's."""
        words = [*self.cell.values(), f"seed {self.recipe.train.seed}"]
        return ", ".join(words).replace("/", "-")


@dataclass(frozen=True)
class FinishedRun:
    """The results of a run.

    Attributes:
        card: the evaluation card of its test images.
        curve: (epoch, top-1 accuracy on the validation split).
        losses: of training, one for each line of metrics.
        val: the final top-1 accuracy on the validation split.
        hours: of training.
        few_shot_card: the card of the data set that shots are drawn from; None: `card`.
    """

    plan: PlannedRun
    folder: Path
    card: Card
    curve: Sequence[tuple[float, float]] = ()
    losses: Sequence[float] = ()
    val: float = 0.0
    hours: float = 0.0
    few_shot_card: Card | None = None

    @property
    def top1(self) -> float:
        """Top-1 accuracy on the test images."""
        return self.card["top1"].value

    def shots(self, count: int) -> float:
        """Linear few-shot accuracy, the mean over draws of the shots; nan where a class has too few images."""
        found = (self.few_shot_card or self.card).metrics.get(f"few_shot_{count}")
        return math.nan if found is None else found.value


@dataclass
class Claim:
    """A claim of the paper, and whether it holds here; None: these runs cannot tell."""

    statement: str
    holds: bool | None
    evidence: str


@dataclass
class Outcome:
    """The results of a study: a table, the paper's claims, the paper's own figures in words, and learning curves."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    claims: list[Claim] = field(default_factory=list)
    paper: str = ""
    curves: dict[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A study that trains.

    Attributes:
        where: where in the paper.
        plan_runs: the runs of a scale.
        summarize: the outcome of all runs.
        follow_up: further runs that depend on the results of the first.
        fixed: lines of recipes that the study sets itself, so that no change may.
        runs_of: for each scale, another study whose runs these are too.
        partial: runs whose data set is missing are left out.
        notes: for each scale, what the list of runs does not say by itself.
    """

    name: str
    what: str
    where: str
    plan_runs: Callable[[Scale], list[PlannedRun]]
    summarize: Callable[[Sequence[FinishedRun]], Outcome]
    follow_up: Callable[[Scale, Sequence[FinishedRun]], list[PlannedRun]] = lambda _scale, _finished: []
    fixed: tuple[str, ...] = ()
    runs_of: Mapping[Scale, str] = field(default_factory=dict)
    partial: bool = False
    notes: Mapping[Scale, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A study without training. `parts`: what it measures at a scale."""

    name: str
    what: str
    where: str
    measure: Callable[[Scale, torch.device], Outcome]
    parts: Callable[[Scale], Sequence[str]]


def run_study(
    study: Study | Measurement,
    scale: Scale,
    folder: str | os.PathLike[str],
    *,
    changes: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Runs a study, or what is left of it, and writes its outcome to `folder`.

    Args:
        study: from `mlpmixer.experiments.find`.
        scale: how large the models and the data are.
        folder: holds a folder for each run.
        changes: lines of a recipe that are set in every run, such as {"machine.device": "cuda"}.
        data: a folder in which data sets lie under the names that recipes give them, such as imagenet; if real.json
            is there as well, ImageNet is also measured by ReaL's labels.
        quiet: shows no progress bars.
        log: is called with a line for each run that begins.

    Returns:
        What is to be printed.

    Raises:
        DataError: if a data set is missing.
        UsageError: if `changes` has a line that the study sets itself.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    changes = changes or {}
    runs: list[PlannedRun] = []
    if isinstance(study, Measurement):
        device = device_of(changes.get("machine.device", "auto"))
        outcome = study.measure(scale, device)
    else:
        runs = with_changes(study.plan_runs(scale), changes, study.fixed)
        runs = locate_data(runs, data, log if study.partial else None)
        if not runs:
            raise DataError(f"no data set of {study.name} is in {data}; --data names the folder that has them")
        for name in {run.few_shot_source for run in runs if run.few_shot_source}:
            dataset.open(name)["train"]  # before hours of training, not after
        finished = _run_all(runs, root, 1, quiet, log)
        more = study.follow_up(scale, finished)
        finished += _run_all(more, root, 1 + len(runs), quiet, log)
        outcome = study.summarize(finished)
        device = device_of(runs[0].recipe.machine.device)
        runs = runs + more
    flags = [] if data is None else ["--data", os.fspath(data)]
    flags += [part for line, value in changes.items() for part in (f"--{line}", str(value))]
    record = {
        "study": study.name,
        "what": study.what,
        "where": study.where,
        "scale": scale,
        "flags": flags,  # the others of `mixer reproduce`
        **asdict(outcome),
        "runs": [run.folder for run in runs],
        "machine": describe_machine(Group(device)),
    }
    RunFolder(root).write(record_name(study.name), record)
    return outcome


def record_name(study: str) -> str:
    """The file in a study's folder that keeps its outcome."""
    return f"{study}.study.json"


def with_changes(runs: Sequence[PlannedRun], changes: Mapping[str, Any], fixed: Sequence[str] = ()) -> list[PlannedRun]:
    """The runs with these lines of a recipe changed.

    Raises:
        UsageError: for a line that the study sets itself: those of `fixed`, seeds, and any line by which two runs
            would become the same.
    """
    fixed = ("train.seed", *fixed)

    def different(changes: Mapping[str, Any]) -> int:
        return len({repr((toml.change(run.recipe, changes), run.transform)) for run in runs})

    for line, value in changes.items():
        if line.startswith("machine."):
            continue
        if line in fixed or different({line: value}) < different({}):
            raise UsageError(f"{line} is set by this study itself; leave it out, or use `mixer train`")
    return [replace(run, recipe=toml.change(run.recipe, changes)) for run in runs]


def locate_data(
    runs: Sequence[PlannedRun], data: str | os.PathLike[str] | None, leave_out: Callable[[str], None] | None
) -> list[PlannedRun]:
    """The runs with their data sets read from the folder `data`, where they are there.

    With `leave_out`, runs whose data set is nowhere are left out, and it is called with a line that names these.
    """
    found, missing = [], []
    root = Path(data) if data is not None else Path()
    for run in runs:
        name = run.recipe.data.source
        task = name.removeprefix("vtab:")
        if name.startswith("vtab:") and vtab.is_there(task, root):
            run = replace(run, recipe=toml.change(run.recipe, {"data.source": f"{name}:{root.absolute()}"}))
        elif (root / name).exists():
            real = root / REAL if name == "imagenet" and (root / REAL).is_file() else None
            run = replace(run, recipe=toml.change(run.recipe, {"data.source": str(root / name)}), real=real)
        elif leave_out is not None:
            missing.append(task)
            continue
        if run.few_shot_source and (root / run.few_shot_source).exists():
            run = replace(run, few_shot_source=str(root / run.few_shot_source))
        found.append(run)
    if leave_out is not None and missing:
        leave_out(f"skipped, since there is no data: {', '.join(dict.fromkeys(missing))}")
    return found


def _run_all(
    runs: Sequence[PlannedRun], root: Path, first: int, quiet: bool, log: Callable[[str], None]
) -> list[FinishedRun]:
    finished = []
    for number, run in enumerate(runs, first):
        if RunFolder(root / run.folder).result() is None:
            log(f"run {number} of {first + len(runs) - 1}: {run.folder}")
        finished.append(finish(run, root, quiet=quiet))
    return finished


def finish(plan: PlannedRun, root: Path, *, quiet: bool = False) -> FinishedRun:
    """Trains and evaluates, as far as that is not done yet."""
    folder, recipe = root / plan.folder, plan.recipe
    if plan.weights is not None:
        recipe = toml.change(recipe, {"model.weights": str(plan.weights(root, recipe))})
    result = fit(recipe, folder, transform=plan.transform, quiet=quiet)
    how: dict[str, Any] = {
        "transform": plan.transform,
        "device": recipe.machine.device,
        "workers": recipe.machine.workers,
        "engine": "eager",  # one for all runs of a study
    }
    card = own_card(folder)
    if card is None or (plan.real is not None and "real" not in card):
        card = evaluate(folder, real=plan.real, train_images=plan.train_images, **how)
    few_shot_card = None
    if plan.few_shot_source:  # measured once and kept; anew where it is of an older version
        name, run = "few_shots.json", RunFolder(folder)
        with suppress(RunError):
            content = run.json(name)
            few_shot_card = None if content is None else Card.from_json(content, name)
        if few_shot_card is None:
            few_shot_card = evaluate(folder, plan.few_shot_source, train_images=FEW_SHOT_POOL, **how)
            run.write(name, few_shot_card.to_json())
    lines = RunFolder(folder).metrics()
    return FinishedRun(
        plan,
        folder,
        card,
        curve=[(line["epoch"], line["top1"]) for line in lines if line["kind"] == "val"],
        losses=[line["loss"] for line in lines if line["kind"] == "train"],
        val=result.val["top1"] if result.val else math.nan,
        hours=training_seconds(lines, recipe.train.batch_size) / 3600,
        few_shot_card=few_shot_card,
    )


def group_by_cell(finished: Sequence[FinishedRun]) -> dict[Key, list[FinishedRun]]:
    """The runs of each cell, which differ in their seeds, in the order of the plan."""
    found: dict[Key, list[FinishedRun]] = {}
    for one in finished:
        found.setdefault(tuple(one.plan.cell.items()), []).append(one)
    return found


def mean_ci(values: Sequence[float]) -> str:
    """The mean in percent, and the half-width of its 95 % confidence interval over seeds."""
    if not np.isfinite(values).all():
        return "–"
    mean = f"{100 * float(np.mean(values)):.2f}"
    if len(values) < 2:
        return mean
    low, high = of_mean(values)
    return f"{mean} ± {50 * (high - low):.2f}"


def is_greater(first: Sequence[float], second: Sequence[float]) -> bool | None:
    """Whether `second` is significantly greater: the 95 % interval of the differences, seed by seed, is above 0.

    False: it is below 0; None: neither, as always with one seed.
    """
    low, high = of_mean([b - a for a, b in zip(first, second, strict=False)])
    return True if low > 0 else False if high < 0 else None


def is_equivalent(first: Sequence[float], second: Sequence[float], within: float) -> bool | None:
    """Whether the whole 95 % interval of the differences lies within ± `within`; no difference seen is not enough."""
    low, high = of_mean([b - a for a, b in zip(first, second, strict=False)])
    if -within <= low and high <= within:
        return True
    return False if low > 0 or high < 0 else None
