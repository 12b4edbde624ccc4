"""A list of pictures and their labels in a .csv, .tsv or .parquet file.

Its columns are `path` (or `file`, `image`, `filename`), `label` (or `class`, `target`) and, if there are several
splits, `split`; others are left alone. Paths are absolute, or within the folder of the list. Labels are names, or whole
numbers that count from 0; classes.txt beside the list may name all classes, a line each. Without a column `split`, all
pictures are in the one split that the name of the list speaks of (`val.csv`), otherwise in train.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.sources.folder import Files
from mlpmixer.data.sources.naming import SPLIT_WORDS, in_order, names_beside, number, split_within
from mlpmixer.errors import DataError

PATH = ("path", "file", "image", "filename")
LABEL = ("label", "class", "target")

Row = tuple[str, str, str]  # path, label, split


def is_list(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv", ".parquet") and path.is_file()


def open_list(path: Path) -> DataSet:
    try:
        rows = _from_parquet(path) if path.suffix.lower() == ".parquet" else _from_text(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not rows:
        raise DataError(f"{path} lists no pictures")
    default = split_within(path.stem) or "train"
    paths: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    for picture, label, split in rows:
        split = SPLIT_WORDS.get(split.lower(), split) or default
        paths.setdefault(split, []).append(picture)
        labels.setdefault(split, []).append(label)
    example = path.parent / rows[0][0]
    if not example.is_file():
        raise DataError(
            f"{path} lists {rows[0][0]}, but there is no {example}; paths are absolute, or begin in {path.parent}"
        )
    order = in_order(paths)
    classes, numbers = number({split: labels[split] for split in order}, str(path), names_beside(path.parent))
    return DataSet(str(path), classes, {split: Files(path.parent, paths[split], numbers[split]) for split in order})


def _from_text(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = max(",;\t", key=header.count)
            file.seek(0)
            lines = csv.reader(file, delimiter=separator)
            chosen = _choose(path, next(lines, []))
            rows = []
            for cells in lines:
                if cells:
                    rows.append(
                        _row(path, [cells[i].strip() if i < len(cells) else "" for i in chosen], lines.line_num)
                    )
            return rows
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; save it as such") from None
    except csv.Error as error:
        raise DataError(f"{path} is no list that can be read ({error})") from error


def _from_parquet(path: Path) -> list[Row]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"reading {path} needs pyarrow; pip install mlpmixer[data]") from None
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        chosen = _choose(path, names)
        table = file.read(columns=[names[i] for i in chosen])
        columns = [table[names[i]].cast(pa.string()).fill_null("").to_pylist() for i in chosen]
    except pa.ArrowException as error:
        raise DataError(
            f"{path} is damaged, or has no text in its columns; one that has the pictures themselves opens as "
            f"hf:{path.parent}"
        ) from error
    return [_row(path, cells, i) for i, cells in enumerate(zip(*columns, strict=True), start=1)]


def _choose(path: Path, columns: Sequence[str]) -> list[int]:
    """The positions of path, label and, if there is one, split."""
    lower = [column.strip().lower() for column in columns]
    found = [next((lower.index(name) for name in names if name in lower), None) for names in (PATH, LABEL, ("split",))]
    where, label, split = found
    if where is None or label is None:
        has = ", ".join(f"'{column}'" for column in columns) or "none"
        raise DataError(f"{path} needs a column 'path' and a column 'label' in its first line; it has {has}")
    return [where, label] if split is None else [where, label, split]


def _row(path: Path, cells: Sequence[str], line: int) -> Row:
    picture, label, *split = cells
    if not picture or not label:
        raise DataError(f"{path} has no {'label' if picture else 'path'} in line {line}; add it, or delete the line")
    return picture, label, split[0] if split else ""
