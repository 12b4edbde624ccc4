"""Adaptive gradient clipping, AGC (arXiv 2102.06171), which lets networks without normalization train at large rates.

A gradient matters in proportion to the weights that it changes. So the gradient G of each unit is limited by the norm
of the unit's own weights W:

    G ← G · λ · max(‖W‖, ε) / ‖G‖    where ‖G‖ is above λ · max(‖W‖, ε)

A unit is what makes one output: a row of a linear map, a kernel of a convolution, that is, one index of the first axis.
Biases, gains and single numbers are one unit each. The head's weight is left out, as the authors do; its bias is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from mlpmixer.models.classifier import Classifier
from mlpmixer.train.sharpness import gradients_of, local_part

EPS = 1e-3  # ε: weights that are all zero can still begin to move


@torch.no_grad()
def clip_units(model: Classifier, share: float) -> None:
    """Limits the gradient of each unit, in place; those that are short enough stay as they are, bit for bit.

    Args:
        model: With the gradients of a whole batch, not scaled; it may be sharded.
        share: λ.
    """
    head = getattr(model.head, "weight", None)
    clipped = [p for p in model.parameters() if p.grad is not None and p is not head]
    gradients = gradients_of(clipped)
    for gradient, length, weights in zip(gradients, norms(gradients), norms(clipped), strict=True):
        limit = weights.clamp(min=EPS) * share
        local_part(gradient).mul_((limit / length.clamp(min=1e-6)).clamp(max=1))


def norms(arrays: Sequence[Tensor]) -> list[Tensor]:
    """Of the units of each array, in the shape (units, 1, …); (1, …) where the whole array is one."""
    whole = [sum(side > 1 for side in x.shape) <= 1 for x in arrays]
    found = [
        torch.linalg.vector_norm(local_part(x), dim=[*range(0 if one else 1, x.ndim)], keepdim=True)
        for x, one in zip(arrays, whole, strict=True)
    ]
    # A shard holds whole rows and kernels, but only a part of an array that is one unit.
    parts = [norm for x, one, norm in zip(arrays, whole, found, strict=True) if one and isinstance(x, DTensor)]
    if parts:
        squares = torch.cat([part.flatten() for part in parts]).square()
        dist.all_reduce(squares)
        for part, norm in zip(parts, squares.sqrt(), strict=True):
            part.fill_(norm)
    return found
