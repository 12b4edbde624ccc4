"""Linear few-shot accuracy, as the authors of the paper measure it: ridge regression on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mlpmixer.metrics.metric import Metric, MetricInputs

L2 = 2.0**10
SEEDS = 3
CONSTANT = 100.0  # appended to the features in place of a bias, so that the penalty on it is next to nothing


def with_shots(shots: int) -> Callable[[MetricInputs], Metric | None]:
    """The metric for so many training images of each class; None where a class has fewer."""

    def metric(inputs: MetricInputs) -> Metric | None:
        train, test = inputs.train, inputs.test
        if train is None:
            return None
        found = few_shot(train.features, train.labels, test.features, test.labels, inputs.classes, shots=(shots,))
        if shots not in found:
            return None
        return Metric(
            name=f"linear {shots}-shot",
            value=float(np.mean(found[shots])),
            seeds=tuple(found[shots]),
            train_images=len(train),
        )

    return metric


def few_shot(
    train: Float[Tensor, "N D"],
    train_labels: Int[Tensor, " N"],
    test: Float[Tensor, "M D"],
    test_labels: Int[Tensor, " M"],
    classes: int,
    *,
    shots: Sequence[int],
    l2: float = L2,
    seeds: int = SEEDS,
) -> dict[int, list[float]]:
    """Accuracy with each seed, by number of shots. What a class has too few images for is left out."""
    enough = [n for n in shots if n <= np.bincount(train_labels.numpy(), minlength=classes).min()]
    found: dict[int, list[float]] = {n: [] for n in enough}
    for seed in range(seeds):
        order = shuffled(train_labels.numpy(), classes, seed)
        for n in enough:
            chosen = torch.from_numpy(np.concatenate([of_class[:n] for of_class in order]))
            predicted = ridge(train[chosen], train_labels[chosen], test, classes, l2)
            found[n].append(float((predicted == test_labels).double().mean()))
    return found


def shuffled(labels: np.ndarray, classes: int, seed: int) -> list[np.ndarray]:
    """For each class, its images in random order: fewer shots are the beginning of more."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(labels == k)) for k in range(classes)]


def ridge(
    train: Float[Tensor, "N D"], labels: Int[Tensor, " N"], test: Float[Tensor, "M D"], classes: int, l2: float
) -> Int[Tensor, " M"]:
    """Classes predicted by least squares with targets ±1, on features whitened by those of the training images."""
    train, test = train.double(), test.double()
    mean, std = train.mean(0), train.std(0, correction=0) + 1e-5
    x, at = (torch.cat([(rows - mean) / std, torch.full((len(rows), 1), CONSTANT)], 1) for rows in (train, test))
    targets = 2 * F.one_hot(labels, classes).double() - 1
    if len(x) < x.shape[1]:  # the same solution, by the smaller of both systems
        weights = x.T @ torch.linalg.solve(x @ x.T + l2 * torch.eye(len(x), dtype=x.dtype), targets)
    else:
        weights = torch.linalg.solve(x.T @ x + l2 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ targets)
    return (at @ weights).argmax(1)
