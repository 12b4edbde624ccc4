"""Data sets as tensorflow-datasets leaves them on the disk: NAME/[CONFIG/]VERSION/ with dataset_info.json and records.

Splits may be cut as they are there: "train[:90%]", "test[50%:]", "train[:800]". Records have the order of the files.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlpmixer.data.dataset import DataSet, Split
from mlpmixer.data.images import ImageInput
from mlpmixer.data.sources.naming import SPLIT_WORDS, in_order, numbers_to
from mlpmixer.data.sources.tfrecord import Feature, features, mapped, record_offsets
from mlpmixer.errors import DataError
from mlpmixer.files import read_text

Label = Callable[[dict[str, Feature]], int]
CUT = re.compile(r"(\w+)(?:\[(?:(\d+)(%?))?:(?:(\d+)(%?))?\])?")


class Records(Split):
    """Images in records. `offsets`: (file, offset, length) of each. `times`: a factor for pixels."""

    def __init__(self, files: Sequence[Path], offsets: np.ndarray, labels: np.ndarray, times: int = 1):
        self.files, self.offsets, self.labels, self.times = files, offsets, labels, times

    def read(self, index: int) -> ImageInput:
        file, begin, length = self.offsets[index].tolist()
        with self.files[file].open("rb") as opened:
            opened.seek(begin)
            found = features(opened.read(length), ("image",)).get("image")
        image = found[0] if isinstance(found, list) and found else None
        if not isinstance(image, bytes):
            raise DataError(f"{self.where(index)} has no image")
        if self.times == 1:
            return image
        gray = np.asarray(Image.open(io.BytesIO(image)).convert("L"))
        return np.repeat((gray * self.times)[:, :, None], 3, axis=2)

    def where(self, index: int) -> str:
        return f"{self.files[self.offsets[index][0]]}, record at byte {self.offsets[index][1] - 12}"


def is_tfds(path: Path) -> bool:
    return (path / "dataset_info.json").is_file() and (path / "features.json").is_file()


def open_tfds(folder: Path) -> DataSet:
    """All of its splits, by the feature `label`."""
    names: list[str] = [split["name"] for split in _info(folder)]
    splits = {SPLIT_WORDS.get(name, name): cut(folder, name) for name in names}
    # Where all labels of a split are −1, they are not published.
    splits = {name: split for name, split in splits.items() if not len(split) or (split.labels != -1).any()}
    if not splits:
        raise DataError(f"no image of {folder} has a label")
    highest = max(int(split.labels.max(initial=0)) for split in splits.values())
    classes = class_names(folder) or numbers_to(highest, str(folder))
    return DataSet(str(folder), classes, {name: splits[name] for name in in_order(splits)})


def class_names(folder: Path) -> tuple[str, ...] | None:
    file = folder / "label.labels.txt"
    try:
        return tuple(read_text(file).rstrip("\n").split("\n")) if file.is_file() else None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({type(error).__name__})") from error


def plain_label(found: dict[str, Feature]) -> int:
    return int(found["label"][0])  # pyright: ignore[reportArgumentType] (an integer)


def cut(
    folder: Path,
    what: str,
    *,
    label: Label = plain_label,
    needs: tuple[str, ...] = ("label",),
    at_most: int | None = None,
    times: int = 1,
) -> Records:
    """A part of a split, or the first `at_most` images of that. `needs`: features from which `label` is told."""
    asked = CUT.fullmatch(what)
    assert asked is not None
    split, low, low_percent, high, high_percent = asked.groups()
    found = next((one for one in _info(folder) if one["name"] == split), None)
    if found is None:
        raise DataError(f"{folder} has no split {split}; prepare it with tensorflow-datasets")
    count = sum(int(length) for length in found["shardLengths"])
    begin = _bound(low, low_percent, count, 0)
    end = _bound(high, high_percent, count, count)
    end = end if at_most is None else min(end, begin + at_most)
    files = sorted(folder.glob(f"*-{split}.tfrecord-*-of-*"))
    if len(files) != len(found["shardLengths"]):
        raise DataError(f"{folder} has {len(files)} files of records for {split}, not {len(found['shardLengths'])}")
    rows, labels, before = [], [], 0
    for number, (file, length) in enumerate(zip(files, found["shardLengths"], strict=True)):
        first, last = max(begin - before, 0), min(end - before, int(length))
        before += int(length)
        if first >= last:
            continue
        offsets = record_offsets(file)
        if len(offsets) != int(length):
            raise DataError(f"{file} has {len(offsets)} records, not {length}; fetch it again")
        content = mapped(file)
        for at, size in offsets[first:last]:
            rows.append((number, at, size))
            try:
                labels.append(label(features(content[at : at + size], needs)))
            except (LookupError, ValueError, TypeError, OverflowError) as error:
                raise DataError(f"{file} has a record that is damaged, or without {' or '.join(needs)}") from error
    return Records(files, np.array(rows, dtype=np.int64).reshape(-1, 3), np.array(labels, dtype=np.int64), times)


def _bound(number: str | None, percent: str, count: int, otherwise: int) -> int:
    if number is None:
        return otherwise
    return round(int(number) * count / 100) if percent else min(int(number), count)


def _info(folder: Path) -> list[dict[str, Any]]:
    try:
        splits = json.loads(read_text(folder / "dataset_info.json"))["splits"]
        for split in splits:
            counts = split["shardLengths"]
            if not re.fullmatch(r"\w{1,100}", split["name"]) or not isinstance(counts, list) or not counts:
                raise ValueError(split["name"])
            if not all(re.fullmatch("[0-9]{1,12}", str(count)) for count in counts):
                raise ValueError(counts)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{folder / 'dataset_info.json'} is damaged, or of another kind") from error
    return splits
