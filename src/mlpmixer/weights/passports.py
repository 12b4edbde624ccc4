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
    passport = model.passport or Passport(preprocessing=Preprocessing.usual(model.config.image_size))
    if classes is not None:
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise UsageError(f"classes must be a list of names, not {classes!r}")
        passport = dataclasses.replace(passport, classes=tuple(classes))
    if preprocessing is not None:
        if not isinstance(preprocessing, Preprocessing):
            raise UsageError(f"preprocessing must be an mlpmixer.passport.Preprocessing, not {preprocessing!r}")
        passport = dataclasses.replace(passport, preprocessing=preprocessing)
    try:
        check_passport(passport, model.config)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the model cannot have this preprocessing and these classes: {error}") from None
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
