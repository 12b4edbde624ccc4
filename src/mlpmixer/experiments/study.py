"""A study: a plan of runs that answer one question of the paper's, and what their figures say to it.

Each run has its own folder and goes on where it stopped; a study that is called again does what is left. What it finds
is kept in study.json, for the report.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mlpmixer import data as dataset
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
KNOWN = 50_000  # images that few shots are picked from, where they are of another set: 50 of each class of ImageNet


@dataclass(frozen=True)
class Plan:
    """One run. `cell`: what is varied, and how, such as {"model": "Mixer", "data": "3 %"}; the same for all seeds.
    `weights`: where those are that it begins with, in the study's folder; they are made there if need be, as its recipe
    wants them. `real`: ReaL's label file, where its test images are ImageNet's. `few_of`: the set whose images are
    the few shots; empty: its own."""

    cell: Mapping[str, str]
    recipe: Recipe
    weights: Callable[[Path, Recipe], Path] | None = None
    real: Path | None = None
    few_of: str = ""

    @property
    def folder(self) -> str:
        words = [*self.cell.values(), f"seed {self.recipe.train.seed}"]
        return ", ".join(words).replace("/", "-")


@dataclass(frozen=True)
class Done:
    """A finished run. `card`: of its test images. `curve`: (epoch, share right on val). `losses`: in training, one
    for each line of metrics. `val`: share right in the end. `hours`: of training. `few_shot_card`: of the data set that
    few shots are picked from; None: `card`."""

    plan: Plan
    folder: Path
    card: Card
    curve: Sequence[tuple[float, float]] = ()
    losses: Sequence[float] = ()
    val: float = 0.0
    hours: float = 0.0
    few_shot_card: Card | None = None

    @property
    def top1(self) -> float:
        return self.card["top1"].value

    def shots(self, count: int) -> float:
        """Linear few-shot accuracy, the mean over its picks; nan where a class has too few images."""
        found = (self.few_shot_card or self.card).metrics.get(f"few_shot_{count}")
        return math.nan if found is None else found.value


@dataclass
class Finding:
    """Something the paper says, and whether it is so here; None: these runs cannot tell."""

    claim: str
    holds: bool | None
    why: str


@dataclass
class Told:
    """What a study found, to be printed: a table, and what it says to the paper's claims. `paper`: its own figures."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    findings: list[Finding] = field(default_factory=list)
    paper: str = ""
    curves: dict[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """`plans(scale)` gives the runs, `then(scale, done)` those that follow from their figures, `tell(done)` what all
    of them say. `varies`: lines of recipes that its question is about. `runs_of`: at each scale, another study whose
    runs these are too. `partial`: what has no data is left out."""

    name: str
    what: str
    where: str  # in the paper
    plans: Callable[[Scale], list[Plan]]
    tell: Callable[[Sequence[Done]], Told]
    then: Callable[[Scale, Sequence[Done]], list[Plan]] = lambda _scale, _done: []
    varies: tuple[str, ...] = ()
    runs_of: Mapping[Scale, str] = field(default_factory=dict)
    partial: bool = False


@dataclass(frozen=True)
class Measurement:
    """A study without training."""

    name: str
    what: str
    where: str
    measure: Callable[[Scale, torch.device], Told]


def carry_out(
    study: Study | Measurement,
    scale: Scale,
    folder: str | os.PathLike[str],
    *,
    changes: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Told:
    """changes: lines of a recipe that are set in every run, such as {"machine.device": "cuda"}.

    data: a folder in which data sets lie under the names that recipes give them, such as imagenet; with real.json
    there, ImageNet is measured by ReaL's labels, too.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    flags = [] if data is None else ["--data", os.fspath(data)]
    flags += [part for line, value in (changes or {}).items() for part in (f"--{line}", str(value))]
    if isinstance(study, Measurement):
        device = device_of((changes or {}).get("machine.device", "auto"))
        told = study.measure(scale, device)
        RunFolder(root).write(record_name(study.name), _record(study, scale, flags, [], told, device))
        return told
    plans = placed(changed(study.plans(scale), changes, study.varies), data, say if study.partial else None)
    if not plans:
        raise DataError(f"none of the data sets of {study.name} is in {data}; --data names the folder that has them")
    for name in {plan.few_of for plan in plans if plan.few_of}:
        dataset.open(name)["train"]  # before hours of training, not after
    done = _all(plans, root, 1, quiet, say)
    more = study.then(scale, done)
    done += _all(more, root, 1 + len(plans), quiet, say)
    told = study.tell(done)
    device = device_of(plans[0].recipe.machine.device)
    RunFolder(root).write(record_name(study.name), _record(study, scale, flags, plans + more, told, device))
    return told


def record_name(study: str) -> str:
    """What it found is kept under this name in its folder."""
    return f"{study}.study.json"


def changed(plans: Sequence[Plan], changes: Mapping[str, Any] | None, varied: Sequence[str] = ()) -> list[Plan]:
    """With these lines of a recipe in every run. What the study itself varies must not be among them: those of
    `varied`, seeds, and any line by which two runs would become one and the same."""
    varied = ("train.seed", *varied)
    usual = _different([plan.recipe for plan in plans])
    for line, value in (changes or {}).items():
        if line.startswith("machine."):
            continue
        if line in varied or _different([toml.change(plan.recipe, {line: value}) for plan in plans]) < usual:
            raise UsageError(f"{line} is what the runs of this study differ in; leave it out, or train by hand")
    return [replace(plan, recipe=toml.change(plan.recipe, changes or {})) for plan in plans]


def _different(recipes: Sequence[Recipe]) -> int:
    return len({repr(recipe) for recipe in recipes})


def placed(
    plans: Sequence[Plan], data: str | os.PathLike[str] | None, leave_out: Callable[[str], None] | None
) -> list[Plan]:
    """Data sets where they are: in `data`, if they are there. With `leave_out`, what is nowhere is told, and no run."""
    found, missing = [], []
    root = Path(data) if data is not None else Path()
    for plan in plans:
        name = plan.recipe.data.source
        task = name.removeprefix("vtab:")
        if name.startswith("vtab:") and vtab.is_there(task, root):
            plan = replace(plan, recipe=toml.change(plan.recipe, {"data.source": f"{name}:{root.absolute()}"}))
        elif (root / name).exists():
            real = root / REAL if name == "imagenet" and (root / REAL).is_file() else None
            plan = replace(plan, recipe=toml.change(plan.recipe, {"data.source": str(root / name)}), real=real)
        elif leave_out is not None:
            missing.append(task)
            continue
        if plan.few_of and (root / plan.few_of).exists():
            plan = replace(plan, few_of=str(root / plan.few_of))
        found.append(plan)
    if leave_out is not None and missing:
        leave_out(f"left out, since there is no data: {', '.join(dict.fromkeys(missing))}")
    return found


def _all(plans: Sequence[Plan], root: Path, first: int, quiet: bool, say: Callable[[str], None]) -> list[Done]:
    done = []
    for number, plan in enumerate(plans, first):
        if RunFolder(root / plan.folder).result() is None:
            say(f"run {number} of {first + len(plans) - 1}: {plan.folder}")
        done.append(run(plan, root, quiet=quiet))
    return done


def run(plan: Plan, root: Path, *, quiet: bool = False) -> Done:
    """The run, or what is left of it, and its card."""
    folder, recipe = root / plan.folder, plan.recipe
    if plan.weights is not None:
        recipe = toml.change(recipe, {"model.weights": str(plan.weights(root, recipe))})
    result = fit(recipe, folder, quiet=quiet)
    card = own_card(folder)
    if card is None or (plan.real is not None and "real" not in card):
        machine = plan.recipe.machine
        card = evaluate(folder, real=plan.real, device=machine.device, workers=machine.workers)
    lines = RunFolder(folder).metrics()
    curve = [(line["epoch"], line["top1"]) for line in lines if line["kind"] == "val"]
    steps = [line for line in lines if line["kind"] == "train"]
    val = result.val["top1"] if result.val else math.nan
    hours = training_seconds(lines, recipe.train.batch_size) / 3600
    return Done(plan, folder, card, curve, [line["loss"] for line in steps], val, hours, _few_shot_card(plan, folder))


def _few_shot_card(plan: Plan, folder: Path) -> Card | None:
    """Of another data set than the run's own, it is measured once and kept; anew where it is of an older version."""
    if not plan.few_of:
        return None
    name, run = "few_shots.json", RunFolder(folder)
    with suppress(RunError):
        if (content := run.json(name)) is not None:
            return Card.from_json(content, name)
    machine = plan.recipe.machine
    card = evaluate(folder, plan.few_of, train_images=KNOWN, device=machine.device, workers=machine.workers)
    run.write(name, card.to_json())
    return card


def cells(done: Sequence[Done]) -> dict[Key, list[Done]]:
    """The runs of each cell, which differ in their seeds, in the order of the plan."""
    found: dict[Key, list[Done]] = {}
    for one in done:
        found.setdefault(tuple(one.plan.cell.items()), []).append(one)
    return found


def over_seeds(values: Sequence[float]) -> str:
    """The mean in percent, and the half-width of its 95 % interval over seeds."""
    if not np.isfinite(values).all():
        return "–"
    mean = f"{100 * float(np.mean(values)):.2f}"
    if len(values) < 2:
        return mean
    low, high = of_mean(values)
    return f"{mean} ± {50 * (high - low):.2f}"


def apart(first: Sequence[float], second: Sequence[float]) -> bool | None:
    """Whether the second is surely more than the first: their differences, seed by seed, are above 0 with 95 %. False:
    they are surely below; None: neither is sure, as always with one seed."""
    low, high = of_mean([b - a for a, b in zip(first, second, strict=False)])
    return True if low > 0 else False if high < 0 else None


def alike(first: Sequence[float], second: Sequence[float], within: float) -> bool | None:
    """Whether both are surely no farther apart than `within`; that no difference was seen is not enough."""
    low, high = of_mean([b - a for a, b in zip(first, second, strict=False)])
    if -within <= low and high <= within:
        return True
    return False if low > 0 or high < 0 else None


def _record(
    study: Study | Measurement,
    scale: Scale,
    flags: Sequence[str],
    plans: Sequence[Plan],
    told: Told,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "study": study.name,
        "what": study.what,
        "where": study.where,
        "scale": scale,
        "flags": flags,  # the others of `mixer reproduce`
        "columns": told.columns,
        "rows": told.rows,
        "findings": [vars(finding) for finding in told.findings],
        "paper": told.paper,
        "curves": told.curves,
        "runs": [plan.folder for plan in plans],
        "machine": describe_machine(Group(device)),
    }
