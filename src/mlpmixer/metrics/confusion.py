"""Confusion of classes: only pairs that occur are counted, so many classes cost no more memory than few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class ClassFigures:
    """Fractions for one class; `confused_with`: the class that its images are most often confused with, if any are."""

    name: str
    count: int
    recall: float
    precision: float
    f1: float
    confused_with: str | None


@dataclass(frozen=True)
class Confusion:
    """Pairs of classes that occur, in ascending order: true class, predicted class, number of images."""

    classes: int
    true: Int[np.ndarray, " M"]
    predicted: Int[np.ndarray, " M"]
    counts: Int[np.ndarray, " M"]

    def matrix(self) -> Int[np.ndarray, "K K"]:
        """Rows: true classes; columns: predicted ones. For few classes: of 21,843 it would fill 3.8 GB."""
        found = np.zeros((self.classes, self.classes), dtype=np.int64)
        found[self.true, self.predicted] = self.counts
        return found


def confusion(labels: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], classes: int) -> Confusion:
    pairs, counts = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
    return Confusion(classes, *np.divmod(pairs, classes), counts)


def class_figures(found: Confusion, names: tuple[str, ...]) -> list[ClassFigures]:
    """In the order of the names. A class that has no images, or is never predicted, has 0."""
    right = found.true == found.predicted
    hits, true, predicted = (np.zeros(found.classes, dtype=np.int64) for _ in range(3))
    hits[found.true[right]] = found.counts[right]
    np.add.at(true, found.true, found.counts)
    np.add.at(predicted, found.predicted, found.counts)
    recall, precision = hits / np.maximum(true, 1), hits / np.maximum(predicted, 1)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    mistakes = (part[~right].tolist() for part in (found.true, found.predicted, found.counts))
    most: dict[int, tuple[int, int]] = {}  # true class → how often, and as which
    for one, other, count in zip(*mistakes, strict=True):
        if count > most.get(one, (0, 0))[0]:
            most[one] = count, other
    return [
        ClassFigures(
            name,
            int(true[k]),
            float(recall[k]),
            float(precision[k]),
            float(f1[k]),
            names[most[k][1]] if k in most else None,
        )
        for k, name in enumerate(names)
    ]
