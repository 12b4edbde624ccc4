"""Sharpness-aware minimization, SAM and GSAM (arXiv 2010.01412, 2203.08065).

Each step takes two gradients. From the one at w, the weights are perturbed to w + e, |e| = rho, along it; the gradient
there is the one that is used at w. GSAM also lessens the surrogate gap, the difference of both losses: it subtracts the
component of the first gradient that is orthogonal to the second. All of it works on whole gradients, after accumulation
and after averaging over devices, so it is the same on any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mlpmixer.recipe import Optim


@torch.no_grad()
def sharpness_aware(parameters: Sequence[nn.Parameter], gradients: Callable[[], object], how: Optim, lr: float) -> None:
    """Replaces the gradients at w by those of SAM or GSAM.

    Args:
        parameters: With their gradients at w, which may be scaled, as in fp16.
        gradients: Computes them anew, for the same images with the same dropout and the same scale.
        how: Kind, radius and weight of the gap.
        lr: This step's. As it falls to the last one, GSAM's radius falls from `rho` to `rho_min`.
    """
    trained = [p for p in parameters if p.grad is not None]
    first = gradients_of(trained)
    rho = how.rho
    if how.sharpness == "gsam":
        last = how.lr * how.final_lr_ratio
        left = max(lr - last, 0.0) / (how.lr - last) if last < how.lr else 1.0
        rho = how.rho_min + (how.rho - how.rho_min) * left
    scale = rho / (inner(first, first).sqrt() + 1e-12)
    unperturbed = [p.detach().clone() for p in trained]
    for p, gradient in zip(trained, first, strict=True):
        p.add_(gradient * scale)
        p.grad = None
    with torch.enable_grad():
        gradients()
    for p, weight in zip(trained, unperturbed, strict=True):
        p.copy_(weight)  # not subtracted: restored bit for bit
    if how.sharpness == "gsam":
        second = gradients_of(trained)
        along = inner(first, second) / (inner(second, second) + 1e-24)
        for one, two in zip(first, second, strict=True):
            two.sub_(one - two * along, alpha=how.alpha)


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product over all arrays and devices."""
    parts = [(local_part(x) * local_part(y)).sum() for x, y in zip(a, b, strict=True)]
    total = torch.stack(parts).sum()
    if isinstance(a[0], DTensor):
        dist.all_reduce(total)
    return total


def local_part(x: Tensor) -> Tensor:
    """The part that this device holds."""
    return x.to_local() if isinstance(x, DTensor) else x
