"""ImageNet's 1,000 classes: readable names for WordNet ids, and the labels of a flat val/ folder.

imagenet_classes.txt has a line for each class in the standard order: its WordNet id, its number in the challenge's
development kit, and the first word that WordNet has for it (three were changed, so that no two are the same).

A flat val/ holds ILSVRC2012_val_00000001.JPEG to _00050000.JPEG. Their labels are read from the development kit's
ILSVRC2012_validation_ground_truth.txt (a number for each image) or Kaggle's LOC_val_solution.csv (a WordNet id for
each); either may lie in val/, beside it, or beside it in ILSVRC2012_devkit_t12/data/.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mlpmixer.errors import DataError
from mlpmixer.files import read_text

CLASSES = Path(__file__).with_name("imagenet_classes.txt")
IMAGE = re.compile(r"(ILSVRC2012_val_\d{8})\.jpe?g", re.IGNORECASE)
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"


@cache
def _table() -> list[tuple[str, str, str]]:
    """WordNet id, number in the development kit, name."""
    lines = CLASSES.read_text(encoding="utf-8").splitlines()
    return [(wnid, number, name) for wnid, number, name in (line.split(maxsplit=2) for line in lines)]


@cache
def _names() -> dict[str, str]:
    return {wnid: name for wnid, _, name in _table()}


def all_names() -> tuple[str, ...]:
    """In the standard order, which is that of a model's 1,000 outputs."""
    return tuple(_names().values())


def number_of(image: str) -> int | None:
    """Which of the 50,000 a file of val/ is, counted from 0: the order in which label files list them."""
    found = IMAGE.fullmatch(image)
    return int(found[1][-8:]) - 1 if found else None


def readable(classes: Sequence[str]) -> tuple[str, ...] | None:
    """Names for classes, if all of them are WordNet ids of ImageNet's."""
    names = _names()
    return tuple(names[wnid] for wnid in classes) if all(wnid in names for wnid in classes) else None


def is_flat_val(images: Sequence[str]) -> bool:
    return all(IMAGE.fullmatch(name) for name in images)


def by_class(folder: Path, images: Sequence[str]) -> dict[str, list[str]]:
    """The images of a flat val/ folder by WordNet id."""
    places = (folder, folder.parent, folder.parent / "ILSVRC2012_devkit_t12" / "data")
    files = [place / name for name in (DEVKIT, KAGGLE) for place in places]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DataError(f"no labels for the images in {folder}; put {DEVKIT} or {KAGGLE} into {folder.parent}")
    try:
        lines = read_text(file).splitlines()
        labels = _from_devkit(lines) if file.name == DEVKIT else _from_kaggle(lines)
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{file} is damaged or in another form; put the original in its place") from error
    found: dict[str, list[str]] = {}
    for name in images:
        key = name[: len("ILSVRC2012_val_00000001")]
        if key not in labels:
            raise DataError(f"{file} has no label for {folder / name}; remove the image")
        found.setdefault(labels[key], []).append(name)
    return found


def _from_devkit(lines: Sequence[str]) -> dict[str, str]:
    """A number on each line, for the images in their order."""
    wnids = {number: wnid for wnid, number, _ in _table()}
    return {f"ILSVRC2012_val_{i:08}": wnids[line.strip()] for i, line in enumerate(lines, start=1)}


def _from_kaggle(lines: Sequence[str]) -> dict[str, str]:
    """Below a header, lines such as `ILSVRC2012_val_00048981,n03995372 85 1 499 272`: the class, then boxes."""
    labels = {}
    for line in lines[1:]:
        key, answer = line.split(",")
        wnid = answer.split()[0]
        if wnid not in _names():
            raise ValueError(f"{wnid} is no class of ImageNet's")
        labels[key] = wnid
    return labels
