"""Rules for the values of a recipe. What passes is refused later only for the data, the weights or the machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mlpmixer.errors import RecipeError
from mlpmixer.metadata import MOST_MEAN, STD_RANGE
from mlpmixer.recipe import Recipe

Rule = tuple[str, Callable[[Any], bool]]

POSITIVE: Rule = ("more than 0", lambda x: 0 < x < float("inf"))
COUNT: Rule = ("1 or more", lambda x: x >= 1)
NOT_NEGATIVE: Rule = ("0 or more", lambda x: 0 <= x < float("inf"))
CHANCE: Rule = ("between 0 and 1", lambda x: 0 <= x <= 1)
BELOW_ONE: Rule = ("from 0 to less than 1", lambda x: 0 <= x < 1)
SHARE: Rule = ("more than 0 and at most 1", lambda x: 0 < x <= 1)

RULES: dict[str, Rule] = {
    "model.image_size": ("a side, or height and width", lambda x: len(x) <= 2 and all(side >= 1 for side in x)),
    "data.share": SHARE,
    "data.shots": NOT_NEGATIVE,
    "augment.area": ("two shares in rising order", lambda x: 0 < x[0] <= x[1] <= 1),
    "augment.ratio": ("two proportions in rising order", lambda x: 0 < x[0] <= x[1]),
    "augment.padding": NOT_NEGATIVE,
    "augment.policy_layers": COUNT,
    "augment.policy_magnitude": ("from 1 to 30", lambda x: 1 <= x <= 30),
    "augment.erase": CHANCE,
    "augment.mixup": NOT_NEGATIVE,
    "augment.cutmix": NOT_NEGATIVE,
    "augment.mix_chance": CHANCE,
    "evaluation.resize": NOT_NEGATIVE,
    "evaluation.mean": (f"from -{MOST_MEAN:g} to {MOST_MEAN:g} each", lambda x: all(abs(y) <= MOST_MEAN for y in x)),
    "evaluation.std": (
        "from {:g} to {:g} each".format(*STD_RANGE),
        lambda x: all(STD_RANGE[0] <= y <= STD_RANGE[1] for y in x),
    ),
    "evaluation.every_epochs": POSITIVE,
    "loss.smoothing": BELOW_ONE,
    "loss.teacher_share": CHANCE,
    "loss.temperature": POSITIVE,
    "optim.lr": POSITIVE,
    "optim.betas": ("two numbers from 0 to less than 1", lambda x: all(0 <= beta < 1 for beta in x)),
    "optim.momentum": BELOW_ONE,
    "optim.weight_decay": NOT_NEGATIVE,
    "optim.agc": NOT_NEGATIVE,
    "optim.clip": NOT_NEGATIVE,
    "optim.warmup_steps": NOT_NEGATIVE,
    "optim.warmup_share": SHARE,
    "optim.final_lr_ratio": CHANCE,
    "optim.milestones": (
        "shares of the run in rising order",
        lambda x: [*x] == sorted(x) and all(0 < y < 1 for y in x),
    ),
    "optim.ema": BELOW_ONE,
    "optim.rho": POSITIVE,
    "optim.rho_min": NOT_NEGATIVE,
    "optim.alpha": NOT_NEGATIVE,
    "train.epochs": POSITIVE,
    "train.steps": NOT_NEGATIVE,
    "train.min_steps": NOT_NEGATIVE,
    "train.batch_size": COUNT,
    "machine.workers": ("-1 (by the number of cores), 0 (none) or more", lambda x: x >= -1),
    "machine.micro_batch": NOT_NEGATIVE,
    "machine.save_every": COUNT,
    "machine.keep_checkpoints": COUNT,
    "machine.log_every": COUNT,
}


# Options of a model that other lines of a recipe, or its data, decide.
DECIDED = {
    "num_classes": "the data decides it",
    "in_channels": "images have 3",
    "image_size": "model.image_size sets it",
}


def require_source(recipe: Recipe) -> None:
    """Refuses a recipe whose data set nobody has named yet.

    Raises:
        RecipeError: Its place is still held by a name such as my-photos.
    """
    source = recipe.data.source
    if source.startswith("my-") and not os.path.exists(source):  # noqa: PTH110 (a Path refuses some names)
        raise RecipeError(
            f"{recipe.name} trains on your own images: name their folder with --data.source FOLDER (in it a folder for "
            f"each class; '{source}' only holds the place)"
        )


def check(recipe: Recipe) -> None:
    """Refuses a recipe whose values make no sense, by themselves or together.

    Raises:
        RecipeError: A value breaks a rule.
    """
    for name, (wanted, holds) in RULES.items():
        table, line = name.split(".")
        value = getattr(getattr(recipe, table), line)
        if not holds(value):
            raise RecipeError(f"{name} must be {wanted}; got {value}")
    for option, why in DECIDED.items():
        if option in recipe.model.options:
            raise RecipeError(f"model.options cannot set {option}: {why}")
    if recipe.optim.nesterov and recipe.optim.momentum == 0:
        raise RecipeError("optim.nesterov is a form of momentum, and optim.momentum is 0")
    if recipe.data.shots and recipe.data.share < 1:
        raise RecipeError("data.share and data.shots exclude each other: a share of each class, or so many images")
    if recipe.train.select == "best" and recipe.data.val == "":
        raise RecipeError('train.select is "best", which needs a validation split, and data.val is empty')
