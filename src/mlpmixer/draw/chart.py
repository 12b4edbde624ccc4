"""Line charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlpmixer.draw.svg import WIDTH, Drawing, escaped, moved, room, shortened, text

LEFT, RIGHT = 40.0, 8.0  # pixels beside the plot
MARKED = 40  # points at most that all have a mark
FEW = 12  # marks where there are more points
LARGEST = 1e300  # of what is drawn
SAME = 1e-9  # numbers with a smaller relative difference count as equal

# Lines differ in color, dashes and marks, so that any one of them is enough.
LOOKS = (
    ("1", "none", "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z"),  # a circle
    ("2", "7 4", "M-2.8-2.8h5.6v5.6h-5.6z"),  # a square
    ("3", "2 3", "M0-3.8L3.6 2.6H-3.6z"),  # a triangle
    ("4", "9 3 2 3", "M0-4L4 0L0 4L-4 0z"),  # a diamond
    ("5", "12 4", "M0 3.8L3.6-2.6H-3.6z"),  # a triangle on its head
    ("6", "1 4", "M-3.8-1.2h2.6v-2.6h2.4v2.6h2.6v2.4h-2.6v2.6h-2.4v-2.6h-2.6z"),  # a plus
    ("7", "5 2 1 2", "M-3.4 0L0-2h0L3.4 0L0 2z"),  # a flat diamond
    ("8", "14 3 3 3", "M-3.6-1.4h7.2v2.8h-7.2z"),  # a bar
)


@dataclass(frozen=True)
class Series:
    """A line of a chart. `points`: (x, y), from left to right. `band`: half the height of a shade around it, in y."""

    name: str
    points: Sequence[tuple[float, float]]
    band: float = 0.0


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, width: float = WIDTH, height: float = 220
) -> Drawing:
    """A line chart; each series has its own style. `title`: the quantity of y and its unit; `x_label`: that of x."""
    assert len(series) <= len(LOOKS)
    series = [drawable(line) for line in series]
    if not any(line.points for line in series):
        return Drawing(width, 40, text(0, 13, title, "head ink") + text(0, 34, "no data", "small soft"))
    xs = [x for line in series for x, _ in line.points]
    ys = [y + side for line in series for _, y in line.points for side in (-line.band, line.band)]
    keys = legend(series, width) if len(series) > 1 else Drawing(width, 0, "")
    top, bottom = 34 + keys.height, height - 40
    x_ticks = [tick for tick in ticks(min(xs), max(xs), 6) if tick <= max(xs)]
    if all(x == round(x) for x in xs):  # there is no layer 0.5
        x_ticks = [tick for tick in x_ticks if abs(tick - round(tick)) < SAME] or x_ticks
    y_ticks = ticks(min(ys), max(ys), 5)
    across_axis = Axis(x_ticks[0], max(xs), LEFT, width - RIGHT)
    up_axis = Axis(y_ticks[0], y_ticks[-1], bottom, top)

    parts = [text(0, 13, shortened(title, width, "head"), "head ink"), moved(keys.body, 0, 24)]
    for tick, label in zip(y_ticks, labels(y_ticks), strict=True):
        y = up_axis(tick)
        parts.append(f'<path class="rule" d="M{LEFT:g} {y:.1f}H{width - RIGHT:g}"/>')
        parts.append(text(LEFT - 8, y + 4, label, "small soft up", "end"))
    for tick, label in zip(x_ticks, labels(x_ticks), strict=True):
        x = across_axis(tick)
        parts.append(f'<path class="edge" d="M{x:.1f} {bottom:g}v4"/>')
        parts.append(text(x, bottom + 18, label, "small soft across", "middle"))
    parts.append(f'<path class="edge" d="M{LEFT:g} {bottom:g}H{width - RIGHT:g}"/>')
    parts.append(text((LEFT + width - RIGHT) / 2, bottom + 36, x_label, "small soft", "middle"))
    parts += [drawn(line, *look, across_axis, up_axis) for line, look in zip(series, LOOKS, strict=False)]
    return Drawing(width, height, "".join(parts))


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    begin: float  # pixels
    end: float

    def __call__(self, value: float) -> float:
        # By halves, or what lies between the largest numbers would be infinite.
        way = (value / 2 - self.low / 2) / ((self.high / 2 - self.low / 2) or 1)
        return self.begin + way * (self.end - self.begin)


def drawable(line: Series) -> Series:
    """The series without points that are not finite, or too large to be drawn."""
    points = [(x, y) for x, y in line.points if abs(x) <= LARGEST and abs(y) <= LARGEST]  # not so of nan
    return replace(line, points=points, band=line.band if 0 <= line.band <= LARGEST else 0.0)


def ticks(low: float, high: float, about: int) -> list[float]:
    """About so many round numbers, from one that is not above `low` to one that is not below `high`, up to rounding.

    Where `low` and `high` count as equal, a range around them.
    """
    size = max(abs(low), abs(high))
    if high / 2 - low / 2 <= max(SAME * size, 1e-300):
        low, high = low - max(0.5, size * 1e-6), high + max(0.5, size * 1e-6)
    raw = high / about - low / about
    power = 10.0 ** math.floor(math.log10(raw))
    off = 1e-9  # of a division
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= raw * (1 - off))
    return [n * step for n in range(math.floor(low / step + off), math.ceil(high / step - off) + 1)]


def labels(round_numbers: Sequence[float]) -> list[str]:
    """Tick labels with as many decimals as needed; very large and very small numbers with a power of ten."""
    size = max(map(abs, round_numbers))
    step = round_numbers[1] - round_numbers[0] if len(round_numbers) > 1 else 1.0
    place = math.floor(math.log10(step) + 1e-9)
    if size >= 1e9 or place < -9:
        digits = max(1, math.floor(math.log10(size)) - place + 1)
        return [f"{number:.{digits}g}" for number in round_numbers]
    return [f"{number:,.{max(0, -place)}f}" for number in round_numbers]


def legend(series: Sequence[Series], width: float) -> Drawing:
    parts, x, y = [], 0.0, 0.0
    for line, (color, dashes, mark) in zip(series, LOOKS, strict=False):
        name = shortened(line.name, width - 36, "words")
        needs = 36 + room(name, "words") + 14
        if x and x + needs > width:
            x, y = 0.0, y + 18
        sample = (
            f'<path class="line-{color}" d="M0 5H28" stroke-width="2" stroke-dasharray="{dashes}"/>'
            f'<path class="shade-{color}" d="{mark}" transform="translate(14 5)"/>'
        )
        parts.append(moved(sample + text(36, 9.5, name, "words ink"), x, y))
        x += needs
    return Drawing(width, y + 22, "".join(parts))


def drawn(line: Series, color: str, dashes: str, mark: str, across: Axis, up: Axis) -> str:
    places = [(across(x), up(y)) for x, y in line.points]
    parts = [f"<title>{escaped(line.name)}</title>"]
    if line.band:
        reach = abs(up(line.band) - up(0))
        edge = [*((x, y - reach) for x, y in places), *((x, y + reach) for x, y in reversed(places))]
        parts.append(f'<polygon class="shade-{color}" opacity="0.15" points="{written(edge)}"/>')
    parts.append(
        f'<polyline class="line-{color}" fill="none" stroke-width="2" stroke-linejoin="round" '
        f'stroke-dasharray="{dashes}" points="{written(places)}"/>'
    )
    every = 1 if len(places) <= MARKED else math.ceil(len(places) / FEW)
    for (x, y), (right, down) in list(zip(line.points, places, strict=True))[::every]:
        parts.append(
            f'<path class="shade-{color}" d="{mark}" transform="translate({right:.1f} {down:.1f})">'
            f"<title>{escaped(line.name)}: {y:.4g} at {x:.4g}</title></path>"
        )
    return f'<g class="series">{"".join(parts)}</g>'


def written(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
