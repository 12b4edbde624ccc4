"""Whether one of two ways is better, where both were tried on the same images."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool


def mcnemar(first: Bool[np.ndarray, " N"], second: Bool[np.ndarray, " N"]) -> float:
    """The chance of a difference like this, or a greater one, if both ways were as often right (exact, two-sided).

    Only images that one way had right and the other wrong say anything; each is then the toss of a coin.
    """
    for_first, for_second = int((first & ~second).sum()), int((second & ~first).sum())
    tosses = for_first + for_second
    beyond = sum(math.comb(tosses, n) for n in range(max(for_first, for_second), tosses + 1))
    return min(1.0, 2 * beyond / 2**tosses)
