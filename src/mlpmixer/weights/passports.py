"""What is known of a model that no file says anything of, such as one of a training loop of one's own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

from mlpmixer.errors import UsageError
from mlpmixer.models.classifier import Classifier
from mlpmixer.passport import Passport, Preprocessing
from mlpmixer.weights.checkpoint import check_passport


def passport_of(
    model: Classifier, classes: Sequence[str] | None = None, preprocessing: Preprocessing | None = None
) -> Passport:
    """What is said here; else what its own passport says; else what is usual for the size of its pictures."""
    config = model.config
    passport = model.passport or Passport(preprocessing=Preprocessing.usual(config.image_size))
    if classes is not None:
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise UsageError(f"classes must be a list of names, not {classes!r}")
        if len(classes) != config.num_classes:
            raise UsageError(f"{len(classes)} class names for a model of {config.num_classes} classes")
        passport = dataclasses.replace(passport, classes=tuple(classes))
    if preprocessing is not None:
        if not isinstance(preprocessing, Preprocessing):
            raise UsageError(f"preprocessing must be an mlpmixer.passport.Preprocessing, not {preprocessing!r}")
        passport = dataclasses.replace(passport, preprocessing=preprocessing)
        _check(passport, model)
    return passport


def with_passport(
    model: Classifier, classes: Sequence[str] | None = None, preprocessing: Preprocessing | None = None
) -> Classifier:
    """The model, or where it does not say all that itself, another around the same weights that does."""
    passport = passport_of(model, classes, preprocessing)
    if passport == model.passport:
        return model
    model = copy.copy(model)
    model.passport = passport
    return model


def _check(passport: Passport, model: Classifier) -> None:
    config, how = model.config, passport.preprocessing
    if tuple(how.crop) != tuple(config.image_size):
        raise UsageError(
            f"preprocessing crops to {how.crop}, and the model takes {config.image_size} (height, width); say "
            f"crop={config.image_size}"
        )
    if not len(how.mean) == len(how.std) == config.in_channels:
        raise UsageError(
            f"preprocessing has {len(how.mean)} means and {len(how.std)} deviations; the model has "
            f"{config.in_channels} channels"
        )
    try:
        check_passport(passport, config)
    except (ValueError, TypeError) as error:
        raise UsageError(f"this preprocessing cannot be: {error}") from None
