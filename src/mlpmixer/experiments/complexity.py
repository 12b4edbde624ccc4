"""Section 2: the cost of a Mixer grows linearly with the number of patches, that of a ViT quadratically.

Counted, and timed on the device at hand, in turns: the same two networks for pictures of more and more pixels. The
exponent is the slope of the straight line through both logarithms, and that of its last stretch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mlpmixer.bench.turns import Times, in_turns
from mlpmixer.experiments.study import Finding, Measurement, Scale, Told
from mlpmixer.models import create
from mlpmixer.models.measure import measure

SIDES: dict[Scale, tuple[int, ...]] = {
    "tiny": (64, 128, 256, 384),
    "small": (128, 192, 256, 320, 384, 448, 512, 640),
    "paper": (128, 192, 256, 320, 384, 448, 512, 640, 768, 1024),
}
NETWORKS: dict[Scale, dict[str, str]] = {
    "tiny": {"Mixer": "mixer_tiny", "ViT": "vit_ti16"},
    "small": {"Mixer": "mixer_s16", "ViT": "vit_s16"},
    "paper": {"Mixer": "mixer_b16", "ViT": "vit_b16"},
}
ROUNDS = {"tiny": 3, "small": 5, "paper": 9}


def compare(scale: Scale, device: torch.device) -> Told:
    networks, sides = NETWORKS[scale], SIDES[scale]
    options = {"patch_size": 16} if scale == "tiny" else {}
    counted = {
        network: [measure(name, image_size=(side, side), **options) for side in sides]
        for network, name in networks.items()
    }
    timed: dict[str, list[Times]] = {network: [] for network in networks}
    for side in sides:
        turns = in_turns(
            {network: _pass(name, side, options, device) for network, name in networks.items()}, ROUNDS[scale]
        )
        for network, times in turns.items():
            timed[network].append(times)
    places = [one.places for one in counted["Mixer"]]
    rows = [
        (
            str(side),
            str(places[n]),
            *(f"{counted[network][n].gmacs:.3f}" for network in networks),
            *(_milliseconds(timed[network][n]) for network in networks),
        )
        for n, side in enumerate(sides)
    ]
    findings = []
    for network, claim in {"Mixer": "linearly", "ViT": "faster than linearly"}.items():
        in_count = exponents(places, [one.gmacs for one in counted[network]])
        in_time = exponents(places, [one.median for one in timed[network]])
        holds = abs(in_count[0] - 1) < 0.02 if network == "Mixer" else in_count[1] > 1.1
        findings.append(
            Finding(
                f"The cost of a {network} grows {claim} with the number of patches.",
                holds,
                f"its operations grow with the power {in_count[0]:.2f} (in the last stretch {in_count[1]:.2f}), its "
                f"time with {in_time[0]:.2f} ({in_time[1]:.2f})",
            )
        )
    return Told(
        columns=("pixels", "patches", *(f"{n}, GMAC" for n in networks), *(f"{n}, ms" for n in networks)),
        rows=rows,
        findings=findings,
        paper="Section 2: linear, since D_S does not depend on the number of patches; ViT's attention is quadratic.",
    )


def exponents(places: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Over all, and between the last two."""
    x, y = np.log(places), np.log(costs)
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def _milliseconds(times: Times) -> str:
    return f"{1000 * times.median:.1f} ± {1000 * times.median * times.spread:.1f}"


def _pass(name: str, side: int, options: dict[str, int], device: torch.device):
    """One picture through the network, in bfloat16."""
    model = create(name, image_size=side, **options).to(device).eval()
    picture = torch.randn(1, 3, side, side, device=device)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            model(picture)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return forward


STUDY = Measurement("complexity", "Cost by the number of patches.", "Section 2", compare)
