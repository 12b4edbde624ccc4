"""Very many pictures into a file: gone on with after any end, and left in order by Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mlpmixer.errors import PictureError, UsageError
from mlpmixer.predict import embeddings, written
from mlpmixer.predict.predictor import Prediction, Predictor
from mlpmixer.predict.seen import Seen
from mlpmixer.predict.written import Format, Record, Writer

Piece = list[tuple[str, Prediction | PictureError]]

CLOSE = 0.05  # what an engine may change of a score


@dataclass
class Output:
    """`file`: None, if it is standard output. `seen`: the pictures that an earlier run wrote."""

    writer: Writer
    file: Path | None = None
    embeddings: embeddings.Embeddings | None = None
    seen: Seen | None = None

    def still_to_do(self, paths: Iterable[str], skipped: Callable[[], object]) -> Iterator[str]:
        for path in paths:
            if self.seen is not None and written.spelled(path) in self.seen:
                skipped()
            else:
                yield path

    def close(self) -> None:
        with uninterrupted():
            if self.embeddings is not None:
                self.embeddings.close()
            self.writer.close()


def open_output(
    file: Path,
    kind: Format,
    rows: Path | None,
    *,
    resume: bool,
    top: int,
    width: int,
    predictor: Callable[[], Predictor],
) -> Output:
    """`rows`: the file for embeddings, of `width` numbers each. `predictor` is asked for only where there is something
    to go on with, to see whether it says the same."""
    if not resume:
        for path in (file, rows):
            if path is not None and path.exists():
                raise UsageError(f"{path} is there already; go on with it with --resume, or remove it")
    if not file.exists():
        return Output(written.new(file, kind, top), file, rows and embeddings.Embeddings(rows, width))
    there, last = 0, None
    for record in written.records(file, kind):
        there, last = there + 1, record
    if last is not None:
        _require_the_same(last, file, top, predictor)
    if rows is not None:
        if there and not rows.exists():
            raise UsageError(f"{file} has {there:,} answers, and {rows} is not there; go on without --embeddings")
        there = min(there, embeddings.rows_in(rows, width))
    writer = written.go_on(file, kind, top, there)
    names = (written.spelled(record.path) for record in islice(written.records(file, kind), writer.rows))
    table = None if rows is None else embeddings.Embeddings(rows, width, writer.rows if rows.exists() else None)
    return Output(writer, file, table, Seen(names))


def new_embeddings(path: Path | None, width: int) -> embeddings.Embeddings | None:
    if path is None:
        return None
    if path.exists():
        raise UsageError(f"{path} is there already; remove it, or choose another name")
    return embeddings.Embeddings(path, width)


def _require_the_same(last: Record, file: Path, top: int, predictor: Callable[[], Predictor]) -> None:
    """That the model and the options are those of the run that began."""
    if last.labels != top:
        raise UsageError(f"{file} has {last.labels} labels for each picture, not {top}; go on with --top {last.labels}")
    try:
        found = predictor()(last.path)
    except PictureError:  # is gone since, or its name is no text
        return
    if abs(dict(found.top).get(last.label, 0.0) - last.score) > CLOSE:
        raise UsageError(
            f"{file} is of another model or other options: it calls {last.path} {last.label} ({last.score:.1%}), "
            f"and this run {found.label} ({found.score:.1%})"
        )


def write_all(
    pieces: Iterable[Piece],
    output: Output,
    *,
    first: Callable[[], object],
    broken: Callable[[PictureError], object],
    done: Callable[[int], object],
) -> None:
    """`first` is called before the first picture is written, `broken` for each that cannot be, `done` with how many
    more are through."""
    begun = False
    for piece in pieces:
        with uninterrupted():
            for path, found in piece:
                if isinstance(found, PictureError):
                    broken(found)
                    continue
                if not begun:
                    begun = True
                    first()
                if output.embeddings is not None:
                    assert found.embedding is not None
                    output.embeddings.write(found.embedding)
                output.writer.write(path, found)
            if output.embeddings is not None:
                output.embeddings.flush()  # before the answers that they belong to
            output.writer.flush()
        done(len(piece))


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C is heard when this is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if heard:
        signal.raise_signal(signal.SIGINT)
