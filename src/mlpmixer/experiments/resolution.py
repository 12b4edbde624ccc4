"""Resolution (appendix C): fine-tuning at a higher resolution than that of pre-training.

By tiling, as the paper does it (whole multiples only), and by resampling, which takes any size; compared with as much
training at the old size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlpmixer.experiments.base_recipes import MIXER, SEEDS, base_recipe
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
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.finetune import Row, of_row

FIRST = "pre-training"
SIDES: dict[Scale, tuple[int, int, int]] = {"tiny": (28, 42, 56), "small": (32, 48, 64), "paper": (224, 336, 448)}
EPOCHS = {"tiny": 1.0, "small": 5.0}


def plan_runs(scale: Scale) -> list[PlannedRun]:
    first, between, double = SIDES[scale]
    recipe = base_recipe(scale, MIXER[scale], FIRST)
    found = []
    for seed in SEEDS[scale]:
        begun = PlannedRun({"stage": FIRST}, toml.change(recipe, {"train.seed": seed}))
        found.append(begun)
        for side, scheme in ((first, "tiles"), (double, "tiles"), (double, "resample"), (between, "resample")):
            cell = {"stage": f"{side} pixels" + (f", {scheme}" if side != first else "")}
            found.append(PlannedRun(cell, _tuned(scale, side, scheme, seed), _of(begun.folder)))
    return found


def _of(folder: str) -> Any:
    def weights(root: Path, _: Recipe) -> Path:
        return root / folder

    return weights


def _tuned(scale: Scale, side: int, scheme: Any, seed: int):
    if scale == "paper":
        row = Row(task="imagenet", weights="mixer_b16.", image_size=side, resize=scheme, expected="")
        return toml.change(of_row("resolution", row), {"train.seed": seed})
    changes = {
        "model.image_size": side,
        "model.resize": scheme,
        "evaluation.resize": side,
        "train.epochs": EPOCHS[scale],
        "train.seed": seed,
        "optim.lr": 0.0003,
        "optim.warmup_steps": 50,
    }
    return toml.change(base_recipe(scale, replace(MIXER[scale], options={}), "resolution"), changes)


def summarize(finished: Sequence[FinishedRun]) -> Outcome:
    by_stage = {dict(key)["stage"]: runs for key, runs in group_by_cell(finished).items()}
    top1 = {stage: [one.top1 for one in runs] for stage, runs in by_stage.items()}
    rows = [
        (stage, mean_ci(top1[stage]), f"{sum(one.hours for one in runs) / len(runs):.2f}")
        for stage, runs in by_stage.items()
    ]
    _, old, tiles, resample, between = by_stage
    claims = [
        Claim(
            f"{stage}: better than as much training at the old size.",
            is_greater(top1[old], top1[stage]),
            f"{mean_ci(top1[stage])} against {mean_ci(top1[old])} %",
        )
        for stage in (tiles, resample, between)
    ]
    return Outcome(
        columns=("stage", "top-1, %", "hours"),
        rows=rows,
        claims=claims,
        paper="Table 3: Mixer-L/16 of ImageNet-21k gains 1.02 points on ImageNet at 448 pixels (83.91 after 82.89 %).",
        curves={stage: runs[0].curve for stage, runs in by_stage.items()},
    )


STUDY = Study(
    "resolution",
    "Fine-tuning at a higher resolution.",
    "Appendix C",
    plan_runs,
    summarize,
    fixed=("model.image_size", "model.resize"),
)
