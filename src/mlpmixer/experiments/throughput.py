"""Throughput as the paper measures it: images per second, the best over batch sizes; bf16, on the device at hand."""

from __future__ import annotations

import torch

from mlpmixer.bench.scaling import best_batches, by_batch
from mlpmixer.experiments.paper import OTHERS, TABLE_2, TABLE_3
from mlpmixer.experiments.study import Claim, Measurement, Outcome, Scale

BATCHES: dict[Scale, tuple[int, ...]] = {
    "tiny": (1, 8, 32),
    "small": (1, 4, 16, 64),
    "paper": (1, 8, 32, 128, 512),
}
# Of all families; at the small scales, what a CPU answers within seconds.
RESNETS = ("resnet50", "depthwise_resnet50", "botnet50", "lambda_resnet50", "rednet50", "sasa_resnet50")
TINY = ("mixer_s32", "vit_s32", "bit_r50x1", "halonet_h0", "nfnet_f0", "efficientnet_b0", "resnet50", "isotropic_s16")
SMALL = (
    *("mixer_s32", "mixer_s16", "mixer_b32", "mixer_b16", "isotropic_s16", "vit_s32", "vit_s16", "vit_b32", "vit_b16"),
    *("bit_r50x1", "halonet_h0", "nfnet_f0", "efficientnet_b0", *RESNETS),
)
MODELS: dict[Scale, tuple[str, ...]] = {
    "tiny": TINY,
    "small": SMALL,
    "paper": tuple(dict.fromkeys([*(row.model for row in (*TABLE_3, *TABLE_2, *OTHERS)), *SMALL])),
}
ROUNDS = 3
REFERENCE = "mixer_b16"  # throughputs of different machines are compared as multiples of this model's
COMMON = "eager"  # the backend that all networks have


def compare(scale: Scale, device: torch.device) -> Outcome:
    printed = {row.model: row.speed for row in TABLE_3 if row.size == 224}
    points = by_batch(MODELS[scale], BATCHES[scale], ROUNDS, device)
    speeds = {(point.model, point.engine, point.batch): f"{point.images_per_s:,.1f}" for point in points}
    best = best_batches(points)
    found = {(point.model, point.engine): point.images_per_s for point in best}
    rows = []
    for point in best:
        paper = printed.get(point.model)
        theirs = paper / reference if paper and (reference := printed[REFERENCE]) else None
        reference = found.get((REFERENCE, point.engine))
        rows.append(
            (
                point.model,
                point.engine,
                f"{point.gmacs:.2f}",
                *(speeds.get((point.model, point.engine, batch), "–") for batch in BATCHES[scale]),
                f"{point.images_per_s:,.1f}",
                f"{point.images_per_s / reference:.2f}" if reference else "–",
                f"{paper:,}" if paper else "–",
                f"{theirs:.2f}" if theirs else "–",
            )
        )
    claims = [
        Claim(
            f"{mixer} is faster than {vit}.",
            found[mixer, COMMON] > found[vit, COMMON],
            f"{found[mixer, COMMON]:,.1f} against {found[vit, COMMON]:,.1f} images a second, both {COMMON}",
        )
        for mixer, vit in (("mixer_s32", "vit_s32"), ("mixer_b16", "vit_b16"), ("mixer_l16", "vit_l16"))
        if (mixer, COMMON) in found and (vit, COMMON) in found
    ]
    columns = (
        "model",
        "engine",
        "GMAC",
        *(f"batch {batch}" for batch in BATCHES[scale]),
        "images/s, best",
        "× B/16",
        "paper, images/s/core",
        "× B/16, paper",
    )
    return Outcome(columns=columns, rows=rows, claims=claims, paper="Table 3, on a TPUv3 core, the best batch size.")


def parts(scale: Scale) -> list[str]:
    return [f"{name}, batches of {', '.join(map(str, BATCHES[scale]))}" for name in MODELS[scale]]


STUDY = Measurement("throughput", "Images a second.", "Table 3", compare, parts)
