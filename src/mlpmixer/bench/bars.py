"""Bars of inference speeds against the machine's peak: a panel for each model, batch size and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpmixer.bench.inference import InferenceRow, matrix
from mlpmixer.draw.svg import Drawing, document, moved, stacked, text

LABEL, TRACK = 130.0, 330.0  # the track is as long as the peak is high
PANEL = LABEL + TRACK + 30
BAR, STEP, HEAD = 14.0, 19.0, 30.0
TITLE = "Images a second, and how much of the machine's peak that is"


def bars(rows: Sequence[InferenceRow], roofline: Mapping[str, float], machine: str) -> str:
    """An SVG file. More than three panels stand in two columns."""
    groups: dict[tuple[str, int, str], list[InferenceRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.batch, row.precision), []).append(row)
    panels = [_panel(group, roofline.get(matrix(group[0].precision))) for group in groups.values()]
    columns = 2 if len(panels) > 3 else 1
    head = text(0, 14, TITLE, "head ink") + text(0, 34, machine, "small soft")
    lines = [Drawing(columns * PANEL, 38, head)]
    for number in range(0, len(panels), columns):
        beside = panels[number : number + columns]
        body = "".join(moved(panel.body, column * PANEL, 0) for column, panel in enumerate(beside))
        lines.append(Drawing(columns * PANEL, max(panel.height for panel in beside), body))
    return document(stacked(lines, gap=8), TITLE)


def _panel(group: Sequence[InferenceRow], peak: float | None) -> Drawing:
    group = sorted(group, key=lambda row: -row.images_per_s)
    title = f"{group[0].model}, batch {group[0].batch}, {group[0].precision}"
    title += f" (peak: {peak / 1e9:,.0f} GFLOP/s)" if peak else ""
    body = text(0, 20, title, "head ink")
    for number, row in enumerate(group):
        body += moved(
            _bar(row, row.share if peak else row.images_per_s / group[0].images_per_s), 0, HEAD + number * STEP
        )
    down = HEAD + len(group) * STEP
    if peak:
        body += f'<path class="edge" d="M{LABEL + TRACK:g} {HEAD - 3:g}V{down:g}"/>'
    return Drawing(PANEL, down, body)


def _bar(row: InferenceRow, share: float) -> str:
    name = row.system if row.engine in (row.system, "onnxruntime") else f"{row.system} {row.engine}"
    speed = f"{row.images_per_s:,.1f}" + ("" if row.agrees else " (other outputs)")
    length, kind = TRACK * min(1.0, share), "shade-1" if row.system == "mlpmixer" else "shade-8"
    inside = length > 140
    return (
        text(LABEL - 8, 11, name, "words ink", "end")
        + f'<path class="rule" stroke-width="{BAR:g}" d="M{LABEL:g} {BAR / 2:g}h{TRACK:g}"/>'
        + f'<rect x="{LABEL:g}" width="{length:.1f}" height="{BAR:g}" class="{kind}"/>'
        + text(
            LABEL + length + (-6 if inside else 6),
            11,
            speed,
            "words on-shade" if inside else "words ink",
            "end" if inside else "start",
        )
    )
