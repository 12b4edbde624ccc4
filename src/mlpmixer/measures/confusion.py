"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class ClassFigures:
    """Shares; `mistaken_for`: the class that its pictures are most often wrongly put in, if any are."""

    name: str
    count: int
    recall: float
    precision: float
    f1: float
    mistaken_for: str | None


def confusion_matrix(
    labels: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], classes: int
) -> Int[np.ndarray, "K K"]:
    """Rows: what is shown; columns: what is said."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_figures(matrix: Int[np.ndarray, "K K"], names: tuple[str, ...]) -> list[ClassFigures]:
    """In the order of the names. A class that has no pictures, or is never said, has 0."""
    hits, shown, said = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    recall, precision = hits / np.maximum(shown, 1), hits / np.maximum(said, 1)
    f1 = 2 * hits / np.maximum(shown + said, 1)
    wrong = matrix - np.diag(hits)
    return [
        ClassFigures(
            name,
            int(shown[k]),
            float(recall[k]),
            float(precision[k]),
            float(f1[k]),
            names[int(wrong[k].argmax())] if wrong[k].any() else None,
        )
        for k, name in enumerate(names)
    ]
