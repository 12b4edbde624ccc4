"""Calibration: how close a model's confidence is to its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mlpmixer.metrics.intervals import bootstrap
from mlpmixer.metrics.metric import Metric, MetricInputs


@dataclass(frozen=True)
class Bin:
    """Predictions with a confidence above `low` and at most `high`: their count, mean confidence and accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(
    confidence: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], bins: int = 15
) -> tuple[list[Bin], float]:
    """A reliability diagram.

    Returns:
        Bins of equal width, and the expected calibration error: the mean difference of confidence and accuracy.
    """
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found, error = [], 0.0
    for n in range(bins):
        inside = which == n
        count = int(inside.sum())
        mean, accuracy = (float(values[inside].mean()) if count else 0.0 for values in (confidence, correct))
        found.append(Bin(float(edges[n]), float(edges[n + 1]), count, mean, accuracy))
        error += count * abs(mean - accuracy)
    return found, error / max(len(confidence), 1)


def calibration_error(inputs: MetricInputs) -> Metric | None:
    """The expected calibration error in 15 bins, with a bootstrap interval."""
    if inputs.head is None:
        return None
    confidence, correct = inputs.head.confidence, inputs.head.correct
    return Metric(
        name="calibration error",
        value=reliability(confidence, correct)[1],
        interval=bootstrap(lambda chosen: reliability(confidence[chosen], correct[chosen])[1], len(correct)),
    )
