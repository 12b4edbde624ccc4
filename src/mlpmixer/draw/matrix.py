"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mlpmixer.draw.svg import WIDTH, Drawing, escaped, room, shortened, text

LEFT = 84.0  # pixels for names
NAMED = 12  # classes at most whose counts are written, or shares where counts are too long
READABLE, LARGEST = 12.0, 40.0  # pixels of a cell: below, its row has no name; above, it is only large


def confusion_chart(matrix: Int[np.ndarray, "K K"], names: Sequence[str], width: float = WIDTH) -> Drawing:
    """A confusion matrix; the darker a cell, the larger its share of the row."""
    count = len(names)
    cell = min((width - LEFT) / count, LARGEST)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    fits = room(f"{matrix.max():,}", "small") <= cell
    unit = "images" if fits or count > NAMED else "% of the true class"
    parts = [text(0, 13, "Confusion matrix", "head ink")]
    parts.append(text(0, 31, f"rows: true, columns: predicted; {unit}", "small soft"))
    top = 44.0
    for row, name in enumerate(names):
        y = top + row * cell
        if cell >= READABLE:
            parts.append(text(LEFT - 8, y + cell / 2 + 4, shortened(name, LEFT - 12, "small"), "small soft", "end"))
        for column in range(count):
            x, many = LEFT + column * cell, int(matrix[row, column])
            if many:
                kind = "shade-1" if row == column else "shade-2"
                # The root, or one error in a hundred would be invisible.
                strength = float(np.sqrt(shares[row, column]))
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" class="{kind}" '
                    f'opacity="{strength:.3f}"><title>{escaped(f"{name} → {names[column]}: {many:,}")}</title></rect>'
                )
            if count <= NAMED and many:
                light = row == column and shares[row, column] > 0.3
                kind = "small on-shade" if light else "small ink"
                shown = f"{many:,}" if fits else f"{100 * shares[row, column]:.0f}"
                parts.append(text(x + cell / 2, y + cell / 2 + 4, shown, kind, "middle"))
    bottom = top + count * cell
    if count <= NAMED:
        longest = max(room(name, "small") for name in names)
        drop = min(longest, 90.0)
        for column, name in enumerate(names):
            x = LEFT + (column + 0.5) * cell
            parts.append(
                f'<text class="small soft" text-anchor="end" transform="translate({x + 4:.1f} {bottom + 10:.1f}) '
                f'rotate(-55)">{escaped(shortened(name, drop, "small"))}</text>'
            )
        bottom += 14 + 0.82 * drop
    return Drawing(width, bottom, "".join(parts))
