"""Appendix A.1: what did not help. Token mixing untied, in groups, in groups with a learnt projection; a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlpmixer.experiments.base_recipes import FEW_OF, SEEDS, base
from mlpmixer.experiments.baselines import MIXER
from mlpmixer.experiments.study import Done, Finding, Plan, Scale, Study, Told, apart, cells, over_seeds
from mlpmixer.metrics.intervals import of_mean
from mlpmixer.recipe import Model, Option
from mlpmixer.recipes import toml

PLAIN = "as it is"
WORTH = 0.02  # of accuracy: that a gain is below it must be sure, too
VARIANTS: dict[str, dict[str, Option]] = {
    PLAIN: {},
    "untied": {"untied": True},
    "groups of 2": {"groups": 2},
    "groups of 4": {"groups": 4},
    "groups of 2, projected": {"groups": 2, "group_projection": True},
    "groups of 4, projected": {"groups": 4, "group_projection": True},
    "pyramid": {"pyramid": (3,)},  # half of the rows and columns of places from the fourth layer on
}
MODELS: dict[Scale, dict[str, Model]] = {
    "tiny": {"": replace(MIXER["tiny"], image_size=(32,))},  # a pyramid needs an even grid of places
    "small": {"": MIXER["small"]},
    "paper": {"S/32": Model(name="mixer_s32"), "B/16": Model(name="mixer_b16")},
}


def plans(scale: Scale) -> list[Plan]:
    found = []
    for size, model in MODELS[scale].items():
        for variant, options in VARIANTS.items():
            if scale == "tiny" and variant == "pyramid":
                options = {"pyramid": (1,)}  # of 4 layers
            if size == "S/32" and variant == "pyramid":
                continue  # its 7 × 7 places cannot be halved
            recipe = base(scale, replace(model, options={**model.options, **options}), "ablations")
            if scale == "tiny":
                recipe = toml.change(recipe, {"evaluation.resize": 32})
            cell = {"size": size, "token mixing": variant} if size else {"token mixing": variant}
            seeds = [toml.change(recipe, {"train.seed": seed}) for seed in SEEDS[scale]]
            found += [Plan(cell, seed, few_of=FEW_OF[scale]) for seed in seeds]
    return found


def tell(done: Sequence[Done]) -> Told:
    rows, findings, curves = [], [], {}
    plain: list[float] = []
    for key, runs in cells(done).items():
        cell = dict(key)
        variant, size = cell["token mixing"], cell.get("size", "")
        name = f"{size} {variant}".strip()
        first = [one.top1 for one in runs]
        parameters = runs[0].card.model.parameters
        rows.append((name, f"{parameters:,}", over_seeds(first), over_seeds([one.shots(5) for one in runs])))
        curves[name] = runs[0].curve
        if variant == PLAIN:
            plain = first
            continue
        gain = [b - a for a, b in zip(plain, first, strict=True)]
        no_gain = False if apart(plain, first) else True if of_mean(gain)[1] <= WORTH else None
        findings.append(
            Finding(
                f"{name}: no gain worth having.",
                no_gain,
                f"top-1 changes by {over_seeds(gain)} points",
            )
        )
    return Told(
        columns=("token mixing", "parameters", "top-1, %", "linear 5-shot, %"),
        rows=rows,
        findings=findings,
        paper="Appendix A.1: untied, no gain; groups, 1 to 2 % of 5-shot accuracy at most; projected, 3 to 4 %, for "
        "S/32 alone; pyramids, faster on JFT, but nothing on ImageNet.",
        curves=curves,
    )


STUDY = Study("ablations", "Variants of token mixing.", "Appendix A.1", plans, tell)
