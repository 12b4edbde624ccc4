"""Speeds as bars against the ceiling: a panel for each model, batch and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpmixer.bench.figure import document, line, rect, text
from mlpmixer.bench.inference import Row

WIDTH, MARGIN, LABEL = 640.0, 20.0, 150.0
BAR, STEP, HEAD = 14.0, 19.0, 30.0
TRACK = WIDTH - 2 * MARGIN - LABEL  # as long as the ceiling


def bars(rows: Sequence[Row], ceilings: Mapping[str, float], machine: str) -> str:
    """An SVG file."""
    body, down = [text(MARGIN, 34, "Images a second, beside the machine's ceiling", "head ink")], 52.0
    body.append(text(MARGIN, down, machine, "soft"))
    down += 16
    for model, batch, precision in dict.fromkeys((row.model, row.batch, row.precision) for row in rows):
        group = [row for row in rows if (row.model, row.batch, row.precision) == (model, batch, precision)]
        group.sort(key=lambda row: -row.images_per_s)
        ceiling = ceilings.get(f"matrix_{precision}_flop_per_s")
        said = f"{model}, batch {batch}, {precision}"
        said += f": the full width is {ceiling / 1e9:,.0f} GFLOP/s" if ceiling else ""
        body.append(text(MARGIN, down + 20, said, "head ink"))
        down += HEAD
        for row in group:
            body += _bar(row, down, row.share if ceiling else row.images_per_s / group[0].images_per_s)
            down += STEP
        down += 8
    body.append(line(MARGIN + LABEL + TRACK, 68, MARGIN + LABEL + TRACK, down, "rule"))
    return document(WIDTH, down + MARGIN, "Images a second, ours and others', beside the ceiling", "".join(body))


def _bar(row: Row, down: float, share: float) -> list[str]:
    name = row.system if row.engine in (row.system, "onnxruntime") else f"{row.system} {row.engine}"
    speed = f"{row.images_per_s:,.1f}" + ("" if row.agrees else " (answers otherwise)")
    left, kind = MARGIN + LABEL, "ours" if row.system == "mlpmixer" else "theirs"
    length = TRACK * min(1.0, share)
    inside = length > 120
    number = text(left + length - 6, down + 11, speed, "paper", "end") if inside else ""
    return [
        text(left - 8, down + 11, name, "ink", "end"),
        rect(left, down, TRACK, BAR, "track"),
        rect(left, down, length, BAR, kind),
        number or text(left + length + 6, down + 11, speed, "ink"),
    ]
