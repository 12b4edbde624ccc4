"""The model that a run begins with: new, or from weights that somebody trained before."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlpmixer.errors import RecipeError
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models import create
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipe import Evaluation, Model, Recipe
from mlpmixer.weights.load import glance, load
from mlpmixer.weights.net2net import GROWS, grow


def begin(recipe: Recipe, classes: tuple[str, ...]) -> Classifier:
    """In training mode, with the metadata that its weights will carry. The head stays if the classes are the same."""
    wanted = recipe.model
    for said, option in {"the data": "num_classes", "model.image_size": "image_size"}.items():
        if option in wanted.options:
            raise RecipeError(f"model.options cannot set {option}: {said} says it")
    size = (wanted.image_size[0], wanted.image_size[-1]) if wanted.image_size else None
    try:
        if wanted.weights:
            model = _trained(wanted, classes, size)
        else:
            model = create(wanted.name, num_classes=len(classes), image_size=size, **wanted.options)
    except TypeError as error:
        why = str(error).splitlines()[0]
        raise RecipeError(f"model.options has a value of the wrong kind: {why}") from error
    origin = {"recipe": recipe.name, "data": recipe.data.source}
    if wanted.weights:
        origin["from"] = wanted.weights
    model.metadata = ModelInfo(
        preprocessing=preprocessing_of(recipe.evaluation, model.config.image_size), classes=classes, provenance=origin
    )
    return model.train()


def _trained(wanted: Model, classes: tuple[str, ...], image_size: tuple[int, int] | None) -> Classifier:
    stored = glance(wanted.weights)
    sizes: dict[str, Any] = {
        name: wanted.options[name] for name in GROWS if name in wanted.options and hasattr(stored.config, name)
    }
    options: dict[str, Any] = {name: value for name, value in wanted.options.items() if name not in sizes}
    for name, asked in sizes.items():
        has = getattr(stored.config, name)
        if has != asked and not wanted.grow:
            raise RecipeError(
                f"model.weights have {name} {has}, and model.options.{name} is {asked}; "
                "--model.grow true makes a larger Mixer of them"
            )
    if stored.info.classes != classes:
        options |= {"num_classes": len(classes), "fresh": ("head",)}
    model = load(wanted.weights, image_size=image_size, resize=wanted.resize, **options).float()
    return grow(model, **sizes) if wanted.grow else model


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
