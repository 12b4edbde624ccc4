"""The run card: a finished run as a PNG of 1200×630 pixels, the size of a link's preview, to be shown anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mlpmixer.draw.canvas import Canvas, shortened
from mlpmixer.draw.chart import Axis, Series, drawable, labels, ticks
from mlpmixer.evaluation.card import MATRIX_CLASSES, ConfusionTable
from mlpmixer.evaluation.card_files import own_card
from mlpmixer.recipe import Recipe
from mlpmixer.report.run_facts import RunFacts
from mlpmixer.report.run_predictions import Example, RunPredictions
from mlpmixer.run.folder import RunFolder, by_epoch
from mlpmixer.text import printable

NAME = "run_card.png"
WIDTH, HEIGHT = 1200, 630
MARGIN = 48
EXAMPLES = 3  # of each kind
TILE, GAP = 112, 28
CAPTION = TILE + GAP - 8
TILES = WIDTH - MARGIN - 2 * TILE - GAP  # where the columns of examples begin
PANELS, PANEL = 268.0, 350.0  # the top of chart and matrix, and the width of each
FLOOR = HEIGHT - 96.0  # where both end
NAMED, COUNTED = 20, 12  # classes at most whose names and counts are written


def write_run_card(run: RunFolder, recipe: Recipe, facts: RunFacts, found: RunPredictions | None) -> None:
    """Draws the card into the run folder. The confusion matrix is that of the evaluation card, if there is one.

    Raises:
        RunError: It cannot be written.
    """
    confusion = None if found is None else found.confusion
    card = own_card(run.path)
    if card is not None and card.confusion is not None and _is_sound(card.confusion):
        confusion = card.confusion
    out = io.BytesIO()
    run_card(facts, curves_of(run, recipe), confusion, found).save(out, "PNG", optimize=True)
    run.write(NAME, out.getvalue())


def _is_sound(confusion: ConfusionTable) -> bool:
    """A card may come from anywhere."""
    classes = len(confusion.names)
    if confusion.matrix is None:
        pairs = confusion.pairs or []
        return all(0 <= true < classes and 0 <= predicted < classes for true, predicted, _ in pairs)
    counts = [count for row in confusion.matrix for count in row]
    square = [len(row) for row in confusion.matrix] == [classes] * classes
    return square and 0 < classes <= MATRIX_CLASSES and all(0 <= count < 1e15 for count in counts)


def curves_of(run: RunFolder, recipe: Recipe) -> tuple[str, list[Series]]:
    """Validation accuracy and the expected one; or the training loss, where nothing was validated."""
    metrics, about = run.metrics(), recipe.about
    val = [(epoch, 100 * top1) for epoch, top1 in by_epoch(metrics, "val", "top1")]
    if not val:
        return "Training loss", [Series("loss", by_epoch(metrics, "train", "loss"))]
    expected = [Series(f"expected ± {about.tolerance:g}", about.curve, about.tolerance)] if about.curve else []
    return "Validation accuracy (%)", [Series("this run", val), *expected]


def run_card(
    facts: RunFacts,
    curves: tuple[str, Sequence[Series]],
    confusion: ConfusionTable | None,
    found: RunPredictions | None,
) -> Image.Image:
    """Draws the card.

    Args:
        facts: What is written.
        curves: Title and lines of the chart: the run's, and the expected one with its band.
        confusion: None: the chart has all of the room.
        found: Examples; None: there are none, since the images cannot be opened.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    examples = found is not None and bool(found.correct or found.wrong)
    right = TILES - 40.0 if examples else WIDTH - MARGIN
    _heading(canvas, facts, right - MARGIN)
    wide = right - MARGIN - (PANEL + 40 if confusion is not None else 0)
    _chart(canvas, MARGIN, wide, *curves)
    if confusion is not None:
        _confusion(canvas, right - PANEL, confusion)
    if found is not None and examples:
        correct = [(one, [one.label, percent(one.score)]) for one in found.correct]
        wrong = [(one, [_with_score(one), f"true: {one.true}"]) for one in found.wrong]
        _examples(canvas, TILES, "Correct", "right", correct)
        _examples(canvas, TILES + TILE + GAP, "Wrong", "wrong", wrong)
    canvas.text(MARGIN, HEIGHT - 34, "mlpmixer", 18, "line-1", bold=True)
    canvas.text(MARGIN + 92, HEIGHT - 34, facts.processor, 16, "soft", width=right - MARGIN - 92)
    return canvas.finished()


def percent(score: float) -> str:
    return "over 99 %" if score > 0.995 else f"{score:.0%}".replace("%", " %")


def _heading(canvas: Canvas, facts: RunFacts, width: float) -> None:
    canvas.text(MARGIN, 72, printable(facts.title), 30, bold=True, width=width)
    left = float(MARGIN)
    lines: list[tuple[str, str]] = []
    if facts.accuracy is None:
        lines.append(("not evaluated: the run has neither validation nor test images", "soft"))
    else:
        left += canvas.text(MARGIN, 176, f"{facts.accuracy.value:.1f} %", 100, "line-1", bold=True) + 28
        low, high = facts.accuracy.interval
        lines.append((f"accuracy on {facts.accuracy.count:,} {facts.accuracy.split} images", "ink"))
        lines.append((f"95 % interval {low:.1f} to {high:.1f} %", "soft"))
        if facts.verdict is not None:
            lines.append((f"expected {facts.verdict.expected}: {facts.verdict.outcome}", "soft"))
    for n, (line, color) in enumerate(lines):
        canvas.text(left, 120 + 28 * n, line, 20, color, width=MARGIN + width - left)
    size = facts.parameters
    parameters = f"{size / 1e6:.2f} M parameters" if size >= 10_000 else f"{size:,} parameters"
    trained = facts.training()
    about = " · ".join([parameters, *([f"{trained} in {facts.precision}"] if trained else [])])
    canvas.text(MARGIN, 220, about, 20, width=width)


def _chart(canvas: Canvas, left: float, width: float, title: str, series: Sequence[Series]) -> None:
    series = [drawable(line) for line in series]
    canvas.text(left, PANELS, title, 18, bold=True, width=width)
    ys = [y + side for line in series for _, y in line.points for side in (-line.band, line.band)]
    if not ys:
        canvas.text(left, PANELS + 30, "no data", 16, "soft")
        return
    xs = [x for line in series for x, _ in line.points]
    x_ticks, y_ticks = [tick for tick in ticks(min(xs), max(xs), 5) if tick <= max(xs)], ticks(min(ys), max(ys), 4)
    named = labels(y_ticks)
    start = left + 12 + 9 * max(map(len, named))
    across = Axis(x_ticks[0], max(xs), start, left + width)
    up = Axis(y_ticks[0], y_ticks[-1], FLOOR - 26, PANELS + (48 if len(series) > 1 else 20))
    for tick, label in zip(y_ticks, named, strict=True):
        canvas.line([(start, up(tick)), (left + width, up(tick))], "rule", 1)
        canvas.text(start - 8, up(tick) + 6, label, 16, "soft", anchor="end")
    for tick, label in zip(x_ticks, labels(x_ticks), strict=True):
        canvas.text(across(tick), FLOOR - 4, label, 16, "soft", anchor="middle")
    canvas.text(left + width, FLOOR + 16, "epoch", 16, "soft", anchor="end")
    key = left
    for line, color in reversed([*zip(series, ("line-1", "line-8"), strict=False)]):
        places = [(across(x), up(y)) for x, y in line.points]
        if line.band:
            reach = abs(up(line.band) - up(0))
            edge = [*((x, y - reach) for x, y in places), *((x, y + reach) for x, y in reversed(places))]
            if len(edge) > 2:
                canvas.area(edge, color, 0.18)
        if len(places) > 1:
            canvas.line(places, color, 1.5 if line.band else 3)
        for x, y in places if len(places) == 1 else ():
            canvas.circle(x, y, 4, color)
    if len(series) > 1:
        for line, color in zip(series, ("line-1", "line-8"), strict=False):
            if line.band:
                canvas.rectangle(key, PANELS + 15, 26, 14, color, 0.18)
            canvas.line([(key, PANELS + 22), (key + 26, PANELS + 22)], color, 1.5 if line.band else 3)
            key += 34 + canvas.text(key + 34, PANELS + 28, line.name, 16, "soft") + 20


def _confusion(canvas: Canvas, left: float, confusion: ConfusionTable) -> None:
    """A matrix; of very many classes the pairs that are confused most."""
    names = [printable(name) for name in confusion.names]
    count = len(names)
    if confusion.matrix is None:
        canvas.text(left, PANELS, "Most confused", 18, bold=True)
        pairs = confusion.mistakes()[:7]
        for n, (true, predicted, many) in enumerate(pairs):
            y = PANELS + 36 + 32 * n
            canvas.text(left, y, f"{names[true]} → {names[predicted]}", 16, width=PANEL - 40)
            canvas.text(left + PANEL, y, f"{many:,}", 16, "soft", anchor="end")
        note = f"true → predicted, of {count:,} classes" if pairs else "no errors"
        canvas.text(left, FLOOR + 16, note, 16, "soft", width=PANEL)
        return
    matrix = np.array(confusion.matrix)
    title = f"Confusion matrix, {matrix.sum():,} images"
    canvas.text(left, PANELS, title, 18, bold=True, width=PANEL)
    top = PANELS + 16
    side = FLOOR - 4 - top
    cell, gap = side / count, 1.0 if count <= NAMED else 0.0
    start = left + PANEL - side
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for row in range(count):
        if count <= NAMED:
            size = min(16.0, cell - 1)
            middle = top + (row + 0.5) * cell + size / 3
            canvas.text(start - 8, middle, names[row], size, "soft", anchor="end", width=start - 8 - left)
        for column in range(count):
            many = int(matrix[row, column])
            x, y = start + column * cell, top + row * cell
            color = ("line-1" if row == column else "line-2") if many else "rule"
            # The root, or one error in a hundred would be invisible.
            strength = max(0.04, float(np.sqrt(shares[row, column]))) if many else 0.35
            canvas.rectangle(x, y, cell - gap, cell - gap, color, strength)
            if many and count <= COUNTED:
                size = min(14.0, cell * 0.56, 1.5 * cell / len(f"{many:,}"))
                color = "paper" if strength > 0.6 else "ink"
                canvas.text(x + cell / 2, y + cell / 2 + size * 0.36, f"{many:,}", size, color, anchor="middle")
    order = "columns: predicted" + (", in the same order" if count <= NAMED else "")
    canvas.text(left + PANEL, FLOOR + 16, f"rows: true, {order}", 16, "soft", anchor="end", width=PANEL)


def _examples(
    canvas: Canvas, left: float, title: str, mark: str, examples: Sequence[tuple[Example, Sequence[str]]]
) -> None:
    canvas.text(left, 72, title, 16, bold=True, width=TILE + 14)
    if not examples:
        canvas.text(left, 106, "none", 16, "soft")
    for n, (example, caption) in enumerate(examples[:EXAMPLES]):
        top = 88 + 172 * n
        canvas.rectangle(left - 1, top - 1, TILE + 2, TILE + 2, "edge")
        canvas.paste(example.image, left, top, TILE)
        _mark(canvas, left + TILE - 2, top + 2, mark)
        for k, line in enumerate(caption):
            canvas.text(left, top + TILE + 20 + 19 * k, printable(line), 16, "soft" if k else "ink", width=CAPTION)


def _with_score(example: Example) -> str:
    score = f" {example.score:.0%}".replace("%", " %")
    return shortened(printable(example.label), CAPTION - 9 * len(score), 16) + score


def _mark(canvas: Canvas, x: float, y: float, mark: str) -> None:
    """A tick on green or a cross on red."""
    canvas.circle(x, y, 13, "paper")
    canvas.circle(x, y, 11, mark)
    if mark == "right":
        canvas.line([(x - 5, y), (x - 1.5, y + 4), (x + 5, y - 4)], "paper", 2.5)
    else:
        canvas.line([(x - 4, y - 4), (x + 4, y + 4)], "paper", 2.5)
        canvas.line([(x - 4, y + 4), (x + 4, y - 4)], "paper", 2.5)
