"""Images a second, the best over batch sizes, as the paper measures it; bf16, on the device at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mlpmixer.bench.turns import in_turns
from mlpmixer.experiments.paper import TABLE_3
from mlpmixer.experiments.study import Finding, Measurement, Scale, Told
from mlpmixer.models import create
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.measure import measure

BATCHES: dict[Scale, tuple[int, ...]] = {
    "tiny": (1, 8, 32),
    "small": (1, 8, 32),
    "paper": (1, 8, 32, 128, 512),
}
MODELS: dict[Scale, tuple[str, ...]] = {
    "tiny": ("mixer_s32", "vit_s32", "bit_r50x1"),
    "small": (
        "mixer_s32",
        "mixer_s16",
        "mixer_b32",
        "mixer_b16",
        "vit_s32",
        "vit_s16",
        "vit_b32",
        "vit_b16",
        "bit_r50x1",
    ),
    "paper": tuple(dict.fromkeys(row.model for row in TABLE_3)),
}
ROUNDS = 3
REFERENCE = "mixer_b16"  # speeds of other machines are compared as multiples of its own


def compare(scale: Scale, device: torch.device) -> Told:
    printed = {row.model: row.speed for row in TABLE_3 if row.size == 224}
    found = {}
    for name in MODELS[scale]:
        found[name] = best_speed(create(name).to(device).eval(), BATCHES[scale], device)
    rows = []
    for name, (speed, batch) in found.items():
        paper = printed.get(name)
        theirs = paper / reference if paper and (reference := printed[REFERENCE]) else None
        ours = speed / found[REFERENCE][0] if REFERENCE in found else None
        rows.append(
            (
                name,
                f"{measure(name).gmacs:.2f}",
                f"{speed:,.1f}",
                str(batch),
                f"{ours:.2f}" if ours else "–",
                f"{paper:,}" if paper else "–",
                f"{theirs:.2f}" if theirs else "–",
            )
        )
    findings = [
        Finding(
            f"{mixer} is faster than {vit}.",
            found[mixer][0] > found[vit][0],
            f"{found[mixer][0]:,.1f} against {found[vit][0]:,.1f} images a second",
        )
        for mixer, vit in (("mixer_s32", "vit_s32"), ("mixer_b16", "vit_b16"), ("mixer_l16", "vit_l16"))
        if mixer in found and vit in found
    ]
    columns = ("model", "GMAC", "images/s", "batch", "times B/16", "paper, images/s/core", "times B/16, paper")
    return Told(columns=columns, rows=rows, findings=findings, paper="Table 3, on a TPUv3 core, the best batch size.")


def best_speed(model: Classifier, batches: Sequence[int], device: torch.device) -> tuple[float, int]:
    """Images a second and at which batch size; of those that fit into memory."""
    speeds: dict[int, float] = {}
    for batch in batches:
        pictures = torch.randn(batch, model.config.in_channels, *model.config.image_size, device=device)

        def forward(pictures: torch.Tensor = pictures) -> None:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
                model(pictures)
            if device.type == "cuda":
                torch.cuda.synchronize()

        try:
            speeds[batch] = batch / in_turns({"": forward}, ROUNDS)[""].median
        except torch.OutOfMemoryError:
            break
    best = max(speeds, key=lambda batch: speeds[batch])
    return speeds[best], best


STUDY = Measurement("throughput", "Images a second.", "Table 3", compare)
