"""What a model answers to a set of images, gathered in one pass for all measures to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlpmixer.models.classifier import Classifier


@dataclass(frozen=True)
class Answers:
    """Of N images, on the CPU. `features`: what the head is given. `indices`: where in their split they are."""

    features: Float[Tensor, "N D"]
    logits: Float[Tensor, "N classes"]
    labels: Int[Tensor, " N"]
    indices: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)


def ask(model: Classifier, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Answers:
    """`batches` yields (images, labels, indices). A model without a head has answers without logits."""
    parameter = next(model.parameters())
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    # Not through `intermediates`, which would hold every table of every layer to keep one vector.
    head, model.head = model.head, nn.Identity()
    try:
        with torch.inference_mode():
            for images, labels, indices in batches:
                features = model(images.to(parameter.device, parameter.dtype))
                logits = head(features) if model.config.num_classes else features[:, :0]
                rows.append((features.float().cpu(), logits.float().cpu(), labels.cpu(), indices.cpu()))
    finally:
        model.head = head
    features, logits, labels, indices = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return Answers(features, logits, labels, indices)
