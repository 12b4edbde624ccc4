"""From a recipe's words to the images of a run: opened, filtered, held out, picked, and all of it on record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlpmixer import data
from mlpmixer.data import sampling
from mlpmixer.data.dataset import DataSet, Joined, Part, Split
from mlpmixer.errors import DataError, nearest
from mlpmixer.recipe import Data
from mlpmixer.text import printable

NAMED = 3  # classes at most that a warning names
AUTO = "val or 2%"  # what data.val = "auto" stands for


@dataclass(frozen=True)
class Images:
    """`record`: for each split how it was chosen, how many there are, and digests that tell it from others: of where
    the images stand in what was opened, of their labels, and of the images themselves. `unused`: how many images
    other splits have."""

    classes: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split | None
    record: dict[str, Any]
    unused: Mapping[str, int]

    def in_words(self) -> str:
        """Which images are for what, and which labeled ones for nothing, in a line."""
        parts = []
        for role, split in {"train": self.train, "val": self.val, "test": self.test}.items():
            what = "none" if split is None else f"{len(split):,} images ({printable(self.record[role]['from'])})"
            parts.append(f"{role}: {what}")
        if self.unused:
            parts.append("not used: " + ", ".join(f"{printable(name)} ({n:,})" for name, n in self.unused.items()))
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """Of classes that are hardly learnt: without an image, or with one where others have more."""
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        found = []
        if (counts == 0).any():
            found.append(f"no image to learn from, so never right: {self._named(counts == 0)}")
        if (counts == 1).any() and counts.max() > 1:
            found.append(f"a single image to learn from: {self._named(counts == 1)}")
        return [f"{line}; add images, or choose others with data.classes" for line in found]

    def _named(self, these: np.ndarray) -> str:
        which = np.flatnonzero(these).tolist()
        names = ", ".join(f"'{printable(self.classes[label], 40)}'" for label in which[:NAMED])
        kind = "class" if len(which) == 1 else "classes"
        return f"{kind} {names}" + (f" and {len(which) - NAMED:,} more" if len(which) > NAMED else "")


def choose(how: Data) -> Images:
    opened = data.open(how.source)
    classes = how.classes or opened.classes
    trained_on = _parts(opened, how.train)
    said = {"train": how.train, "val": how.val, "test": how.test}
    first, either, otherwise = (AUTO if how.val == "auto" else how.val).partition(" or ")
    if either and how.val not in opened.splits:
        said["val"] = first if first in opened.splits and first not in trained_on else otherwise.strip()
    if how.test == "auto":
        said["test"] = "test" if "test" in opened.splits and "test" not in trained_on else ""
    train = _split(opened, how, said["train"])
    _require_other_images(opened, said)
    if said["val"].endswith("%"):
        kept, held = sampling.held_out(train.labels, _share_of(said["val"]), how.seed)
        train, val = Part(train, kept), Part(train, held)
        said["val"] += f" of {how.train}"
        said["train"] += f" but what val has of it (seed {how.seed})"
        if not len(val):
            raise DataError(f"{how.source} has a single image of each class, and data.val wants some; set it to ''")
    else:
        val = _split(opened, how, said["val"]) if said["val"] else None
    test = _split(opened, how, said["test"]) if said["test"] else None
    if how.shots:
        _require_shots(train, classes, how)
        train = Part(train, sampling.shots(train.labels, how.shots, how.seed))
        said["train"] += f", {how.shots} of each class (seed {how.seed})"
    elif how.share < 1:
        train = Part(train, sampling.share(train.labels, how.share, how.seed))
        said["train"] += f", {how.share:.4g} of each class (seed {how.seed})"
    record: dict[str, Any] = {"source": opened.source, "classes": list(classes)}
    for name, split in {"train": train, "val": val, "test": test}.items():
        if split is not None:
            if not len(split):
                raise DataError(f"{how.source}: no images are left for data.{name} ({said[name]})")
            digests = {"digest": sampling.digest(_numbers(split)), "labels": sampling.digest(split.labels)}
            digests["images"] = sampling.fingerprint(split)
            record[name] = {"from": said[name], "count": len(split), **digests}
    used = [name for said_of in (how.train, said["val"], said["test"]) for name in _parts(opened, said_of)]
    unused = {name: len(split) for name, split in opened.splits.items() if name not in used and len(split)}
    return Images(classes, train, val, test, record, unused)


def title(record: Mapping[str, Any], role: str) -> str:
    """What a page calls the images that a run has for `role`: by their split, or as the part of train that they are.

    Records of older runs say no more than how large the part is.
    """
    origin = str(record.get(role, {}).get("from", role))
    return f"{role} ({origin})" if re.match(r"[\d.]+ *%", origin) else origin


def _share_of(percent: str) -> float:
    number = re.fullmatch(r"(\d+\.?\d*|\.\d+) *%", percent)
    if number is None or not 0 < float(number[1]) < 100:
        raise DataError(f"data.val is '{percent}'; a part of the training images is written such as '2%'")
    return float(number[1]) / 100


def _require_other_images(opened: DataSet, said: dict[str, str]) -> None:
    """How often a model is right on what it has learnt from says nothing of other images."""
    trained_on = _parts(opened, said["train"])
    for name in trained_on:
        if trained_on.count(name) > 1:
            raise DataError(f"data.train is '{said['train']}' and names '{name}' twice; name it once")
    for line, instead in {"val": "'', or to a part such as '2%'", "test": "''"}.items():
        for name in _parts(opened, said[line]):
            if name in trained_on:
                raise DataError(
                    f"data.{line} is '{said[line]}', and data.train, '{said['train']}', learns from '{name}' too; "
                    f"set data.{line} to {instead}, or take '{name}' out of data.train"
                )


def _require_shots(train: Split, classes: tuple[str, ...], how: Data) -> None:
    counts = np.bincount(train.labels, minlength=len(classes))
    if counts.min() < how.shots:
        fewest = classes[int(counts.argmin())]
        raise DataError(
            f"data.shots is {how.shots}, and {how.source} has only {counts.min()} images of '{fewest}' to train on"
        )


def _split(opened: DataSet, how: Data, name: str) -> Split:
    """A split, or several such as "train+val"; of only the classes that are wanted, numbered as they are listed."""
    parts = [opened[part] for part in _parts(opened, name)]
    whole = parts[0] if len(parts) == 1 else Joined(parts)
    if not how.classes:
        return whole
    for wanted in how.classes:
        if wanted not in opened.classes:
            raise DataError(f"{how.source} has no class '{wanted}'{nearest(wanted, opened.classes)}")
        if how.classes.count(wanted) > 1:
            raise DataError(f"data.classes names '{wanted}' twice")
    old = np.array([opened.classes.index(wanted) for wanted in how.classes])
    kept = sampling.only(whole.labels, old)
    new = np.full(len(opened.classes), -1)
    new[old] = np.arange(len(old))
    return Part(whole, kept, new[whole.labels[kept]])


def _parts(opened: DataSet, name: str) -> list[str]:
    """The splits that "train+val" names."""
    return [name] if name in opened.splits else [part.strip() for part in name.split("+")]


def _numbers(split: Split) -> np.ndarray:
    """Where the images stand in the split that was opened."""
    if isinstance(split, Part):
        return _numbers(split.whole)[split.indices]
    return np.arange(len(split))
