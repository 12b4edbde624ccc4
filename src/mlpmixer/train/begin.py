"""The model that a run begins with: new, or from weights that somebody trained before."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlpmixer.errors import RecipeError
from mlpmixer.models import create
from mlpmixer.models.classifier import Classifier
from mlpmixer.passport import Passport, Preprocessing
from mlpmixer.recipe import Evaluation, Recipe
from mlpmixer.weights.growth import GROWS, grow
from mlpmixer.weights.load import glance, load


def begin(recipe: Recipe, classes: tuple[str, ...]) -> Classifier:
    """In training mode, with the passport that its weights will carry. The head stays if the classes are the same."""
    wanted = recipe.model
    for said, option in {"the data": "num_classes", "model.image_size": "image_size"}.items():
        if option in wanted.options:
            raise RecipeError(f"model.options cannot set {option}: {said} says it")
    size = (wanted.image_size[0], wanted.image_size[-1]) if wanted.image_size else None
    options: dict[str, Any] = {**wanted.options}
    try:
        if wanted.weights:
            if glance(wanted.weights).passport.classes != classes:
                options |= {"num_classes": len(classes), "fresh": ("head",)}
            sizes = {name: options.pop(name) for name in GROWS if wanted.grow and name in options}
            model = load(wanted.weights, image_size=size, resize=wanted.resize, **options).float()
            if wanted.grow:
                model = grow(model, **sizes)
        else:
            model = create(wanted.name, num_classes=len(classes), image_size=size, **options)
    except TypeError as error:
        why = str(error).splitlines()[0]
        raise RecipeError(f"model.options has a value of the wrong kind: {why}") from error
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
        scramble=how.scramble,
        scramble_patch=how.scramble_patch,
    )
