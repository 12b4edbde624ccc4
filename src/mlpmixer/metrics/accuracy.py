"""How often a model is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def count_right(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Sums over all images, float64: how many, right at first, right within five, cross-entropy in cross_entropy.

    `predict` maps images to logits (B, classes); `batches` yields (images, labels). Sums of parts may be added up.
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
    """`top1` and `top5` as shares, `cross_entropy` as the mean cross-entropy, `count`."""
    count, first, five, cross_entropy = totals.tolist()
    count = max(count, 1)
    return {"top1": first / count, "top5": five / count, "cross_entropy": cross_entropy / count, "count": count}
