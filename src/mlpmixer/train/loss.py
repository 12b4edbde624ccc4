"""Loss functions: of labels, and of a teacher's predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.recipe import Loss


def loss_of(logits: Tensor, targets: Tensor, how: Loss) -> Tensor:
    """The loss of each image (B,), in nats. `targets`: (B, classes), how much of each class an image is; rows sum to 1.

    "softmax": one class of many; the cross-entropy. "sigmoid": each class yes or no by itself; the sum of their binary
    cross-entropies, as the authors pre-train.
    """
    logits = logits.float()
    if how.smoothing:
        targets = targets * (1 - how.smoothing) + how.smoothing / targets.shape[1]
    if how.kind == "softmax":
        return -(targets * logits.log_softmax(dim=1)).sum(dim=1)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)


def distance_to(teacher: Tensor, logits: Tensor, how: Loss) -> Tensor:
    """Distillation loss of each image (B,): KL divergence of the student's softened prediction from the teacher's.

    Times T², so that its gradient does not vanish as T grows (arXiv 1503.02531).
    """
    t = how.temperature
    ours, theirs = (logits.float() / t).log_softmax(dim=1), (teacher.float() / t).log_softmax(dim=1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1) * t**2


def as_targets(labels: Tensor, classes: int) -> Tensor:
    """Labels (B,) as one-hot rows (B, classes)."""
    return F.one_hot(labels, classes).to(torch.float32)
