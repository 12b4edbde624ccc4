"""Which classes are taken for which: only pairs that occur are counted, so many classes cost no more than few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class ClassFigures:
    """Shares; `mistaken_for`: the class that its images are most often wrongly put in, if any are."""

    name: str
    count: int
    recall: float
    precision: float
    f1: float
    mistaken_for: str | None


@dataclass(frozen=True)
class Confusion:
    """Pairs of classes in ascending order: what is shown, what is said, and of how many images."""

    classes: int
    shown: Int[np.ndarray, " M"]
    said: Int[np.ndarray, " M"]
    counts: Int[np.ndarray, " M"]

    def matrix(self) -> Int[np.ndarray, "K K"]:
        """Rows: what is shown; columns: what is said. For few classes: of 21,843 it would fill 3.8 GB."""
        found = np.zeros((self.classes, self.classes), dtype=np.int64)
        found[self.shown, self.said] = self.counts
        return found


def confusion(labels: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], classes: int) -> Confusion:
    pairs, counts = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
    return Confusion(classes, *np.divmod(pairs, classes), counts)


def class_figures(found: Confusion, names: tuple[str, ...]) -> list[ClassFigures]:
    """In the order of the names. A class that has no images, or is never said, has 0."""
    right = found.shown == found.said
    hits, shown, said = (np.zeros(found.classes, dtype=np.int64) for _ in range(3))
    hits[found.shown[right]] = found.counts[right]
    np.add.at(shown, found.shown, found.counts)
    np.add.at(said, found.said, found.counts)
    recall, precision = hits / np.maximum(shown, 1), hits / np.maximum(said, 1)
    f1 = 2 * hits / np.maximum(shown + said, 1)
    mistakes = zip(
        found.shown[~right].tolist(), found.said[~right].tolist(), found.counts[~right].tolist(), strict=True
    )
    most: dict[int, tuple[int, int]] = {}  # shown → how often, and as what
    for one, other, count in mistakes:
        if count > most.get(one, (0, 0))[0]:
            most[one] = count, other
    return [
        ClassFigures(
            name,
            int(shown[k]),
            float(recall[k]),
            float(precision[k]),
            float(f1[k]),
            names[most[k][1]] if k in most else None,
        )
        for k, name in enumerate(names)
    ]
