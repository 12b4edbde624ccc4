"""ImageNet's other test sets: ReaL's labels, and images that are newer, harder, drawn, or spoilt.

V2: folders 0 to 999, or WordNet ids; A and R: 200 of the classes, among which alone the answer is sought; Sketch: all
of them; C: a folder for each way of spoiling, perhaps within noise/, blur/, weather/ and digital/, with the severities
1 to 5 in it. C's images are 224×224 crops already, so they are not cropped again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from mlpmixer import data
from mlpmixer.data.dataset import DataSet, Split
from mlpmixer.data.sources.imagenet import all_names, number_of, readable
from mlpmixer.errors import DataError, nearest
from mlpmixer.evaluation.card import share
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.class_mapping import outputs_for
from mlpmixer.metrics.corruption import ALEXNET, corruption_errors, mean_corruption_error
from mlpmixer.metrics.predictions import Answers
from mlpmixer.metrics.real import real_accuracy
from mlpmixer.models.classifier import Classifier

Variant = Literal["imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_c"]
AMONG_THEIRS = {"imagenet_a": 200, "imagenet_r": 200}  # and how many classes they have
SEVERITIES = ("1", "2", "3", "4", "5")
CLASSES = all_names()

Look = Callable[[str, Split, Preprocessing], Answers]


def real_labels(file: str | os.PathLike[str]) -> list[list[int]]:
    """For each image of val/, all classes that people found right."""
    try:
        sets = json.loads(Path(file).read_text(encoding="utf-8"))
        if len(sets) != 50_000 or not all(isinstance(labels, list) for labels in sets):
            raise ValueError
    except FileNotFoundError:
        raise DataError(f"there is no file {file}{_beside(Path(file))} (ReaL's labels are in real.json)") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is not ReaL's label file, a list of 50,000 lists (real.json)") from error
    return sets


def real(
    answers: Answers, split: Split, outputs: Int[np.ndarray, " 1000"], sets: Sequence[Sequence[int]]
) -> dict[str, float]:
    """`outputs`: for each of ImageNet's classes the model's output."""
    numbers = [number_of(Path(split.where(index)).name) for index in answers.indices.tolist()]
    if None in numbers:
        raise DataError("ReaL's labels are for ImageNet's val/, whose images are called ILSVRC2012_val_00000001.JPEG")
    if (outputs < 0).any():
        raise DataError("ReaL's labels are for models of ImageNet's 1,000 classes, and this is none")
    said = answers.logits[:, outputs].argmax(1).numpy()
    right, judged = real_accuracy(said, [sets[number] for number in numbers if number is not None])
    return share(np.arange(judged) < right)


def require(name: Variant, folder: str | os.PathLike[str]) -> None:
    """That it is there and has this variant's form, as far as names tell."""
    if name == "imagenet_c":
        _ways(Path(folder))
    else:
        _opened(name, folder)


def variant(
    name: Variant, folder: str | os.PathLike[str], model: Classifier, how: Preprocessing, look: Look
) -> dict[str, Any]:
    """`how`: images of other sets are prepared."""
    if name == "imagenet_c":
        return _spoilt(Path(folder), model, uncropped(how), look)
    return share(_right(name, folder, model, how, look))


def uncropped(how: Preprocessing) -> Preprocessing:
    """Straight to the model's size: nothing but what is too long for it is cut off."""
    return replace(how, shape="short_side", resize=max(how.crop))


def _opened(name: str, folder: str | os.PathLike[str]) -> DataSet:
    opened = data.open(folder)
    if name in AMONG_THEIRS:
        _require_theirs(name, opened)
    return opened


def _require_theirs(name: str, opened: DataSet) -> None:
    title, count, found = f"ImageNet-{name[-1].upper()}", AMONG_THEIRS[name], len(opened.classes)
    strange = next((one for one in opened.classes if one not in CLASSES and readable([one]) is None), None)
    if strange is not None:
        raise DataError(
            f"{opened.source} is no {title}: '{strange}' is no class of ImageNet's; name the folder that holds its "
            f"{count} class folders, n01498041 and so on"
        )
    if found != count:
        raise DataError(
            f"{opened.source} has {found:,} of ImageNet's classes, and {title} has {count}; unpack {title} whole, and "
            "name its folder"
        )


def _beside(path: Path) -> str:
    """What may have been meant."""
    try:
        return nearest(path.name, [other.name for other in path.parent.iterdir()])
    except OSError:
        return ""


def _right(name: str, folder: str | os.PathLike[str], model: Classifier, how: Preprocessing, look: Look) -> np.ndarray:
    opened = _opened(name, folder)
    split = next(opened.splits[known] for known in ("test", "val", *opened.splits) if known in opened.splits)
    outputs = outputs_for(opened.classes, model)
    if (outputs < 0).any():
        strange = opened.classes[int(np.flatnonzero(outputs < 0)[0])]
        raise DataError(f"{folder} is no {name}, or not for this model: it has no class '{strange}'")
    answers = look(name, split, how)
    logits = answers.logits
    if name in AMONG_THEIRS:
        others = torch.ones(logits.shape[1], dtype=torch.bool)
        others[outputs] = False
        logits = logits.masked_fill(others, -torch.inf)
    return (logits.argmax(1) == torch.from_numpy(outputs)[answers.labels]).numpy()


def _spoilt(root: Path, model: Classifier, how: Preprocessing, look: Look) -> dict[str, Any]:
    """`errors`: for each way of spoiling that is there, the shares of wrong answers by severity. `mce`: in percent."""
    errors = {
        way: [float(1 - _right(way, place / severity, model, how, look).mean()) for severity in SEVERITIES]
        for way, place in _ways(root).items()
    }
    return {"errors": errors, "weighed": corruption_errors(errors), "mce": mean_corruption_error(errors)}


def _ways(root: Path) -> dict[str, Path]:
    """The folders of the ways of spoiling that are there."""
    if not os.path.isdir(root):  # noqa: PTH112 (a Path complains of a name that is too long)
        raise DataError(f"there is no folder {root}{_beside(root)}")
    places = {
        place.name: place for pattern in ("*", "*/*") for place in sorted(root.glob(pattern)) if place.name in ALEXNET
    }
    if not places:
        raise DataError(f"no ImageNet-C in {root}; its folders are called {', '.join(list(ALEXNET)[:3])} and so on")
    for place in places.values():
        missing = [severity for severity in SEVERITIES if not (place / severity).is_dir()]
        if missing:
            raise DataError(f"{place} has no folder {missing[0]}; ImageNet-C has five severities, 1 to 5")
    return places
