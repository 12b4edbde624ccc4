"""Sizes and costs: the parameters of the seven Mixers (Table 1), and how cost grows with the number of patches.

Section 2: the cost of a Mixer grows linearly with the number of patches, that of a ViT quadratically. Counted, and
timed on the device at hand, interleaved: the same two networks for images of more and more pixels.
"""

from __future__ import annotations

import torch

from mlpmixer.bench.scaling import SIDES as USUAL
from mlpmixer.bench.scaling import Point, by_patches, growth
from mlpmixer.experiments.study import Claim, Measurement, Outcome, Scale
from mlpmixer.models.measure import measure
from mlpmixer.models.measured import TABLE_1

SIDES: dict[Scale, tuple[int, ...]] = {
    "tiny": (96, 160, 256, 384, 512),
    "small": USUAL,
    "paper": (*USUAL, 768, 1024),
}
NETWORKS: dict[Scale, tuple[str, str]] = {
    "tiny": ("mixer_s32", "vit_s32"),
    "small": ("mixer_s16", "vit_s16"),
    "paper": ("mixer_b16", "vit_b16"),
}
ROUNDS = {"tiny": 3, "small": 5, "paper": 9}


def count(_scale: Scale, _device: torch.device) -> Outcome:
    """Table 1, which is the same at every scale and on every device."""
    counted = {name: measure(name) for name in TABLE_1}
    rows = [
        (
            name,
            *(str(one.dimensions[key]) for key in ("layers", "patch_size", "channels")),
            str(one.tokens),
            *(str(one.dimensions[key]) for key in ("channel_hidden", "token_hidden")),
            f"{one.params_without_head:,}",
            f"{one.params_without_head / 1e6:.2f}",
            str(TABLE_1[name]),
        )
        for name, one in counted.items()
    ]
    off = {name: one.params_without_head / 1e6 - TABLE_1[name] for name, one in counted.items()}
    most = max(off, key=lambda name: abs(off[name]))
    return Outcome(
        columns=("model", "layers", "P", "C", "S", "D_C", "D_S", "parameters", "millions", "paper"),
        rows=rows,
        claims=[
            Claim(
                "The backbones have the numbers of parameters of Table 1.",
                abs(off[most]) < 0.6,
                f"to the million; the largest difference is that of {most}, {off[most]:+.2f} million",
            )
        ],
        paper="Table 1, in millions, rounded.",
    )


def compare(scale: Scale, device: torch.device) -> Outcome:
    mixer, vit = NETWORKS[scale]
    points = by_patches(NETWORKS[scale], SIDES[scale], ROUNDS[scale], device)
    by_key = {(point.model, point.engine, point.side): point for point in points}
    systems = [*dict.fromkeys((point.model, point.engine) for point in points)]
    rows = []
    for side in SIDES[scale]:
        here = {system: by_key[*system, side] for system in systems}
        first = {model: next(point for (name, _), point in here.items() if name == model) for model in (mixer, vit)}
        counted = (f"{first[model].gmacs:.3f}" for model in (mixer, vit))
        rows.append((str(side), str(first[mixer].patches), *counted, *map(_milliseconds, here.values())))
    claims = []
    for one in growth(points):
        linear = one.model == mixer
        claims.append(
            Claim(
                f"The cost of {one.model} grows {'linearly' if linear else 'faster than linearly'} with the patches.",
                abs(one.counted - 1) < 0.02 if linear else one.counted > 1.1,
                f"from {one.patches} patches on, its operations grow with the power {one.counted:.2f}, its time "
                f"({one.engine}) with {one.timed:.2f} ± {one.within:.2f}",
            )
        )
    times = (f"{model}, {engine}, ms" for model, engine in systems)
    return Outcome(
        columns=("pixels", "patches", f"{mixer}, GMAC", f"{vit}, GMAC", *times),
        rows=rows,
        claims=claims,
        paper="Section 2: linear, since D_S does not depend on the number of patches; ViT's attention is quadratic.",
    )


def _milliseconds(point: Point) -> str:
    middle = 1000 / point.images_per_s
    return f"{middle:.1f} ± {middle * point.spread:.1f}"


def parts(scale: Scale) -> list[str]:
    return [f"{name}, images of {', '.join(map(str, SIDES[scale]))} pixels a side" for name in NETWORKS[scale]]


TABLE1 = Measurement("table1", "The sizes of the Mixers.", "Table 1", count, lambda _: [*TABLE_1])
STUDY = Measurement("complexity", "Cost by the number of patches.", "Section 2", compare, parts)
