"""How files say what they are: images by their extension, splits by a word, classes by a name or a number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mlpmixer.data.dataset import SPLITS
from mlpmixer.data.sources import imagenet
from mlpmixer.errors import DataError, nearest
from mlpmixer.files import read_text
from mlpmixer.text import fault, printable

# Where one name has several images, the first of these counts.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif"),
    *(".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

MAX_NUMBER = 100_000  # a class number beyond is taken for something else, such as the number of a species


def split_within(name: str) -> str | None:
    """The split that a name such as `imagenet-train-0001` speaks of."""
    words = re.split("[^a-z]+", name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def in_order(splits: Iterable[str]) -> list[str]:
    """train, val and test first, then the others by name."""
    return sorted(splits, key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split))


def names_beside(folder: Path) -> tuple[str, ...] | None:
    """All classes in their order, where a folder tells: classes.txt, a line each, or "classes" in dataset.json."""
    file = folder / "classes.txt"
    try:
        if file.is_file():
            names = [line.strip() for line in read_text(file).rstrip().splitlines()]
        elif (file := folder / "dataset.json").is_file():
            names = json.loads(read_text(file)).get("classes")
        else:
            return None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise DataError(f"{file} cannot be read ({why}); delete it, or write it anew") from error
    if not isinstance(names, list) or not names:
        raise DataError(f"{file} must list the names of the classes")
    if (wrong := fault(names)) is not None:
        raise DataError(f"{file} {wrong}; rename it")
    return tuple(names)


def number(
    labels: Mapping[str, Sequence[str]], source: str, names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The classes, and the labels of each split as positions in them.

    Where all labels are whole numbers, they are positions already. Otherwise they are names. `names` are the classes
    where the data set lists them; by default the first split has them all.
    """
    distinct = {split: set(texts) for split, texts in labels.items()}
    every = set().union(*distinct.values())
    if below := [text for text in every if re.fullmatch("-[0-9]+", text)]:
        raise DataError(f"{source} has the class number {below[0][:20]}; they count from 0")
    if all(re.fullmatch("[0-9]{1,12}", text) for text in every):
        position = {text: int(text) for text in every}
        classes = names or numbers_to(max(position.values()), source)
    else:
        first = next(iter(distinct))
        classes = names or tuple(sorted(distinct[first]))
        for split, texts in distinct.items():
            require_known(texts, classes, f"{source} ({split})", "the list of classes" if names else first)
        position = {text: place for place, text in enumerate(classes)}
    return imagenet.readable(classes) or classes, {
        split: np.fromiter((position[text] for text in texts), np.int64, len(texts)) for split, texts in labels.items()
    }


def numbers_to(highest: int, source: str) -> tuple[str, ...]:
    """The classes of a data set that has numbers for them, but no names."""
    if highest > MAX_NUMBER:
        raise DataError(f"{source} has the class number {highest}; count them from 0, or use names instead")
    return tuple(map(str, range(highest + 1)))


def require_known(classes: Iterable[str], known: Sequence[str], where: str, authority: str) -> None:
    """Refuse a class of one split that is not among those that `authority`, usually train, has."""
    if strange := sorted({*classes}.difference(known)):
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        hint = nearest(strange[0], known)
        raise DataError(
            f"{where} has the class '{printable(strange[0], 80)}'{more}, which {authority} does not have{hint}"
        )
