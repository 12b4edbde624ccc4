"""Whether the images reach the model as it learnt them: it should do no better when they are prepared otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from mlpmixer.data.preprocess import normalize
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.paired import mcnemar
from mlpmixer.models.classifier import Classifier

IMAGES = 256
SURE = 0.001  # a difference that chance makes less often than this is none of its making

VALUES = {
    "values from -1 to 1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "values from 0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "ImageNet's mean and deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def tried_otherwise(
    model: Classifier, images: UInt8[Tensor, "N 3 H W"], truth: Int[Tensor, " N"], how: Preprocessing
) -> list[dict[str, Any]]:
    """Other ranges of values, and blue for red. `better`: whether the model was surely more often right."""
    others: dict[str, Callable[[Tensor], Tensor]] = {"blue for red": lambda part: normalize(part.flip(1), how)}
    for name, (mean, std) in VALUES.items():
        if not np.allclose((how.mean, how.std), (mean, std), atol=1e-3):
            other = replace(how, mean=mean, std=std)
            others[name] = lambda part, other=other: normalize(part, other)

    def right(prepare: Callable[[Tensor], Tensor]) -> Bool[np.ndarray, " N"]:
        parameter = next(model.parameters())
        with torch.inference_mode():
            said = [
                model(prepare(part.to(parameter.device)).to(parameter.dtype)).argmax(1).cpu()
                for part in images.split(32)
            ]
        return (torch.cat(said) == truth).numpy()

    usual = right(lambda part: normalize(part, how))
    found = []
    for name, prepare in others.items():
        other = right(prepare)
        chance = mcnemar(usual, other)
        better = bool(other.mean() > usual.mean() and chance < SURE)
        found.append({"how": name, "top1": float(other.mean()), "chance": chance, "better": better})
    return [{"how": "as its metadata says", "top1": float(usual.mean())}, *found] if len(truth) else []
