"""Linear probe: multinomial logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mlpmixer.metrics.metric import Metric, MetricInputs, fraction

PENALTIES = tuple(10.0**n for n in range(-6, 1))
HELD_OUT = 0.1  # of the training images, to choose the penalty


def linear_probe_accuracy(inputs: MetricInputs) -> Metric | None:
    train, test = inputs.train, inputs.test
    if train is None:
        return None
    predicted, penalty = linear_probe(train.features, train.labels, test.features, inputs.classes)
    name = f"linear probe ({len(train):,} training images)"
    correct = (predicted == test.labels).numpy()
    return fraction(name, correct, train_images=len(train), settings={"penalty": penalty})


def linear_probe(
    train: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    test: Float[Tensor, "M D"],
    classes: int,
    *,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> tuple[Int[Tensor, " M"], float]:
    """Predicted classes, and the penalty: the best on a held-out tenth of the training images, then fitted on all."""
    mean, std = train.double().mean(0), train.double().std(0, correction=0) + 1e-5
    train, test = ((rows.double() - mean) / std for rows in (train, test))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    val, fit = order[: round(HELD_OUT * len(train))], order[round(HELD_OUT * len(train)) :]

    def accuracy(penalty: float) -> float:
        weights = logistic(train[fit], labels[fit], classes, penalty)
        return (classify(weights, train[val]) == labels[val]).double().mean().item()

    best = max(penalties, key=accuracy)
    return classify(logistic(train, labels, classes, best), test), best


def logistic(
    x: Float[Tensor, "N D"], labels: Int[Tensor, " N"], classes: int, penalty: float, *, steps: int = 200
) -> Float[Tensor, "D1 K"]:
    """Weights of the least mean cross-entropy plus penalty/2 · |W|². Their last row, the bias, is not penalized."""
    weights = torch.zeros(x.shape[1] + 1, classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        cost = F.cross_entropy(x @ weights[:-1] + weights[-1], labels) + penalty / 2 * weights[:-1].square().sum()
        cost.backward()
        return cost

    optimizer.step(loss)  # pyright: ignore[reportArgumentType] (a tensor is what it wants)
    return weights.detach()


def classify(weights: Float[Tensor, "D1 K"], x: Float[Tensor, "M D"]) -> Int[Tensor, " M"]:
    return (x @ weights[:-1] + weights[-1]).argmax(1)
