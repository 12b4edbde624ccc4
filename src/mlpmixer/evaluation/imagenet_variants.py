"""ImageNet's other test sets: ReaL's labels, ImageNet-V2, -A, -R, -Sketch and -C.

V2: folders 0 to 999, or WordNet ids; A and R: 200 of the classes, to which predictions are restricted; Sketch: all of
them; C: a folder for each corruption type, perhaps within noise/, blur/, weather/ and digital/, with the severities
1 to 5 in it. C's images are 224×224 crops already, so they are not cropped again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int

from mlpmixer import data
from mlpmixer.data.dataset import DataSet, Split
from mlpmixer.data.sources.imagenet import all_names, number_of, readable
from mlpmixer.errors import DataError, nearest
from mlpmixer.evaluation.card import CorruptionErrors
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.class_mapping import outputs_for
from mlpmixer.metrics.metric import Metric, fraction
from mlpmixer.metrics.predictions import Predictions
from mlpmixer.models.classifier import Classifier

Variant = Literal["imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_c"]
RESTRICTED = {"imagenet_a": 200, "imagenet_r": 200}  # predictions are restricted to so many classes
SEVERITIES = ("1", "2", "3", "4", "5")
CLASSES = all_names()

NAMES = {
    "imagenet_v2": "ImageNet-V2",
    "imagenet_a": "ImageNet-A",
    "imagenet_r": "ImageNet-R",
    "imagenet_sketch": "ImageNet-Sketch",
}

# The mean error of AlexNet over the five severities, which weighs the corruption types (Hendrycks & Dietterich, 2019).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}

Inference = Callable[[str, Split, Preprocessing], Predictions]  # what is being read, images, how they are prepared


def real_labels(file: str | os.PathLike[str]) -> list[list[int]]:
    """For each image of val/, all classes that people found right (Beyer et al., 2020)."""
    try:
        sets = json.loads(Path(file).read_text(encoding="utf-8"))
        if len(sets) != 50_000 or not all(isinstance(labels, list) for labels in sets):
            raise ValueError
    except FileNotFoundError:
        raise DataError(f"there is no file {file}{_beside(Path(file))} (ReaL's labels are in real.json)") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is not ReaL's label file, a list of 50,000 lists (real.json)") from error
    return sets


def real_accuracy(
    predictions: Predictions, split: Split, outputs: Int[np.ndarray, " 1000"], sets: Sequence[Sequence[int]]
) -> Metric:
    """ReaL accuracy. `outputs`: the model's output for each of ImageNet's classes; `sets`: from `real_labels`."""
    numbers = [number_of(Path(split.where(index)).name) for index in predictions.indices.tolist()]
    if None in numbers:
        raise DataError("ReaL's labels are for ImageNet's val/, whose images are called ILSVRC2012_val_00000001.JPEG")
    if (outputs < 0).any():
        raise DataError("ReaL's labels are for models of ImageNet's 1,000 classes, and this is none")
    predicted = predictions.logits[:, outputs].argmax(1).numpy()
    right, count = count_real(predicted, [sets[number] for number in numbers if number is not None])
    return fraction("ReaL", np.arange(count) < right)


def count_real(predicted: Int[np.ndarray, " N"], sets: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many predictions are among the right labels, and of how many images: those without labels are left out."""
    judged = [(one, labels) for one, labels in zip(predicted.tolist(), sets, strict=True) if len(labels)]
    return sum(one in labels for one, labels in judged), len(judged)


def require(name: Variant, folder: str | os.PathLike[str]) -> None:
    """Raises `DataError` unless the folder is there and has this variant's form, as far as names tell."""
    if name == "imagenet_c":
        _corruptions(Path(folder))
    else:
        _opened(name, folder)


def variant_accuracy(
    name: Variant, folder: str | os.PathLike[str], model: Classifier, how: Preprocessing, inference: Inference
) -> Metric:
    return fraction(NAMES[name], _correct(name, folder, model, how, inference))


def corruption_errors(
    folder: str | os.PathLike[str], model: Classifier, how: Preprocessing, inference: Inference
) -> tuple[CorruptionErrors, Metric | None]:
    """ImageNet-C: errors of the corruption types that are there, and the mCE if all fifteen are."""
    how = uncropped(how)
    errors = {
        name: [float(1 - _correct(name, place / severity, model, how, inference).mean()) for severity in SEVERITIES]
        for name, place in _corruptions(Path(folder)).items()
    }
    found = CorruptionErrors(errors=errors, of_alexnet=of_alexnet(errors))
    mean = mean_corruption_error(errors)
    return found, None if mean is None else Metric(name="ImageNet-C, mCE", value=mean, unit="%")


def of_alexnet(errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean error of each corruption type over its severities, in percent of AlexNet's."""
    return {name: 100 * sum(found) / len(found) / ALEXNET[name] for name, found in errors.items()}


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float | None:
    """mCE in percent; None unless all fifteen corruption types are there."""
    return sum(of_alexnet(errors).values()) / len(ALEXNET) if {*errors} == {*ALEXNET} else None


def uncropped(how: Preprocessing) -> Preprocessing:
    """Preprocessing that resizes straight to the model's size and cuts off only what is too long for it."""
    return replace(how, shape="short_side", resize=max(how.crop))


def _opened(name: str, folder: str | os.PathLike[str]) -> DataSet:
    opened = data.open(folder)
    if name in RESTRICTED:
        _require_classes(name, opened)
    return opened


def _require_classes(name: str, opened: DataSet) -> None:
    title, count, found = f"ImageNet-{name[-1].upper()}", RESTRICTED[name], len(opened.classes)
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


def _correct(
    name: str, folder: str | os.PathLike[str], model: Classifier, how: Preprocessing, inference: Inference
) -> np.ndarray:
    opened = _opened(name, folder)
    split = next(opened.splits[one] for one in ("test", "val", *opened.splits) if one in opened.splits)
    outputs = outputs_for(opened.classes, model)
    if (outputs < 0).any():
        strange = opened.classes[int(np.flatnonzero(outputs < 0)[0])]
        raise DataError(f"{folder} is no {name}, or not for this model: it has no class '{strange}'")
    predictions = inference(name, split, how)
    logits = predictions.logits
    if name in RESTRICTED:
        excluded = torch.ones(logits.shape[1], dtype=torch.bool)
        excluded[outputs] = False
        logits = logits.masked_fill(excluded, -torch.inf)
    return (logits.argmax(1) == torch.from_numpy(outputs)[predictions.labels]).numpy()


def _corruptions(root: Path) -> dict[str, Path]:
    """The folders of the corruption types that are there."""
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
