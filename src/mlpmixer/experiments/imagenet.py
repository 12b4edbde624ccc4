"""ImageNet's other test sets: ReaL's labels, and pictures that are newer, harder, drawn, or spoilt.

V2: folders 0 to 999, or WordNet ids; A and R: 200 of the classes, among which alone the answer is sought; Sketch: all
of them; C: a folder for each way of spoiling, perhaps within noise/, blur/, weather/ and digital/, with the severities
1 to 5 in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from mlpmixer import data
from mlpmixer.data.dataset import Split
from mlpmixer.data.sources.imagenet import all_names, number_of
from mlpmixer.errors import DataError
from mlpmixer.experiments.card import share
from mlpmixer.experiments.matching import outputs_for
from mlpmixer.measures.answers import Answers
from mlpmixer.measures.corruption import ALEXNET, corruption_errors, mean_corruption_error
from mlpmixer.measures.real import real_accuracy
from mlpmixer.models.classifier import Classifier

Variant = Literal["imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_c"]
AMONG_THEIRS = ("imagenet_a", "imagenet_r")
SEVERITIES = ("1", "2", "3", "4", "5")
CLASSES = all_names()

Look = Callable[[str, Split], Answers]


def real(
    answers: Answers, split: Split, outputs: Int[np.ndarray, " 1000"], file: str | os.PathLike[str]
) -> dict[str, float]:
    """`outputs`: for each of ImageNet's classes the model's output."""
    try:
        sets = json.loads(Path(file).read_text(encoding="utf-8"))
        if len(sets) != 50_000 or not all(isinstance(labels, list) for labels in sets):
            raise ValueError
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is not ReaL's label file, a list of 50,000 lists (real.json)") from error
    numbers = [number_of(Path(split.where(index)).name) for index in answers.indices.tolist()]
    if None in numbers:
        raise DataError("ReaL's labels are for ImageNet's val/, whose pictures are called ILSVRC2012_val_00000001.JPEG")
    if (outputs < 0).any():
        raise DataError("ReaL's labels are for models of ImageNet's 1,000 classes, and this is none")
    said = answers.logits[:, outputs].argmax(1).numpy()
    right, judged = real_accuracy(said, [sets[number] for number in numbers if number is not None])
    return share(np.arange(judged) < right)


def variant(name: Variant, folder: str | os.PathLike[str], model: Classifier, look: Look) -> dict[str, Any]:
    if name == "imagenet_c":
        return _spoilt(Path(folder), model, look)
    return share(_right(name, folder, model, look))


def _right(name: str, folder: str | os.PathLike[str], model: Classifier, look: Look) -> np.ndarray:
    opened = data.open(folder)
    split = next(opened.splits[known] for known in ("test", "val", *opened.splits) if known in opened.splits)
    outputs = outputs_for(opened.classes, model)
    if (outputs < 0).any():
        strange = opened.classes[int(np.flatnonzero(outputs < 0)[0])]
        raise DataError(f"{folder} is no {name}, or not for this model: it has no class '{strange}'")
    answers = look(name, split)
    logits = answers.logits
    if name in AMONG_THEIRS:
        others = torch.ones(logits.shape[1], dtype=torch.bool)
        others[outputs] = False
        logits = logits.masked_fill(others, -torch.inf)
    return (logits.argmax(1) == torch.from_numpy(outputs)[answers.labels]).numpy()


def _spoilt(root: Path, model: Classifier, look: Look) -> dict[str, Any]:
    """`errors`: for each way of spoiling that is there, the shares of wrong answers by severity. `mce`: in percent."""
    places = {
        place.name: place for pattern in ("*", "*/*") for place in sorted(root.glob(pattern)) if place.name in ALEXNET
    }
    if not places:
        raise DataError(f"no ImageNet-C in {root}; its folders are called {', '.join(list(ALEXNET)[:3])} and so on")
    errors: dict[str, list[float]] = {}
    for way, place in places.items():
        missing = [severity for severity in SEVERITIES if not (place / severity).is_dir()]
        if missing:
            raise DataError(f"{place} has no folder {missing[0]}; ImageNet-C has five severities, 1 to 5")
        errors[way] = [float(1 - _right(way, place / severity, model, look).mean()) for severity in SEVERITIES]
    return {"errors": errors, "weighed": corruption_errors(errors), "mce": mean_corruption_error(errors)}
