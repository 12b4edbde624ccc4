"""`mixer predict`: what is in these images?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mlpmixer.cli.output import one_of
from mlpmixer.cli.progress import Bar
from mlpmixer.engines.table import ENGINES, precisions
from mlpmixer.errors import DataError, ImageError, RunStopped, UsageError
from mlpmixer.text import printable
from mlpmixer.weights.bundled import DEFAULT

if TYPE_CHECKING:
    from mlpmixer.models.classifier import Classifier
    from mlpmixer.predict.job import Output
    from mlpmixer.predict.predictor import Prediction, Predictor
    from mlpmixer.predict.writers import Format, Writer

MANY = 1000  # images for which it pays to find out which engine is the fastest


def predict(
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER|-...")],
    /,
    weights: Annotated[str, tyro.conf.arg(metavar="RUN|FILE|NAME")] = DEFAULT,
    top: int = 5,
    json: bool = False,
    csv: bool = False,
    parquet: bool = False,
    output: Path | None = None,
    resume: bool = False,
    embeddings: Path | None = None,
    tta: Literal["none", "flip", "crops"] = "none",
    strict: bool = False,
    engine: Annotated[str, one_of(("auto", *ENGINES))] = "auto",
    precision: Annotated[str, one_of(("auto", *precisions()))] = "auto",
    device: str = "auto",
    batch: int = 32,
    null: Annotated[bool, tyro.conf.arg(aliases=["-0"])] = False,
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None,
) -> None:
    """Name what is in images.

    Args:
        images: Image files, folders with images somewhere below them, or - for paths on standard input, one a
            line.
        weights: A run folder, a file of weights, or a name from `mixer models --weights`; by default the small model
            that comes with the package, which knows the ten classes of CIFAR-10.
        top: How many labels for each image.
        json: A line of JSON for each image.
        csv: A line of CSV for each image, after one with the names of the columns.
        parquet: Parquet; needs --output, which becomes a folder of parts.
        output: Write into this file instead of to standard output; its ending tells the form, too.
        resume: Go on with --output where a run ended, however it did: what is in the file is done.
        embeddings: Write what the model's head is given into this .npy file, a row for each image that is answered.
        tta: Average over several views of each image: flip (and its mirror image), crops (center, corners, mirrored).
        strict: End with exit code 1 when an image could not be read. (The others are answered all the same.)
        engine: What runs the model. auto: the fastest here.
        precision: In which numbers. int8 learns from the first images what bytes are to stand for, if the weights do
            not say it, and is refused where it would name them otherwise.
        device: auto, cpu or cuda.
        batch: How many images go through the model at a time.
        null: Paths on standard input are ended by NULs, as `find -print0` writes them.
        ray: Work on a Ray cluster: its address, such as auto, ray://host:10001, or local for one that is started here.
    """
    if not images:
        raise UsageError("give one image or more: mixer predict photo.jpg")
    form = _form(json, csv, parquet, output)
    if resume and output is None:
        raise UsageError("--resume goes on with a file: name it with --output")
    if embeddings is not None and embeddings.suffix != ".npy":
        raise UsageError(f"embeddings are written as .npy, not as '{embeddings.name}'")

    from mlpmixer.predict.predictor import Predictor

    asked = _Asked(images, null)
    watched = output is not None or not sys.stdout.isatty()  # otherwise one sees the answers
    bar = Bar(asked.count if watched and not asked.one else None, hidden=not watched)
    notes = _Notes(bar, asked.one)
    files = asked.files(notes.left_out)
    to_bytes = precision == "int8" and engine in ("auto", "kernels") and not asked.one
    some = list(islice(files, MANY)) if to_bytes or not asked.endless else []
    model, said = _in_bytes(weights, some) if to_bytes else (weights, None)
    settings: dict[str, Any] = {
        "engine": engine,
        "precision": precision,
        "device": device,
        "top": top,
        "batch_size": 1 if asked.one else batch,
        "views": tta,
        "embeddings": embeddings is not None,
        "measure": len(some) == MANY and ray is None,
    }
    predictor = Predictor(model, **settings)
    place = _place(form, output, embeddings, resume, predictor)
    with bar, contextlib.closing(place):
        if said is not None:
            notes.say(said)
        todo = place.still_to_do(chain(some, files), bar.advance)
        if ray is None:
            pieces, first = predictor.pieces(todo), lambda: notes.say(predictor.choice)
        else:
            from mlpmixer.predict import cluster

            pieces, first = cluster.pieces(todo, predictor.model, settings, address=ray, tell=notes.say), lambda: None
        _write_all(pieces, place, notes, bar, first)
    if not asked.one:
        _sum_up(place, notes, bar)
    if place.writer.rows == 0:
        raise ImageError("no image could be read") if notes.lost else DataError("no names came on standard input")
    if strict and notes.lost:
        raise ImageError(f"{notes.lost:,} could not be read; the others are answered")


def _in_bytes(weights: str, files: list[str]) -> tuple[Classifier, str | None]:
    """The model, quantized if it was not, and what to say of that."""
    from mlpmixer.predict.int8_calibration import in_bytes_if_alike
    from mlpmixer.weights.load import load

    model = load(weights)
    assert model.metadata is not None
    return (model, None) if model.metadata.layer_precisions else in_bytes_if_alike(model, files)


class _Asked:
    """What was named: `one` image only; or `endless`, as nobody knows how much is to come."""

    def __init__(self, names: tuple[str, ...], null: bool):
        self.names, self.null = names, null
        self.endless = "-" in names
        self.one = len(names) == 1 and not self.endless and not Path(names[0]).is_dir()

    def files(self, tell: Callable[[str], object]) -> Iterator[str]:
        from mlpmixer.predict import paths

        for name in self.names:
            given = paths.names(sys.stdin.buffer, null=self.null) if name == "-" else [name]
            yield from paths.images(given, tell)

    @property
    def count(self) -> Callable[[], Iterator[str]] | None:
        return None if self.endless else lambda: self.files(lambda _: None)


class _Notes:
    """What is said on standard error."""

    def __init__(self, bar: Bar, one: bool):
        self.bar, self.one, self.lost = bar, one, 0

    def say(self, line: object) -> None:
        with self.bar.aside():
            print(f"mixer: {printable(line)}", file=sys.stderr)

    def left_out(self, why: str | ImageError) -> None:
        if self.one and isinstance(why, ImageError):
            raise why
        self.lost += 1
        self.say(f"left out: {why}")


def _write_all(pieces: Any, place: Output, notes: _Notes, bar: Bar, first: Callable[[], object]) -> None:
    from mlpmixer.predict.job import write_all

    try:
        with contextlib.closing(pieces):
            write_all(pieces, place, first=first, broken=notes.left_out, done=bar.advance)
    except KeyboardInterrupt:
        known = f"{place.writer.rows:,} images"
        where = "" if place.file is None else f" that are in {place.file}; the same command with --resume goes on"
        raise RunStopped(f"stopped after {known}{where}") from None


def _place(form: Format | None, file: Path | None, rows: Path | None, resume: bool, predictor: Predictor) -> Output:
    from mlpmixer.predict import job, writers

    width = 0 if rows is None else predictor.width
    if file is not None:
        assert form is not None
        return job.open_output(
            file, form, rows, resume=resume, top=predictor.top, width=width, predictor=lambda: predictor
        )
    kinds: dict[Format | None, Callable[[], Writer]] = {
        None: _Table,
        "json": lambda: writers.JsonLines(sys.stdout),
        "csv": lambda: writers.Csv(sys.stdout, predictor.top),
    }
    return job.to_standard_output(kinds[form](), rows, width)


def _form(json: bool, csv: bool, parquet: bool, output: Path | None) -> Format | None:
    """None: a table for people."""
    named: list[Format] = [name for name, said in (("json", json), ("csv", csv), ("parquet", parquet)) if said]  # pyright: ignore[reportAssignmentType]
    if len(named) > 1:
        raise UsageError(f"--{named[0]} and --{named[1]} exclude each other")
    if named == ["parquet"] and output is None:
        raise UsageError("Parquet is no text: say where with --output, such as answers.parquet")
    if named or output is None:
        return named[0] if named else None
    from mlpmixer.predict.writers import format_of

    return format_of(output)


class _Table:
    """For people: as wide as the first rows need it."""

    def __init__(self) -> None:
        self.rows, self._waiting, self._widths = 0, [], []

    def write(self, path: str, found: Prediction) -> None:
        then = ", ".join(f"{label} {score:.1%}" for label, score in found.top[1:])
        self._waiting.append((printable(path), printable(found.label), f"{found.score:.1%}", printable(then)))
        self.rows += 1

    def flush(self) -> None:
        if self._waiting and not self._widths:
            head = ("image", "label", "score", "then")
            self._widths = [max(map(len, column)) for column in zip(head, *self._waiting, strict=True)]
            print()
            self._print(head)
            print(" " + "─" * (sum(self._widths) + 2 * len(head)))
        for row in self._waiting:
            self._print(row)
        self._waiting = []
        sys.stdout.flush()

    def close(self) -> None:
        self.flush()
        if self.rows:
            print()

    def _print(self, row: tuple[str, ...]) -> None:
        path, label, score, then = self._widths
        print(f" {row[0]:{path}}  {row[1]:{label}}  {row[2]:>{score}}  {row[3]:{then}}".rstrip())


def _sum_up(place: Output, notes: _Notes, bar: Bar) -> None:
    before = 0 if place.seen is None else len(place.seen)
    answered = place.writer.rows - before
    rate = f"{answered / max(bar.seconds, 1e-9):,.0f} a second"
    rest = [f"{notes.lost:,} left out"] * bool(notes.lost) + [f"{before:,} were there already"] * bool(before)
    notes.say("; ".join([f"{answered:,} image{'s' * (answered != 1)} in {bar.seconds:,.1f} s, {rate}", *rest]))
