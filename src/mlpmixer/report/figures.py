"""Figures of what a model has learned: as files, and as parts of a page; and the progress of drawing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from mlpmixer.draw import page, svg
from mlpmixer.draw.svg import Drawing
from mlpmixer.run.folder import RunFolder

Progress = Callable[[str, int, int], None]  # (stage, how many steps are done, of how many)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Scale:
    """Colors from the lowest to the highest value, and words for both ends."""

    stops: Sequence[tuple[int, int, int]]
    low: str
    high: str


@dataclass(frozen=True)
class Figure:
    """An image or drawing with a caption.

    Attributes:
        name: Of its file.
        shown: The image or drawing.
        caption: Below it.
        pixels: Each pixel of the image is a value.
        scale: What the colors of a map stand for.
    """

    name: str
    shown: Image.Image | Drawing
    caption: str
    pixels: bool = False
    scale: Scale | None = None

    def html(self) -> str:
        """A part of a page."""
        if isinstance(self.shown, Drawing):
            return page.drawing(self.shown, self.caption)
        scale = page.color_bar(self.scale.stops, self.scale.low, self.scale.high) if self.scale else ""
        return page.image(self.shown, self.caption, pixels=self.pixels, scale=scale)

    def write(self, folder: Path) -> None:
        """As NAME.svg or NAME.png."""
        if isinstance(self.shown, Drawing):
            RunFolder(folder).write(f"{self.name}.svg", svg.document(self.shown, self.caption))
        else:
            self.shown.save(folder / f"{self.name}.png")


def grid(figures: Sequence[Figure]) -> str:
    """Figures side by side, as a part of a page."""
    return page.beside(*(figure.html() for figure in figures))


def no_progress(*_: object) -> None:
    """Shows nothing."""


def tracked(stage: str, items: Sequence[Item], progress: Progress) -> Iterator[Item]:
    """The items, each reported when the one before is done."""
    for done, item in enumerate(items):
        progress(stage, done, len(items))
        yield item
    progress(stage, len(items), len(items))
