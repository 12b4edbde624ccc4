"""Section 3.3 and Fig. 3: the same data for models of growing size, Mixers and ViTs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlpmixer.experiments.base_recipes import FEW_OF, SEEDS, base
from mlpmixer.experiments.study import Done, Finding, Key, Plan, Scale, Study, Told, apart, cells, over_seeds
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


def plans(scale: Scale) -> list[Plan]:
    return [
        Plan(
            {"network": network, "size": size},
            toml.change(base(scale, model, "model-scale"), {"train.seed": seed}),
            few_of=FEW_OF[scale],
        )
        for network, sizes in MODELS[scale].items()
        for size, model in sizes.items()
        for seed in SEEDS[scale]
    ]


def tell(done: Sequence[Done]) -> Told:
    rows, top1 = [], {}
    for key, runs in cells(done).items():
        network, size = (dict(key)[name] for name in ("network", "size"))
        top1[network, size] = [one.top1 for one in runs]
        rows.append(
            (
                network,
                size,
                f"{runs[0].card.model.parameters:,}",
                over_seeds(top1[network, size]),
                over_seeds([one.shots(5) for one in runs]),
                over_seeds([one.shots(10) for one in runs]),
                f"{sum(one.hours for one in runs) / len(runs):.2f}",
            )
        )
    findings = []
    for network in ("Mixer", "ViT"):
        sizes = [size for kind, size in top1 if kind == network]
        small, large = top1[network, sizes[0]], top1[network, sizes[-1]]
        findings.append(
            Finding(
                f"A larger {network} is better.",
                apart(small, large),
                f"{over_seeds(large)} against {over_seeds(small)} %",
            )
        )
    return Told(
        columns=("network", "size", "parameters", "top-1, %", "5-shot, %", "10-shot, %", "hours"),
        rows=rows,
        findings=findings,
        paper="Fig. 3: on JFT-300M, accuracy grows with the size of the model, for Mixer and ViT alike.",
        curves=_curves(cells(done)),
    )


def _curves(by_cell: dict[Key, list[Done]]) -> dict[str, Sequence[tuple[float, float]]]:
    return {", ".join(value for _, value in key): runs[0].curve for key, runs in by_cell.items()}


STUDY = Study("model-scale", "Models of growing size.", "Section 3.3, Fig. 3", plans, tell)
