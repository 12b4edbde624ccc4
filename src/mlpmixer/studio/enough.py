"""Have I labeled enough? Accuracy against the number of labeled images, and what twice as many would bring.

The head is fitted to parts of the labeled images, several of each size, and measured on the rest of them. Through these
points goes the usual law of learning curves, errors = floor + scale · n^-slope, and the parts that were drawn by chance
give its interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mlpmixer.metrics.intervals import wilson
from mlpmixer.studio.head import fit_head

LEAST = 20  # labeled images, below which nothing can be told
DRAWS = 8  # parts of each size
SHARES = (0.125, 0.25, 0.5, 0.75)  # of the labeled images that a part has
SLOPES = np.linspace(0.1, 1.0, 10)


@dataclass(frozen=True)
class Point:
    """So many labeled images gave this accuracy on others, with the range of most draws (from 10 to 90 %)."""

    count: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """Attributes:
    points: Measured.
    now: With all labeled images, by leave-one-out, with its 95 % interval.
    twice: To be expected of twice as many labeled images, from the law and from what draws differ by.
    """

    points: list[Point]
    now: Point
    twice: Point


def learning_curve(
    embeddings: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], classes: int, *, seed: int = 0
) -> LearningCurve | None:
    """Of the images that have a label; None where there are too few of them."""
    known = np.flatnonzero(labels >= 0)
    whole = fit_head(embeddings[known], labels[known], classes) if len(known) >= LEAST else None
    if whole is None:
        return None
    rng = np.random.default_rng(seed)
    counts = [max(2, round(share * len(known))) for share in SHARES]
    accuracy = np.full((DRAWS, len(counts)), np.nan)
    for draw in range(DRAWS):
        order = rng.permutation(known)
        for column, count in enumerate(counts):
            part = np.full_like(labels, -1)
            part[order[:count]] = labels[order[:count]]
            head = fit_head(embeddings, part, classes)
            if head is not None:
                rest = order[count:]
                accuracy[draw, column] = (head.predicted[rest] == labels[rest]).mean()
    right = int((whole.predicted == labels[known]).sum())
    now = Point(len(known), right / len(known), *wilson(right, len(known)))
    points = []
    for count, column in zip(counts, accuracy.T, strict=True):
        if np.isfinite(column).all():
            points.append(Point(count, float(column.mean()), *np.quantile(column, (0.1, 0.9)).tolist()))
    ahead = sorted(_extrapolated([*counts, len(known)], [*row, now.accuracy], 2 * len(known)) for row in accuracy)
    middle = float(np.median(ahead))
    twice = Point(2 * len(known), max(middle, now.accuracy), ahead[0], max(ahead[-1], now.accuracy))
    return LearningCurve(points, now, twice)


def _extrapolated(counts: list[int], accuracy: list[float], at: int) -> float:
    """By the law with the slope that fits best, and neither a negative floor nor a negative scale."""
    found = np.isfinite(accuracy)
    n, errors = np.asarray(counts, float)[found], 1 - np.asarray(accuracy)[found]
    best = (np.inf, 1 - errors[-1])
    for slope in SLOPES:
        falling = n**-slope
        scale = max(0.0, float(np.cov(falling, errors, bias=True)[0, 1] / falling.var()) if len(n) > 1 else 0.0)
        floor = max(0.0, float(errors.mean() - scale * falling.mean()))
        if floor == 0:
            scale = float((falling * errors).sum() / (falling**2).sum())
        miss = float(((floor + scale * falling - errors) ** 2).sum())
        if miss < best[0]:
            best = miss, 1 - (floor + scale * at**-slope)
    return float(best[1])
