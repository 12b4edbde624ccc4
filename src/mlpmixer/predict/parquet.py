"""Predictions as a Parquet data set: a folder of parts, which pandas, Arrow, DuckDB and Spark read as one table.

A Parquet file cannot be added to, and is worth nothing before it is whole. So each part is written under another name
and then renamed; a run that is killed loses the part that it was about to write, and predicts those images again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlpmixer import files, packages
from mlpmixer.errors import DataError, UsageError
from mlpmixer.predict.predictor import Prediction
from mlpmixer.predict.record import Record, spelled

ROWS = 2000  # of a part


class Parquet:
    """`rows`: how many are in the parts that are there already."""

    def __init__(self, folder: Path, rows: int = 0):
        self._arrow = _arrow()
        pair = self._arrow.struct([("label", self._arrow.string()), ("score", self._arrow.float64())])
        columns = [("path", "string"), ("label", "string"), ("score", "float64")]
        kinds = [(name, getattr(self._arrow, kind)()) for name, kind in columns]
        self._schema = self._arrow.schema([*kinds, ("top", self._arrow.list_(pair))])
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
        self.folder, self.rows = folder, rows
        self._waiting: list[dict[str, Any]] = []
        self._number = len(_parts(folder))
        for left in folder.glob(".*.part"):
            left.unlink()

    def write(self, path: str, found: Prediction) -> None:
        top = [{"label": spelled(label), "score": score} for label, score in found.top]
        self._waiting.append({"path": spelled(path), "label": spelled(found.label), "score": found.score, "top": top})
        self.rows += 1

    def flush(self) -> None:
        if len(self._waiting) >= ROWS:
            self._write_part()

    def close(self) -> None:
        if self._waiting or self._number == 0:
            self._write_part()

    def _write_part(self) -> None:
        import pyarrow.parquet

        table = self._arrow.Table.from_pylist(self._waiting, schema=self._schema)
        with files.whole(self.folder / f"part-{self._number:06}.parquet") as part:
            pyarrow.parquet.write_table(table, part)
        self._waiting, self._number = [], self._number + 1


def new(folder: Path, top: int) -> Parquet:  # noqa: ARG001 (a column holds any number of labels)
    return Parquet(folder)


def resume(folder: Path, top: int, rows: int) -> Parquet:  # noqa: ARG001
    """After the first `rows` images, or fewer: a part is kept or deleted as a whole."""
    _arrow()
    import pyarrow.parquet

    counts = {part: pyarrow.parquet.read_metadata(part).num_rows for part in _parts(folder)}
    while sum(counts.values()) > rows:
        part, _ = counts.popitem()
        part.unlink()
    return Parquet(folder, sum(counts.values()))


def records(folder: Path) -> Iterator[Record]:
    arrow = _arrow()
    import pyarrow.parquet

    for part in _parts(folder):
        try:
            for row in pyarrow.parquet.read_table(part).to_pylist():
                yield Record(row["path"], row["label"], row["score"], len(row["top"]))
        except (arrow.ArrowException, KeyError, TypeError, OSError):
            raise DataError(f"{part} was not written by `mixer predict`") from None


def _parts(folder: Path) -> list[Path]:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; Parquet is written into a folder of parts")
    return sorted(folder.glob("part-*.parquet"))


def _arrow() -> Any:
    return packages.require("pyarrow", extra="parquet", what="Parquet")
