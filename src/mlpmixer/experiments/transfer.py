"""Tables 2 and 3: Mixers, ViTs and BiTs, pre-trained once and fine-tuned on several tasks, as the paper does it.

Each learning rate of a grid is tried; the one that is best on the validation split is run with two more seeds, and the
mean test accuracy over the three is reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlpmixer.bench.scaling import interleaved_batches
from mlpmixer.engines.engine import Engine
from mlpmixer.experiments import paper
from mlpmixer.experiments.base_recipes import base_recipe, networks
from mlpmixer.experiments.cost import IMAGES
from mlpmixer.experiments.study import Claim, FinishedRun, Outcome, PlannedRun, Scale, Study, mean_ci
from mlpmixer.machine.devices import device_of
from mlpmixer.metadata import Preprocessing
from mlpmixer.models import create, family_name, options_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.measure import measure
from mlpmixer.recipe import Model, Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.finetune import BIT_SIDES_OF_LARGEST, TASKS, Row, bit_hyper_rule, of_row
from mlpmixer.recipes.nfnet import finetune_imagenet_nfnet_f4plus, jft_nfnet_f4plus
from mlpmixer.recipes.pretrain import like
from mlpmixer.weights.load import load

Shape = Literal["short_side", "stretch"]

FIVE = ("imagenet", "cifar10", "cifar100", "pets", "flowers")
MORE_SEEDS = (1, 2)
BATCHES = (1, 8, 32, 128)  # of which the fastest counts
ROUNDS = 3
PRE_TRAINING = "pre-training"
FROM_SCRATCH = "from scratch"
NOTHING = "–"
NOTE = (
    "MPL and ALIGN, the other rows of Table 2, are not trained here: the result lists their networks' cost and the "
    "paper's figures. The epochs of HaloNet's pre-training are not known; these are 300, as the other models' on "
    "ImageNet-21k. Runs with further seeds repeat the learning rate that is best on the validation split."
)
COUNTED = ("parameters", "GMAC", "memory, MB")  # of one image; memory: activations for the backward pass

# Where public weights are what a row of the paper was pre-trained to; otherwise it is pre-trained here.
PUBLIC = {
    ("mixer_b16", "ImageNet-21k"): "mixer_b16.imagenet21k",
    ("mixer_l16", "ImageNet-21k"): "mixer_l16.imagenet21k",
    ("vit_b16", "ImageNet-21k"): "vit_b16.imagenet21k",
    ("vit_l16", "ImageNet-21k"): "vit_l16.imagenet21k",
    ("bit_r152x4", "ImageNet-21k"): "bit_r152x4.m_imagenet21k",
}
IMAGENET_ALONE = ("halonet", "nfnet")  # families of which Table 2 has no other task
SETS = {"ImageNet": "imagenet", "ImageNet-21k": "imagenet21k", "JFT-300M": "jft"}


@dataclass(frozen=True)
class Entry:
    """A model, its initial weights and its tasks.

    Attributes:
        pretrain: the recipe of its pre-training, if that is done here.
        public: the name of public weights to begin with; with neither, it is trained from scratch.
        printed: the paper's figures.
        tasks: name → fine-tuning recipe, grid of learning rates.
        first: the entry that has the same pre-training, fine-tuned at another size; empty: none.
    """

    name: str
    pretrain: Recipe | None = None
    public: str = ""
    printed: paper.Row | None = None
    tasks: Mapping[str, tuple[Recipe, tuple[float, ...]]] | None = None
    first: str = ""


def entries(
    scale: Scale, table: Sequence[paper.Row], tasks: Sequence[str], measured: Shape = "short_side"
) -> list[Entry]:
    """The models of a scale. `measured`: how the paper prepared the test images for this table."""
    return _papers(table, tasks, measured) if scale == "paper" else _own(scale)


def _papers(table: Sequence[paper.Row], tasks: Sequence[str], measured: Shape) -> list[Entry]:
    found: list[Entry] = []
    for row in table:
        size = f" at {row.size}" if row.size != 224 else ""
        epochs = f", {row.epochs} epochs" if row.epochs else ""
        public = PUBLIC.get((row.model, row.data), "")
        tuned: dict[str, tuple[Recipe, tuple[float, ...]]] = {}
        family = family_name(row.model)
        for task in tasks if family not in IMAGENET_ALONE else ("imagenet",):
            how = Row(task=task, weights=public or f"{row.model}.", image_size=row.size, expected="")
            recipe = toml.change(of_row("transfer", how), {"evaluation.shape": measured})
            if row.size != 224 and family != "mixer":  # tiles are the Mixer's
                recipe = toml.change(recipe, {"model.resize": "resample"})
            grid = TASKS[task].grid_of_vits if family == "vit" else TASKS[task].grid
            rates = tuple(float(rate) for rate in grid.split(","))
            if family == "bit" and row.size != 224:  # BiT's own, that the paper quotes
                side = 32 if task.startswith("cifar") else row.size
                recipe = bit_hyper_rule(recipe, IMAGES[task], side, BIT_SIDES_OF_LARGEST)
                rates = (recipe.optim.lr,)
            if family == "nfnet":
                recipe = toml.change(finetune_imagenet_nfnet_f4plus(), {"model.weights": how.weights})
                rates = (recipe.optim.lr,)
            tuned[task] = (recipe, rates)
        name = f"{row.said}, {row.data}{epochs}{size}"
        pretrain = None if public else pre_training(row)
        # At 224 pixels whatever the size of the tuning: finished once.
        first = next((one.name for one in found if pretrain is not None and one.pretrain == pretrain), "")
        found.append(Entry(name, pretrain, public, row, tuned, first))
    return found


def pre_training(row: paper.Row) -> Recipe:
    if row.model == "nfnet_f4plus":
        return jft_nfnet_f4plus()
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
    for network, model in networks(scale).items():
        recipe = toml.change(base_recipe(scale, model, PRE_TRAINING), first)
        tuned = toml.change(recipe, {**task, **common})
        scratch = toml.change(tuned, {"optim.name": "adamw", "optim.weight_decay": 0.1})
        found.append(Entry(f"{network}, pre-trained", recipe, tasks={"the task": (tuned, (0.01, 0.03, 0.1))}))
        found.append(Entry(f"{network}, {FROM_SCRATCH}", tasks={"the task": (scratch, (0.001, 0.003))}))
    return found


def plan_runs(found: Sequence[Entry]) -> list[PlannedRun]:
    """All pre-training, and each task with each learning rate, once."""
    planned = []
    for entry in found:
        if entry.pretrain is not None and not entry.first:
            planned.append(
                PlannedRun({"model": entry.name, "task": PRE_TRAINING}, replace(entry.pretrain, name="pre-training"))
            )
        for task, (recipe, grid) in (entry.tasks or {}).items():
            planned += [tuned(entry, task, toml.change(recipe, {"optim.lr": rate})) for rate in grid]
    return planned


def tuned(entry: Entry, task: str, recipe: Recipe) -> PlannedRun:
    cell = {"model": entry.name, "task": task, "lr": f"lr {recipe.optim.lr:g}"}
    recipe = replace(recipe, name="fine-tuning")
    if entry.pretrain is None:
        return PlannedRun(cell, recipe)
    first = PlannedRun({"model": entry.first or entry.name, "task": PRE_TRAINING}, entry.pretrain).folder
    return PlannedRun(cell, recipe, _in(first))


def _in(folder: str) -> Callable[[Path, Recipe], Path]:
    return lambda root, _: root / folder


def follow_up(_scale: Scale, finished: Sequence[FinishedRun]) -> list[PlannedRun]:
    """The best learning rate of each task again, with other seeds."""
    best = best_rates(finished)
    return [
        replace(one.plan, recipe=toml.change(one.plan.recipe, {"train.seed": seed}))
        for one in finished
        for seed in MORE_SEEDS
        if best.get(_task(one)) == one.plan.cell.get("lr") and one.plan.recipe.train.seed == 0 and "lr" in one.plan.cell
    ]


def hours_of_pretraining(finished: Sequence[FinishedRun]) -> dict[str, float]:
    """Of each model, whatever the size at which it was tuned; without those that began with public weights."""
    hours = {_as_pretrained(one): one.hours for one in finished if one.plan.cell["task"] == PRE_TRAINING}
    return {one.plan.cell["model"]: hours[_as_pretrained(one)] for one in finished if _as_pretrained(one) in hours}


def _as_pretrained(one: FinishedRun) -> str:
    return re.sub(r" at \d+$", "", one.plan.cell["model"])


def best_rates(finished: Sequence[FinishedRun]) -> dict[tuple[str, str], str]:
    """(model, task) → the learning rate that is best on the validation split."""
    tried: dict[tuple[str, str], list[FinishedRun]] = {}
    for one in finished:
        if "lr" in one.plan.cell and one.plan.recipe.train.seed == 0:
            tried.setdefault(_task(one), []).append(one)
    return {key: max(runs, key=lambda run: run.val).plan.cell["lr"] for key, runs in tried.items()}


def _task(one: FinishedRun) -> tuple[str, str]:
    return one.plan.cell["model"], one.plan.cell["task"]


def scores(
    finished: Sequence[FinishedRun], score: Callable[[FinishedRun], float]
) -> dict[tuple[str, str], list[float]]:
    """(model, task) → the score of each seed, at the best learning rate."""
    best = best_rates(finished)
    found: dict[tuple[str, str], list[float]] = {}
    for one in finished:
        if "lr" in one.plan.cell and best[_task(one)] == one.plan.cell["lr"]:
            found.setdefault(_task(one), []).append(score(one))
    return found


def summarize(
    finished: Sequence[FinishedRun],
    words: str,
    printed: Mapping[str, paper.Row],
    systems: Sequence[paper.Row] = (),
) -> Outcome:
    """The table of results.

    Args:
        words: the paper's claim.
        printed: the paper's row for each entry, by name.
        systems: rows of the paper that are listed with their cost, whether they were run or not.
    """
    found = scores(finished, lambda one: one.top1)
    real = scores([one for one in finished if "real" in one.card], lambda one: one.card["real"].value)
    models = list(dict.fromkeys(model for model, _ in found))
    tasks = list(dict.fromkeys(task for _, task in found))
    hours = hours_of_pretraining(finished)
    tuned = {one.plan.cell["model"]: one for one in reversed(finished) if "lr" in one.plan.cell}
    rows: list[tuple[str, ...]] = []
    for model in models:
        accuracies = [mean_ci(found[model, task]) if (model, task) in found else NOTHING for task in tasks]
        means = [100 * float(np.mean(found[model, task])) for task in tasks if (model, task) in found]
        # A mean over fewer than all of them says so. The paper's are over five.
        whole = len({*tasks, *FIVE} if printed else tasks)
        mean = f"{np.mean(means):.2f}" + ("" if len(means) == whole else f" (of {len(means)} of {whole})")
        mine = [mean_ci(real.get((model, "imagenet"), [math.nan]))] if real else []
        speed = images_per_second(load(tuned[model].folder), tuned[model].plan.recipe.machine.device)
        spent = [f"{speed:,.0f}", f"{hours[model]:.2f}" if model in hours else NOTHING]
        row = printed.get(model)
        counted = _counted(_cost_in(row) if row else _cost_of(tuned[model])) if systems else []
        theirs: list[str] = []
        if row:
            theirs += [_beside(found.get((model, "imagenet")), row.imagenet)]
            theirs += [_beside(real.get((model, "imagenet")), row.real)] if real else []
            theirs += [_beside_mean(means, tasks, row.five)]
            theirs += [_beside(None, row.vtab)] if systems else []
            theirs += _cost(row)
        elif systems:
            theirs = [NOTHING] * (6 if real else 5)
        rows.append((model, *accuracies, *mine, mean, *spent, *counted, *theirs))
    results = (*(f"{task}, %" for task in tasks), *(["ReaL, %"] if real else []), "mean, %")
    ours = (*results, "images/s", "hours of pre-training", *(COUNTED if systems else ()))
    for row in systems:
        if row in printed.values():
            continue
        speed = NOTHING
        if printed:  # models as large as these are measured at the paper's scale alone
            model = create(row.model, image_size=row.size)
            speed = f"{images_per_second(model, finished[0].plan.recipe.machine.device):,.0f}"
        figures = [speed, NOTHING, *_counted(_cost_in(row))]
        printed_figures = (row.imagenet, *([row.real] if real else []), row.five, row.vtab)
        theirs = [_beside(None, figure) for figure in printed_figures]
        rows.append((f"{row.said}, {row.data}", *[NOTHING] * len(results), *figures, *theirs, *_cost(row)))
    has_figures = bool(printed or systems)
    beside = ("ImageNet", *(["ReaL"] if real else []), "Avg. 5", *(["VTAB"] if systems else []))
    beside = (*beside, "images/s/core", "core-days") if has_figures else ()
    return Outcome(
        columns=("model", *ours, *(f"{name}, paper" for name in beside)),
        rows=rows,
        claims=_gains(found),
        paper=words,
    )


def _cost(row: paper.Row) -> list[str]:
    return [NOTHING if figure is None else f"{figure:,}" for figure in (row.speed, row.core_days)]


def _counted(cost: paper.Cost) -> list[str]:
    return [f"{cost.params:,}", f"{cost.gmacs:.2f}", f"{cost.activation_mb:,.0f}"]


def _cost_in(row: paper.Row) -> paper.Cost:
    return paper.COSTS[row.model, row.size]


def _cost_of(one: FinishedRun) -> paper.Cost:
    wanted = one.plan.recipe.model
    size = (wanted.image_size[0], wanted.image_size[-1]) if wanted.image_size else None
    options: dict[str, Any] = {**wanted.options}
    found = measure(wanted.name, image_size=size, **options)
    return paper.Cost(found.params, found.gmacs, found.activation_mb)


def _gains(found: Mapping[tuple[str, str], list[float]]) -> list[Claim]:
    """Where the same network was also trained from scratch."""
    claims = []
    for (model, task), scores in found.items():
        other = found.get((model.replace("pre-trained", FROM_SCRATCH), task))
        if "pre-trained" in model and other:
            gain = float(np.mean(scores) - np.mean(other))
            claims.append(
                Claim(
                    f"Pre-training helps {model.split(',')[0]}.",
                    gain > 0,
                    f"{mean_ci(scores)} % against {mean_ci(other)} % from scratch",
                )
            )
    return claims


def _beside(ours: Sequence[float] | None, theirs: float | None) -> str:
    """The paper's figure, and ours less it."""
    if theirs is None:
        return NOTHING
    return f"{theirs:.2f}" + (f" ({100 * float(np.mean(ours)) - theirs:+.2f})" if ours else "")


def _beside_mean(means: Sequence[float], tasks: Sequence[str], theirs: float | None) -> str:
    whole = {*FIVE} <= {*tasks} and len(means) == len(tasks) and not any(math.isnan(mean) for mean in means)
    return _beside([float(np.mean(means)) / 100] if whole else None, theirs)


def images_per_second(model: Classifier, device: str) -> float:
    """Throughput as the paper measures it, the best over batch sizes; here, in bf16, and with the common backend."""
    on = device_of(device)
    engine = Engine(model.eval(), Preprocessing(), "eager", "bf16", batch=max(BATCHES), device=on)
    times = interleaved_batches(engine, model.config.image_size, BATCHES, ROUNDS)
    return max(batch / each.median for batch, each in times.items())


def plan_table(table: Sequence[paper.Row], measured: Shape, scale: Scale) -> list[PlannedRun]:
    return plan_runs(entries(scale, table, FIVE, measured))


def summarize_table(
    table: Sequence[paper.Row], words: str, systems: Sequence[paper.Row], finished: Sequence[FinishedRun]
) -> Outcome:
    known = {one.plan.cell["model"] for one in finished}
    found = entries("paper", table, FIVE)
    printed = {entry.name: entry.printed for entry in found if entry.printed is not None and entry.name in known}
    return summarize(finished, words, printed, systems)


TABLE2 = Study(
    "table2",
    "Transfer of the largest models.",
    "Table 2",
    partial(plan_table, paper.TABLE_2, "stretch"),
    partial(
        summarize_table,
        paper.TABLE_2,
        "Table 2: Mixer-H/14 of JFT-300M reaches 87.94 % on ImageNet, between BiT-R152x4 and ViT-H/14, and is faster.",
        (*paper.TABLE_2, *paper.OTHERS),
    ),
    follow_up,
    notes={"paper": NOTE},
)
TABLE3 = Study(
    "table3",
    "Transfer.",
    "Table 3",
    partial(plan_table, paper.TABLE_3, "short_side"),
    partial(
        summarize_table,
        paper.TABLE_3,
        "Table 3: after large pre-training, Mixers come near to ViT and BiT at the same cost; on ImageNet alone they "
        "overfit, and fall behind.",
        (),
    ),
    follow_up,
)
