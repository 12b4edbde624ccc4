"""Section 2: the cost of a Mixer grows linearly with the number of patches, that of a ViT quadratically.

Counted, and timed on the device at hand, in turns: the same two networks for images of more and more pixels.
"""

from __future__ import annotations

import torch

from mlpmixer.bench.scaling import SIDES as USUAL
from mlpmixer.bench.scaling import Point, by_patches, growth
from mlpmixer.experiments.study import Finding, Measurement, Scale, Told

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


def compare(scale: Scale, device: torch.device) -> Told:
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
    findings = []
    for one in growth(points):
        linear = one.model == mixer
        findings.append(
            Finding(
                f"The cost of {one.model} grows {'linearly' if linear else 'faster than linearly'} with the patches.",
                abs(one.counted - 1) < 0.02 if linear else one.counted > 1.1,
                f"from {one.patches} patches on, its operations grow with the power {one.counted:.2f}, its time "
                f"({one.engine}) with {one.timed:.2f} ± {one.within:.2f}",
            )
        )
    times = (f"{model}, {engine}, ms" for model, engine in systems)
    return Told(
        columns=("pixels", "patches", f"{mixer}, GMAC", f"{vit}, GMAC", *times),
        rows=rows,
        findings=findings,
        paper="Section 2: linear, since D_S does not depend on the number of patches; ViT's attention is quadratic.",
    )


def _milliseconds(point: Point) -> str:
    middle = 1000 / point.images_per_s
    return f"{middle:.1f} ± {middle * point.spread:.1f}"


STUDY = Measurement("complexity", "Cost by the number of patches.", "Section 2", compare)
