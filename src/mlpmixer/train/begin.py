"""The model that a run begins with: new, or from weights that somebody trained before."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlpmixer.models import create
from mlpmixer.models.classifier import Classifier
from mlpmixer.passport import Passport, Preprocessing
from mlpmixer.recipe import Evaluation, Recipe
from mlpmixer.weights.load import glance, load


def begin(recipe: Recipe, classes: tuple[str, ...]) -> Classifier:
    """In training mode, with the passport that its weights will carry. The head stays if the classes are the same."""
    wanted = recipe.model
    size = (wanted.image_size[0], wanted.image_size[-1]) if wanted.image_size else None
    if wanted.weights:
        kept = glance(wanted.weights).passport.classes == classes
        head: dict[str, Any] = {} if kept else {"num_classes": len(classes), "fresh": ("head",)}
        options: dict[str, Any] = {**wanted.options}
        model = load(wanted.weights, image_size=size, resize=wanted.resize, **head, **options)
        model.float()
    else:
        model = create(wanted.name, num_classes=len(classes), image_size=size, **wanted.options)
    origin = {"recipe": recipe.name, "data": recipe.data.source}
    if wanted.weights:
        origin["from"] = wanted.weights
    model.passport = Passport(
        preprocessing=preprocessing_of(recipe.evaluation, model.config.image_size), classes=classes, provenance=origin
    )
    return model.train()


def preprocessing_of(how: Evaluation, image_size: tuple[int, int]) -> Preprocessing:
    usual = Preprocessing.usual(image_size)
    return dataclasses.replace(
        usual,
        resize=how.resize or usual.resize,
        shape=how.shape,
        interpolation=how.interpolation,
        mean=how.mean,
        std=how.std,
    )
