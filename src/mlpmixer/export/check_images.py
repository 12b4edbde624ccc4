"""Images to validate a file with: the user's, those that the model was tested on, or those of the package."""

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
from mlpmixer.data.select import select, title
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
    """Images to validate and to calibrate with.

    Attributes:
        source: Where they come from, for people.
        test: Those that a file is validated with; labels are positions among the model's outputs, -1 where unknown.
        train: Others, to calibrate int8 with; None: there are none.
        in_domain: Whether they are of the kind that the model is for.
    """

    source: str
    test: Split
    train: Split | None
    in_domain: bool

    @property
    def labeled(self) -> bool:
        return bool((self.test.labels >= 0).all())

    def calibration(self, how: Preprocessing) -> UInt8[Tensor, "N 3 H W"]:
        if self.train is None or not self.in_domain:
            raise UsageError("int8 is calibrated on images of the kind that the model is for: --data photos/")
        read = [prepare(image, how) for _, image in each(_some(self.train, CALIBRATION), how)]
        if not read:
            raise DataError(f"no image of {self.source} can be read; `mixer doctor` says more")
        return torch.stack(read)


def find(source: str, spec: str | os.PathLike[str] | None, model: Classifier, count: int) -> Images:
    """Finds the images to validate with.

    Args:
        source: The weights, which may be a run folder.
        spec: What `data.open` takes, or a folder of images without classes; None: what the run was tested on, or else
            images that come with the package.
        model: The model, whose outputs the labels are positions of.
        count: Images to validate with at most, evenly over the images that are there.
    """
    if spec is not None:
        loose = _loose(Path(spec))
        if loose is not None:
            return _parted(str(spec), loose, count)
        opened = data.open(spec)
        splits, outputs = opened.splits, outputs_for(opened.classes, model)
        name = next((name for name in ("test", "val") if name in splits), next(iter(splits)))
        test, train = _for(splits[name], outputs), splits.get("train")
        if train is None or name == "train":
            return _parted(f"{opened.source}, {name}", test, count)
        return Images(f"{opened.source}, {name}", _some(test, count), train, in_domain=True)
    if (recipe := RunFolder(source).recipe) is not None:
        try:
            chosen = select(toml.loads(recipe, f"{source}/recipe.toml").data)
        except (DataError, UsageError):  # its images are elsewhere by now
            chosen = None
        if chosen is not None and (test := chosen.test or chosen.val) is not None:
            name = title(chosen.record, "test" if chosen.test is not None else "val")
            test = _some(_for(test, outputs_for(chosen.classes, model)), count)
            return Images(f"{chosen.record['source']}, {name}", test, chosen.train, in_domain=True)
    photo = Files(PHOTO.parent, [PHOTO.name], np.array([-1]))
    clothes = _some(data.open("fashion_mnist_small")["test"], min(count, BUNDLED))
    unknown = Part(clothes, np.arange(len(clothes)), np.full(len(clothes), -1))
    return Images("a photograph and clothes that come with mlpmixer", Joined([photo, unknown]), None, in_domain=False)


def each(split: Split, how: Preprocessing) -> Iterator[tuple[int, np.ndarray]]:
    """Index and pixels (height, width, 3) of all images that can be read and prepared."""
    for index in range(len(split)):
        try:
            read = images.pixels(split.read(index))
            require_proportions(len(read), read.shape[1], how.resize)
        except ImageError:
            continue
        yield index, read


def _loose(folder: Path) -> Split | None:
    """The images of a folder without folders, without labels; None for others."""
    if not folder.is_dir():
        return None
    folders, files = look(folder)
    return Files(folder.absolute(), files, np.full(len(files), -1)) if files and not folders else None


def _parted(source: str, split: Split, count: int) -> Images:
    """One split for both: every fourth image is for calibration."""
    fourth = np.arange(len(split)) % 4 == 3
    test, train = (Part(split, np.flatnonzero(chosen)) for chosen in (~fourth, fourth))
    return Images(source, _some(test, count), train if len(train) else None, in_domain=True)


def _some(split: Split, count: int) -> Split:
    if len(split) <= count:
        return split
    return Part(split, np.linspace(0, len(split) - 1, count).round().astype(np.int64))


def _for(split: Split, outputs: Int[np.ndarray, " K"]) -> Split:
    return Part(split, np.arange(len(split)), outputs[split.labels])
