"""Model scale (section 3.3, Fig. 3): Mixers and ViTs of growing size, trained on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlpmixer.experiments.base_recipes import FEW_SHOT_SOURCE, SEEDS, base_recipe
from mlpmixer.experiments.study import (
    Claim,
    FinishedRun,
    Key,
    Outcome,
    PlannedRun,
    Scale,
    Study,
    group_by_cell,
    is_greater,
    mean_ci,
)
from mlpmixer.recipe import Model
from mlpmixer.recipes import toml


def _mixer(name: str, side: int, layers: int, channels: int) -> Model:
    """In the paper's proportions, D_S = C/2 and D_C = 4C."""
    sizes: dict[str, Any] = {
        "layers": layers,
        "channels": channels,
        "token_hidden": channels // 2,
        "channel_hidden": 4 * channels,
    }
    return Model(name=name, image_size=(side,), options=sizes)


def _vit(side: int, layers: int, channels: int) -> Model:
    sizes: dict[str, Any] = {"layers": layers, "channels": channels, "heads": channels // 32, "hidden": 4 * channels}
    return Model(name="vit_ti16", image_size=(side,), options={"patch_size": 4, **sizes})


MODELS: dict[Scale, dict[str, dict[str, Model]]] = {
    "tiny": {
        "Mixer": {f"{c}×{n}": _mixer("mixer_pico", 28, n, c) for n, c in ((2, 32), (4, 64), (6, 96))},
        "ViT": {f"{c}×{n}": _vit(28, n, c) for n, c in ((2, 32), (4, 64), (6, 96))},
    },
    "small": {
        "Mixer": {f"{c}×{n}": _mixer("mixer_nano", 32, n, c) for n, c in ((4, 64), (8, 96), (8, 192))},
        "ViT": {f"{c}×{n}": _vit(32, n, c) for n, c in ((4, 64), (6, 96), (6, 192))},
    },
    "paper": {
        "Mixer": {
            name: Model(name=f"mixer_{name.lower().replace('/', '')}")
            for name in ("S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14")
        },
        "ViT": {
            name: Model(name=f"vit_{name.lower().replace('/', '')}")
            for name in ("S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14")
        },
    },
}


def plan_runs(scale: Scale) -> list[PlannedRun]:
    return [
        PlannedRun(
            {"network": network, "size": size},
            toml.change(base_recipe(scale, model, "model-scale"), {"train.seed": seed}),
            few_shot_source=FEW_SHOT_SOURCE[scale],
        )
        for network, sizes in MODELS[scale].items()
        for size, model in sizes.items()
        for seed in SEEDS[scale]
    ]


def summarize(finished: Sequence[FinishedRun]) -> Outcome:
    rows, top1 = [], {}
    for key, runs in group_by_cell(finished).items():
        network, size = (dict(key)[name] for name in ("network", "size"))
        top1[network, size] = [one.top1 for one in runs]
        rows.append(
            (
                network,
                size,
                f"{runs[0].card.model.parameters:,}",
                mean_ci(top1[network, size]),
                mean_ci([one.shots(5) for one in runs]),
                mean_ci([one.shots(10) for one in runs]),
                f"{sum(one.hours for one in runs) / len(runs):.2f}",
            )
        )
    claims = []
    for network in ("Mixer", "ViT"):
        sizes = [size for kind, size in top1 if kind == network]
        small, large = top1[network, sizes[0]], top1[network, sizes[-1]]
        claims.append(
            Claim(
                f"A larger {network} is better.",
                is_greater(small, large),
                f"{mean_ci(large)} against {mean_ci(small)} %",
            )
        )
    return Outcome(
        columns=("network", "size", "parameters", "top-1, %", "5-shot, %", "10-shot, %", "hours"),
        rows=rows,
        claims=claims,
        paper="Fig. 3: on JFT-300M, accuracy grows with the size of the model, for Mixer and ViT is_equivalent.",
        curves=_curves(group_by_cell(finished)),
    )


def _curves(by_cell: dict[Key, list[FinishedRun]]) -> dict[str, Sequence[tuple[float, float]]]:
    return {", ".join(value for _, value in key): runs[0].curve for key, runs in by_cell.items()}


STUDY = Study("model-scale", "Models of growing size.", "Section 3.3, Fig. 3", plan_runs, summarize)
