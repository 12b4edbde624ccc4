"""The head that learns while a person labels: ridge regression on the embeddings of all images, in closed form.

It takes milliseconds, so it is computed anew after each correction. The same factorization gives what the head would
say of each labeled image had it not been among those that it learned from (leave-one-out), exactly and at once:

    ŷ₋ᵢ = (ŷᵢ − hᵢ yᵢ) / (1 − hᵢ)    where hᵢ is how much image i counts in its own prediction

These predictions choose the penalty and the temperature, and tell which labels are doubtful: nothing is held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mlpmixer.metrics.few_shot import CONSTANT

PENALTIES = tuple(10.0**power for power in range(-1, 6))
TEMPERATURES = tuple(2.0**power for power in range(-1, 6))  # scores are divided by 1 / these


@dataclass(frozen=True)
class Head:
    """What was learned, and what it says of all images.

    Attributes:
        chances: Of each image and class; of labeled images, by leave-one-out.
        penalty: That was chosen.
        temperature: That was chosen.
        weights: Of standardized embeddings and a constant.
        mean: Of the embeddings that it learned from.
        std: Of the same.
    """

    chances: Float[np.ndarray, "N K"]
    penalty: float
    temperature: float
    weights: Float[np.ndarray, "D1 K"]
    mean: Float[np.ndarray, " D"]
    std: Float[np.ndarray, " D"]

    def score(self, embeddings: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M K"]:
        """Chances of other images."""
        return softmax(widened((embeddings - self.mean) / self.std) @ self.weights * self.temperature)

    @property
    def predicted(self) -> Int[np.ndarray, " N"]:
        return self.chances.argmax(1)

    def doubt(self, labels: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """From 0 to 1: of an image with a label, how unlikely that is; of others (-1), how far the best class is from
        certain."""
        known = labels >= 0
        found = 1 - self.chances.max(1)
        found[known] = 1 - self.chances[known, labels[known]]
        return found


def fit_head(embeddings: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], classes: int) -> Head | None:
    """Learns from the images that have a label.

    Args:
        embeddings: Of all images.
        labels: From 0; -1: none.
        classes: How many there are; two of them must have an image.

    Returns:
        None where there is nothing to tell apart yet.
    """
    known = np.flatnonzero(labels >= 0)
    if len(np.unique(labels[known])) < 2:
        return None
    train = embeddings[known].astype(np.float64)
    mean, std = train.mean(0), train.std(0) + 1e-5
    every = widened((embeddings - mean) / std)
    x, targets = every[known], np.where(np.arange(classes) == labels[known, None], 1.0, -1.0)
    values, vectors = np.linalg.eigh(x.T @ x)
    turned = x @ vectors
    products = turned.T @ targets
    fits = []
    for penalty in PENALTIES:
        shrunk = 1 / (values.clip(min=0) + penalty)
        fitted = turned @ (shrunk[:, None] * products)
        own = (turned**2 @ shrunk).clip(max=1 - 1e-9)[:, None]
        left_out = (fitted - own * targets) / (1 - own)
        fits.append((float(((left_out - targets) ** 2).mean()), penalty, left_out))
    _, penalty, left_out = min(fits, key=lambda fit: fit[0])
    true = np.arange(len(known)), labels[known]
    losses = {t: -np.log(softmax(left_out * t)[true].clip(min=1e-12)).mean() for t in TEMPERATURES}
    temperature = min(losses, key=lambda t: losses[t])
    weights = vectors @ (products / (values.clip(min=0) + penalty)[:, None])
    scores = every @ weights
    scores[known] = left_out
    return Head(softmax(scores * temperature), penalty, temperature, weights, mean, std)


def widened(embeddings: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D1"]:
    return np.concatenate([embeddings, np.full((len(embeddings), 1), CONSTANT)], 1)


def softmax(scores: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    risen = np.exp(scores - scores.max(1, keepdims=True))
    return risen / risen.sum(1, keepdims=True)
