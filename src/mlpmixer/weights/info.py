"""What is known of a model that no file says anything of, such as one of a training loop of one's own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

from mlpmixer.errors import UsageError
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.weights.checkpoint import check_info


def info_of(
    model: Classifier, classes: Sequence[str] | None = None, preprocessing: Preprocessing | None = None
) -> ModelInfo:
    """What is said here; else what its own metadata says; else what is usual for the size of its images."""
    info = model.metadata or ModelInfo(preprocessing=Preprocessing.usual(model.config.image_size))
    if classes is not None:
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise UsageError(f"classes must be a list of names, not {classes!r}")
        info = dataclasses.replace(info, classes=tuple(classes))
    if preprocessing is not None:
        if not isinstance(preprocessing, Preprocessing):
            raise UsageError(f"preprocessing must be an mlpmixer.metadata.Preprocessing, not {preprocessing!r}")
        info = dataclasses.replace(info, preprocessing=preprocessing)
    try:
        check_info(info, model.config)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the model cannot have this preprocessing and these classes: {error}") from None
    return info


def with_info(
    model: Classifier, classes: Sequence[str] | None = None, preprocessing: Preprocessing | None = None
) -> Classifier:
    """The model, or where it does not say all that itself, another around the same weights that does."""
    info = info_of(model, classes, preprocessing)
    if info == model.metadata:
        return model
    model = copy.copy(model)
    model.metadata = info
    return model
