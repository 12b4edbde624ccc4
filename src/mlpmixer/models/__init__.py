"""The models. One file a family (`mixer.py` first); this one finds them by name; only building one imports torch."""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlpmixer.errors import UsageError, nearest

if TYPE_CHECKING:
    from mlpmixer.models.classifier import Classifier, ClassifierConfig

# Name → the file whose SIZES describes it.
MODELS = {
    "mixer_s32": "mixer",
    "mixer_s16": "mixer",
    "mixer_b32": "mixer",
    "mixer_b16": "mixer",
    "mixer_l32": "mixer",
    "mixer_l16": "mixer",
    "mixer_h14": "mixer",
    "mixer_pico": "mixer",
    "mixer_nano": "mixer",
    "mixer_tiny": "mixer",
    "mixer_mini": "mixer",
    "vit_ti32": "vit",
    "vit_ti16": "vit",
    "vit_s32": "vit",
    "vit_s16": "vit",
    "vit_b32": "vit",
    "vit_b16": "vit",
    "vit_l32": "vit",
    "vit_l16": "vit",
    "vit_h14": "vit",
    "bit_r50x1": "bit",
    "bit_r50x2": "bit",
    "bit_r50x3": "bit",
    "bit_r101x1": "bit",
    "bit_r101x3": "bit",
    "bit_r152x1": "bit",
    "bit_r152x2": "bit",
    "bit_r152x4": "bit",
    "bit_r200x3": "bit",
}

CLASSES = {"mixer": "Mixer", "vit": "ViT", "bit": "BiT"}


def list_models() -> list[str]:
    """All models, the paper's Mixers first."""
    return list(MODELS)


def canonical(name: str) -> str:
    """`Mixer-B/16`, the paper's way to write it, and `mixer_b16` are one model."""
    plain = re.sub(r"[/ ]", "", name.strip().lower().replace("-", "_"))
    if plain not in MODELS:
        raise UsageError(f"no model is called '{name}'{nearest(plain, MODELS)} (`mixer models` lists them)")
    return plain


def create(
    name: str, *, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, **options: Any
) -> Classifier:
    """A new model, freshly initialized, in training mode.

    `image_size` is a side or (height, width), in pixels. `options` are fields of the family's config, such as
    `dropout`, `gelu="erf"` or `groups=4`.
    """
    name = canonical(name)
    return build(MODELS[name], describe(name, num_classes=num_classes, image_size=image_size, **options), name)


def describe(
    name: str, *, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, **options: Any
) -> ClassifierConfig:
    """The config that `create` would build."""
    name = canonical(name)
    return revise(import_module(f"{__name__}.{MODELS[name]}").SIZES[name], num_classes, image_size, **options)


def revise(
    config: ClassifierConfig,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> ClassifierConfig:
    """`config` with what is named changed; an option that the family does not have is refused."""
    known = [field.name for field in dataclasses.fields(config)]
    for option in options:
        if option not in known:
            raise UsageError(f"no option is called '{option}'{nearest(option, known)} (there are: {', '.join(known)})")
    if num_classes is not None:
        options["num_classes"] = num_classes
    if image_size is not None:
        options["image_size"] = sides(image_size)
    return dataclasses.replace(config, **options)


def sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width; one number is both."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width


def build(family: str, config: ClassifierConfig, name: str | None = None) -> Classifier:
    """The model that `config` describes."""
    return getattr(import_module(f"{__name__}.{family}"), CLASSES[family])(config, name or family)
