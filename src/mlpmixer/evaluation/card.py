"""The evaluation card: all that is measured of a model on one data set, as numbers that go into JSON as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from mlpmixer.metrics.calibration import reliability
from mlpmixer.metrics.confusion import Confusion, class_figures, confusion
from mlpmixer.metrics.few_shot import few_shot
from mlpmixer.metrics.intervals import bootstrap, wilson
from mlpmixer.metrics.neighbors import nearest_neighbors
from mlpmixer.metrics.predictions import Answers
from mlpmixer.metrics.probe import probe

NEIGHBORS = 20
BLOCK = 1_024  # answers looked at together: all at once would take several times the room that they have themselves
AS_MATRIX = 64  # classes at most whose confusion is a matrix; of more, the pairs that occur
ANOTHER = "(another)"  # stands for all classes that the model has and the data has not


def share(right: Bool[np.ndarray, " N"]) -> dict[str, float]:
    """How many of how many, and the interval that holds the true share in 95 of 100 cases."""
    low, high = wilson(int(right.sum()), len(right))
    return {"value": float(right.mean()), "low": low, "high": high, "right": int(right.sum()), "count": len(right)}


def answered(answers: Answers, classes: Sequence[str], outputs: Int[np.ndarray, " K"]) -> dict[str, Any]:
    """What the head says. `outputs`: for each class the model's output, -1 where it has none."""
    labels, logits = answers.labels.numpy(), answers.logits
    truth = torch.from_numpy(outputs)[answers.labels]  # as outputs; a class that the model has not is never right
    blocks = [_of_block(*block) for block in zip(logits.split(BLOCK), truth.split(BLOCK), strict=True)]
    ranked, confidence, said, cross_entropy = (torch.cat(found) for found in zip(*blocks, strict=True))
    right = ranked[:, 0].numpy()
    class_of = np.full(logits.shape[1], len(classes))
    class_of[outputs[outputs >= 0]] = np.flatnonzero(outputs >= 0)
    predicted = class_of[said.numpy()]
    names = (*classes, ANOTHER) if (predicted == len(classes)).any() else tuple(classes)
    confused = confusion(labels, predicted, len(names))
    bins, error = reliability(confidence.numpy(), right)
    known = truth >= 0
    most = np.bincount(labels).max() / len(labels)
    top1 = share(right)
    return {
        "top1": top1,
        "top5": share(ranked.any(1).numpy()),
        "cross_entropy": float(cross_entropy[known].mean()) if known.any() else None,
        "classes": [asdict(figures) for figures in class_figures(confused, names)[: len(classes)]],
        "confusion": _confusion(confused, names),
        "calibration": {
            "error": error,
            "interval": bootstrap(lambda chosen: reliability(confidence.numpy()[chosen], right[chosen])[1], len(right)),
            "bins": [asdict(one) for one in bins],
        },
        "chance": {"share": float(most), "beaten": bool(top1["low"] > most)},
    }


def _of_block(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each row: which of the five best outputs is right, how sure the best is and which it is, the loss."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == truth[:, None]
    cross_entropy = F.cross_entropy(logits.double(), truth, ignore_index=-1, reduction="none")
    confidence, said = logits.softmax(1).max(1)
    return ranked, confidence, said, cross_entropy


def _confusion(found: Confusion, names: Sequence[str]) -> dict[str, Any]:
    """`pairs`: positions in the names of what is shown and what is said, and of how many images."""
    if found.classes <= AS_MATRIX:
        return {"names": names, "matrix": found.matrix().tolist()}
    return {"names": names, "pairs": np.stack([found.shown, found.said, found.counts], axis=1).tolist()}


def learnt(known: Answers, asked: Answers, classes: int) -> dict[str, Any]:
    """What others than the head make of the features: the nearest known images, few shots, a probe."""
    labels = asked.labels
    near = nearest_neighbors(known.features, known.labels, asked.features, classes, neighbors=NEIGHBORS)
    shots = few_shot(known.features, known.labels, asked.features, labels, classes)
    said, penalty = probe(known.features, known.labels, asked.features, classes)
    return {
        "known": len(known),
        "neighbors": {"nearest": NEIGHBORS, **share((near == labels).numpy())},
        "few_shot": {str(n): {"mean": float(np.mean(found)), "seeds": found} for n, found in shots.items()},
        "probe": {"penalty": penalty, **share((said == labels).numpy())},
    }
