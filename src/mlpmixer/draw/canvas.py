"""Raster images: text, lines, areas and images on a canvas of pixels, for places that show no SVG.

Everything is drawn at twice its size and reduced at the end, which smooths the edges. Lengths are in pixels of the
finished image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from mlpmixer.draw.svg import COLORS

SCALE = 2
FONTS = Path(__file__).parent / "fonts"
# For letters that the bundled font lacks: looked for among the system's fonts, in this order.
OTHERS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf")
FAR = 1e5  # pixels; what is further outside is not drawn there
UNKNOWN = "\ufffd"  # for a letter that no font has

Anchor = Literal["start", "middle", "end"]
ANCHORS: dict[Anchor, str] = {"start": "ls", "middle": "ms", "end": "rs"}
Point = tuple[float, float]


class Canvas:
    """An empty image. Colors are names of `svg.COLORS`; `strength` from 0 to 1 mixes them with the paper."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), _mixed("paper", 1))
        self._draw = ImageDraw.Draw(self._image)

    def finished(self) -> Image.Image:
        """The finished image."""
        return self._image.reduce(SCALE)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        color: str = "ink",
        *,
        bold: bool = False,
        anchor: Anchor = "start",
        width: float | None = None,
    ) -> float:
        """Writes a line whose letters stand on `y`, shortened to `width` pixels; returns how wide it is."""
        shown = words if width is None else shortened(words, width, size, bold=bold)
        shown, font = _written(shown, size, bold)
        self._draw.text((x * SCALE, y * SCALE), shown, _mixed(color, 1), font, ANCHORS[anchor])
        return font.getlength(shown) / SCALE

    def rectangle(self, x: float, y: float, width: float, height: float, color: str, strength: float = 1) -> None:
        corners = (x * SCALE, y * SCALE, (x + width) * SCALE - 1, (y + height) * SCALE - 1)
        self._draw.rectangle(corners, fill=_mixed(color, strength))

    def line(self, points: Sequence[Point], color: str, width: float = 2, strength: float = 1) -> None:
        self._draw.line(_scaled(points), _mixed(color, strength), round(width * SCALE), joint="curve")

    def area(self, points: Sequence[Point], color: str, strength: float = 1) -> None:
        self._draw.polygon(_scaled(points), fill=_mixed(color, strength))

    def circle(self, x: float, y: float, radius: float, color: str) -> None:
        corners = ((x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE)
        self._draw.ellipse(corners, fill=_mixed(color, 1))

    def paste(self, image: Image.Image, x: float, y: float, side: float) -> None:
        """An image within a square of `side` pixels; the pixels of small ones stay squares."""
        most = round(side * SCALE)
        times = most / max(image.size)
        how = Image.Resampling.NEAREST if max(image.size) <= side else Image.Resampling.LANCZOS
        shown = image.convert("RGB").resize([max(1, round(length * times)) for length in image.size], how)
        corner = [round(at * SCALE) + (most - length) // 2 for at, length in zip((x, y), shown.size, strict=True)]
        self._image.paste(shown, (corner[0], corner[1]))


def shortened(words: str, width: float, size: float, *, bold: bool = False) -> str:
    """`words`, or as many of their letters as there is room for in `width` pixels, and an ellipsis."""
    (words, font), count = _written(words, size, bold), min(len(words), 500)
    if count == len(words) and font.getlength(words) <= width * SCALE:
        return words
    while count and font.getlength(words[:count].rstrip() + "…") > width * SCALE:
        count -= 1
    return words[:count].rstrip() + "…"


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(min(max(x * SCALE, -FAR), FAR), min(max(y * SCALE, -FAR), FAR)) for x, y in points]


@cache
def _mixed(color: str, strength: float) -> tuple[int, int, int]:
    full, paper = (bytes.fromhex(COLORS[name][1][1:]) for name in (color, "paper"))
    red, green, blue = (round(strength * a + (1 - strength) * b) for a, b in zip(full, paper, strict=True))
    return red, green, blue


def _written(words: str, size: float, bold: bool) -> tuple[str, ImageFont.FreeTypeFont]:
    """The words, and the first font that has all of their letters. If none has, letters are replaced by a mark."""
    own = _opened(str(FONTS / f"Roboto-{'Bold' if bold else 'Regular'}.ttf"), size * SCALE)
    assert own is not None
    letters = frozenset(words)
    for font in (own, *(_opened(name, size * SCALE) for name in OTHERS)):
        if font is not None and all(_has(font, letter) for letter in letters):
            return words, font
    return "".join(letter if _has(own, letter) else UNKNOWN for letter in words), own


@cache
def _opened(name: str, size: float) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@cache
def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    if letter.isascii() or letter.isspace():
        return True
    return _shape(font, letter) != _shape(font, "\uffff")  # which is drawn for a letter that it lacks


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    side = round(2 * font.size)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((0, 0), letter, 255, font)
    return image.tobytes()
