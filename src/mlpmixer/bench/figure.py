"""What figures are made of: SVG text, legible on light and dark pages. Lengths are in pixels."""

from __future__ import annotations

import html

COLORS = {  # class: what it colors, on light, on dark
    "paper": ("fill", "#ffffff", "#16181d"),
    "ink": ("fill", "#1b1d22", "#e9ebef"),
    "soft": ("fill", "#5a616c", "#a5adb9"),
    "track": ("fill", "#eceef2", "#262a31"),
    "rule": ("stroke", "#d5d9e0", "#3a404a"),
    "ours": ("fill", "#0a5bb0", "#7db8ff"),
    "theirs": ("fill", "#6b7380", "#9199a6"),
}
LINES = (("#0a5bb0", "#7db8ff"), ("#a8480c", "#ffb077"), ("#1c7248", "#7fd6a8"), ("#8a2f86", "#e69be2"))
LINES += (("#0b6e75", "#6fd3db"), ("#7a5c00", "#e3c35a"), ("#b3261e", "#ff9d94"), ("#5a616c", "#a5adb9"))


def document(width: float, height: float, title: str, body: str) -> str:
    """A whole .svg file."""
    light = "".join(f".{name}{{{what}:{color}}}" for name, (what, color, _) in COLORS.items())
    dark = "".join(f".{name}{{{what}:{color}}}" for name, (what, _, color) in COLORS.items())
    for number, (on_light, on_dark) in enumerate(LINES):
        light += f".line-{number}{{stroke:{on_light}}}.dot-{number}{{fill:{on_light}}}"
        dark += f".line-{number}{{stroke:{on_dark}}}.dot-{number}{{fill:{on_dark}}}"
    style = (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;font-size:12px}.head{font-weight:600;"
        f"font-size:14px}}{light}@media (prefers-color-scheme:dark){{{dark}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}"><title>{html.escape(title)}</title><style>{style}</style>'
        f'<rect class="paper" width="100%" height="100%"/>{body}</svg>\n'
    )


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    """`kind`: classes. `anchor`: which part of the words is at `x`: start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{html.escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" class="{kind}"/>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'
