"""Comparison of runs: a table, and a chart of their learning curves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from mlpmixer.draw.chart import LOOKS, Series, line_chart
from mlpmixer.draw.svg import Drawing
from mlpmixer.errors import RunError
from mlpmixer.run.folder import RunFolder, by_epoch
from mlpmixer.run.index import RunSummary, differing
from mlpmixer.text import printable

MOST_LINES = 4  # of recipes, in a table


def comparison(found: Sequence[RunSummary], root: Path) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: the results of each run, and the config values that differ."""
    lines = differing(found)[:MOST_LINES] if len(found) > 1 else []
    head = ["run", "state", "epoch", "val", "test", *lines, "changed"]
    rows = [
        [
            _below(one.path, root),
            f"{one.state}: {printable(one.why, 100)}" if one.why else one.state,
            f"{one.epoch:.4g}" if one.epoch is not None else "–",
            _percent(one.val if one.val is not None else one.best),
            _percent(one.test),
            *(_short(one.recipe.get(line)) for line in lines),
            _when(one.changed),
        ]
        for one in found
    ]
    return head, rows


def overlay(folders: Sequence[Path], names: Sequence[str]) -> Drawing | None:
    """Validation accuracy by epoch of as many runs as have a line style of their own; None where none was measured."""
    lines = []
    for folder, name in zip(folders, names, strict=True):
        try:
            found = by_epoch(RunFolder(folder).metrics(), "val", "top1")
        except RunError:  # of a run that cannot be read
            continue
        if points := [(epoch, 100 * top1) for epoch, top1 in found]:
            lines.append(Series(name, points))
    if not lines:
        return None
    left = f"; the first {len(LOOKS)} of {len(lines)}" if len(lines) > len(LOOKS) else ""
    return line_chart(f"Validation accuracy (%){left}", lines[: len(LOOKS)], x_label="epoch", height=280)


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path != root else path.name


def _when(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (ValueError, OSError, OverflowError):  # a file system may tell any time
        return "–"


def _percent(share: float | None) -> str:
    return f"{share:.2%}" if share is not None else "–"


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value) if value is not None else "–"
    return text if len(text) <= 40 else text[:39] + "…"
