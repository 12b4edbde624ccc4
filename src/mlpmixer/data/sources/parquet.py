"""Images within .parquet files, as Hugging Face, pandas and shops keep them: one file, or a folder of many.

A column has the bytes of an image's file: plain, or as Hugging Face has it, with `bytes` and `path`. It is called as
in IMAGES, or is the only one of its kind. Labels are in a column called as in LABELS; their names, where they are
numbers, in what Hugging Face notes in the file, or in classes.txt beside it. `photos.parquet?image=foto&label=kind`
names columns that are called otherwise. The split is what a column `split` says, or the file's name, or its folder's.

An image is read with its row group, since that is how the format is made; some groups are kept for the next ones.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlpmixer.data.dataset import DataSet, Split
from mlpmixer.data.images import ImageInput
from mlpmixer.data.sources.folder import look
from mlpmixer.data.sources.lists import PATH, open_list, texts
from mlpmixer.data.sources.naming import SPLIT_WORDS, in_order, names_beside, number, split_within
from mlpmixer.errors import DataError, ImageError
from mlpmixer.files import open_regular, size
from mlpmixer.packages import require
from mlpmixer.text import first_line, printable

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

IMAGES = ("image", "image_data", "img", "picture", "photo", "bytes")
LABELS = ("label", "labels", "class", "target", "fine_label", "cls")
TOGETHER = 16  # images that are taken out of a group at once
MAX_GROUP = 1 << 30  # bytes of a group's images
MAX_EXPANSION = 20  # a group may claim this many times its file's size; images do not compress
KEPT = 1 << 28  # bytes of groups that a process keeps


class ParquetImages(Split):
    """Images in the rows of some files.

    Attributes:
        groups: (file, group in it) of each row group.
        ends: The end of each group among the rows of all files.
        rows: The row of each image among those of all files.
    """

    def __init__(
        self,
        files: Sequence[Path],
        column: str,
        groups: np.ndarray,
        ends: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
    ):
        self.files, self.column, self.labels = tuple(files), column, labels
        self.groups, self.ends, self.rows = groups, ends, rows
        self._kept: dict[int, _Group] = {}
        self._about: dict[int, FileMetaData] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}, "_about": {}}

    def read(self, index: int) -> ImageInput:
        group, row = self._place(index)
        found = self._kept.get(group)
        if found is None:
            found = self._read(group)
            # Another dictionary each time: threads that come at once cannot fill one beyond its measure.
            kept = {**self._kept, group: found}
            while len(kept) > 1 and sum(group.bytes for group in kept.values()) > KEPT:
                del kept[next(iter(kept))]
            self._kept = kept
        image = found[row]
        if isinstance(image, dict):  # of Hugging Face's: without bytes, a path
            path = image.get("path")
            image = image["bytes"] or (self._file(group).parent / path if path else None)
        if not image:
            raise ImageError(f"{self.where(index)} has no image")
        return image

    def where(self, index: int) -> str:
        group, row = self._place(index)
        first = int(np.searchsorted(self.groups[:, 0], self.groups[group, 0]))  # of the same file
        return f"{self._file(group)}, row {self._begin(group) - self._begin(first) + row}"

    def _file(self, group: int) -> Path:
        return self.files[self.groups[group, 0]]

    def _begin(self, group: int) -> int:
        return int(self.ends[group - 1]) if group else 0

    def _place(self, index: int) -> tuple[int, int]:
        row = int(self.rows[index])
        group = int(np.searchsorted(self.ends, row, side="right"))
        return group, row - self._begin(group)

    def _read(self, number: int) -> _Group:
        import pyarrow as pa
        from pyarrow import parquet

        file, group = self.groups[number].tolist()
        path, found = self.files[file], _Group()
        try:
            with parquet.ParquetFile(path, metadata=self._about.get(file)) as opened:
                self._about = {**self._about, file: opened.metadata}
                for batch in opened.iter_batches(TOGETHER, row_groups=[group], columns=[self.column]):
                    found.add(batch.column(0))
                    if found.bytes > MAX_GROUP:
                        raise ImageError(f"{path} has more than {size(MAX_GROUP)} in a row group, and did not say so")
        except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
            raise ImageError(f"{path} cannot be read ({first_line(error, 160)})") from error
        if len(found) != self.ends[number] - self._begin(number):
            raise ImageError(f"{path} has changed since it was opened")
        return found


class _Group:
    """The images of a row group, a few at a time: some bytes may stand for one large image again and again."""

    def __init__(self) -> None:
        self.columns: list[Any] = []
        self.ends: list[int] = []
        self.bytes = 0

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, row: int) -> Any:
        part = bisect_right(self.ends, row)
        return self.columns[part][row - (self.ends[part - 1] if part else 0)].as_py()

    def add(self, column: Any) -> None:
        column.validate(full=True)
        self.ends.append(len(self) + len(column))
        self.columns.append(column)
        self.bytes += column.nbytes


def is_parquet(path: Path) -> bool:
    """Whether it is a .parquet file, or a folder with some in it, in data/ or in folders called as splits."""
    return bool(_files(path))


def open_parquet(path: Path, columns: Mapping[str, str] | None = None, source: str = "") -> DataSet:
    """Open .parquet files; the arguments are those of `open_list`."""
    columns, source, files = columns or {}, source or str(path), _files(path)
    pa = require("pyarrow", extra="parquet", what=f"reading {path}")
    from pyarrow import parquet

    labels: dict[str, list[str]] = {}
    rows: dict[str, list[np.ndarray]] = {}
    groups, counts, names, before, image = [], [], None, 0, ""
    chosen: tuple[str, str, str | None] | None = None
    for number_of, file in enumerate(files):
        try:
            with open_regular(file) as opened:
                about = parquet.read_metadata(opened)
            schema = about.schema.to_arrow_schema()
            if chosen is None:
                found = _image_column(file, schema, columns.get("image"))
                if found is None and len(files) == 1:
                    return open_list(path, columns, source)
                if found is None:
                    raise _lacks(file, schema, "of images")
                label, split = _other_columns(file, schema, columns)
                chosen, names = (found, label, split), _class_names(schema, label)
            image, label, split = chosen
            if not {image, label, split or label} <= {*schema.names}:
                raise DataError(f"{file} has other columns than {files[0]}")
            _require_plausible(file, about, image, label, split)
            values = texts(file, label)
            usual = split_within(file.stem) or SPLIT_WORDS.get(file.parent.name.lower()) or "train"
            where = texts(file, split) if split else [usual] * len(values)
        except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
            raise DataError(f"{file} is damaged, or no Parquet ({first_line(error, 160)})") from error
        groups += [(number_of, group) for group in range(about.num_row_groups)]
        counts += [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        where = np.array(
            [SPLIT_WORDS.get(word.lower(), word) for word in (word or usual for word in where)], dtype=object
        )
        for word in dict.fromkeys(where.tolist()):
            here = np.flatnonzero(where == word)
            labels.setdefault(word, []).extend(values[row] or "-1" for row in here)
            rows.setdefault(word, []).append(here + before)
        before += len(values)
    # Where all labels of a split are missing or −1, they are not published.
    labels = {split: labels[split] for split in in_order(labels) if any(text != "-1" for text in labels[split])}
    if not labels:
        raise DataError(f"no image of {source} has a label")
    folder = path if path.is_dir() else path.parent
    classes, numbers = number(labels, source, names or names_beside(folder))
    places = np.array(groups, dtype=np.int64), np.cumsum(np.array(counts, dtype=np.int64))
    return DataSet(
        source,
        classes,
        {split: ParquetImages(files, image, *places, np.concatenate(rows[split]), numbers[split]) for split in labels},
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".parquet" and path.is_file() else []
    folders, names = look(path, (".parquet",))
    found = [path / name for name in names]
    if not folders:
        return found
    inner = []
    for folder in folders:
        if folder.lower() in SPLIT_WORDS or folder == "data":
            deeper, names = look(path / folder, (".parquet",))
            inner += [] if deeper else [path / folder / name for name in names]
    return found + inner if inner else []  # the folders may be classes


def _image_column(file: Path, schema: Any, asked: str | None) -> str | None:
    from pyarrow import types

    def has_bytes(kind: Any) -> bool:
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        return types.is_binary(kind) or types.is_large_binary(kind)

    no_images = {*PATH, *LABELS} - {*IMAGES}  # some programs write texts as bytes
    found = [field.name for field in schema if has_bytes(field.type) and field.name.lower() not in no_images]
    if asked is not None:
        if asked not in schema.names:
            raise _lacks(file, schema, f"'{asked}'")
        return asked if asked in found else None
    usual = [name for wanted in IMAGES for name in found if name.lower() == wanted]
    return usual[0] if usual else found[0] if len(found) == 1 else None


def _other_columns(file: Path, schema: Any, asked: Mapping[str, str]) -> tuple[str, str | None]:
    lower = {name.lower(): name for name in schema.names}
    label = asked.get("label") or next((lower[name] for name in LABELS if name in lower), None)
    split = asked.get("split") or lower.get("split")
    for name in (label, split):
        if name is not None and name not in schema.names:
            raise _lacks(file, schema, f"'{name}'")
    if label is None:
        raise _lacks(file, schema, "of labels")
    return label, split


def _lacks(file: Path, schema: Any, what: str) -> DataError:
    has = printable(", ".join(schema.names), 300)
    return DataError(
        f"{file} has no column {printable(what, 80)}, but {has}; say which with {file.name}?image=NAME&label=NAME"
    )


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """As Hugging Face notes them in the file."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (LookupError, ValueError, TypeError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) else None


def _require_plausible(file: Path, about: FileMetaData, image: str, *others: str | None) -> None:
    there = file.stat().st_size
    if about.num_rows > there:
        raise DataError(f"{file} claims {about.num_rows:,} rows, more than it has bytes; it is damaged or hostile")
    for group in range(about.num_row_groups):
        claimed: Counter[str] = Counter()
        for i in range(about.num_columns):
            chunk = about.row_group(group).column(i)
            claimed[chunk.path_in_schema.split(".")[0]] += chunk.total_uncompressed_size
        if claimed[image] > MAX_GROUP:
            raise DataError(
                f"{file} has a row group of {size(claimed[image])}, and all of it is read for one image; write it "
                "anew with small ones, such as row_group_size=100 with pandas"
            )
        if (most := max(claimed[name or image] for name in (image, *others))) > max(MAX_EXPANSION * there, 1 << 24):
            raise DataError(f"{file} claims that {size(most)} are packed in {size(there)}; it is damaged or hostile")
