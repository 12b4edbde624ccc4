"""SAM and GSAM: minima whose surroundings are low as well (arXiv 2010.01412, 2203.08065).

A step looks twice. From the gradient at w it goes uphill by rho to w + e, takes the gradient there, comes back, and
uses that one. GSAM also takes away a part of the gap between both places: the component of the first gradient that is
at right angles to the second. All of it works on whole gradients, after accumulation and after they were averaged over
devices, so it is the same on any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mlpmixer.recipe import Optim


@torch.no_grad()
def look_uphill(parameters: Sequence[nn.Parameter], gradients: Callable[[], object], how: Optim, lr: float) -> None:
    """Turns the gradients at w into those of SAM or GSAM. They may be scaled, both alike, as fp16 wants it.

    gradients: computes them anew, at the same images with the same dropout. lr: this step's; as it falls to the last
    one, GSAM's rho falls from `rho` to `rho_min`.
    """
    trained = [p for p in parameters if p.grad is not None]
    first = gradients_of(trained)
    rho = how.rho
    if how.sharpness == "gsam":
        last = how.lr * how.final
        left = max(lr - last, 0.0) / (how.lr - last) if last < how.lr else 1.0
        rho = how.rho_min + (how.rho - how.rho_min) * left
    there = rho / (inner(first, first).sqrt() + 1e-12)
    here = [p.detach().clone() for p in trained]
    for p, gradient in zip(trained, first, strict=True):
        p.add_(gradient * there)
        p.grad = None
    with torch.enable_grad():
        gradients()
    for p, weight in zip(trained, here, strict=True):
        p.copy_(weight)  # not subtracted: it comes back to the bit
    if how.sharpness == "gsam":
        second = gradients_of(trained)
        along = inner(first, second) / (inner(second, second) + 1e-24)
        for one, two in zip(first, second, strict=True):
            two.sub_(one - two * along, alpha=how.alpha)


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product of all numbers of both."""
    local = [(_here(x) * _here(y)).sum() for x, y in zip(a, b, strict=True)]
    total = torch.stack(local).sum()
    if isinstance(a[0], DTensor):
        dist.all_reduce(total)
    return total


def _here(x: Tensor) -> Tensor:
    """The part that this device holds."""
    return x.to_local() if isinstance(x, DTensor) else x
