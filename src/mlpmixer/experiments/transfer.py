"""Tables 2 and 3: weights that were pre-trained once, fine-tuned on several tasks, as the paper does it.

Each learning rate of a grid is tried; the one that is best on the validation split is run with two more seeds, and the
mean over the three is what counts on the test split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlpmixer.experiments import paper
from mlpmixer.experiments.base_recipes import base
from mlpmixer.experiments.baselines import opponents
from mlpmixer.experiments.cost import IMAGES
from mlpmixer.experiments.speed import speed
from mlpmixer.experiments.study import Done, Finding, Plan, Scale, Told, over_seeds
from mlpmixer.models import options_of
from mlpmixer.recipe import Model, Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.finetune import BIT_SIDES_OF_LARGEST, TASKS, Row, bit_hyper_rule, of_row
from mlpmixer.recipes.pretrain import like

Shape = Literal["short_side", "stretch"]

FIVE = ("imagenet", "cifar10", "cifar100", "pets", "flowers")
MORE_SEEDS = (1, 2)
PRE_TRAINING = "pre-training"
FROM_SCRATCH = "from scratch"
NOTHING = "–"

# Where public weights are what a row of the paper was pre-trained to; otherwise it is pre-trained here.
PUBLIC = {
    ("mixer_b16", "ImageNet-21k"): "mixer_b16.imagenet21k",
    ("mixer_l16", "ImageNet-21k"): "mixer_l16.imagenet21k",
    ("vit_b16", "ImageNet-21k"): "vit_b16.imagenet21k",
    ("vit_l16", "ImageNet-21k"): "vit_l16.imagenet21k",
    ("bit_r152x4", "ImageNet-21k"): "bit_r152x4.m_imagenet21k",
}
SETS = {"ImageNet": "imagenet", "ImageNet-21k": "imagenet21k", "JFT-300M": "jft"}


@dataclass(frozen=True)
class Entry:
    """A model and how it comes to its first weights: `pretrain`, or public ones by name, or, with neither, fresh.
    `first`: the entry whose pre-training this is too, only tuned at another size; empty: its own."""

    name: str
    pretrain: Recipe | None = None
    public: str = ""
    printed: paper.Row | None = None
    tasks: Mapping[str, tuple[Recipe, tuple[float, ...]]] | None = None  # each with its grid of learning rates
    first: str = ""


def entries(
    scale: Scale, table: Sequence[paper.Row], tasks: Sequence[str], measured: Shape = "short_side"
) -> list[Entry]:
    """`measured`: how the paper prepared the images that the figures of this table are of."""
    return _papers(table, tasks, measured) if scale == "paper" else _own(scale)


def _papers(table: Sequence[paper.Row], tasks: Sequence[str], measured: Shape) -> list[Entry]:
    found: list[Entry] = []
    for row in table:
        size = f" at {row.size}" if row.size != 224 else ""
        epochs = f", {row.epochs} epochs" if row.epochs else ""
        public = PUBLIC.get((row.model, row.data), "")
        tuned: dict[str, tuple[Recipe, tuple[float, ...]]] = {}
        for task in tasks:
            how = Row(task=task, weights=public or f"{row.model}.", image_size=row.size, expected="")
            recipe = toml.change(of_row("transfer", how), {"evaluation.shape": measured})
            if row.size != 224 and not row.model.startswith("mixer"):  # tiles are the Mixer's
                recipe = toml.change(recipe, {"model.resize": "resample"})
            grid = TASKS[task].grid_of_vits if row.model.startswith("vit") else TASKS[task].grid
            rates = tuple(float(rate) for rate in grid.split(","))
            if row.model.startswith("bit") and row.size != 224:  # BiT's own, that the paper quotes
                side = 32 if task.startswith("cifar") else row.size
                recipe = bit_hyper_rule(recipe, IMAGES[task], side, BIT_SIDES_OF_LARGEST)
                rates = (recipe.optim.lr,)
            tuned[task] = (recipe, rates)
        name = f"{row.said}, {row.data}{epochs}{size}"
        pretrain = None if public else pre_training(row)
        # At 224 pixels whatever the size of the tuning: done once.
        first = next((one.name for one in found if pretrain is not None and one.pretrain == pretrain), "")
        found.append(Entry(name, pretrain, public, row, tuned, first))
    return found


def pre_training(row: paper.Row) -> Recipe:
    recipe = like(SETS[row.data], Model(name=row.model), options_of(row.model))
    return replace(recipe, train=replace(recipe.train, epochs=float(row.epochs or recipe.train.epochs)))


def _own(scale: Scale) -> list[Entry]:
    """Half of the clothes, then the other half with few images; or CIFAR-10, then clothes with few images."""
    first: dict[str, Any] = {}
    if scale == "tiny":
        first = {"data.classes": "T-shirt/top,Trouser,Pullover,Dress,Coat"}
        task = {"data.classes": "Sandal,Shirt,Sneaker,Bag,Ankle boot", "data.shots": 20, "train.steps": 100}
    else:
        task = {"data.source": "fashion_mnist_small", "data.shots": 50, "train.steps": 500}
    common = {
        "augment.padding": 2,
        "data.val": "10%",
        "train.batch_size": 32,
        "loss.smoothing": 0.0,
        "optim.name": "sgd",
        "optim.weight_decay": 0.0,
        "optim.warmup_steps": 20,
    }
    found = []
    for network, model in opponents(scale).items():
        recipe = toml.change(base(scale, model, PRE_TRAINING), first)
        tuned = toml.change(recipe, {**task, **common})
        scratch = toml.change(tuned, {"optim.name": "adamw", "optim.weight_decay": 0.1})
        found.append(Entry(f"{network}, pre-trained", recipe, tasks={"the task": (tuned, (0.01, 0.03, 0.1))}))
        found.append(Entry(f"{network}, {FROM_SCRATCH}", tasks={"the task": (scratch, (0.001, 0.003))}))
    return found


def plans(found: Sequence[Entry]) -> list[Plan]:
    """All pre-training, and each task with each learning rate, once."""
    planned = []
    for entry in found:
        if entry.pretrain is not None and not entry.first:
            planned.append(
                Plan({"model": entry.name, "task": PRE_TRAINING}, replace(entry.pretrain, name="pre-training"))
            )
        for task, (recipe, grid) in (entry.tasks or {}).items():
            planned += [tuned(entry, task, toml.change(recipe, {"optim.lr": rate})) for rate in grid]
    return planned


def tuned(entry: Entry, task: str, recipe: Recipe) -> Plan:
    cell = {"model": entry.name, "task": task, "lr": f"lr {recipe.optim.lr:g}"}
    recipe = replace(recipe, name="fine-tuning")
    if entry.pretrain is None:
        return Plan(cell, recipe)
    first = Plan({"model": entry.first or entry.name, "task": PRE_TRAINING}, entry.pretrain).folder
    return Plan(cell, recipe, _in(first))


def _in(folder: str) -> Callable[[Path, Recipe], Path]:
    return lambda root, _: root / folder


def then(done: Sequence[Done]) -> list[Plan]:
    """The best rate of each task again, with other seeds."""
    best = best_rates(done)
    return [
        replace(one.plan, recipe=toml.change(one.plan.recipe, {"train.seed": seed}))
        for one in done
        for seed in MORE_SEEDS
        if best.get(_task(one)) == one.plan.cell.get("lr") and one.plan.recipe.train.seed == 0 and "lr" in one.plan.cell
    ]


def hours_of_pretraining(done: Sequence[Done]) -> dict[str, float]:
    """Of each model, whatever the size at which it was tuned; without those that began with public weights."""
    hours = {_as_pretrained(one): one.hours for one in done if one.plan.cell["task"] == PRE_TRAINING}
    return {one.plan.cell["model"]: hours[_as_pretrained(one)] for one in done if _as_pretrained(one) in hours}


def _as_pretrained(one: Done) -> str:
    return re.sub(r" at \d+$", "", one.plan.cell["model"])


def best_rates(done: Sequence[Done]) -> dict[tuple[str, str], str]:
    """(model, task) → the learning rate that is best on the validation split."""
    tried: dict[tuple[str, str], list[Done]] = {}
    for one in done:
        if "lr" in one.plan.cell and one.plan.recipe.train.seed == 0:
            tried.setdefault(_task(one), []).append(one)
    return {key: max(runs, key=lambda run: run.val).plan.cell["lr"] for key, runs in tried.items()}


def _task(one: Done) -> tuple[str, str]:
    return one.plan.cell["model"], one.plan.cell["task"]


def scores(done: Sequence[Done], right: Callable[[Done], float]) -> dict[tuple[str, str], list[float]]:
    """(model, task) → the share right on test with each seed, at the best rate."""
    best = best_rates(done)
    found: dict[tuple[str, str], list[float]] = {}
    for one in done:
        if "lr" in one.plan.cell and best[_task(one)] == one.plan.cell["lr"]:
            found.setdefault(_task(one), []).append(right(one))
    return found


def tell(
    done: Sequence[Done],
    claim: str,
    printed: Mapping[str, paper.Row],
    others: Sequence[paper.Row] = (),
) -> Told:
    """`printed`: what the paper has for an entry of that name; `others`: its rows that are of models we have not."""
    found = scores(done, lambda one: one.top1)
    real = scores([one for one in done if "real" in one.card], lambda one: one.card["real"].value)
    models = list(dict.fromkeys(model for model, _ in found))
    tasks = list(dict.fromkeys(task for _, task in found))
    hours = hours_of_pretraining(done)
    tuned = {one.plan.cell["model"]: one for one in reversed(done) if "lr" in one.plan.cell}
    rows: list[tuple[str, ...]] = []
    for model in models:
        cells = [over_seeds(found[model, task]) if (model, task) in found else NOTHING for task in tasks]
        means = [100 * float(np.mean(found[model, task])) for task in tasks if (model, task) in found]
        # A mean over fewer than all of them says so. The paper's are over five.
        whole = len({*tasks, *FIVE} if printed else tasks)
        mean = f"{np.mean(means):.2f}" + ("" if len(means) == whole else f" (of {len(means)} of {whole})")
        mine = [over_seeds(real.get((model, "imagenet"), [math.nan]))] if real else []
        cost = [f"{speed(tuned[model]):,.0f}", f"{hours[model]:.2f}" if model in hours else NOTHING]
        theirs: list[str] = []
        if row := printed.get(model):
            theirs += [_beside(found.get((model, "imagenet")), row.imagenet)]
            theirs += [_beside(real.get((model, "imagenet")), row.real)] if real else []
            theirs += [_beside_mean(means, tasks, row.five), *_cost(row)]
        rows.append((model, *cells, *mine, mean, *cost, *theirs))
    ours = (
        *(f"{task}, %" for task in tasks),
        *(["ReaL, %"] if real else []),
        *("mean, %", "images/s", "hours of pre-training"),
    )
    for row in others:
        theirs = [_beside(None, row.imagenet), *([_beside(None, row.real)] if real else []), NOTHING, *_cost(row)]
        rows.append((f"{row.said}, {row.data}", *[NOTHING] * len(ours), *theirs))
    beside = ("ImageNet", *(["ReaL"] if real else []), "Avg. 5", "images/s/core", "core-days") if printed else ()
    return Told(
        columns=("model", *ours, *(f"{name}, paper" for name in beside)),
        rows=rows,
        findings=_gains(found),
        paper=claim,
    )


def _cost(row: paper.Row) -> list[str]:
    return [NOTHING if figure is None else f"{figure:,}" for figure in (row.speed, row.core_days)]


def _gains(found: Mapping[tuple[str, str], list[float]]) -> list[Finding]:
    """Where the same network was also trained from scratch."""
    findings = []
    for (model, task), scores in found.items():
        other = found.get((model.replace("pre-trained", FROM_SCRATCH), task))
        if "pre-trained" in model and other:
            gain = float(np.mean(scores) - np.mean(other))
            findings.append(
                Finding(
                    f"Pre-training helps {model.split(',')[0]}.",
                    gain > 0,
                    f"{over_seeds(scores)} % against {over_seeds(other)} % from scratch",
                )
            )
    return findings


def _beside(ours: Sequence[float] | None, theirs: float | None) -> str:
    """The paper's figure, and ours less it."""
    if theirs is None:
        return NOTHING
    return f"{theirs:.2f}" + (f" ({100 * float(np.mean(ours)) - theirs:+.2f})" if ours else "")


def _beside_mean(means: Sequence[float], tasks: Sequence[str], theirs: float | None) -> str:
    whole = {*FIVE} <= {*tasks} and len(means) == len(tasks) and not any(math.isnan(mean) for mean in means)
    return _beside([float(np.mean(means)) / 100] if whole else None, theirs)
