"""SVG figures, in light and dark.

A drawing is a piece of SVG with its size. Drawings are stacked, and become a file or a part of an HTML page. Lengths
are in pixels. Figures are as narrow as a phone, where no text is smaller than here; wide screens show them larger.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 350.0
MARGIN = 20.0  # of a file
LARGER = 1.5  # times, at most, on a wide screen

COLORS = {  # class: what it colors, on light, on dark
    "paper": ("fill", "#ffffff", "#16181d"),
    "ink": ("fill", "#1b1d22", "#e9ebef"),
    "soft": ("fill", "#5a616c", "#a5adb9"),
    "rule": ("stroke", "#e2e5ea", "#2f343c"),
    "edge": ("stroke", "#8a919c", "#6d7480"),
    "line-1": ("stroke", "#0a5bb0", "#7db8ff"),
    "line-2": ("stroke", "#a8480c", "#ffb077"),
    "line-3": ("stroke", "#1c7248", "#7fd6a8"),
    "line-4": ("stroke", "#8a2f86", "#e69be2"),
    "line-5": ("stroke", "#0b6e75", "#6fd3db"),
    "line-6": ("stroke", "#7a5c00", "#e3c35a"),
    "line-7": ("stroke", "#b3261e", "#ff9d94"),
    "line-8": ("stroke", "#5a616c", "#a5adb9"),
    "shade-1": ("fill", "#0a5bb0", "#7db8ff"),
    "shade-2": ("fill", "#a8480c", "#ffb077"),
    "shade-3": ("fill", "#1c7248", "#7fd6a8"),
    "shade-4": ("fill", "#8a2f86", "#e69be2"),
    "shade-5": ("fill", "#0b6e75", "#6fd3db"),
    "shade-6": ("fill", "#7a5c00", "#e3c35a"),
    "shade-7": ("fill", "#b3261e", "#ff9d94"),
    "shade-8": ("fill", "#5a616c", "#a5adb9"),
    "right": ("fill", "#1c7248", "#7fd6a8"),
    "wrong": ("fill", "#b3261e", "#ff9d94"),
    "on-shade": ("fill", "#ffffff", "#16181d"),
    "mark": ("stroke", "#ffffff", "#16181d"),  # on either of them
}
SIZES = {"name": 20, "head": 14, "words": 12.5, "small": 11.5}  # of text, in pixels

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Drawing:
    width: float
    height: float
    body: str


def style() -> str:
    """The rules for all drawings; once in a file or page. Plain ones, since not every viewer knows variables."""
    light = "".join(f".figure .{name}{{{what}:{color}}}" for name, (what, color, _) in COLORS.items())
    dark = "".join(f".figure .{name}{{{what}:{color}}}" for name, (what, _, color) in COLORS.items())
    sizes = "".join(f".figure .{name}{{font-size:{size}px}}" for name, size in SIZES.items())
    return (
        ".figure{max-width:100%;height:auto;font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;"
        f"background:{COLORS['paper'][1]}}}.figure .name,.figure .head{{font-weight:600}}{sizes}{light}"
        f"@media (prefers-color-scheme:dark){{.figure{{background:{COLORS['paper'][2]}}}{dark}}}"
    )


def element(drawing: Drawing, title: str, rules: str = "", margin: float = 0.0) -> str:
    """The <svg> element, to stand in a page that has `style()`. `title`: for those who cannot see it."""
    width, height = drawing.width + 2 * margin, drawing.height + 2 * margin
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}"><title>{escaped(title)}</title>{rules}'
        f'<rect class="paper" width="100%" height="100%"/>{moved(drawing.body, margin, margin)}</svg>'
    )


def document(drawing: Drawing, title: str) -> str:
    """A whole .svg file, in the middle of its window when it is opened by itself."""
    most = LARGER * (drawing.width + 2 * MARGIN)
    alone = f":root{{display:block;margin:auto;width:100%;max-width:{most:g}px}}"
    return element(drawing, title, f"<style>{style()}{alone}</style>", MARGIN) + "\n"


def stacked(drawings: Sequence[Drawing], gap: float = 28) -> Drawing:
    """Below each other."""
    bodies, down = [], 0.0
    for drawing in drawings:
        bodies.append(moved(drawing.body, 0, down))
        down += drawing.height + gap
    return Drawing(max(drawing.width for drawing in drawings), down - gap, "".join(bodies))


def heading(name: str, lines: Sequence[str], width: float = WIDTH) -> Drawing:
    """A large line, and others below it; all are broken where they are too long."""
    names, rows = _broken([name], width, "name") or [""], _broken(lines, width, "words")
    parts = [text(0, 18 + 25 * n, line, "name ink") for n, line in enumerate(names)]
    top = 25 * (len(names) - 1)
    parts += [text(0, top + 43 + 19 * n, line, "words soft" if n else "words ink") for n, line in enumerate(rows)]
    return Drawing(width, top + 28 + 19 * len(rows), "".join(parts))


def _broken(lines: Sequence[str], width: float, size: str) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, int(width / room("x", size)))]


def moved(body: str, right: float, down: float) -> str:
    return f'<g transform="translate({right:g} {down:g})">{body}</g>'


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    """`kind`: classes. `anchor`: which part of the words is at `x`: start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escaped(words)}</text>'


def room(words: str, size: str) -> float:
    """About how wide words are; fonts differ."""
    return 0.56 * SIZES[size] * len(words)


def shortened(words: str, width: float, size: str) -> str:
    fit = int(width / room("x", size))
    return words if len(words) <= fit else words[: fit - 1].rstrip() + "…"


def escaped(words: str) -> str:
    """As text or attribute of XML, which has no way to write some characters that a file's name may have."""
    return html.escape(NOT_XML.sub("\ufffd", words))
