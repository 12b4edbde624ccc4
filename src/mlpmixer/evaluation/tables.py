"""An evaluation card as tables, for the terminal and for reports alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlpmixer.metrics.confusion import ClassFigures
from mlpmixer.metrics.metric import Metric

if TYPE_CHECKING:
    from mlpmixer.evaluation.card import Card, CorruptionErrors

LISTED = 20  # classes, or pairs of them, of more than a table can have


class Table(NamedTuple):
    """Cells are texts; `note` stands below."""

    head: list[str]
    rows: list[list[str]]
    note: str = ""


def summary(card: Card) -> str:
    """A line on what was measured."""
    data, how = card.data, card.preprocessing
    return (
        f"{card.model.name}, {card.model.parameters / 1e6:,.2f} M parameters, on {data.count:,} images of "
        f"{data.classes:,} classes ({data.source}, {data.title}); {how.shape.replace('_', ' ')} to {how.resize}, crop "
        f"{how.crop[0]}×{how.crop[1]}"
    )


def all_tables(card: Card, most_classes: int) -> list[Table]:
    """Metrics, classes and ImageNet-C, as far as the card has them; of more than `most_classes` the weakest."""
    tables = [metric_table(card)]
    if card.per_class:
        tables.append(class_table(card.per_class, most_classes))
    if card.corruptions is not None:
        tables.append(corruption_table(card.corruptions, "imagenet_c" in card))
    return tables


def metric_table(card: Card) -> Table:
    head = ["metric", "value", "95 % interval", "correct", "images"]
    rows = [[metric.name, *_cells(metric)] for metric in card.metrics.values()]
    days = {key: card.origins[key].started[:10] if key in card.origins else "" for key in card.metrics}
    if len({*days.values()}) == 1:
        return Table(head, rows)
    return Table([*head, "measured"], [[*row, day] for row, day in zip(rows, days.values(), strict=True)])


def class_table(figures: Sequence[ClassFigures], most: int) -> Table:
    shown, note = figures, ""
    if len(figures) > most:
        shown = sorted((one for one in figures if one.count), key=lambda one: one.f1)[:LISTED]
        note = f"The {len(shown)} of {len(figures):,} with the lowest F1; all of them are in the card's JSON."
    rows = []
    for one in shown:
        fractions = (f"{value:.1%}" for value in (one.recall, one.precision, one.f1))
        rows.append([one.name, f"{one.count:,}", *fractions, one.confused_with or "–"])
    return Table(["class", "images", "recall", "precision", "F1", "confused with"], rows, note)


def corruption_table(found: CorruptionErrors, complete: bool) -> Table:
    rows = [
        [name, *(f"{error:.1%}" for error in errors), f"{found.of_alexnet[name]:.1f} %"]
        for name, errors in found.errors.items()
    ]
    note = "" if complete else f"; {len(rows)} of 15 corruption types, so no mCE"
    head = ["corruption type", *(f"severity {n}" for n in range(1, 6)), "of AlexNet's"]
    return Table(head, rows, f"ImageNet-C: errors by severity{note}.")


def _cells(metric: Metric) -> list[str]:
    spread = metric.interval or (metric.seeds and (min(metric.seeds), max(metric.seeds))) or ()
    interval = " – ".join(metric.text(end) for end in spread)
    if not metric.interval and metric.seeds:
        interval += f" in {len(metric.seeds)} seeds"
    counts = ("" if number is None else f"{number:,}" for number in (metric.correct, metric.count))
    return [metric.text(metric.value), interval, *counts]
