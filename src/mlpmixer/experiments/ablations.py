"""Variants of token mixing (appendix A.1): untied, in groups, in groups with a learned projection; a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlpmixer.experiments.base_recipes import FEW_SHOT_SOURCE, MIXER, SEEDS, base_recipe
from mlpmixer.experiments.study import (
    Claim,
    FinishedRun,
    Outcome,
    PlannedRun,
    Scale,
    Study,
    group_by_cell,
    is_greater,
    mean_ci,
)
from mlpmixer.metrics.intervals import of_mean
from mlpmixer.recipe import Model, Option
from mlpmixer.recipes import toml

PLAIN = "plain"
RELEVANT = 0.02  # a gain in accuracy below this one is none; the whole interval has to be
VARIANTS: dict[str, dict[str, Option]] = {
    PLAIN: {},
    "untied": {"untied": True},
    "groups of 2": {"groups": 2},
    "groups of 4": {"groups": 4},
    "groups of 2, projected": {"groups": 2, "group_projection": True},
    "groups of 4, projected": {"groups": 4, "group_projection": True},
    "pyramid": {"pyramid": (3,)},  # half of the rows and columns of tokens from the fourth layer on
}
MODELS: dict[Scale, dict[str, Model]] = {
    "tiny": {"": replace(MIXER["tiny"], image_size=(32,))},  # a pyramid needs an even grid of tokens
    "small": {"": MIXER["small"]},
    "paper": {"S/32": Model(name="mixer_s32"), "B/16": Model(name="mixer_b16")},
}


def plan_runs(scale: Scale) -> list[PlannedRun]:
    found = []
    for size, model in MODELS[scale].items():
        for variant, options in VARIANTS.items():
            if scale == "tiny" and variant == "pyramid":
                options = {"pyramid": (1,)}  # of 4 layers
            if size == "S/32" and variant == "pyramid":
                continue  # its 7 × 7 tokens cannot be halved
            recipe = base_recipe(scale, replace(model, options={**model.options, **options}), "ablations")
            if scale == "tiny":
                recipe = toml.change(recipe, {"evaluation.resize": 32})
            cell = {"size": size, "token mixing": variant} if size else {"token mixing": variant}
            seeds = [toml.change(recipe, {"train.seed": seed}) for seed in SEEDS[scale]]
            found += [PlannedRun(cell, seed, few_shot_source=FEW_SHOT_SOURCE[scale]) for seed in seeds]
    return found


def summarize(finished: Sequence[FinishedRun]) -> Outcome:
    rows, claims, curves = [], [], {}
    plain: list[float] = []
    for key, runs in group_by_cell(finished).items():
        cell = dict(key)
        variant, size = cell["token mixing"], cell.get("size", "")
        name = f"{size} {variant}".strip()
        accuracy = [one.top1 for one in runs]
        parameters = runs[0].card.model.parameters
        rows.append((name, f"{parameters:,}", mean_ci(accuracy), mean_ci([one.shots(5) for one in runs])))
        curves[name] = runs[0].curve
        if variant == PLAIN:
            plain = accuracy
            continue
        gain = [b - a for a, b in zip(plain, accuracy, strict=True)]
        no_gain = False if is_greater(plain, accuracy) else True if of_mean(gain)[1] <= RELEVANT else None
        claims.append(
            Claim(
                f"{name}: no relevant gain.",
                no_gain,
                f"top-1 changes by {mean_ci(gain)} points",
            )
        )
    return Outcome(
        columns=("token mixing", "parameters", "top-1, %", "linear 5-shot, %"),
        rows=rows,
        claims=claims,
        paper="Appendix A.1: untied, no gain; groups, 1 to 2 % of 5-shot accuracy at most; projected, 3 to 4 %, for "
        "S/32 alone; pyramids, faster on JFT, but nothing on ImageNet.",
        curves=curves,
    )


STUDY = Study("ablations", "Variants of token mixing.", "Appendix A.1", plan_runs, summarize)
