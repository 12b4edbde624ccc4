"""Images in, ranked labels out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast, overload

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from mlpmixer.data.images import pixels
from mlpmixer.draw import page
from mlpmixer.engines.engine import Outputs
from mlpmixer.engines.fastest import start
from mlpmixer.engines.table import ENGINES
from mlpmixer.errors import ImageError, RunError, UsageError
from mlpmixer.machine.cores import cores
from mlpmixer.machine.devices import device_of
from mlpmixer.machine.ordered_pool import in_order
from mlpmixer.metadata import Preprocessing
from mlpmixer.models import with_metadata
from mlpmixer.models.classifier import Classifier
from mlpmixer.predict.inputs import TAKEN, Input, image_of, is_one, name_of
from mlpmixer.predict.tta import TTA, count, views_of
from mlpmixer.text import printable
from mlpmixer.weights.load import load

P = TypeVar("P", bound=Input)
T = TypeVar("T")

PIECE = 16  # images for a thread that computes alone: more are no faster, and at the end others wait for it longer

_process: int | None = None  # in which torch has computed for us, and may have threads


def compute_here() -> None:
    """Call before torch computes: a process that was forked after an earlier call is set to one thread.

    The threads that torch computes with do not exist in the child, but torch waits for them, for ever. With one thread
    it waits for none, which is also what torch itself does in the workers of its DataLoader.
    """
    global _process
    here = os.getpid()
    if _process not in (None, here):
        torch.set_num_threads(1)
    _process = here


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image.

    Attributes:
        top: The likeliest labels with their probabilities, best first.
        embedding: What the model's head is given, if that was asked for.
    """

    top: tuple[tuple[str, float], ...]
    embedding: Float32[np.ndarray, " D"] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        embedding = "" if self.embedding is None else f", embedding=<{len(self.embedding)} numbers>"
        return f"Prediction(top={self.top!r}{embedding})"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return page.table(["class", "probability"], [[label, f"{score:.1%}"] for label, score in self.top])

    @property
    def label(self) -> str:
        """The likeliest label."""
        return self.top[0][0]

    @property
    def score(self) -> float:
        """Its probability."""
        return self.top[0][1]


@dataclass(frozen=True, eq=False)
class Scores:
    """All that a model says of an image.

    Attributes:
        probabilities: One for each class, in the order of `Predictor.classes`.
        embedding: What the model's head is given.
    """

    probabilities: Float32[np.ndarray, " C"]
    embedding: Float32[np.ndarray, " D"]


Piece: TypeAlias = list[tuple[P, Prediction | ImageError]]  # images that are predicted together


class Predictor:
    """Images in, ranked labels out, prepared as the checkpoint's metadata says.

    May be called from several threads. It can be pickled and copied: it travels as its model and its options, and
    starts the same engine again. In a process that was forked, it goes on with one thread, if its engine can.

    Args:
        model: A model, or what `load` takes.
        classes: Names of its outputs, instead of those it came with; without any they are "class 0" and so on.
        preprocessing: How images are prepared, instead of what it came with; without any, what is usual for its size.
        engine: One of `engines.table.ENGINES`; "auto" takes the fastest known here.
        precision: Of the engine; "auto" takes the fastest known here.
        device: "auto", "cpu", "cuda" or "cuda:N".
        top: Labels of a prediction.
        batch_size: Images at a time; engines with a fixed batch size take as long for fewer.
        tta: Test-time augmentation, see predict/tta.py.
        embeddings: Each prediction has its `embedding`, too.
        measure: "auto" finds out first what is the fastest, in seconds, once for each machine.

    Attributes:
        choice: Which engine runs the model, and why.

    Raises:
        UsageError: The model has no labels to predict, or the engine cannot run it here.

    Examples:
        >>> predictor = mlpmixer.Predictor("mixer_cifar10")
        >>> predictor("photo.jpg").label
        'cat'
        >>> [found.label for found in predictor(["photo.jpg", "photo.jpg"])]
        ['cat', 'cat']
    """

    def __init__(
        self,
        model: Classifier | str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        engine: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        top: int = 5,
        batch_size: int = 32,
        tta: TTA = "none",
        embeddings: bool = False,
        measure: bool = False,
    ):
        compute_here()
        model = (model if isinstance(model, Classifier) else load(model)).eval()
        if model.config.num_classes == 0:
            raise UsageError("this model has no head, so it has no labels to predict")
        if model.config.in_channels != 3:
            raise UsageError(f"images are read in 3 colors, and this model takes {model.config.in_channels}")
        if top < 1 or batch_size < 1:
            raise UsageError(f"top and batch_size must be 1 or more; got {top} and {batch_size}")
        self.model = with_metadata(model, classes, preprocessing)
        info = self.model.metadata
        self.preprocessing = info.preprocessing
        self.classes = info.classes or tuple(f"class {i}" for i in range(self.model.config.num_classes))
        self.top = min(top, len(self.classes))
        self.tta: TTA = tta
        self.batch_size, self._embeddings = batch_size, embeddings
        self.device = device_of(device)
        self._views = count(tta, self.preprocessing)
        self.engine, self.choice = start(
            self.model,
            self.preprocessing,
            engine=engine,
            precision=precision,
            batch=batch_size * self._views,
            device=self.device,
            layer_precisions=info.layer_precisions,
            measure=measure,
        )
        self._in_threads = self.device.type == "cpu" and ENGINES[self.engine.name].caller_thread
        # Some engines must always be called from the same thread.
        self._alone = None if self._in_threads else ThreadPoolExecutor(1, thread_name_prefix=self.engine.name)
        # Where it has predicted, or may predict; None: in whichever process it will.
        self._process = None if self.device.type == "cpu" else os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("top", "batch_size", "tta")}
        settings |= {"engine": self.engine.name, "precision": self.engine.precision, "device": str(self.device)}
        return {"model": self.model, "choice": self.choice, **settings, "embeddings": self._embeddings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        choice = state.pop("choice")
        self.__init__(state.pop("model"), **state)
        self.choice = choice

    @overload
    def __call__(self, images: Input) -> Prediction: ...
    @overload
    def __call__(self, images: Iterable[Input]) -> list[Prediction]: ...
    def __call__(self, images: Input | Iterable[Input]) -> Prediction | list[Prediction]:
        """One image gives one prediction; a list, or anything else that gives one after the other, gives a list.

        An image is a path, the bytes of a file, an open binary file, a PIL image, or a uint8 array (height, width[, 3
        or 4]) or tensor (3, height, width); see predict/inputs.py.
        """
        if is_one(images):
            return _or_raise(self.predict_batch([images])[0])  # pyright: ignore[reportArgumentType]
        return [_or_raise(found) for _, found in self.stream(images)]  # pyright: ignore[reportArgumentType]

    def stream(self, images: Iterable[P]) -> Generator[tuple[P, Prediction | ImageError]]:
        """Each image with what is in it, or with what is wrong with it, in order; of however many there are.

        They are asked for little by little, and no more are held than are in work.
        """
        for piece in self.pieces(images):
            yield from piece

    def pieces(self, images: Iterable[P]) -> Generator[Piece[P]]:
        """The same, as many at a time as are done together."""
        if is_one(images):
            raise UsageError(f"give a list of images here, each {TAKEN}")
        self._require_threads()
        at_once = self.batch_size
        if self._in_threads:
            fair = math.ceil(len(images) / self.threads) if isinstance(images, list | tuple) else PIECE
            at_once = max(1, min(self.batch_size, PIECE, fair))
        return in_order(self.predict_batch, images, threads=self.threads, batch_size=at_once)

    @property
    def threads(self) -> int:
        """How many threads read images; each runs the model, too, where the engine allows it."""
        return torch.get_num_threads() if self._in_threads else max(2, cores())

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return cast(nn.Linear, self.model.head).in_features

    def predict_batch(self, images: Sequence[Input]) -> list[Prediction | ImageError]:
        """In this thread, in one go."""
        return self._answered(images, self._prepared, self._predictions)

    def scores(self, images: Sequence[Input], *, prepared: bool = False) -> list[Scores | ImageError]:
        """The same with the probability of every class, and the embedding.

        Args:
            images: What is to be scored.
            prepared: They are arrays or tensors as `prepared` gives them: (3, height, width) of uint8.
        """
        read = torch.as_tensor if prepared else self._prepared
        return self._answered(images, read, self._scores)

    def _answered(
        self,
        images: Sequence[Input],
        read: Callable[[Any], torch.Tensor],
        answer: Callable[[torch.Tensor], list[T | None]],
    ) -> list[T | ImageError]:
        self._require_threads()
        views = torch.empty(len(images), self._views, 3, *self.preprocessing.crop, dtype=torch.uint8)
        found: list[ImageError | None] = []
        good = 0
        for given in images:
            try:
                views[good] = read(given)
            except ImageError as error:
                found.append(error)
            except (MemoryError, RuntimeError) as error:  # the others are none the worse for it
                found.append(_unprepared(given, error))
            else:
                found.append(None)
                good += 1
        answers = iter(answer(views[:good]) if good else ())
        whole = [next(answers) if error is None else error for error in found]
        return [self._no_number(given) if one is None else one for given, one in zip(images, whole, strict=True)]

    def _prepared(self, given: Input) -> torch.Tensor:
        read = pixels(image_of(given), name=given if isinstance(given, str) else None)
        try:
            return views_of(read, self.preprocessing, self.tta)
        except ImageError as error:  # knows only its size
            raise ImageError(f"{name_of(given)}: {error}") from None

    def prepared(self, given: Input) -> torch.Tensor:
        """One image as the model sees it, without test-time augmentation: (3, height, width) of uint8."""
        return self._prepared(given)[0]

    def _outputs(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[bool]]:
        """Probabilities, features, and whether they are numbers."""
        features, logits = self._run(views.flatten(0, 1))
        several = (-1, self._views)
        chances = logits.softmax(dim=1).unflatten(0, several).mean(dim=1)
        features = features.unflatten(0, several).mean(dim=1)
        finite = chances.isfinite().all(dim=1)
        if self._embeddings:
            finite &= features.isfinite().all(dim=1)
        return chances, features, finite.tolist()

    def _scores(self, views: torch.Tensor) -> list[Scores | None]:
        chances, features, finite = self._outputs(views)
        rows = zip(chances.float().numpy(), features.float().numpy(), finite, strict=True)
        return [Scores(row, embedding) if good else None for row, embedding, good in rows]

    def _predictions(self, views: torch.Tensor) -> list[Prediction | None]:
        """None: what the model gives is not a number."""
        chances, features, finite = self._outputs(views)
        scores, labels = chances.topk(self.top)
        embeddings = features.numpy() if self._embeddings else [None] * len(views)
        return [
            Prediction(tuple((self.classes[i], score) for i, score in zip(row, values, strict=True)), embedding)
            if good
            else None
            for row, values, embedding, good in zip(labels.tolist(), scores.tolist(), embeddings, finite, strict=True)
        ]

    def _run(self, views: torch.Tensor) -> Outputs:
        self._process = os.getpid()
        return self.engine(views) if self._alone is None else self._alone.submit(self.engine, views).result()

    def _require_threads(self) -> None:
        """In a process that was forked since, there are only those that are begun there."""
        if self._alone is not None and self._process not in (None, os.getpid()):
            raise RunError(
                f"the engine {self.engine.name} has threads that are not in this forked process; create the Predictor "
                "here, start processes by 'spawn', or take the engine kernels or eager on a CPU"
            )
        compute_here()

    def _no_number(self, given: object) -> ImageError:
        return ImageError(
            f"the model's output for {name_of(given)} is not a number ({self.engine.name}, {self.engine.precision}): "
            "its weights are broken, or too large for this precision; try eager in fp32"
        )


def _unprepared(given: object, error: MemoryError | RuntimeError) -> ImageError:
    why = "there is not enough memory" if isinstance(error, MemoryError) else printable(error, most=200)
    return ImageError(f"{name_of(given)} cannot be prepared: {why}")


def _or_raise(found: Prediction | ImageError) -> Prediction:
    if isinstance(found, ImageError):
        raise found
    return found
