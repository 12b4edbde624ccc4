"""Linear few-shot accuracy, as the authors of the paper measure it: ridge regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SHOTS = (1, 5, 10, 25)
L2 = 2.0**10
SEEDS = 3
CONSTANT = 100.0  # appended to the features in place of a bias, so that the penalty on it is next to nothing


def few_shot(
    known: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    asked: Float[Tensor, "M D"],
    answers: Int[Tensor, " M"],
    classes: int,
    *,
    shots: Sequence[int] = SHOTS,
    l2: float = L2,
    seeds: int = SEEDS,
) -> dict[int, list[float]]:
    """Shots → the share of right answers with each seed. What a class has too few images for is left out."""
    enough = [n for n in shots if n <= np.bincount(labels.numpy(), minlength=classes).min()]
    found: dict[int, list[float]] = {n: [] for n in enough}
    for seed in range(seeds):
        order = picks(labels.numpy(), classes, seed)
        for n in enough:
            chosen = torch.from_numpy(np.concatenate([of_class[:n] for of_class in order]))
            said = ridge(known[chosen], labels[chosen], asked, classes, l2)
            found[n].append(float((said == answers).double().mean()))
    return found


def picks(labels: np.ndarray, classes: int, seed: int) -> list[np.ndarray]:
    """For each class, its images in an order of chance: fewer shots are the beginning of more."""
    chance = np.random.default_rng(seed)
    return [chance.permutation(np.flatnonzero(labels == k)) for k in range(classes)]


def ridge(
    known: Float[Tensor, "N D"], labels: Int[Tensor, " N"], asked: Float[Tensor, "M D"], classes: int, l2: float
) -> Int[Tensor, " M"]:
    """Least squares with targets ±1 on features whitened by what is known, and the class whose answer is largest."""
    known, asked = known.double(), asked.double()
    mean, std = known.mean(0), known.std(0, correction=0) + 1e-5
    x, at = (torch.cat([(rows - mean) / std, torch.full((len(rows), 1), CONSTANT)], 1) for rows in (known, asked))
    targets = 2 * F.one_hot(labels, classes).double() - 1
    if len(x) < x.shape[1]:  # the same solution, by the smaller of both systems
        weights = x.T @ torch.linalg.solve(x @ x.T + l2 * torch.eye(len(x), dtype=x.dtype), targets)
    else:
        weights = torch.linalg.solve(x.T @ x + l2 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ targets)
    return (at @ weights).argmax(1)
