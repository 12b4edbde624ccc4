"""Preprocessing check: a model should do no better when its images are prepared in another way than its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from mlpmixer.data.preprocess import normalize
from mlpmixer.evaluation.card import PreprocessingTrial
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier

IMAGES = 256
SIGNIFICANT = 0.001  # p-value below which a difference is no chance

VALUES = {
    "values from -1 to 1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "values from 0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "ImageNet's mean and deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def check_preprocessing(
    model: Classifier, images: UInt8[Tensor, "N 3 H W"], truth: Int[Tensor, " N"], how: Preprocessing
) -> list[PreprocessingTrial]:
    """Accuracy with the usual preprocessing `how`, then with other value ranges, and with red and blue swapped."""
    if not len(truth):
        return []
    others: dict[str, Callable[[Tensor], Tensor]] = {"red and blue swapped": lambda part: normalize(part.flip(1), how)}
    for name, (mean, std) in VALUES.items():
        if not np.allclose((how.mean, how.std), (mean, std), atol=1e-3):
            other = replace(how, mean=mean, std=std)
            others[name] = lambda part, other=other: normalize(part, other)

    def correct(prepare: Callable[[Tensor], Tensor]) -> Bool[np.ndarray, " N"]:
        parameter = next(model.parameters())
        with torch.inference_mode():
            predicted = [
                model(prepare(part.to(parameter.device)).to(parameter.dtype)).argmax(1).cpu()
                for part in images.split(32)
            ]
        return (torch.cat(predicted) == truth).numpy()

    usual = correct(lambda part: normalize(part, how))
    trials = [PreprocessingTrial(preprocessing="the model's own preprocessing", top1=float(usual.mean()))]
    for name, prepare in others.items():
        other = correct(prepare)
        p = mcnemar(usual, other)
        better = bool(other.mean() > usual.mean() and p < SIGNIFICANT)
        trials.append(PreprocessingTrial(preprocessing=name, top1=float(other.mean()), p_value=p, better=better))
    return trials


def mcnemar(first: Bool[np.ndarray, " N"], second: Bool[np.ndarray, " N"]) -> float:
    """McNemar's exact two-sided test of two classifiers on the same images, as a p-value.

    Only images that one of them had right and the other wrong matter; each is then the toss of a coin.
    """
    for_first, for_second = int((first & ~second).sum()), int((second & ~first).sum())
    tosses = for_first + for_second
    beyond = sum(math.comb(tosses, n) for n in range(max(for_first, for_second), tosses + 1))
    return min(1.0, 2 * beyond / 2**tosses)
