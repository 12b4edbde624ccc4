"""A logistic probe: how well the classes can be told apart by a linear map of frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

PENALTIES = tuple(10.0**n for n in range(-6, 1))
HELD_OUT = 0.1  # of what is known, to choose the penalty


def probe(
    known: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    asked: Float[Tensor, "M D"],
    classes: int,
    *,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> tuple[Int[Tensor, " M"], float]:
    """Answers, and the penalty that did best on a tenth of what is known, held out; then all of it is learnt from."""
    mean, std = known.double().mean(0), known.double().std(0, correction=0) + 1e-5
    known, asked = ((rows.double() - mean) / std for rows in (known, asked))
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    val, train = order[: round(HELD_OUT * len(known))], order[round(HELD_OUT * len(known)) :]
    best = max(
        penalties,
        key=lambda penalty: (
            (says(logistic(known[train], labels[train], classes, penalty), known[val]) == labels[val])
            .double()
            .mean()
            .item()
        ),
    )
    return says(logistic(known, labels, classes, best), asked), best


def logistic(
    x: Float[Tensor, "N D"], labels: Int[Tensor, " N"], classes: int, penalty: float, *, steps: int = 200
) -> Float[Tensor, "D1 K"]:
    """The weights of the least mean cross-entropy plus penalty/2 · |W|². Their last row, the bias, is not penalized."""
    weights = torch.zeros(x.shape[1] + 1, classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        cost = F.cross_entropy(x @ weights[:-1] + weights[-1], labels) + penalty / 2 * weights[:-1].square().sum()
        cost.backward()
        return cost

    optimizer.step(loss)  # pyright: ignore[reportArgumentType] (a tensor is what it wants)
    return weights.detach()


def says(weights: Float[Tensor, "D1 K"], x: Float[Tensor, "M D"]) -> Int[Tensor, " M"]:
    return (x @ weights[:-1] + weights[-1]).argmax(1)
