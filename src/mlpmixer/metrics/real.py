"""ReaL: ImageNet's validation images, each with all labels that people found right (Beyer et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def real_accuracy(predicted: Int[np.ndarray, " N"], right: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many first answers are among the right ones, and of how many images: those with none are left out."""
    judged = [(said, labels) for said, labels in zip(predicted.tolist(), right, strict=True) if len(labels)]
    return sum(said in labels for said, labels in judged), len(judged)
