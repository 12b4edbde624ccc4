"""Speed against the number of patches, both on logarithmic axes: a power law is a straight line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlpmixer.bench.scaling import Growth, Point
from mlpmixer.draw.chart import written
from mlpmixer.draw.svg import Drawing, document, text

WIDTH, HEIGHT, LEFT, TOP = 600.0, 380.0, 50.0, 60.0
RIGHT, BOTTOM = WIDTH - 4, HEIGHT - 50
TITLE = "Images a second against the number of patches"


def curves(points: Sequence[Point], growths: Sequence[Growth], machine: str) -> str:
    """An SVG file. Models have colors; our kernels have dashes."""
    x = _Axis([point.patches for point in points], LEFT, RIGHT)
    y = _Axis([point.images_per_s for point in points], BOTTOM, TOP)
    body = [text(0, 14, TITLE, "head ink"), text(0, 34, machine, "small soft")]
    for number in x.marks():
        body.append(f'<path class="rule" d="M{x.at(number):.1f} {TOP:g}V{BOTTOM:g}"/>')
        body.append(_mark(x.at(number), BOTTOM + 18, number, "middle"))
    for number in y.marks():
        body.append(f'<path class="rule" d="M{LEFT:g} {y.at(number):.1f}H{RIGHT:g}"/>')
        body.append(_mark(LEFT - 8, y.at(number) + 4, number, "end"))
    body.append(text((LEFT + RIGHT) / 2, HEIGHT - 12, "patches", "small soft", "middle"))
    exponents = {(each.model, each.engine): each for each in growths}
    models = [*dict.fromkeys(point.model for point in points)]
    down = HEIGHT + 8
    for model, engine in dict.fromkeys((point.model, point.engine) for point in points):
        own = sorted((p for p in points if (p.model, p.engine) == (model, engine)), key=lambda point: point.patches)
        places = [(x.at(point.patches), y.at(point.images_per_s)) for point in own]
        color = models.index(model) % 8 + 1
        dashes = "" if engine == "eager" else ' stroke-dasharray="5 3"'
        for line in (places, [(0.0, down), (32.0, down)]):
            body.append(
                f'<polyline points="{written(line)}" fill="none" stroke-width="2" class="line-{color}"{dashes}/>'
            )
        body += [f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" class="shade-{color}"/>' for across, up in places]
        name = f"{model}, {engine}"
        if (found := exponents.get((model, engine))) is not None:
            name += f": time grows as patches^{found.timed:.2f} (counted: {found.counted:.2f})"
        body.append(text(40, down + 4, name, "words ink"))
        down += 20
    return document(Drawing(WIDTH, down, "".join(body)), TITLE)


class _Axis:
    def __init__(self, values: Sequence[float], start: float, end: float):
        self.low, self.high = min(values) / 1.15, max(values) * 1.15
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
