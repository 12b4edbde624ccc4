"""The output of `mixer predict`: predictions and embeddings, which one process at a time writes, and any can resume."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mlpmixer import files
from mlpmixer.errors import ImageError, RunError, UsageError
from mlpmixer.predict import embeddings
from mlpmixer.predict.formats import Files, files_of, stream_of
from mlpmixer.predict.predictor import Prediction, Predictor
from mlpmixer.predict.record import Record, Writer, spelled
from mlpmixer.predict.resume_index import ResumeIndex

CLOSE = 0.05  # what an engine may change of a score


@dataclass
class Output:
    """An open output.

    Attributes:
        writer: Of predictions.
        path: None: standard output.
        embeddings: Their file, if they are written.
        before: The images that an earlier run wrote.
        held: Locks, until it is closed.
    """

    writer: Writer
    path: Path | None = None
    embeddings: embeddings.Embeddings | None = None
    before: ResumeIndex = field(default_factory=lambda: ResumeIndex(()))
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def still_to_do(self, paths: Iterable[str], skipped: Callable[[], object]) -> Iterator[str]:
        for path in paths:
            if spelled(path) in self.before:
                skipped()
            else:
                yield path

    def write(self, predictions: Iterable[tuple[str, Prediction]]) -> None:
        """What was written outlives this process."""
        predictions = list(predictions)
        if self.embeddings is not None:  # before the predictions that they belong to
            with self._room(self.embeddings.path):
                for _, found in predictions:
                    assert found.embedding is not None
                    self.embeddings.write(found.embedding)
                self.embeddings.flush()
        with self._room(self.path):
            for path, found in predictions:
                self.writer.write(path, found)
            self.writer.flush()

    def close(self) -> None:
        with uninterrupted(), self.held:
            try:
                if self.embeddings is not None:
                    with self._room(self.embeddings.path):
                        self.embeddings.close()
            finally:
                with self._room(self.path):
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
            resume = ", then run the same command with --resume" if self.path else ""
            raise RunError(f"{path} cannot be written: {why}; make room{resume}") from None


def open_output(path: Path | None, form: str, rows: Path | None, predictor: Predictor, *, resume: bool) -> Output:
    """An output for this process alone.

    Args:
        path: The file of predictions; None: standard output.
        form: One of `FORMATS`.
        rows: The .npy file of embeddings, if they are wanted.
        predictor: What will predict. Where there is something to resume, it must predict the same.
        resume: Append to files that exist, instead of refusing them.

    Raises:
        UsageError: A file exists, or cannot be resumed.
        RunError: Another process is writing there.
    """
    with contextlib.ExitStack() as stack:
        existing = [one for one in (path, rows) if one is not None and _locked(one, stack) and one.exists()]
        if existing and not resume:
            way = "resume it with --resume, or remove it" if path else "remove it, or choose another name"
            raise UsageError(f"{existing[0]} exists; {way}")
        if path is not None and path.exists():
            output = _resumed(path, files_of(form), rows, predictor)
        else:
            if path is not None:
                writer = files_of(form).new(path, predictor.top)
            else:
                writer = stream_of(form)(sys.stdout, predictor.top)
            output = Output(writer, path, rows and embeddings.Embeddings(rows, predictor.width))
        output.held = stack.pop_all()
        return output


def _resumed(path: Path, form: Files, rows: Path | None, predictor: Predictor) -> Output:
    count, last = 0, None
    for record in form.records(path):
        count, last = count + 1, record
    if last is not None:
        _require_the_same(last, path, predictor)
    if rows is not None:
        if count and not rows.exists():
            raise UsageError(f"{path} has {count:,} predictions, and there is no {rows}; resume without --embeddings")
        count = min(count, embeddings.rows_in(rows, predictor.width))
    writer = form.resume(path, predictor.top, count)
    names = (spelled(record.path) for record in islice(form.records(path), writer.rows))
    kept = writer.rows if rows is not None and rows.exists() else None
    table = rows and embeddings.Embeddings(rows, predictor.width, kept)
    return Output(writer, path, table, ResumeIndex(names))


def _require_the_same(last: Record, path: Path, predictor: Predictor) -> None:
    """That the model and the options are those of the run that began."""
    if last.labels != predictor.top:
        raise UsageError(
            f"{path} has {last.labels} labels for each image, not {predictor.top}; resume with --top {last.labels}"
        )
    try:
        found = predictor(last.path)
    except ImageError:  # is gone since, or its name is no text
        return
    scores = {spelled(label): score for label, score in found.top}
    if abs(scores.get(spelled(last.label), 0.0) - last.score) > CLOSE:
        raise UsageError(
            f"{path} is of another model or other options: it has {last.path} as {last.label} ({last.score:.1%}), "
            f"and this run as {found.label} ({found.score:.1%})"
        )


def _locked(path: Path, stack: contextlib.ExitStack) -> bool:
    stack.enter_context(_alone(path))
    return True


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
    """Ctrl-C takes effect when this is over."""
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
