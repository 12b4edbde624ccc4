"""What training makes small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.recipe import Loss


def loss_of(logits: Tensor, targets: Tensor, how: Loss) -> Tensor:
    """For each image, in cross_entropy. `targets`: (B, classes), how much of each class an image is; rows sum to 1.

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
    """For each image: the divergence of the student's answer from the teacher's, both softened by the temperature.

    Times T², so that its gradient does not fade as T grows (arXiv 1503.02531).
    """
    t = how.temperature
    ours, theirs = (logits.float() / t).log_softmax(dim=1), (teacher.float() / t).log_softmax(dim=1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1) * t**2


def as_targets(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels, classes).to(torch.float32)
