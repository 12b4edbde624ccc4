"""Pictures in, ranked labels out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch

from mlpmixer.data.pictures import Picture, decode
from mlpmixer.data.preprocess import preprocess
from mlpmixer.errors import UsageError
from mlpmixer.models.classifier import Classifier
from mlpmixer.weights.load import load


@dataclass(frozen=True)
class Prediction:
    """`top`: the likeliest labels with their probabilities, best first."""

    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        return self.top[0][0]

    @property
    def score(self) -> float:
        return self.top[0][1]


class Predictor:
    """Prepares pictures as the checkpoint's passport says, and names what the model sees in them.

    `model` is a model that was loaded, or what `load` takes. May be called from several threads.
    """

    def __init__(self, model: Classifier | str | os.PathLike[str], *, top: int = 5, batch_size: int = 32):
        self.model = (model if isinstance(model, Classifier) else load(model)).eval()
        if self.model.passport is None:
            raise UsageError(
                "this model has no passport, so nobody knows how to prepare its pictures; save and load it"
            )
        if self.model.config.num_classes == 0:
            raise UsageError("this model has no head, so it has no labels to predict")
        if top < 1 or batch_size < 1:
            raise UsageError(f"top and batch_size must be 1 or more; got {top} and {batch_size}")
        self.preprocessing = self.model.passport.preprocessing
        classes = self.model.passport.classes
        self.classes = classes or tuple(f"class {i}" for i in range(self.model.config.num_classes))
        self.top = min(top, len(self.classes))
        self.batch_size = batch_size

    @overload
    def __call__(self, pictures: Picture) -> Prediction: ...
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Prediction]: ...
    def __call__(self, pictures: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """One picture (a path, the bytes of a file, a PIL image, a uint8 array) gives one prediction, a list a list."""
        if isinstance(pictures, list | tuple):
            chunks = range(0, len(pictures), self.batch_size)
            return [found for start in chunks for found in self._batch(pictures[start : start + self.batch_size])]
        return self._batch([pictures])[0]  # pyright: ignore[reportArgumentType] (a single picture)

    def _batch(self, pictures: Sequence[Picture]) -> list[Prediction]:
        how, parameter = self.preprocessing, next(self.model.parameters())
        images = torch.stack([preprocess(decode(picture, at_least=how.resize), how) for picture in pictures])
        with torch.inference_mode():
            logits = self.model(images.to(parameter.device, parameter.dtype)).float()
        scores, labels = logits.softmax(dim=1).topk(self.top)
        return [
            Prediction(tuple((self.classes[label], score) for label, score in zip(row, values, strict=True)))
            for row, values in zip(labels.tolist(), scores.tolist(), strict=True)
        ]
