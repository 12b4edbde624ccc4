"""Accuracy: top-1 and top-5, the cross-entropy beside them, and the accuracy that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.metrics.metric import Metric, MetricInputs, fraction


def count_right(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Sums over all images, as float64: images, correct top-1, correct top-5, cross-entropy. Sums of parts add up.

    Args:
        predict: Maps images to logits (B, classes).
        batches: Of (images, labels).
    """
    totals = torch.zeros(4, dtype=torch.float64)
    for images, labels in batches:
        logits = predict(images).float().cpu()
        labels = labels.cpu()
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        cross_entropy = F.cross_entropy(logits, labels, reduction="sum")
        totals += torch.tensor([len(labels), ranked[:, 0].sum(), ranked.sum(), cross_entropy], dtype=torch.float64)
    return totals


def accuracy(totals: Tensor) -> dict[str, float]:
    """The sums of `count_right` as `top1` and `top5` (fractions), mean `cross_entropy` (nats) and `count`."""
    count, first, five, cross_entropy = totals.tolist()
    count = max(count, 1)
    return {"top1": first / count, "top5": five / count, "cross_entropy": cross_entropy / count, "count": count}


def top1(inputs: MetricInputs) -> Metric | None:
    return fraction("top-1", inputs.head.correct) if inputs.head else None


def top5(inputs: MetricInputs) -> Metric | None:
    return fraction("top-5", inputs.head.correct5) if inputs.head else None


def mean_cross_entropy(inputs: MetricInputs) -> Metric | None:
    """Over the images whose class the model has."""
    if inputs.head is None or not len(inputs.head.cross_entropy):
        return None
    return Metric(name="cross-entropy", value=float(inputs.head.cross_entropy.mean()), unit="nats")


def majority_class(inputs: MetricInputs) -> Metric | None:
    """The accuracy of always predicting the most frequent class."""
    if inputs.head is None:
        return None
    labels = inputs.head.labels
    return Metric(name="majority-class baseline", value=float(np.bincount(labels).max() / len(labels)))
