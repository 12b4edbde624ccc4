"""What a study would cost, before anything is run: images, operations, hours of a device, room on the disk."""

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
from mlpmixer.experiments.study import Done, Measurement, Plan, Scale, Study, changed
from mlpmixer.machine.description import matrix_rate
from mlpmixer.machine.devices import device_of
from mlpmixer.models import describe
from mlpmixer.models.measure import counted
from mlpmixer.models.measured import measured
from mlpmixer.recipe import Recipe

# Operations a second that a large accelerator keeps up in training: a third of what an H100 multiplies in bf16 at most.
LARGE = 330e12
KEPT_UP = 1 / 3  # of the rate of matrix products, on this machine too

# Training images of sets that may not be here.
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
    """`flops`: of all training steps. `hours`: of one device. `disk`: bytes of the run folder."""

    run: str
    model: str
    images: float
    flops: float
    hours: float
    disk: float


def costs(
    study: Study | Measurement, scale: Scale, changes: Mapping[str, Any] | None = None
) -> tuple[list[Cost], float]:
    """Of all runs, and the operations a second that hours are counted with: at `paper` a large accelerator's."""
    if isinstance(study, Measurement):
        return [], LARGE
    first, none = study.plans(scale), cast(Card, None)
    # What follows from their figures costs the same, whatever these are.
    plans = changed([*first, *study.then(scale, [Done(plan, Path(), none) for plan in first])], changes, study.varies)
    rate = LARGE
    if scale != "paper" and plans:
        rate = KEPT_UP * matrix_rate(device_of(plans[0].recipe.machine.device), torch.bfloat16)
    # As they usually are, models need not be counted.
    known = {(row["name"], tuple(row["image_size"])): (row["gmacs"], row["params"]) for row in measured()}
    return [_cost(plan, rate, known) for plan in plans], rate


def _cost(plan: Plan, rate: float, known: dict[Any, tuple[float, int]]) -> Cost:
    """known: 10⁹ multiply-adds and parameters of models that were counted before. Heads are taken as of 1,000."""
    recipe = plan.recipe
    wanted = recipe.model
    options: dict[str, Any] = {name: value for name, value in wanted.options.items() if name not in FREE}
    size = (wanted.image_size[0], wanted.image_size[-1]) if wanted.image_size else describe(wanted.name).image_size
    key = (wanted.name, size, *sorted(options.items()))
    if key not in known:
        known[key] = counted(wanted.name, image_size=size, **options)
    gmacs, params = known[key]
    of_epochs = 0 if recipe.train.steps else recipe.train.epochs * _training_images(recipe)
    seen = max(of_epochs, (recipe.train.steps or recipe.train.min_steps) * recipe.train.batch_size)
    passes = 6 if recipe.optim.sharpness != "none" else 3  # forwards, and twice that backwards
    flops = passes * seen * gmacs * 2e9
    # Weights and Adam's two moments in each checkpoint; the best and the last weights beside them.
    copies = 3 * (recipe.machine.keep_checkpoints + 1) + 2
    return Cost(plan.folder, wanted.name, seen, flops, flops / rate / 3600, 4 * params * copies)


def _training_images(recipe: Recipe) -> float:
    """Counted where they are at hand, otherwise by what is known of the set."""
    how = recipe.data
    if how.source in IMAGES:
        held = float(how.val.rpartition(" or ")[2].rstrip("% ")) / 100 if how.val.endswith("%") else 0.0
        return math.floor(IMAGES[how.source] * (1 - held) * how.share)
    try:
        return len(select(how).train)
    except MixerError:
        return math.nan
