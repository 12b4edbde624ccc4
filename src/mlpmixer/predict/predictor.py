"""Pictures in, ranked labels out."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float32

from mlpmixer.data.pictures import Picture, pixels
from mlpmixer.data.processes import cores
from mlpmixer.engines.engine import Answers
from mlpmixer.engines.fastest import start
from mlpmixer.errors import PictureError, UsageError
from mlpmixer.models.classifier import Classifier
from mlpmixer.predict.lanes import in_order
from mlpmixer.predict.views import Views, count, views_of
from mlpmixer.weights.load import load

P = TypeVar("P", bound=Picture)

# On a CPU, these compute in the thread that calls them; the others have threads of their own.
IN_THE_CALLERS_THREAD = ("kernels", "eager")
PIECE = 16  # pictures for such a thread: with more it is no faster, and at the end others wait for it longer


@dataclass(frozen=True)
class Prediction:
    """`top`: the likeliest labels with their probabilities, best first. `embedding`: what the head is given, if that
    was asked for."""

    top: tuple[tuple[str, float], ...]
    embedding: Float32[np.ndarray, " D"] | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str:
        return self.top[0][0]

    @property
    def score(self) -> float:
        return self.top[0][1]


class Predictor:
    """Prepares pictures as the checkpoint's passport says, and names what the model sees in them.

    `model` is a model that was loaded, or what `load` takes. `engine` and `precision`: how it is run; "auto" takes what
    is known to be the fastest here, and with `measure` finds that out first, in seconds, once for each machine.
    `views`: what is averaged over, see predict/views.py. `batch_size`: how many pictures go through at a time; the
    engines openvino and compiled take as long for fewer. May be called from several threads.

    `choice` says which engine it is, and why.
    """

    def __init__(
        self,
        model: Classifier | str | os.PathLike[str],
        *,
        engine: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        top: int = 5,
        batch_size: int = 32,
        views: Views = "none",
        embeddings: bool = False,
        measure: bool = False,
    ):
        self.model = (model if isinstance(model, Classifier) else load(model)).eval()
        passport = self.model.passport
        if passport is None:
            raise UsageError(
                "this model has no passport, so nobody knows how to prepare its pictures; save and load it"
            )
        if self.model.config.num_classes == 0:
            raise UsageError("this model has no head, so it has no labels to predict")
        if top < 1 or batch_size < 1:
            raise UsageError(f"top and batch_size must be 1 or more; got {top} and {batch_size}")
        self.preprocessing = passport.preprocessing
        self.classes = passport.classes or tuple(f"class {i}" for i in range(self.model.config.num_classes))
        self.top = min(top, len(self.classes))
        self.views: Views = views
        self.batch_size, self.embeddings = batch_size, embeddings
        self.device = _device(device)
        self._views = count(views, self.preprocessing)
        self.engine, self.choice = start(
            self.model,
            self.preprocessing,
            engine=engine,
            precision=precision,
            batch=batch_size * self._views,
            device=self.device,
            plans=passport.plans,
            measure=measure,
        )
        self._together = self.device.type == "cpu" and self.engine.name in IN_THE_CALLERS_THREAD
        # Some engines must always be called from the same thread.
        self._alone = None if self._together else ThreadPoolExecutor(1, thread_name_prefix=self.engine.name)

    @overload
    def __call__(self, pictures: Picture) -> Prediction: ...
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Prediction]: ...
    def __call__(self, pictures: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """One picture (a path, the bytes of a file, a PIL image, a uint8 array) gives one prediction, a list a list."""
        if isinstance(pictures, list | tuple):
            return [_or_raise(found) for _, found in self.stream(pictures)]
        return _or_raise(self.answer([pictures])[0])  # pyright: ignore[reportArgumentType] (a single picture)

    def stream(self, pictures: Iterable[P]) -> Generator[tuple[P, Prediction | PictureError]]:
        """Each picture with what is in it, or with what is wrong with it, in order; of however many there are.

        They are asked for little by little, and no more are held than are in work.
        """
        for piece in self.pieces(pictures):
            yield from piece

    def pieces(self, pictures: Iterable[P]) -> Generator[list[tuple[P, Prediction | PictureError]]]:
        """The same, as many at a time as are done together."""
        at_once = self.batch_size
        if self._together:
            fair = math.ceil(len(pictures) / self.lanes) if isinstance(pictures, list | tuple) else PIECE
            at_once = max(1, min(self.batch_size, PIECE, fair))
        return in_order(self.answer, pictures, lanes=self.lanes, at_once=at_once)

    @property
    def lanes(self) -> int:
        """How many threads read pictures; each answers them too, where the engine allows it."""
        return torch.get_num_threads() if self._together else max(2, cores())

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        blank = torch.zeros(1, self.model.config.in_channels, *self.preprocessing.crop, dtype=torch.uint8)
        return self._run(blank).features.shape[1]

    def answer(self, pictures: Sequence[Picture]) -> list[Prediction | PictureError]:
        """In this thread, in one go."""
        how = self.preprocessing
        shown = torch.empty(len(pictures), self._views, 3, *how.crop, dtype=torch.uint8)
        found: list[Prediction | PictureError | None] = []
        good = 0
        for picture in pictures:
            try:
                shown[good] = views_of(pixels(picture), how, self.views)
            except PictureError as error:
                found.append(error)
            else:
                found.append(None)
                good += 1
        named = iter(self._named(shown[:good]) if good else ())
        return [next(named) if one is None else one for one in found]

    def _named(self, shown: torch.Tensor) -> list[Prediction]:
        features, logits = self._run(shown.flatten(0, 1))
        several = (-1, self._views)
        scores, labels = logits.softmax(dim=1).unflatten(0, several).mean(dim=1).topk(self.top)
        embeddings = features.unflatten(0, several).mean(dim=1).numpy() if self.embeddings else [None] * len(shown)
        return [
            Prediction(tuple((self.classes[label], score) for label, score in zip(row, values, strict=True)), embedding)
            for row, values, embedding in zip(labels.tolist(), scores.tolist(), embeddings, strict=True)
        ]

    def _run(self, shown: torch.Tensor) -> Answers:
        return self.engine(shown) if self._alone is None else self._alone.submit(self.engine, shown).result()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise UsageError(f"there is no device '{name}' here; auto, cpu, or cuda where there is one") from None


def _or_raise(found: Prediction | PictureError) -> Prediction:
    if isinstance(found, PictureError):
        raise found
    return found
