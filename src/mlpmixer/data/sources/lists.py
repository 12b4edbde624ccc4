"""Lists of images and their labels in a .csv, .tsv or .parquet file.

Its columns are `path` (or `file`, `image`, `filename`), `label` (or `class`, `target`) and, if there are several
splits, `split`; others are left alone. Paths are absolute, or within the folder of the list. Labels are names, or whole
numbers that count from 0; classes.txt beside the list may name all classes, a line each. Without a column `split`, all
images are in the one split that the name of the list speaks of (`val.csv`), otherwise in train.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.sources.folder import Files
from mlpmixer.data.sources.naming import SPLIT_WORDS, in_order, names_beside, number, split_within
from mlpmixer.errors import DataError
from mlpmixer.files import open_regular
from mlpmixer.packages import require
from mlpmixer.text import printable

PATH = ("path", "file", "image", "filename")
LABEL = ("label", "class", "target")

MOST_LETTERS = 100_000  # of a line

Entry = tuple[str, str, str]  # path, label, split


def is_list(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv") and path.is_file()


def open_list(path: Path, columns: Mapping[str, str] | None = None, source: str = "") -> DataSet:
    """Open a list.

    Args:
        path: The file.
        columns: The names of the columns for "image", "label" and "split", where they are not the usual ones.
        source: How a user names the list; by default its path.
    """
    columns, source = columns or {}, source or str(path)
    try:
        reads = _from_parquet if path.suffix.lower() == ".parquet" else _from_text
        entries = reads(path, columns)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {printable(error.strerror or error, 200)}") from error
    if not entries:
        raise DataError(f"{path} lists no images")
    default = split_within(path.stem) or "train"
    paths: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    for image, label, split in entries:
        split = SPLIT_WORDS.get(split.lower(), split) or default
        paths.setdefault(split, []).append(image)
        labels.setdefault(split, []).append(label)
    example = path.parent / entries[0][0]
    if not example.is_file():
        raise DataError(
            f"{path} lists {entries[0][0]}, but there is no {example}; paths are absolute, or begin in {path.parent}"
        )
    order = in_order(paths)
    classes, numbers = number({split: labels[split] for split in order}, source, names_beside(path.parent))
    return DataSet(source, classes, {split: Files(path.parent, paths[split], numbers[split]) for split in order})


def _from_text(path: Path, columns: Mapping[str, str]) -> list[Entry]:
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            separator = max(",;\t", key=next(_lines(file), "").count)
            file.seek(0)
            lines = csv.reader(_lines(file), delimiter=separator)
            chosen = _choose(path, next(lines, []), columns)
            entries = []
            for cells in lines:
                if cells:
                    entries.append(
                        _entry(path, [cells[i].strip() if i < len(cells) else "" for i in chosen], lines.line_num)
                    )
            return entries
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; save it as such") from None
    except csv.Error as error:
        raise DataError(f"{path} is no list that can be read ({error})") from error


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(MOST_LETTERS):
        if len(line) == MOST_LETTERS:
            raise csv.Error("one of its lines has no end")
        yield line


def _from_parquet(path: Path, columns: Mapping[str, str]) -> list[Entry]:
    pa = require("pyarrow", extra="parquet", what=f"reading {path}")
    from pyarrow import parquet

    try:
        about = parquet.read_metadata(path)
        names = about.schema.to_arrow_schema().names
        chosen = _choose(path, names, columns)
        if about.num_rows > path.stat().st_size:
            raise DataError(f"{path} claims more rows than it has bytes; it is damaged or hostile")
        found = [texts(path, names[i]) for i in chosen]
    except (pa.ArrowException, MemoryError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged, or has no text in its columns") from error
    return [_entry(path, cells, i) for i, cells in enumerate(zip(*found, strict=True), start=1)]


def texts(path: Path, column: str) -> list[str]:
    """A column of a .parquet file as texts, "" where there is nothing. A text that stands there a million times is
    in memory once."""
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(path, read_dictionary=[column]) as file:
        read = file.read(columns=[column])[column]
    read.validate(full=True)  # Arrow believes a file's indices and letters
    found: list[str] = []
    for chunk in read.dictionary_encode().chunks:
        distinct = [*chunk.dictionary.cast(pa.string()).fill_null("").to_pylist(), ""]
        found += [distinct[place] for place in chunk.indices.fill_null(len(distinct) - 1).to_pylist()]
    return found


def _choose(path: Path, columns: Sequence[str], asked: Mapping[str, str]) -> list[int]:
    """The positions of path, label and, if there is one, split."""
    lower = [column.strip().lower() for column in columns]
    has = printable(", ".join(f"'{column}'" for column in columns) or "none", 300)
    found: list[int | None] = []
    for kind, usual in (("image", PATH), ("label", LABEL), ("split", ("split",))):
        names = [asked[kind].lower()] if kind in asked else usual
        found.append(next((lower.index(name) for name in names if name in lower), None))
        if kind in asked and found[-1] is None:
            raise DataError(f"{path} has no column '{asked[kind]}'; it has {has}")
    where, label, split = found
    if where is None or label is None:
        raise DataError(f"{path} needs a column 'path' and a column 'label' in its first line; it has {has}")
    return [where, label] if split is None else [where, label, split]


def _entry(path: Path, cells: Sequence[str], line: int) -> Entry:
    image, label, *split = cells
    if not image or not label:
        raise DataError(f"{path} has no {'label' if image else 'path'} in line {line}; add it, or delete the line")
    return image, label, split[0] if split else ""
