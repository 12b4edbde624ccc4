"""Bars of inference speeds: against the fastest alternative in one chart, and against the machine's peak in a panel for
each model, batch size and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpmixer.bench.inference import InferenceRow, Speedup, matrix
from mlpmixer.draw.svg import WIDTH, Drawing, document, heading, moved, stacked, text

LABEL, TRACK = 130.0, 330.0  # the track is as long as the peak is high
PANEL = LABEL + TRACK + 30
BAR, STEP, HEAD = 14.0, 19.0, 30.0
TITLE = "Images a second, and how much of the machine's peak that is"
ROW, THICK = 42.0, 12.0  # pixels of a case, and of its bar


def speedup_bars(speedups: Sequence[Speedup], machine: str) -> str:
    """An SVG file: in each case our best speed as a multiple of the fastest alternative's, with the quartiles over
    rounds; its title is computed, and lost cases are in it."""
    if not speedups:
        return document(heading("Nothing to compare with", [machine]), "Inference throughput")
    ratios = [case.ratio for case in speedups]
    low, high = (f"{end:.1f}" for end in (min(ratios), max(ratios)))
    title = f"{low if low == high else f'{low} to {high}'} × the fastest alternative"
    won = sum(ratio > 1 for ratio in ratios)
    about = f"Inference throughput, higher is better; faster in {won} of {len(ratios)} cases. Thin lines: quartiles."
    head = heading(title, [about, machine])
    most = max(1.2, *(max(case.ratio, case.quartiles[1]) for case in speedups))
    one, down = WIDTH / most, 22 + len(speedups) * ROW
    body = text(one - 4, 10, "fastest alternative = 1", "small soft", "end")
    for number, case in enumerate(speedups):
        body += moved(_case(case, one), 0, 22 + number * ROW)
    return document(stacked([head, Drawing(WIDTH, down, body)], gap=14), title)


def _case(case: Speedup, scale: float) -> str:
    first, third = (end * scale for end in case.quartiles)
    length, middle = case.ratio * scale, 20 + THICK / 2
    return (
        text(0, 12, f"{case.model}, batch {case.batch}, {case.precision}", "words ink")
        + text(WIDTH, 12, f"{case.ratio:.2f} × {case.other}", "words ink", "end")
        + f'<rect y="20" width="{length:.1f}" height="{THICK:g}" class="shade-{1 if case.ratio > 1 else 2}"/>'
        + f'<path class="mark" stroke-width="5" d="M{first - 1:.1f} {middle:g}H{third + 1:.1f}"/>'
        + f'<path class="line-8" stroke-width="2.5" d="M{first:.1f} {middle:g}H{third:.1f}"/>'
        + f'<path class="edge" d="M{scale:.1f} 16v{THICK + 8:g}"/>'
    )


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
