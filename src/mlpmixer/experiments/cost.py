"""Cost estimates of a study before it runs: images, operations, device hours, disk space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from mlpmixer.data.select import select
from mlpmixer.data.sources.vtab import VTAB
from mlpmixer.errors import MixerError
from mlpmixer.evaluation.card import Card
from mlpmixer.experiments.study import FinishedRun, PlannedRun, Scale, Study, with_changes
from mlpmixer.machine.description import matrix_rate
from mlpmixer.machine.devices import device_of
from mlpmixer.models import describe
from mlpmixer.models.measure import counted
from mlpmixer.models.measured import measured
from mlpmixer.recipe import Recipe

# Operations a second of a large accelerator in training: a third of an H100's peak in bf16.
LARGE = 330e12
UTILIZATION = 1 / 3  # of the peak rate of matrix products, on this machine too

# Training images of data sets that may not be here.
IMAGES = {
    "imagenet": 1_281_167,
    "imagenet21k": 14_197_122,
    "my-large-set": 300_000_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "pets": 3_680,
    "flowers": 2_040,
    **{f"vtab:{task}": 800 for task in VTAB},
}
FREE = ("head_bias", "dropout", "stochastic_depth")  # options that cost nothing


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        weights: that it begins with: the name of public ones, or "this study's"; empty: random ones.
        flops: of all training steps.
        hours: of one device.
        disk: bytes of the run folder.
    """

    run: str
    model: str
    weights: str
    images: float
    flops: float
    hours: float
    disk: float


def costs(study: Study, scale: Scale, changes: Mapping[str, Any] | None = None) -> tuple[list[Cost], float]:
    """The cost of each run, and the operations a second that hours assume: at `paper` a large accelerator's."""
    first = study.plan_runs(scale)
    # Follow-up runs cost the same, whatever the results of the first.
    more = study.follow_up(scale, [FinishedRun(plan, Path(), cast(Card, None)) for plan in first])
    plans = with_changes([*first, *more], changes or {}, study.fixed)
    rate = LARGE
    if scale != "paper" and plans:
        rate = UTILIZATION * matrix_rate(device_of(plans[0].recipe.machine.device), torch.bfloat16)
    # In their usual sizes, models need not be counted.
    known = {(row["name"], tuple(row["image_size"])): (row["gmacs"], row["params"]) for row in measured()}
    return [_cost(plan, rate, known) for plan in plans], rate


def _cost(plan: PlannedRun, rate: float, known: dict[Any, tuple[float, int]]) -> Cost:
    """known: GMACs and parameters of models that were counted before. Heads are counted with 1,000 classes."""
    recipe = plan.recipe
    wanted = recipe.model
    options: dict[str, Any] = {name: value for name, value in wanted.options.items() if name not in FREE}
    usual = describe(wanted.name)
    size = (wanted.image_size[0], wanted.image_size[-1]) if wanted.image_size else usual.image_size
    hidden = {**usual.dimensions(), **options}.get("token_hidden")
    if hidden and wanted.resize == "tiles" and size != usual.image_size:  # as many times as many as there are patches
        options["token_hidden"] = hidden * math.prod(size) // math.prod(usual.image_size)
    key = (wanted.name, size, *sorted(options.items()))
    if key not in known:
        known[key] = counted(wanted.name, image_size=size, **options)
    gmacs, params = known[key]
    of_epochs = 0 if recipe.train.steps else recipe.train.epochs * _training_images(recipe)
    seen = max(of_epochs, (recipe.train.steps or recipe.train.min_steps) * recipe.train.batch_size)
    passes = 6 if recipe.optim.sharpness != "none" else 3  # one forward, and a backward pass that costs two
    flops = passes * seen * gmacs * 2e9
    # Weights and Adam's two moments in each checkpoint; the best and the last weights beside them.
    copies = 3 * (recipe.machine.keep_checkpoints + 1) + 2
    weights = wanted.weights if plan.weights is None else "this study's"
    return Cost(plan.folder, wanted.name, weights, seen, flops, flops / rate / 3600, 4 * params * copies)


def _training_images(recipe: Recipe) -> float:
    """Counted where the data set is here, otherwise from its known size."""
    how = recipe.data
    if how.source in IMAGES:
        held = float(how.val.rpartition(" or ")[2].rstrip("% ")) / 100 if how.val.endswith("%") else 0.0
        return math.floor(IMAGES[how.source] * (1 - held) * how.share)
    try:
        return len(select(how).train)
    except MixerError:
        return math.nan
