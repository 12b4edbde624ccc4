"""Time of an image against the number of patches, both on logarithmic axes: a power law is a straight line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlpmixer.bench.scaling import Growth, Point
from mlpmixer.draw.chart import written
from mlpmixer.draw.svg import WIDTH, Drawing, document, heading, stacked, text

HEIGHT, LEFT, TOP, NAMES = 300.0, 44.0, 24.0, 96.0  # pixels; NAMES: for the lines' names, on the right
RIGHT, BOTTOM = WIDTH - NAMES, HEIGHT - 40
APART = 14.0  # pixels between two names
TITLE = "Time of an image by the number of patches"


def curves(points: Sequence[Point], growths: Sequence[Growth], machine: str) -> str:
    """An SVG file: of each family the first model, in all of its engines; the tables have the others. Colors tell
    models apart, dashes our kernels. Gray: what grows as the number of patches does."""
    first: dict[str, str] = {}
    for point in points:
        first.setdefault(point.model.partition("_")[0], point.model)
    points = [point for point in points if point.model in first.values()]
    lines = [*dict.fromkeys((point.model, point.engine) for point in points)]
    times = {
        line: sorted((p.patches, 1000 / p.images_per_s) for p in points if (p.model, p.engine) == line)
        for line in lines
    }
    x = _Axis([n for found in times.values() for n, _ in found], LEFT, RIGHT)
    y = _Axis([time for found in times.values() for _, time in found], BOTTOM, TOP)
    body = [text(0, 10, "milliseconds, logarithmic", "small soft")]
    for number in x.marks():
        body.append(f'<path class="rule" d="M{x.at(number):.1f} {TOP:g}V{BOTTOM:g}"/>')
        body.append(_mark(x.at(number), BOTTOM + 18, number, "middle"))
    for number in y.marks():
        body.append(f'<path class="rule" d="M{LEFT:g} {y.at(number):.1f}H{RIGHT:g}"/>')
        body.append(_mark(LEFT - 8, y.at(number) + 4, number, "end"))
    body.append(text((LEFT + RIGHT) / 2, HEIGHT - 4, "patches, logarithmic", "small soft", "middle"))

    start, time = times[lines[0]][0]
    guide = [(n, time * n / start) for n in (x.least, x.most)]
    guide = [(n, at) for n, at in guide if y.low <= at <= y.high] or guide[:1]
    if guide[-1][0] < x.most or len(guide) < 2:  # up to where it leaves the chart
        guide = [(x.least, guide[0][1]), (y.high * start / time, y.high)]
    shown = [(x.at(n), y.at(at)) for n, at in guide]
    body.append(f'<polyline points="{written(shown)}" fill="none" stroke-width="1.5" class="edge"/>')
    names = [(shown[-1][1], ["linear"], "soft")]
    timed = {(each.model, each.engine): each.timed for each in growths}
    for line, found in times.items():
        model, engine = line
        color = [*first.values()].index(model) % 8 + 1
        dashes = "" if engine == "eager" else ' stroke-dasharray="5 3"'
        places = [(x.at(n), y.at(at)) for n, at in found]
        body.append(f'<polyline points="{written(places)}" fill="none" stroke-width="2" class="line-{color}"{dashes}/>')
        body += [f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" class="shade-{color}"/>' for across, up in places]
        power = [f"patches^{timed[line]:.2f}"] if line in timed else []
        names.append((places[-1][1], [model, engine, *power], f"shade-{color}"))
    down = TOP - APART
    for at, parts, kind in sorted(names):
        down = max(at + 4 - APART, down)
        for part in parts:
            down += APART
            body.append(text(RIGHT + 8, down, part, f"small {kind}"))
    figure = Drawing(WIDTH, max(HEIGHT, down + 4), "".join(body))
    return document(stacked([heading(TITLE, [machine]), figure], gap=14), TITLE)


class _Axis:
    def __init__(self, values: Sequence[float], start: float, end: float):
        self.least, self.most = min(values), max(values)
        self.low, self.high = self.least / 1.15, self.most * 1.15
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def marks(self) -> list[float]:
        """1, 2 and 5 times powers of ten."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [number for number in every if self.low <= number <= self.high]


def _mark(x: float, y: float, number: float, anchor: str) -> str:
    return text(x, y, f"{number:,.0f}" if number >= 1 else f"{number:g}", "small soft", anchor)
