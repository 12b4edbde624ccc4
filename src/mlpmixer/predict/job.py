"""Very many images into a file: gone on with after any end, and left in order by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mlpmixer import files
from mlpmixer.errors import ImageError, RunError, UsageError
from mlpmixer.predict import embeddings, writers
from mlpmixer.predict.predictor import Prediction, Predictor
from mlpmixer.predict.resume_index import Seen
from mlpmixer.predict.writers import Format, Record, Writer

Piece = list[tuple[str, Prediction | ImageError]]

CLOSE = 0.05  # what an engine may change of a score


@dataclass
class Output:
    """`file`: None, if it is standard output. `seen`: the images that an earlier run wrote. `held`: until it is
    closed."""

    writer: Writer
    file: Path | None = None
    embeddings: embeddings.Embeddings | None = None
    seen: Seen | None = None
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def still_to_do(self, paths: Iterable[str], skipped: Callable[[], object]) -> Iterator[str]:
        for path in paths:
            if self.seen is not None and writers.spelled(path) in self.seen:
                skipped()
            else:
                yield path

    def write(self, answers: Iterable[tuple[str, Prediction]]) -> None:
        """What was written outlives this process."""
        answers = list(answers)
        if self.embeddings is not None:  # before the answers that they belong to
            with self._room(self.embeddings.path):
                for _, found in answers:
                    assert found.embedding is not None
                    self.embeddings.write(found.embedding)
                self.embeddings.flush()
        with self._room(self.file):
            for path, found in answers:
                self.writer.write(path, found)
            self.writer.flush()

    def close(self) -> None:
        with uninterrupted(), self.held:
            try:
                if self.embeddings is not None:
                    with self._room(self.embeddings.path):
                        self.embeddings.close()
            finally:
                with self._room(self.file):
                    self.writer.close()

    @contextlib.contextmanager
    def _room(self, path: Path | None) -> Iterator[None]:
        """None: standard output, whose end is the affair of the command."""
        try:
            yield
        except OSError as error:
            if path is None:
                raise
            why = str(error) if error.errno is None else os.strerror(error.errno)
            goes_on = ", and the same command with --resume goes on" if self.file else ""
            raise RunError(f"{path} cannot be written: {why}; make room{goes_on}") from None


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
    with contextlib.ExitStack() as stack:
        for path in (file, rows):
            if path is not None:
                stack.enter_context(_alone(path))
        output = _opened(file, kind, rows, resume, top, width, predictor)
        output.held = stack.pop_all()
        return output


def to_standard_output(writer: Writer, rows: Path | None, width: int) -> Output:
    """`rows`: a new file for embeddings."""
    if rows is None:
        return Output(writer)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(rows))
        if rows.exists():
            raise UsageError(f"{rows} is there already; remove it, or choose another name")
        return Output(writer, embeddings=embeddings.Embeddings(rows, width), held=stack.pop_all())


def _opened(
    file: Path,
    kind: Format,
    rows: Path | None,
    resume: bool,
    top: int,
    width: int,
    predictor: Callable[[], Predictor],
) -> Output:
    if not resume:
        for path in (file, rows):
            if path is not None and path.exists():
                raise UsageError(f"{path} is there already; go on with it with --resume, or remove it")
    if not file.exists():
        return Output(writers.new(file, kind, top), file, rows and embeddings.Embeddings(rows, width))
    there, last = 0, None
    for record in writers.records(file, kind):
        there, last = there + 1, record
    if last is not None:
        _require_the_same(last, file, top, predictor)
    if rows is not None:
        if there and not rows.exists():
            raise UsageError(f"{file} has {there:,} answers, and {rows} is not there; go on without --embeddings")
        there = min(there, embeddings.rows_in(rows, width))
    writer = writers.go_on(file, kind, top, there)
    names = (writers.spelled(record.path) for record in islice(writers.records(file, kind), writer.rows))
    table = None if rows is None else embeddings.Embeddings(rows, width, writer.rows if rows.exists() else None)
    return Output(writer, file, table, Seen(names))


def _require_the_same(last: Record, file: Path, top: int, predictor: Callable[[], Predictor]) -> None:
    """That the model and the options are those of the run that began."""
    if last.labels != top:
        raise UsageError(f"{file} has {last.labels} labels for each image, not {top}; go on with --top {last.labels}")
    try:
        found = predictor()(last.path)
    except ImageError:  # is gone since, or its name is no text
        return
    scores = {writers.spelled(label): score for label, score in found.top}
    if abs(scores.get(writers.spelled(last.label), 0.0) - last.score) > CLOSE:
        raise UsageError(
            f"{file} is of another model or other options: it calls {last.path} {last.label} ({last.score:.1%}), "
            f"and this run {found.label} ({found.score:.1%})"
        )


def write_all(
    pieces: Iterable[Piece],
    output: Output,
    *,
    first: Callable[[], object],
    broken: Callable[[ImageError], object],
    done: Callable[[int], object],
) -> None:
    """`first` is called before the first image is written, `broken` for each that cannot be, `done` with how many
    more are through."""
    begun = False
    for piece in pieces:
        with uninterrupted():
            answers: list[tuple[str, Prediction]] = []
            for path, found in piece:
                if isinstance(found, ImageError):
                    broken(found)
                else:
                    answers.append((path, found))
            if answers and not begun:
                begun = True
                first()
            output.write(answers)
        done(len(piece))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process writes there meanwhile. What is locked is a file beside it, and the lock ends with this process,
    however that ends."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            itself = path.resolve()
            stack.enter_context(files.locked(itself.with_name(f".{itself.name}.lock"), remove=True))
        except BlockingIOError:
            raise RunError(f"another process is writing {path}; wait for it, or choose another name") from None
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        yield


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
