"""Predictions as lines of text, which a run that was killed at any moment can resume.

What is in the file is done. Lines are handed to the system batch by batch, and only the last can be cut off; it is
deleted, and its image predicted again. (So are those that the machine itself loses as it crashes.)
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self, TextIO

from mlpmixer.errors import DataError, UsageError
from mlpmixer.predict.predictor import Prediction
from mlpmixer.predict.record import Record, spelled
from mlpmixer.text import printable

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # how a cell begins that a spreadsheet would compute
NUMBER = re.compile(r"[+-]?[0-9.]+")  # may stay as it is
SEPARATOR = ", "  # of other classes
GAPS = 7  # columns of a table's line that are between its cells


class Lines(ABC):
    """A writer of text, an entry for each image."""

    heading: ClassVar[bool] = False  # the first line has the names of the columns

    def __init__(self, stream: TextIO, top: int, rows: int = 0):
        self.stream, self.top, self.rows = stream, top, rows

    @classmethod
    def new(cls, path: Path, top: int) -> Self:
        return cls(_open(path, "w"), top)

    @classmethod
    def resume(cls, path: Path, top: int, rows: int) -> Self:
        """After the first `rows` images in the file, or fewer."""
        end, lines = 0, 0
        for _, after in cls._entries(path):
            if lines == cls.heading + rows:
                break
            end, lines = after, lines + 1
        stream = _open(path, "r+")
        stream.truncate(end)
        stream.seek(0, io.SEEK_END)
        return cls(stream, top, rows) if end or not cls.heading else cls(stream, top)

    @classmethod
    def records(cls, path: Path) -> Iterator[Record]:
        for number, (entry, _) in enumerate(cls._entries(path)):
            if number >= cls.heading:
                try:
                    yield cls._record(entry)
                except (ValueError, KeyError, TypeError, StopIteration):
                    raise DataError(f"{path} was not written by `mixer predict`: see its entry {number + 1}") from None

    @abstractmethod
    def write(self, path: str, found: Prediction) -> None: ...

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        if self.stream is not sys.stdout:
            self.stream.close()

    @classmethod
    @abstractmethod
    def _record(cls, entry: str) -> Record: ...

    @classmethod
    def _is_whole(cls, entry: bytes) -> bool:
        return entry.endswith(b"\n")

    @classmethod
    def _entries(cls, path: Path) -> Iterator[tuple[str, int]]:
        """Each entry that is there to its end, and at which byte that is."""
        entry, end = b"", 0
        try:
            file = path.open("rb")
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        with file:
            for line in file:
                entry += line
                if cls._is_whole(entry):
                    end += len(entry)
                    yield entry.decode("utf-8", "surrogateescape"), end
                    entry = b""


class JsonLines(Lines):
    """A JSON object for each image, a line each."""

    def write(self, path: str, found: Prediction) -> None:
        top = [{"label": label, "score": score} for label, score in found.top]
        entry = {"path": path, "label": found.label, "score": found.score, "top": top}
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
        # A name that is no text, or that a terminal would act on, is escaped, and comes back as it was.
        self.stream.write((line if line.isprintable() else json.dumps(entry)) + "\n")
        self.rows += 1

    @classmethod
    def _record(cls, entry: str) -> Record:
        found = json.loads(entry)
        labels = [pair["label"] for pair in found["top"]]
        return Record(found["path"], found["label"], float(found["score"]), len(labels))


def to_cell(name: str) -> str:
    """A name as text in a spreadsheet, whatever it is: classes of strangers may be called =HYPERLINK(…)."""
    return f"'{spelled(name)}" if _is_formula(name) else spelled(name)


def of_cell(cell: str) -> str:
    """The name that was written so."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(name: str) -> bool:
    return FORMULA.match(name) is not None and not NUMBER.fullmatch(name)


class Csv(Lines):
    """A line for each image, after one with the names of the columns: path, label, score, label_2, score_2 and so on.

    Scores have six digits. A name that a spreadsheet would take for a formula has an apostrophe before it.
    """

    heading = True

    def __init__(self, stream: TextIO, top: int, rows: int | None = None):
        """`rows` None: nothing is written yet, not even the names of the columns."""
        super().__init__(stream, top, rows or 0)
        if rows is None:
            ranks = range(2, top + 1)
            self._write(["path", "label", "score", *(f"{n}_{i}" for i in ranks for n in ("label", "score"))])

    def write(self, path: str, found: Prediction) -> None:
        pairs = ((to_cell(label), f"{score:.6g}") for label, score in found.top)
        self._write([to_cell(path), *(cell for pair in pairs for cell in pair)])
        self.rows += 1

    def _write(self, cells: list[str]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\r\n").writerow(cells)  # which has both quoted, within a name
        self.stream.write(line.getvalue().removesuffix("\r\n") + "\n")

    @classmethod
    def _record(cls, entry: str) -> Record:
        path, label, score, *others = next(csv.reader(io.StringIO(entry, newline="")))
        return Record(of_cell(path), of_cell(label), float(score), 1 + len(others) // 2)

    @classmethod
    def _is_whole(cls, entry: bytes) -> bool:
        """A name may go over several lines, within quotes."""
        return super()._is_whole(entry) and entry.count(b'"') % 2 == 0


class Table:
    """A table for people, as wide as the first rows need it, and on a terminal as wide as that at most: then paths are
    shortened in the middle, and other classes are left out."""

    def __init__(self, stream: TextIO, top: int):
        self.stream, self.top, self.rows = stream, top, 0
        self._most = shutil.get_terminal_size().columns if stream.isatty() else None
        self._waiting: list[tuple[str, ...]] = []
        self._widths: list[int] = []

    def write(self, path: str, found: Prediction) -> None:
        others = [f"{printable(label)} {score:.1%}" for label, score in found.top[1:]]
        self._waiting.append((printable(path), printable(found.label), f"{found.score:.1%}", SEPARATOR.join(others)))
        self.rows += 1

    def flush(self) -> None:
        if self._waiting and not self._widths:
            head = ("image", "label", "score", "other classes")
            self._widths = self._fitting([max(map(len, column)) for column in zip(head, *self._waiting, strict=True)])
            rule = "─" * (sum(self._widths) + GAPS - 1)
            self.stream.write(f"\n{self._line(head)} {rule}\n")
        self.stream.writelines(map(self._line, self._waiting))
        self._waiting = []
        self.stream.flush()

    def close(self) -> None:
        self.flush()
        if self.rows:
            self.stream.write("\n")

    def _fitting(self, widths: list[int]) -> list[int]:
        """The widths of the columns in a terminal: the path takes half of what labels and scores leave, at most."""
        if self._most is None:
            return widths
        path, label, score, others = widths
        label = min(label, self._most // 3)
        room = max(0, self._most - label - score - GAPS)
        path = min(path, max(room // 2, room - others))
        return [path, label, score, min(others, room - path)]

    def _line(self, row: tuple[str, ...]) -> str:
        path, label, score, others = self._widths
        cells = [*row]
        if self._most is not None:
            cells = [shortened(row[0], path), printable(row[1], label), row[2], _whole(row[3], others)]
        return f" {cells[0]:{path}}  {cells[1]:{label}}  {cells[2]:>{score}}  {cells[3]:{others}}".rstrip() + "\n"


def shortened(path: str, width: int) -> str:
    """The path in so many characters: its beginning, an ellipsis and its end, which names the file."""
    if len(path) <= width:
        return path
    end = max(0, width - 1 - width // 3)
    return path[: max(0, width - 1 - end)] + "…"[:width] + path[len(path) - end :]


def _whole(others: str, width: int) -> str:
    """As many of the other classes as fit."""
    return others if len(others) <= width else others[: others.rfind(SEPARATOR, 0, width + 1)] if width else ""


def _open(path: Path, mode: str) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode, encoding="utf-8", newline="", buffering=1 << 16)  # pyright: ignore[reportReturnType]
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
