"""Confidence intervals at 95 %: of a fraction, of a mean over seeds, and of any other function of the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Z95 = 1.959963984540054  # of the normal distribution, 95 % lie within so many standard deviations


def wilson(right: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a fraction of independent images; good for few of them, and near 0 and 1, too."""
    if count == 0:
        return 0.0, 1.0
    fraction, spread = right / count, z * z / count
    center = (fraction + spread / 2) / (1 + spread)
    half_width = z * math.sqrt(fraction * (1 - fraction) / count + spread / count / 4) / (1 + spread)
    return (center - half_width if right > 0 else 0.0), (center + half_width if right < count else 1.0)


# Of Student's distribution, 95 % lie within so many standard errors, by degrees of freedom from 1 on.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Student's interval of a mean over seeds; infinite for a single one, which tells nothing of the variance."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    half_width = T95[min(len(values) - 1, len(T95)) - 1] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    center = float(np.mean(values))
    return center - half_width, center + half_width


def bootstrap(
    measure: Callable[[np.ndarray], float], count: int, *, rounds: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of `measure(indices)`, from `rounds` samples of `count` images, drawn with replacement."""
    rng = np.random.default_rng(seed)
    found = [measure(rng.integers(0, count, count)) for _ in range(rounds)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
