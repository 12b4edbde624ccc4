"""Heat maps, and sheets of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

# From the lowest to the highest; signed ones have white at zero.
SIGNED = ((10, 91, 176), (255, 255, 255), (168, 72, 12))
UNSIGNED = ((255, 255, 255), (125, 184, 255), (10, 91, 176), (8, 28, 66))
PAPER = (138, 145, 156)  # between the maps of a sheet; gray on white and on black


def signed(values: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """White at zero, its strongest value in full color."""
    most = np.abs(values).max() or 1.0
    return _colored((values / most + 1) / 2, SIGNED)


def unsigned(values: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """From the lowest to the highest value."""
    low, high = values.min(), values.max()
    return _colored((values - low) / ((high - low) or 1.0), UNSIGNED)


def _colored(share: Float[np.ndarray, "H W"], stops: Sequence[tuple[int, int, int]]) -> UInt8[np.ndarray, "H W 3"]:
    at = np.linspace(0, 1, len(stops))
    return (
        np.stack([np.interp(share, at, [stop[k] for stop in stops]) for k in range(3)], axis=-1)
        .round()
        .astype(np.uint8)
    )


def own_range(image: Float[np.ndarray, "H W K"]) -> UInt8[np.ndarray, "H W 3"]:
    """A filter as an image: from its lowest to its highest value."""
    low, high = image.min(), image.max()
    shades = ((image - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    return shades if shades.shape[2] == 3 else np.repeat(shades[:, :, :1], 3, axis=2)


def larger(pixels: UInt8[np.ndarray, "H W 3"], side: int) -> Image.Image:
    """About `side` pixels wide, each value a square."""
    times = max(1, side // pixels.shape[1])
    return Image.fromarray(pixels).resize((pixels.shape[1] * times, pixels.shape[0] * times), Image.Resampling.NEAREST)


def sheet(maps: Sequence[Image.Image], columns: int, gap: int = 2, together: int = 1) -> Image.Image:
    """Row by row; `together` maps in a row belong together, with wider gaps between these groups."""
    wide, high = maps[0].size
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    lefts = [n * (wide + gap) + n // together * 2 * gap * (together > 1) for n in range(columns)]
    found = Image.new("RGB", (lefts[-1] + wide + gap, rows * (high + gap) + gap), PAPER)
    for n, one in enumerate(maps):
        row, column = divmod(n, columns)
        found.paste(one, (lefts[column] + gap // 2, row * (high + gap) + gap))
    return found


def over(photo: Image.Image, values: Float[np.ndarray, "rows columns"]) -> Image.Image:
    """A signed map over a pale, gray copy of the photograph."""
    most = np.abs(values).max() or 1.0
    colors = Image.fromarray(signed(values)).resize(photo.size, Image.Resampling.BICUBIC)
    strength = Image.fromarray((np.abs(values) / most * 205).astype(np.uint8)).resize(
        photo.size, Image.Resampling.BICUBIC
    )
    pale = Image.blend(photo.convert("L").convert("RGB"), Image.new("RGB", photo.size, (255, 255, 255)), 0.35)
    return Image.composite(colors, pale, strength)
