"""VTAB-1k as it is passed around: for each task a folder with lists of 800 and 200 images, and of the test.

train800.txt, val200.txt and test.txt hold lines such as `images/train/0001.jpg 17`: a path within
the folder, and the number of a class.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.sources.folder import Files
from mlpmixer.data.sources.naming import names_beside, numbers_to
from mlpmixer.errors import DataError
from mlpmixer.files import read_text

LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}


def is_vtab(path: Path) -> bool:
    return (path / LISTS["train"]).is_file() and (path / LISTS["test"]).is_file()


def open_vtab(folder: Path) -> DataSet:
    found = {split: _lines(folder / name) for split, name in LISTS.items() if (folder / name).is_file()}
    highest = max(label for rows in found.values() for _, label in rows)
    classes = names_beside(folder) or numbers_to(highest, str(folder))
    example = folder / found["train"][0][0]
    if not example.is_file():
        raise DataError(f"{folder / LISTS['train']} lists {found['train'][0][0]}, but there is no {example}")
    return DataSet(
        str(folder),
        classes,
        {
            split: Files(folder, [path for path, _ in rows], np.array([label for _, label in rows], dtype=np.int64))
            for split, rows in found.items()
        },
    )


def _lines(path: Path) -> list[tuple[str, int]]:
    rows = []
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; save it as such") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            image, _, label = line.strip().rpartition(" ")
            if not image or not re.fullmatch("[0-9]{1,12}", label):
                raise DataError(f"{path} has no image and class number in line {number}: {line[:60]!r}")
            rows.append((image, int(label)))
    if not rows:
        raise DataError(f"{path} lists no images")
    return rows
