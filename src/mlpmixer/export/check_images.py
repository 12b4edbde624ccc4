"""Real images to check a file with: the user's, or those that the model was measured on, or what the package has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from mlpmixer import data
from mlpmixer.data import images
from mlpmixer.data.dataset import Joined, Part, Split
from mlpmixer.data.preprocess import prepare, require_proportions
from mlpmixer.data.select import choose, title
from mlpmixer.data.sources.folder import Files, look
from mlpmixer.errors import DataError, ImageError, UsageError
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.class_mapping import outputs_for
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipes import toml
from mlpmixer.run.folder import RunFolder
from mlpmixer.weights.bundled import PHOTO

CALIBRATION = 300  # images; more of them change the ranges of a table by little
BUNDLED = 255  # of the clothes that come with the package, beside one photograph


@dataclass(frozen=True)
class Images:
    """`asked`: what the file is checked with, its labels positions among the model's outputs, or −1 where nobody knows.
    `known`: others, to calibrate with. `theirs`: whether they are of the kind that the model is for."""

    origin: str
    asked: Split
    known: Split | None
    theirs: bool

    @property
    def labeled(self) -> bool:
        return bool((self.asked.labels >= 0).all())

    def calibration(self, how: Preprocessing) -> UInt8[Tensor, "N 3 H W"]:
        if self.known is None or not self.theirs:
            raise UsageError("int8 is calibrated on images of the kind that the model is for: --data photos/")
        read = [prepare(image, how) for _, image in each(_some(self.known, CALIBRATION), how)]
        if not read:
            raise DataError(f"no image of {self.origin} can be read; `mixer doctor` says more")
        return torch.stack(read)


def find(source: str, spec: str | os.PathLike[str] | None, model: Classifier, count: int) -> Images:
    """`spec`: what `data.open` takes, or a folder of images without classes; None: what the run `source` was measured
    on, or what comes with the package. `count`: how many to check with at most, evenly over the classes."""
    if spec is not None:
        loose = _loose(Path(spec))
        if loose is not None:
            return _parted(str(spec), loose, count)
        opened = data.open(spec)
        splits, outputs = opened.splits, outputs_for(opened.classes, model)
        name = next((name for name in ("test", "val") if name in splits), next(iter(splits)))
        asked, known = _for(splits[name], outputs), splits.get("train")
        if known is None or name == "train":
            return _parted(f"{opened.source}, {name}", asked, count)
        return Images(f"{opened.source}, {name}", _some(asked, count), known, theirs=True)
    if (recipe := RunFolder(source).recipe) is not None:
        try:
            chosen = choose(toml.loads(recipe, f"{source}/recipe.toml").data)
        except (DataError, UsageError):  # its images are elsewhere by now
            chosen = None
        if chosen is not None and (asked := chosen.test or chosen.val) is not None:
            name = title(chosen.record, "test" if chosen.test is not None else "val")
            asked = _some(_for(asked, outputs_for(chosen.classes, model)), count)
            return Images(f"{chosen.record['source']}, {name}", asked, chosen.train, theirs=True)
    photo = Files(PHOTO.parent, [PHOTO.name], np.array([-1]))
    clothes = _some(data.open("fashion_mnist_small")["test"], min(count, BUNDLED))
    unknown = Part(clothes, np.arange(len(clothes)), np.full(len(clothes), -1))
    return Images("a photograph and clothes that come with mlpmixer", Joined([photo, unknown]), None, theirs=False)


def each(split: Split, how: Preprocessing) -> Iterator[tuple[int, np.ndarray]]:
    """Number and pixels (height, width, 3) of all that can be read and prepared."""
    for index in range(len(split)):
        try:
            read = images.pixels(split.read(index))
            require_proportions(len(read), read.shape[1], how.resize)
        except ImageError:
            continue
        yield index, read


def _loose(folder: Path) -> Split | None:
    """Of a folder with images and no folders: those, without labels."""
    if not folder.is_dir():
        return None
    folders, files = look(folder)
    return Files(folder.absolute(), files, np.full(len(files), -1)) if files and not folders else None


def _parted(origin: str, split: Split, count: int) -> Images:
    """One split for both: every fourth image is left to calibrate with."""
    fourth = np.arange(len(split)) % 4 == 3
    asked, known = (Part(split, np.flatnonzero(chosen)) for chosen in (~fourth, fourth))
    return Images(origin, _some(asked, count), known if len(known) else None, theirs=True)


def _some(split: Split, count: int) -> Split:
    if len(split) <= count:
        return split
    return Part(split, np.linspace(0, len(split) - 1, count).round().astype(np.int64))


def _for(split: Split, outputs: Int[np.ndarray, " K"]) -> Split:
    return Part(split, np.arange(len(split)), outputs[split.labels])
