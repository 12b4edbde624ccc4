"""Answers as lines of a file, which a run that was killed at any moment can go on with.

What is in the file is done. Lines are handed to the system batch by batch, and only the last can be cut off; it is
taken away, and its image answered anew. (What the machine itself loses as it crashes is answered anew, too.)
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, TextIO

from mlpmixer.errors import DataError, UsageError
from mlpmixer.predict.predictor import Prediction

Format = Literal["json", "csv", "parquet"]

ENDINGS: dict[str, Format] = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Record:
    """What was written of an image."""

    path: str
    label: str
    score: float
    labels: int


class Writer(Protocol):
    """`rows`: how many images are written."""

    rows: int

    def write(self, path: str, found: Prediction) -> None: ...

    def flush(self) -> None:
        """After each batch: what was written outlives this process."""
        ...

    def close(self) -> None: ...


class JsonLines:
    """An object an image, a line each."""

    def __init__(self, stream: TextIO, rows: int = 0):
        self.stream, self.rows = stream, rows

    def write(self, path: str, found: Prediction) -> None:
        top = [{"label": label, "score": score} for label, score in found.top]
        said = {"path": path, "label": found.label, "score": found.score, "top": top}
        line = json.dumps(said, ensure_ascii=False, allow_nan=False)
        # A name that is no text, or that a terminal would act on, is escaped, and comes back as it was.
        self.stream.write((line if line.isprintable() else json.dumps(said)) + "\n")
        self.rows += 1

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        _close(self.stream)


class Csv:
    """A line an image, after one with the names of the columns: path, label, score, label_2, score_2 and so on.

    Scores have six digits.
    """

    def __init__(self, stream: TextIO, top: int, rows: int = 0, *, head: bool = True):
        self.stream, self.rows = stream, rows
        if head:
            places = range(2, top + 1)
            self._write(["path", "label", "score", *(f"{n}_{i}" for i in places for n in ("label", "score"))])

    def write(self, path: str, found: Prediction) -> None:
        pairs = ((spelled(label), f"{score:.6g}") for label, score in found.top)
        self._write([spelled(path), *(cell for pair in pairs for cell in pair)])
        self.rows += 1

    def _write(self, cells: list[str]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\r\n").writerow(cells)  # which has both quoted, within a name
        self.stream.write(line.getvalue().removesuffix("\r\n") + "\n")

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        _close(self.stream)


def spelled(path: str) -> str:
    r"""A name that is no text, as text: with \udce9 and the like in it."""
    return path if _is_text(path) else path.encode("utf-8", "backslashreplace").decode()


def format_of(path: Path) -> Format:
    try:
        return ENDINGS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"'{path.name}' does not say what it is to be; end it with {', '.join(ENDINGS)}, or say --json or --csv"
        ) from None


def new(path: Path, kind: Format, top: int) -> Writer:
    if kind == "parquet":
        from mlpmixer.predict.parquet import Parquet

        return Parquet(path)
    stream = _opened(path, "w")
    return JsonLines(stream) if kind == "json" else Csv(stream, top)


def records(path: Path, kind: Format) -> Iterator[Record]:
    """What is in a file that an earlier run wrote, without a last line that was cut off."""
    if kind == "parquet":
        from mlpmixer.predict import parquet

        yield from parquet.records(path)
        return
    for number, (line, _) in enumerate(_whole_lines(path, kind)):
        if kind == "csv" and number == 0:
            continue
        try:
            yield _record(line, kind)
        except (ValueError, KeyError, TypeError, StopIteration):
            raise DataError(f"{path} is not what `mixer predict` writes, from its entry {number + 1} on") from None


def go_on(path: Path, kind: Format, top: int, rows: int) -> Writer:
    """After the first `rows` images in the file, or fewer; what is behind them is taken away."""
    if kind == "parquet":
        from mlpmixer.predict import parquet

        return parquet.Parquet(path, parquet.cut(path, rows))
    end, lines = 0, 0
    head = 1 if kind == "csv" else 0
    for _, after in _whole_lines(path, kind):
        if lines == head + rows:
            break
        end, lines = after, lines + 1
    stream = _opened(path, "r+")
    stream.truncate(end)
    stream.seek(0, io.SEEK_END)
    return JsonLines(stream, rows) if kind == "json" else Csv(stream, top, rows, head=end == 0)


def _record(line: str, kind: Format) -> Record:
    if kind == "json":
        found = json.loads(line)
        labels = [pair["label"] for pair in found["top"]]
        return Record(found["path"], found["label"], float(found["score"]), len(labels))
    path, label, score, *others = next(csv.reader(io.StringIO(line, newline="")))
    return Record(path, label, float(score), 1 + len(others) // 2)


def _whole_lines(path: Path, kind: Format) -> Iterator[tuple[str, int]]:
    """Each entry that is there to its end, and at which byte that is."""
    entry, end = b"", 0
    with _opened_bytes(path) as file:
        for line in file:
            entry += line
            # In a CSV, a name may go over several lines, within quotes.
            if entry.endswith(b"\n") and (kind == "json" or entry.count(b'"') % 2 == 0):
                end += len(entry)
                yield entry.decode("utf-8", "surrogateescape"), end
                entry = b""


def _close(stream: TextIO) -> None:
    if stream is not sys.stdout:
        stream.close()


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _opened(path: Path, mode: str) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode, encoding="utf-8", newline="", buffering=1 << 16)  # pyright: ignore[reportReturnType]
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _opened_bytes(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
