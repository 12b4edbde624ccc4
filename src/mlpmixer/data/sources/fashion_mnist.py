"""Fashion-MNIST: ten kinds of clothing, gray, 28×28 pixels (Xiao, Rasul and Vollgraf, arXiv 1708.07747)."""

from __future__ import annotations

from pathlib import Path

from mlpmixer.data.dataset import DataSet, Pixels
from mlpmixer.data.sources.idx import read_idx
from mlpmixer.errors import DataError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

FILES = {  # of each split: the images, the labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
PACKINGS = ("", ".gz", ".xz")


def has_fashion_mnist(folder: Path) -> bool:
    """Whether all four files are there."""
    return all(_find(folder, name) for names in FILES.values() for name in names)


def open_fashion_mnist(folder: Path, source: str = "") -> DataSet:
    """The data set in a folder's four idx files, each plain or packed; `source` is its name, if it has one."""
    source = source or str(folder)
    return DataSet(source, CLASSES, {split: _split(folder, *FILES[split], f"{source} {split}") for split in FILES})


def _split(folder: Path, images: str, kinds: str, name: str) -> Pixels:
    pixels, labels = read_idx(_require(folder, images), 3), read_idx(_require(folder, kinds), 1)
    if len(pixels) != len(labels):
        raise DataError(f"{folder} has {len(pixels):,} images in {images} but {len(labels):,} labels in {kinds}")
    if labels.max(initial=0) >= len(CLASSES):
        raise DataError(f"{kinds} in {folder} has the label {labels.max()}, but there are {len(CLASSES)} classes")
    return Pixels(pixels, labels, name)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for packing in PACKINGS if (path := folder / (name + packing)).is_file()), None)


def _require(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder} lacks {name}.gz (or the same without .gz); fetch or copy it again")
    return path
