"""What the interpret shows, as files and as parts of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mlpmixer.draw import page, svg
from mlpmixer.draw.svg import Drawing
from mlpmixer.run.folder import RunFolder


@dataclass(frozen=True)
class Exhibit:
    """`name`: of its file. `pixels`: each of an image's pixels is a value."""

    name: str
    shown: Image.Image | Drawing
    caption: str
    pixels: bool = False

    def in_page(self) -> str:
        if isinstance(self.shown, Drawing):
            return page.drawing(self.shown, self.caption)
        return page.image(self.shown, self.caption, pixels=self.pixels)

    def write(self, folder: Path) -> Path:
        if isinstance(self.shown, Drawing):
            RunFolder(folder).write(f"{self.name}.svg", svg.document(self.shown, self.caption))
            return folder / f"{self.name}.svg"
        path = folder / f"{self.name}.png"
        self.shown.save(path)
        return path


def together(exhibits: Sequence[Exhibit]) -> str:
    return page.beside(*(one.in_page() for one in exhibits))
