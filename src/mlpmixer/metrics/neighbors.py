"""What the nearest images that are known would say: no training, so a plain look at the features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE = 1024  # images that are compared with all others at a time


def nearest_neighbors(
    known: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    asked: Float[Tensor, "M D"],
    classes: int,
    *,
    neighbors: int = 20,
    temperature: float = 0.07,
) -> Int[Tensor, " M"]:
    """Each of the nearest by cosine votes for its class, with weight exp(cosine / temperature)."""
    known, asked = F.normalize(known.float(), dim=1), F.normalize(asked.float(), dim=1)
    said = []
    for part in asked.split(AT_ONCE):
        near = (part @ known.T).topk(min(neighbors, len(known)), dim=1)
        votes = torch.zeros(len(part), classes, device=part.device)
        # The nearest has weight 1; the others' ratios to it are what counts.
        weights = ((near.values - near.values[:, :1]) / temperature).exp()
        votes.scatter_add_(1, labels[near.indices], weights)
        said.append(votes.argmax(1))
    return torch.cat(said)
