"""k-nearest-neighbor classification of features: no training, so a direct look at them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mlpmixer.metrics.metric import Metric, MetricInputs, fraction

K = 20
BLOCK = 1024  # test images that are compared with all training images at a time


def knn_accuracy(inputs: MetricInputs) -> Metric | None:
    train, test = inputs.train, inputs.test
    if train is None:
        return None
    predicted = knn(train.features, train.labels, test.features, inputs.classes)
    name = f"k-NN (k = {K}, {len(train):,} training images)"
    return fraction(name, (predicted == test.labels).numpy(), train_images=len(train), settings={"k": K})


def knn(
    train: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    test: Float[Tensor, "M D"],
    classes: int,
    *,
    k: int = K,
    temperature: float = 0.07,
) -> Int[Tensor, " M"]:
    """Predicted classes: each of the k nearest by cosine votes for its own, with weight exp(cosine / temperature)."""
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    predicted = []
    for part in test.split(BLOCK):
        near = (part @ train.T).topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(part), classes, device=part.device)
        # The nearest has weight 1; the others' ratios to it are what counts.
        weights = ((near.values - near.values[:, :1]) / temperature).exp()
        votes.scatter_add_(1, labels[near.indices], weights)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)
