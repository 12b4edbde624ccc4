"""The images of a folder, with what their folders say of them.

    hat/a.jpg           a hat
    train/hat/a.jpg     a hat, in the split train; so with val and test
    unsorted/a.jpg      not sorted yet; so is a.jpg, without a folder

Unlike a data set for training, anything goes: images without a class, empty folders, one class only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlpmixer.data.sources.folder import Folders, entered, lies_in, look
from mlpmixer.data.sources.naming import SPLIT_WORDS

UNSORTED = "unsorted"  # the folder of images without a class


@dataclass(frozen=True)
class Photo:
    """An image file.

    Attributes:
        path: Within the folder, with slashes.
        split: "train", "val" or "test"; "": the folder has no splits.
        label: What its folder says; None: nothing.
        stamp: Tells whether the file is still the same: nanoseconds of its change, and its size.
    """

    path: str
    split: str
    label: str | None
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Photos:
    """All images, in the order of their paths, and the classes that have folders."""

    root: Path
    images: list[Photo]
    classes: list[str]


def scan(root: Path) -> Photos:
    """What lies in the folder now.

    Raises:
        DataError: It cannot be read.
    """
    folders, _ = look(root)
    splits = {
        name: SPLIT_WORDS[name.lower()] for name in folders if name.lower() in SPLIT_WORDS and look(root / name)[0]
    }
    images = sorted(_below(root, "", lies_in(root), splits), key=lambda photo: photo.path)
    places = [*((root, name) for name in folders if name not in splits)]
    places += [(root / split, name) for split in splits for name in look(root / split)[0]]
    classes = dict.fromkeys(name for _, name in places if name != UNSORTED)
    return Photos(root, images, sorted(classes))


def _below(root: Path, place: str, above: Folders, splits: dict[str, str]) -> Iterator[Photo]:
    folders, images = look(root / place)
    for name in images:
        path = f"{place}/{name}".lstrip("/")
        status = (root / path).stat()
        first, *rest = path.split("/")
        split = splits.get(first, "") if rest else ""
        words = rest if split else [first, *rest]
        label = words[0] if len(words) > 1 and words[0] != UNSORTED else None
        yield Photo(path, split, label, (status.st_mtime_ns, status.st_size))
    for name in folders:
        inside = entered(root / place / name, above)
        if inside is not None:  # else a link that leads back
            yield from _below(root, f"{place}/{name}".lstrip("/"), inside, splits)
