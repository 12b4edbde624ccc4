"""Very many images into an output, which can be resumed after any end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mlpmixer.download import require_address
from mlpmixer.engines.table import ENGINES
from mlpmixer.errors import DataError, ImageError, RunStopped
from mlpmixer.models.classifier import Classifier
from mlpmixer.predict import cluster, paths
from mlpmixer.predict.addresses import Address, is_address
from mlpmixer.predict.int8_calibration import quantized_for
from mlpmixer.predict.output import Output, open_output, uninterrupted
from mlpmixer.predict.predictor import Piece, Predictor
from mlpmixer.weights.bundled import DEFAULT
from mlpmixer.weights.load import load

UNSURE = 0.5  # a top score below which a prediction is called unsure
MANY = 1000  # images for which it pays to find out which engine is the fastest


@dataclass
class Job:
    """What `mixer predict` does.

    Attributes:
        names: Image files, folders, http(s) addresses, or "-" for paths on standard input.
        weights: What `load` takes.
        settings: Of the `Predictor`; `batch_size` is 1 for one image, and `measure` follows from how many there are.
        form: One of `FORMATS`.
        output: The file of predictions; None: standard output.
        embeddings: The .npy file for them, if they are wanted.
        resume: Append to an output that exists.
        null: Paths on standard input end with NUL, not with a line.
        ray: The address of a Ray cluster to work on.
        strict: End with an error if an image could not be read.
        say: Gets a line for people.
        advance: Gets how many more images are through.
    """

    names: tuple[str, ...]
    weights: str
    settings: dict[str, Any]
    form: str
    output: Path | None = None
    embeddings: Path | None = None
    resume: bool = False
    null: bool = False
    ray: str | None = None
    strict: bool = False
    say: Callable[[object], object] = print
    advance: Callable[[int], object] = lambda _count: None
    skipped: int = field(default=0, init=False)
    unsure: int = field(default=0, init=False)

    @property
    def endless(self) -> bool:
        """Nobody knows how many are to come."""
        return "-" in self.names

    @property
    def one(self) -> bool:
        """A single image."""
        return len(self.names) == 1 and not self.endless and not Path(self.names[0]).is_dir()

    def files(self, tell: Callable[[str], object] = lambda _line: None) -> Iterator[str]:
        """The paths of all images, found little by little. `tell` gets what is passed over."""
        for name in self.names:
            if is_address(name):  # here only: a list of names may come from a stranger
                require_address(name)
                yield Address(name)
                continue
            given = paths.names(sys.stdin.buffer, null=self.null) if name == "-" else [name]
            yield from paths.images(given, tell)

    def run(self) -> None:
        """Predict all, and write it.

        Raises:
            UsageError: Options that do not fit together, or an output that cannot be resumed.
            ImageError: The only image, or all, or with `strict` one could not be read.
            RunStopped: Ctrl-C; what was written can be resumed.
        """
        files = self.files(self._skip)
        own = ["auto", *(name for name, row in ENGINES.items() if row.own)]
        in_int8 = self.settings["precision"] == "int8" and self.settings["engine"] in own and not self.one
        some = list(islice(files, MANY)) if in_int8 or not self.endless else []
        model, note = self._quantized(some) if in_int8 else (self.weights, None)
        settings = {**self.settings, "measure": len(some) == MANY and self.ray is None}
        settings |= {"embeddings": self.embeddings is not None} | ({"batch_size": 1} if self.one else {})
        predictor = Predictor(model, **settings)
        output = open_output(self.output, self.form, self.embeddings, predictor, resume=self.resume)
        began = time.monotonic()
        with contextlib.closing(output):
            if note is not None:
                self.say(note)
            todo = output.still_to_do(chain(some, files), lambda: self.advance(1))
            if self.ray is None:
                self._write(predictor.pieces(todo), output, lambda: self._introduce(predictor, predictor.choice))
            else:
                pieces = cluster.pieces(todo, predictor.model, settings, address=self.ray, tell=self.say)
                self._write(pieces, output, lambda: self._introduce(predictor))
        if not self.one:
            self.say(self._summary(output, time.monotonic() - began))
        elif self.unsure:
            self.say(f"unsure: the top score is below {UNSURE:.0%}; it may be of a class that the model does not know")
        if output.writer.rows == 0:
            raise ImageError("no image could be read") if self.skipped else DataError("no names on standard input")
        if self.strict and self.skipped:
            raise ImageError(f"could not read {self.skipped:,} of the images; the others are predicted")

    def _write(self, pieces: Generator[Piece[str]], output: Output, first: Callable[[], object]) -> None:
        """`first` is called before the first image is written."""
        begun = False
        try:
            with contextlib.closing(pieces):
                for piece in pieces:
                    with uninterrupted():
                        for _, found in piece:
                            if isinstance(found, ImageError):
                                self._skip(found)
                        good = [(path, found) for path, found in piece if not isinstance(found, ImageError)]
                        if good and not begun:
                            begun = True
                            first()
                        self.unsure += sum(found.score < UNSURE for _, found in good)
                        output.write(good)
                    self.advance(len(piece))
        except KeyboardInterrupt:
            where = "" if output.path is None else f" in {output.path}; run the same command with --resume"
            raise RunStopped(f"stopped after {output.writer.rows:,} images{where}") from None

    def _introduce(self, predictor: Predictor, *lines: object) -> None:
        if self.weights == DEFAULT:
            known = predictor.classes
            self.say(f"{DEFAULT} knows {len(known)} classes: {', '.join(known)}; use --weights for others")
        for line in lines:
            self.say(line)

    def _quantized(self, files: list[str]) -> tuple[Classifier, str | None]:
        """The model, quantized if it was not, and what to say of that."""
        model = load(self.weights)
        return (model, None) if model.metadata.layer_precisions else quantized_for(model, files)

    def _skip(self, why: str | ImageError) -> None:
        if self.one and isinstance(why, ImageError):
            raise why
        self.skipped += 1
        self.say(f"skipped: {why}")

    def _summary(self, output: Output, seconds: float) -> str:
        before = len(output.before)
        count = output.writer.rows - before
        parts = [f"{count:,} image{'s' * (count != 1)} in {seconds:,.1f} s, {count / max(seconds, 1e-9):,.0f} a second"]
        parts += [f"{self.skipped:,} skipped"] * bool(self.skipped) + [f"{before:,} done before"] * bool(before)
        parts += [f"unsure of {self.unsure:,} (top score below {UNSURE:.0%})"] * bool(self.unsure)
        return "; ".join(parts)
