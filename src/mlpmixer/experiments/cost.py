"""What a study would cost, before anything is run: pictures, operations, hours of a device, room on the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mlpmixer.data.choose import choose
from mlpmixer.errors import MixerError
from mlpmixer.experiments.study import Measurement, Plan, Scale, Study
from mlpmixer.models.measure import Measure, measure
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.train.machine import matrix_rate
from mlpmixer.train.team import device_of

# Operations a second that a large accelerator keeps up in training: a third of what an H100 multiplies in bf16 at most.
LARGE = 330e12
KEPT_UP = 1 / 3  # of the rate of matrix products, on this machine too

# Training pictures of sets that may not be here.
PICTURES = {
    "imagenet": 1_281_167,
    "imagenet21k": 14_197_122,
    "my-large-set": 300_000_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "pets": 3_680,
    "flowers": 2_040,
    "my-vtab-task": 800,
}
CLASSES = {"imagenet": 1000, "imagenet21k": 21_843, "my-large-set": 18_291}


@dataclass(frozen=True)
class Cost:
    """`flops`: of all training steps. `hours`: of one device. `disk`: bytes of the run folder."""

    run: str
    model: str
    pictures: float
    flops: float
    hours: float
    disk: float


def costs(
    study: Study | Measurement, scale: Scale, changes: Mapping[str, Any] | None = None
) -> tuple[list[Cost], float]:
    """Of all runs, and the operations a second that hours are counted with: at `paper` a large accelerator's."""
    if isinstance(study, Measurement):
        return [], LARGE
    plans = [replace(plan, recipe=toml.change(plan.recipe, changes or {})) for plan in study.plans(scale)]
    rate = LARGE
    if scale != "paper" and plans:
        rate = KEPT_UP * matrix_rate(device_of(plans[0].recipe.machine.device), torch.bfloat16)
    models: dict[str, Measure] = {}
    return [_cost(plan, rate, models) for plan in plans], rate


def _cost(plan: Plan, rate: float, models: dict[str, Measure]) -> Cost:
    """models: those that were measured before."""
    recipe = plan.recipe
    wanted = recipe.model
    key = repr((wanted, recipe.data.source))
    if key not in models:
        options: dict[str, Any] = {**wanted.options, "num_classes": CLASSES.get(recipe.data.source, 10)}
        if wanted.image_size:
            options["image_size"] = (wanted.image_size[0], wanted.image_size[-1])
        models[key] = measure(wanted.name, **options)
    of_model = models[key]
    seen = recipe.train.steps * recipe.train.batch_size or recipe.train.epochs * _training_pictures(recipe)
    passes = 6 if recipe.optim.sharpness != "none" else 3  # forwards, and twice that backwards
    flops = passes * seen * of_model.gmacs * 2e9
    # Weights and Adam's two moments in each checkpoint; the best and the last weights beside them.
    copies = 3 * (recipe.machine.keep + 1) + 2
    return Cost(plan.folder, wanted.name, seen, flops, flops / rate / 3600, 4 * of_model.params * copies)


def _training_pictures(recipe: Recipe) -> float:
    """Counted where they are at hand, otherwise by what is known of the set."""
    how = recipe.data
    if how.source in PICTURES:
        held = float(how.dev.rstrip("% ")) / 100 if how.dev.endswith("%") else 0.0
        return math.floor(PICTURES[how.source] * (1 - held) * how.share)
    try:
        return len(choose(how).train)
    except MixerError:
        return math.nan
