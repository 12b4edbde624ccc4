"""Predictions: features and logits of a set of images, computed in one pass and shared by all metrics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mlpmixer.models.classifier import Classifier

BLOCK = 1_024  # rows of logits at a time: all at once would take several times the memory of the logits themselves
ANOTHER = "(another)"  # stands for all classes that the model has and the data has not


@dataclass(frozen=True)
class Predictions:
    """Of N images, on the CPU. `features`: the inputs of the head. `indices`: positions of images in their split."""

    features: Float[Tensor, "N D"]
    logits: Float[Tensor, "N classes"]
    labels: Int[Tensor, " N"]
    indices: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)


def predict(model: Classifier, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Predictions:
    """Predictions of a model for `batches` of (images, labels, indices). Without a head, logits have no columns."""
    parameter = next(model.parameters())
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    # Not through `intermediates`, which would hold every table of every layer to keep one vector.
    head, model.head = model.head, nn.Identity()
    try:
        with torch.inference_mode():
            for images, labels, indices in batches:
                features = model(images.to(parameter.device, parameter.dtype))
                logits = head(features) if model.config.num_classes else features[:, :0]
                rows.append((features.float().cpu(), logits.float().cpu(), labels.cpu(), indices.cpu()))
    finally:
        model.head = head
    return Predictions(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


@dataclass(frozen=True)
class ClassPredictions:
    """Predictions of the head, as positions in `names`: the classes of the data, and `ANOTHER` if it was predicted.

    Attributes:
        labels: True classes.
        predicted: The likeliest class.
        confidence: Its probability.
        correct: Whether it is the true one; never for a class that the model does not have.
        correct5: Whether the true class is among the five likeliest.
        cross_entropy: In nats, of the images whose class the model has.
    """

    names: tuple[str, ...]
    labels: Int[np.ndarray, " N"]
    predicted: Int[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]
    correct: Bool[np.ndarray, " N"]
    correct5: Bool[np.ndarray, " N"]
    cross_entropy: Float[Tensor, " M"]


def class_predictions(
    found: Predictions, classes: tuple[str, ...], outputs: Int[np.ndarray, " K"], *, block: int = BLOCK
) -> ClassPredictions:
    """Predictions in the classes of a data set.

    Args:
        found: Predictions of the model.
        classes: Names of the data's classes.
        outputs: The model's output for each of them, -1 where it has none (see `class_mapping.outputs_for`).
        block: Rows of logits at a time.
    """
    truth = torch.from_numpy(outputs)[found.labels]  # as outputs
    blocks = [_of_block(*rows) for rows in zip(found.logits.split(block), truth.split(block), strict=True)]
    ranked, confidence, likeliest, cross_entropy = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    class_of = np.full(found.logits.shape[1], len(classes))
    class_of[outputs[outputs >= 0]] = np.flatnonzero(outputs >= 0)
    predicted = class_of[likeliest.numpy()]
    return ClassPredictions(
        (*classes, ANOTHER) if (predicted == len(classes)).any() else classes,
        found.labels.numpy(),
        predicted,
        confidence.numpy(),
        ranked[:, 0].numpy(),
        ranked.any(1).numpy(),
        cross_entropy[truth >= 0],
    )


def _of_block(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each row: which of the five best outputs is true, the probability and position of the best, the loss."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == truth[:, None]
    cross_entropy = F.cross_entropy(logits.double(), truth, ignore_index=-1, reduction="none")
    confidence, likeliest = logits.softmax(1).max(1)
    return ranked, confidence, likeliest, cross_entropy
