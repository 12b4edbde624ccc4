"""Speeds as bars against the ceiling: a panel for each model, batch and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpmixer.bench.figure import document, line, rect, text
from mlpmixer.bench.inference import Row, matrix

MARGIN, LABEL, TRACK = 20.0, 130.0, 330.0  # the track is as long as the ceiling is high
PANEL = LABEL + TRACK + 30
BAR, STEP, HEAD = 14.0, 19.0, 30.0


def bars(rows: Sequence[Row], ceilings: Mapping[str, float], machine: str) -> str:
    """An SVG file. More than three panels stand in two columns."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.batch, row.precision), []).append(row)
    panels = [_panel(group, ceilings.get(matrix(group[0].precision))) for group in groups.values()]
    columns = 2 if len(panels) > 3 else 1
    body = [text(MARGIN, 34, "Images a second, beside the machine's ceiling", "head ink")]
    body.append(text(MARGIN, 54, machine, "soft"))
    down = 68.0
    for number in range(0, len(panels), columns):
        beside = panels[number : number + columns]
        for column, (drawn, _) in enumerate(beside):
            body.append(f'<g transform="translate({MARGIN + column * PANEL:g} {down:g})">{drawn}</g>')
        down += max(height for _, height in beside)
    title = "Images a second, ours and others', beside the machine's ceiling"
    return document(2 * MARGIN + columns * PANEL, down + MARGIN, title, "".join(body))


def _panel(group: Sequence[Row], ceiling: float | None) -> tuple[str, float]:
    """The drawing and its height."""
    group = sorted(group, key=lambda row: -row.images_per_s)
    said = f"{group[0].model}, batch {group[0].batch}, {group[0].precision}"
    said += f" (ceiling: {ceiling / 1e9:,.0f} GFLOP/s)" if ceiling else ""
    body, down = [text(0, 20, said, "head ink")], HEAD
    for row in group:
        body += _bar(row, down, row.share if ceiling else row.images_per_s / group[0].images_per_s)
        down += STEP
    if ceiling:
        body.append(line(LABEL + TRACK, HEAD - 3, LABEL + TRACK, down, "rule"))
    return "".join(body), down + 8


def _bar(row: Row, down: float, share: float) -> list[str]:
    name = row.system if row.engine in (row.system, "onnxruntime") else f"{row.system} {row.engine}"
    speed = f"{row.images_per_s:,.1f}" + ("" if row.agrees else " (answers otherwise)")
    length, kind = TRACK * min(1.0, share), "ours" if row.system == "mlpmixer" else "theirs"
    inside = length > 140
    return [
        text(LABEL - 8, down + 11, name, "ink", "end"),
        rect(LABEL, down, TRACK, BAR, "track"),
        rect(LABEL, down, length, BAR, kind),
        text(
            LABEL + length + (-6 if inside else 6),
            down + 11,
            speed,
            "paper" if inside else "ink",
            "end" if inside else "start",
        ),
    ]
