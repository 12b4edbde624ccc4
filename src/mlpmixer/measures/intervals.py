"""How far a measured share may be from the true one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Z95 = 1.959963984540054  # of the normal distribution, 95 % lie within so many standard deviations


def wilson(right: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval for a share of independent pictures; good for few of them, and near 0 and 1, too."""
    if count == 0:
        return 0.0, 1.0
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    reach = z * math.sqrt(share * (1 - share) / count + spread / count / 4) / (1 + spread)
    return (middle - reach if right > 0 else 0.0), (middle + reach if right < count else 1.0)


def bootstrap(
    measure: Callable[[np.ndarray], float], count: int, *, rounds: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """For what is no share: `measure(indices)` of `rounds` samples of `count` pictures, drawn with replacement."""
    chance = np.random.default_rng(seed)
    found = [measure(chance.integers(0, count, count)) for _ in range(rounds)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
