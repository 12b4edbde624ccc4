"""Rows of small images with captions."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from mlpmixer.draw.svg import WIDTH, Drawing, escaped, shortened, text

GAP = 14.0  # pixels between two
LINE = 16.0  # from one line of a caption to the next

MARKS = {"right": "M-4 0.2L-1.3 3L4 -3", "wrong": "M-3.2 -3.2L3.2 3.2M3.2 -3.2L-3.2 3.2"}  # a tick, a cross


@dataclass(frozen=True)
class Tile:
    image: Image.Image
    caption: Sequence[str]  # lines; the first stands out
    mark: Literal["right", "wrong"] | None = None


def rows(title: str, tiles: Sequence[Tile], *, columns: int = 3, width: float = WIDTH) -> Drawing:
    """Tiles, `columns` of them beside each other."""
    side = (width - GAP * (columns - 1)) / columns
    high = side + 4 + LINE * max(len(tile.caption) for tile in tiles) + GAP
    parts = [text(0, 13, title, "head ink")]
    for n, tile in enumerate(tiles):
        row, column = divmod(n, columns)
        left, down = column * (side + GAP), 26 + row * high
        parts.append(f'<g transform="translate({left:.1f} {down:.1f})">{_image(tile, side)}{_caption(tile, side)}</g>')
    return Drawing(width, 26 + high * -(-len(tiles) // columns) - GAP, "".join(parts))


def _image(tile: Tile, side: float) -> str:
    small = tile.image.copy()
    small.thumbnail((2 * side, 2 * side))  # a figure is no archive
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    data = base64.b64encode(out.getvalue()).decode()
    look = "pixelated" if max(small.size) <= side else "auto"
    image = (
        f'<image width="{side:.1f}" height="{side:.1f}" style="image-rendering:{look}" '
        f'href="data:image/png;base64,{data}"><title>{escaped(", ".join(tile.caption))}</title></image>'
        f'<rect class="edge" fill="none" width="{side:.1f}" height="{side:.1f}"/>'
    )
    if tile.mark is None:
        return image
    return (
        f'{image}<g transform="translate({side - 12:.1f} 12)"><circle class="{tile.mark}" r="8.5"/>'
        f'<path d="{MARKS[tile.mark]}" class="mark" fill="none" stroke-width="1.8" stroke-linecap="round"/></g>'
    )


def _caption(tile: Tile, side: float) -> str:
    lines = []
    for n, line in enumerate(tile.caption):
        kind = "small soft" if n else "small ink"
        lines.append(text(0, side + 16 + LINE * n, shortened(line, side, "small"), kind))
    return "".join(lines)
