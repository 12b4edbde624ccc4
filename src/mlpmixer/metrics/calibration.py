"""Whether a model is as often right as it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence is above `low` and at most `high`: how many, how sure on average, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(
    confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], bins: int = 15
) -> tuple[list[Bin], float]:
    """Bins of equal width, and the expected calibration error: the mean distance between sureness and truth."""
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found, error = [], 0.0
    for n in range(bins):
        inside = which == n
        count = int(inside.sum())
        sure, true = (float(values[inside].mean()) if count else 0.0 for values in (confidence, right))
        found.append(Bin(float(edges[n]), float(edges[n + 1]), count, sure, true))
        error += count * abs(sure - true)
    return found, error / max(len(confidence), 1)
