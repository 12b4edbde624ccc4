"""Selection of a run's images by its recipe: splits, classes, held-out images, subsets; all of it recorded."""

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
from mlpmixer.text import listed, printable

NAMED = 3  # classes at most that a warning names
AUTO = "val or 2%"  # what data.val = "auto" stands for


@dataclass(frozen=True)
class Selection:
    """The images of a run.

    Attributes:
        classes: Their names.
        train: The training images.
        val: The validation images, if any.
        test: The test images, if any.
        record: For each split where it comes from, how many images it has, and digests that tell it from others: of
            the images' indices in what was opened, of their labels, and of the images themselves.
        left_over: How many images each unused split has.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split | None
    record: dict[str, Any]
    left_over: Mapping[str, int]

    def in_words(self) -> str:
        """How many images each split has, where they come from unless its name tells, and which splits are not used."""
        parts = []
        for role, split in {"train": self.train, "val": self.val, "test": self.test}.items():
            # That train lacks what was held out of it needs no word beside val's.
            origin = "" if split is None else re.sub(r" but what val .*?\)", "", self.record[role]["from"], count=1)
            whence = f" ({printable(origin)})" if origin not in ("", role) else ""
            parts.append(f"{role} {'none' if split is None else f'{len(split):,}'}{whence}")
        line = ", ".join(parts)
        if self.left_over:
            line += "; not used: " + ", ".join(f"{printable(name)} {n:,}" for name, n in self.left_over.items())
        return line

    def warnings(self) -> list[str]:
        """Warnings of classes without a training image, or with one where others have more."""
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        found = []
        if (counts == 0).any():
            found.append(f"no training images, so never predicted correctly: {self._named(counts == 0)}")
        if (counts == 1).any() and counts.max() > 1:
            found.append(f"a single training image: {self._named(counts == 1)}")
        return [f"{line}; add images, or choose others with data.classes" for line in found]

    def _named(self, these: np.ndarray) -> str:
        which = np.flatnonzero(these).tolist()
        names = listed([f"'{printable(self.classes[label], 40)}'" for label in which], NAMED)
        return f"{'class' if len(which) == 1 else 'classes'} {names}"


def select(how: Data) -> Selection:
    """Open a recipe's data set and select the images of its run.

    Args:
        how: The table `data` of a recipe.

    Raises:
        DataError: The data set cannot be opened, has no such split or class, or no images are left; or images to be
            tested on would be trained on as well.
    """
    opened = data.open(how.source)
    classes = how.classes or opened.classes
    trained_on = _parts(opened, how.train)
    origins = {"train": how.train, "val": how.val, "test": how.test}
    first, either, otherwise = (AUTO if how.val == "auto" else how.val).partition(" or ")
    if either and how.val not in opened.splits:
        origins["val"] = first if first in opened.splits and first not in trained_on else otherwise.strip()
    if how.test == "auto":
        origins["test"] = "test" if "test" in opened.splits and "test" not in trained_on else ""
    train = _split(opened, how, origins["train"])
    _require_other_images(opened, origins)
    if origins["val"].endswith("%"):
        kept, held = sampling.held_out(train.labels, _share_of(origins["val"]), how.seed)
        train, val = Part(train, kept), Part(train, held)
        origins["val"] += f" of {how.train}"
        origins["train"] += f" but what val has of it (seed {how.seed})"
        if not len(val):
            raise DataError(f"{how.source} has a single image of each class, and data.val wants some; set it to ''")
    else:
        val = _split(opened, how, origins["val"]) if origins["val"] else None
    test = _split(opened, how, origins["test"]) if origins["test"] else None
    if how.shots:
        _require_shots(train, classes, how)
        train = Part(train, sampling.shots(train.labels, how.shots, how.seed))
        origins["train"] += f", {how.shots} of each class (seed {how.seed})"
    elif how.share < 1:
        train = Part(train, sampling.share(train.labels, how.share, how.seed))
        origins["train"] += f", {how.share:.4g} of each class (seed {how.seed})"
    record: dict[str, Any] = {"source": opened.source, "classes": list(classes)}
    for name, split in {"train": train, "val": val, "test": test}.items():
        if split is not None:
            if not len(split):
                raise DataError(f"{how.source}: no images are left for data.{name} ({origins[name]})")
            digests = {"digest": sampling.digest(_numbers(split)), "labels": sampling.digest(split.labels)}
            digests["images"] = sampling.fingerprint(split)
            record[name] = {"from": origins[name], "count": len(split), **digests}
    used = [name for origin in (how.train, origins["val"], origins["test"]) for name in _parts(opened, origin)]
    left_over = {name: len(split) for name, split in opened.splits.items() if name not in used and len(split)}
    return Selection(classes, train, val, test, record, left_over)


def title(record: Mapping[str, Any], role: str) -> str:
    """A title for the images that a run has for `role`: the split they come from, or the part of train that they are.

    Records of older runs tell no more than how large the part is.
    """
    origin = str(record.get(role, {}).get("from", role))
    return f"{role} ({origin})" if re.match(r"[\d.]+ *%", origin) else origin


def _share_of(percent: str) -> float:
    number = re.fullmatch(r"(\d+\.?\d*|\.\d+) *%", percent)
    if number is None or not 0 < float(number[1]) < 100:
        raise DataError(f"data.val is '{percent}'; a part of the training images is written such as '2%'")
    return float(number[1]) / 100


def _require_other_images(opened: DataSet, origins: dict[str, str]) -> None:
    """Refuse to validate or test on training images: that says nothing about others."""
    trained_on = _parts(opened, origins["train"])
    for name in trained_on:
        if trained_on.count(name) > 1:
            raise DataError(f"data.train is '{origins['train']}' and names '{name}' twice; name it once")
    for line, instead in {"val": "'', or to a part such as '2%'", "test": "''"}.items():
        for name in _parts(opened, origins[line]):
            if name in trained_on:
                raise DataError(
                    f"data.{line} is '{origins[line]}', and data.train, '{origins['train']}', trains on '{name}' too; "
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
    """A split, or several such as "train+val"; with `how.classes` only these classes, numbered in that order."""
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
    """The indices of the images in the split that was opened."""
    if isinstance(split, Part):
        return _numbers(split.whole)[split.indices]
    return np.arange(len(split))
