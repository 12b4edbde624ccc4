"""The evaluation card as a part of a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlpmixer.draw import page
from mlpmixer.draw.chart import Series, line_chart
from mlpmixer.draw.matrix import confusion_chart
from mlpmixer.evaluation import tables
from mlpmixer.evaluation.card import MATRIX_CLASSES, Card, ConfusionTable
from mlpmixer.metrics.calibration import Bin

MOST_CLASSES = 128  # of more, those with the lowest F1 are listed


def card_section(card: Card) -> str:
    """HTML: the card's tables, a reliability diagram and a confusion matrix."""
    metrics, *others = [page.table(*table) for table in tables.all_tables(card, MOST_CLASSES)]
    parts = [
        page.words(tables.summary(card), "soft"),
        *(page.words(warning, "warn") for warning in card.warnings),
        metrics,
    ]
    if card.confusion is not None:
        parts.append(page.beside(_reliability(card.reliability), _confusion(card.confusion)))
        parts.append(page.small_heading("Per class"))
    return "".join([*parts, *others])


def _reliability(bins: Sequence[Bin]) -> str:
    points = [(100 * one.confidence, 100 * one.accuracy) for one in bins if one.count]
    lines = [Series("the model", points), Series("perfectly calibrated", [(0.0, 0.0), (100.0, 100.0)])]
    return page.drawing(line_chart("Reliability diagram: accuracy (%)", lines, x_label="confidence (%)"), "Reliability")


def _confusion(confusion: ConfusionTable) -> str:
    names = confusion.names
    if confusion.matrix is not None:
        if len(names) > MATRIX_CLASSES:
            raise ValueError(f"a matrix of {len(names):,} classes")
        return page.drawing(confusion_chart(np.array(confusion.matrix), names), "Confusion matrix")
    mistakes = confusion.mistakes()
    rows = [[names[true], names[predicted], f"{count:,}"] for true, predicted, count in mistakes[: tables.LISTED]]
    note = f"The most frequent of {len(mistakes):,} confusions; all of them are in the card's JSON."
    return page.table(["true class", "confused with", "images"], rows, note)
