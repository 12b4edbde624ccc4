"""Output formats of `mixer predict`, a row each. A new one is a class with `Writer`'s methods and a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mlpmixer.errors import UsageError
from mlpmixer.predict import parquet, writers
from mlpmixer.predict.record import Record, Writer


@dataclass(frozen=True)
class Files:
    """A format's files.

    Attributes:
        endings: What their names end with.
        new: (path, labels of an image) → a writer of a new file.
        records: path → what is in a file that an earlier run wrote, without a last entry that was cut off.
        resume: (path, labels, rows) → a writer after the first `rows` images; what is behind them is deleted.
    """

    endings: tuple[str, ...]
    new: Callable[[Path, int], Writer]
    records: Callable[[Path], Iterator[Record]]
    resume: Callable[[Path, int, int], Writer]


@dataclass(frozen=True)
class Format:
    """`stream`: (an open text file, labels of an image) → a writer. None: it has no stream, or no files."""

    stream: Callable[[TextIO, int], Writer] | None
    files: Files | None


def _lines(kind: type[writers.Lines], *endings: str) -> Format:
    return Format(kind, Files(endings, kind.new, kind.records, kind.resume))


FORMATS = {
    "table": Format(writers.Table, None),
    "json": _lines(writers.JsonLines, ".json", ".jsonl"),
    "csv": _lines(writers.Csv, ".csv"),
    "parquet": Format(None, Files((".parquet",), parquet.new, parquet.records, parquet.resume)),
}


def format_of(path: Path) -> str:
    """The format that a file's ending stands for."""
    endings = {ending: name for name, row in FORMATS.items() if row.files for ending in row.files.endings}
    try:
        return endings[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"cannot tell the output format from '{path.name}'; end it with {', '.join(endings)}, or give --json or "
            "--csv"
        ) from None


def files_of(name: str) -> Files:
    if (files := FORMATS[name].files) is None:
        raise UsageError(f"the format {name} is for a terminal, not for files")
    return files


def stream_of(name: str) -> Callable[[TextIO, int], Writer]:
    if (stream := FORMATS[name].stream) is None:
        raise UsageError(f"the format {name} is written into files, not to standard output")
    return stream
