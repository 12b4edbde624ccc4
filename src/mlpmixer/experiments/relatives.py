"""The Mixer among its relatives (section 4): one network by one recipe, with each of the token operators.

Each is trained twice, from images as they are and from images whose patches are in another order, the same for all of
them: what that costs shows how much an operator lives on which patches are neighbors. Beside accuracy stands the cost:
parameters, multiply-adds, throughput, and how the cost of the operator alone grows with the number of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlpmixer.bench.scaling import exponent
from mlpmixer.experiments.base_recipes import base_recipe
from mlpmixer.experiments.pareto import frontier
from mlpmixer.experiments.permutation import Permutation
from mlpmixer.experiments.study import (
    Claim,
    FinishedRun,
    Outcome,
    PlannedRun,
    Scale,
    Study,
    group_by_cell,
    is_equivalent,
    is_greater,
    mean_ci,
)
from mlpmixer.experiments.transfer import images_per_second
from mlpmixer.models import describe
from mlpmixer.models.isotropic import IsotropicConfig
from mlpmixer.models.measure import counted
from mlpmixer.models.operators import OPERATORS
from mlpmixer.recipe import Model
from mlpmixer.recipes import toml
from mlpmixer.weights.load import load

SEEDS: dict[Scale, tuple[int, ...]] = {"tiny": (0, 1, 2), "small": (0, 1, 2), "paper": (0,)}
MODELS: dict[Scale, Model] = {
    "tiny": Model(
        name="isotropic_pico",
        options={"layers": 2, "channels": 32, "token_hidden": 16, "channel_hidden": 128, "heads": 4},
    ),
    "small": Model(
        name="isotropic_nano",
        options={"layers": 4, "channels": 64, "token_hidden": 32, "channel_hidden": 256, "heads": 4},
    ),
    "paper": Model(name="isotropic_s16"),
}
# Of a run, of which there are very many.
LENGTHS: dict[Scale, dict[str, Any]] = {
    "tiny": {"train.steps": 120, "optim.warmup_steps": 20},
    "small": {"train.epochs": 2.0, "train.batch_size": 128, "optim.warmup_steps": 76},
    "paper": {},
}
FLOOR = "identity"  # no token mixing at all
# Its weights take up any fixed order of the patches, so that nothing is lost but by chance; so has the floor no order.
ANY_ORDER = ("mixer", "dense", "random", "factorized_random", FLOOR)
# Windows, or tables by the offset of two patches, which another order makes meaningless.
BY_OFFSET = ("attention", "halo", "sasa", "lambda", "lambda_table", "involution", "depthwise")
LINEAR = ("mixer", "halo", "sasa", "lambda", "involution", "depthwise")
NO_LOSS = 0.02  # a difference in accuracy below this one is none; the whole interval has to be
SIDES = (2, 4, 8)  # times the usual image size: where cost is fitted against patches
INPUTS = ("original", "patches")


def plan_runs(scale: Scale) -> list[PlannedRun]:
    model = MODELS[scale]
    patch = _config(model).patch_size
    transforms = dict(zip(INPUTS, (None, Permutation("patches", patch)), strict=True))
    found = []
    for name in OPERATORS:
        options = {**model.options, "token_operator": name}
        recipe = toml.change(base_recipe(scale, replace(model, options=options), "relatives"), LENGTHS[scale])
        for shown, transform in transforms.items():
            for seed in SEEDS[scale]:
                cell = {"token mixing": name, "input": shown}
                seeded = toml.change(recipe, {"train.seed": seed})
                found.append(PlannedRun(cell, seeded, transform=transform, train_images=0))
    return found


def summarize(finished: Sequence[FinishedRun]) -> Outcome:
    runs = {(dict(key)["token mixing"], dict(key)["input"]): found for key, found in group_by_cell(finished).items()}
    names = [name for name in OPERATORS if (name, "original") in runs]
    top1 = {key: [one.top1 for one in found] for key, found in runs.items()}
    first = {name: runs[name, "original"][0] for name in names}
    costs = {name: _counted(first[name].plan.recipe.model) for name in names}
    speeds = {name: _speed(first[name]) for name in names}
    growths = {name: growth(first[name].plan.recipe.model) for name in names if name != FLOOR}
    mean = {name: float(np.mean(top1[name, "original"])) for name in names}
    best = frontier({name: (mean[name], -costs[name]) for name in names})
    lost = {name: [a - b for a, b in zip(top1[name, "original"], top1[name, "patches"], strict=True)] for name in names}
    rows = [
        (
            name,
            f"{first[name].card.model.parameters:,}",
            f"{1000 * costs[name]:.2f}",
            f"{growths[name]:.2f}" if name in growths else "–",
            f"{speeds[name]:,.0f}",
            mean_ci(top1[name, "original"]),
            mean_ci(top1[name, "patches"]),
            mean_ci(lost[name]),
            "yes" if name in best else "no",
        )
        for name in names
    ]
    return Outcome(
        columns=(
            "token mixing",
            "parameters",
            "MMAC",
            "growth",
            "images/s",
            "top-1, %",
            "permuted, %",
            "lost, points",
            "frontier",
        ),
        rows=rows,
        claims=[
            *(
                Claim(
                    f"{name} is better than no token mixing.",
                    is_greater(top1[FLOOR, "original"], top1[name, "original"]),
                    f"{mean_ci(top1[name, 'original'])} % against {mean_ci(top1[FLOOR, 'original'])} %",
                )
                for name in names
                if name != FLOOR and FLOOR in names
            ),
            *(
                Claim(
                    f"{name} learns as well from patches in another order.",
                    is_equivalent(top1[name, "original"], top1[name, "patches"], within=NO_LOSS),
                    f"it loses {mean_ci(lost[name])} points",
                )
                for name in names
                if name in ANY_ORDER
            ),
            *(
                Claim(
                    f"{name} loses by another order of the patches.",
                    is_greater(top1[name, "patches"], top1[name, "original"]),
                    f"it loses {mean_ci(lost[name])} points",
                )
                for name in names
                if name in BY_OFFSET
            ),
            *(
                Claim(
                    f"The cost of {name} grows {'linearly' if name in LINEAR else 'faster than linearly'} with the "
                    "patches.",
                    abs(power - 1) < 0.02 if name in LINEAR else power > 1.1,
                    f"the multiply-adds of the operator alone grow with the power {power:.2f}",
                )
                for name, power in growths.items()
            ),
        ],
        paper="Section 4 names these relatives and has no figures of them.",
        curves={name: first[name].curve for name in names},
    )


def _speed(one: FinishedRun) -> float:
    return images_per_second(load(one.folder), one.plan.recipe.machine.device)


def growth(model: Model) -> float:
    """The power of the number of patches with which the multiply-adds of one layer's operator grow."""
    of_layers = replace(model, options={**model.options, "layers": 1})
    floor = replace(of_layers, options={**of_layers.options, "token_operator": FLOOR})
    costs = [_counted(of_layers, times) - _counted(floor, times) for times in SIDES]
    return exponent([times**2 for times in SIDES], costs)


def _counted(model: Model, times: int = 1) -> float:
    """10⁹ multiply-adds of an image, whose sides are so many times as long as usual."""
    height, width = _config(model).image_size
    options: dict[str, Any] = {**model.options}
    return counted(model.name, image_size=(times * height, times * width), **options)[0]


def _config(model: Model) -> IsotropicConfig:
    size = (model.image_size[0], model.image_size[-1]) if model.image_size else None
    options: dict[str, Any] = {**model.options}
    config = describe(model.name, image_size=size, **options)
    assert isinstance(config, IsotropicConfig)
    return config


STUDY = Study(
    "relatives",
    "Token operators in one network.",
    "Section 4",
    plan_runs,
    summarize,
    fixed=("augment.cutmix", "model.options.token_operator"),  # rectangles would be none in permuted images
)
