"""The models by name. One file a family (`mixer.py` first); importing one, and so torch, waits for the first use."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from mlpmixer.errors import UsageError, nearest
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.family import Family, unlisted

if TYPE_CHECKING:
    from mlpmixer.models.classifier import Classifier, ClassifierConfig


class Row(NamedTuple):
    """A family: the module whose `FAMILY` is its record, and the names of its sizes, which need no import."""

    module: str
    sizes: tuple[str, ...]


FAMILIES: dict[str, Row] = {
    "mixer": Row(
        "mlpmixer.models.mixer",
        (
            *("mixer_s32", "mixer_s16", "mixer_b32", "mixer_b16", "mixer_l32", "mixer_l16", "mixer_h14"),
            *("mixer_pico", "mixer_nano", "mixer_tiny", "mixer_mini"),
        ),
    ),
    "vit": Row(
        "mlpmixer.models.vit",
        (
            *("vit_ti32", "vit_ti16", "vit_s32", "vit_s16", "vit_b32", "vit_b16", "vit_l32", "vit_l16"),
            "vit_h14",
        ),
    ),
    "bit": Row(
        "mlpmixer.models.bit",
        (
            *("bit_r50x1", "bit_r50x2", "bit_r50x3", "bit_r101x1", "bit_r101x3"),
            *("bit_r152x1", "bit_r152x2", "bit_r152x4", "bit_r200x3"),
        ),
    ),
    "halonet": Row(
        "mlpmixer.models.halonet",
        (
            *("halonet_h0", "halonet_h1", "halonet_h2", "halonet_h3", "halonet_h4", "halonet_h5", "halonet_h6"),
            *("halonet_h7", "halonet_h4_base128"),
        ),
    ),
    "nfnet": Row(
        "mlpmixer.models.nfnet",
        (
            *("nfnet_f0", "nfnet_f1", "nfnet_f2", "nfnet_f3", "nfnet_f4", "nfnet_f5", "nfnet_f6"),
            *("nfnet_f4plus", "nfnet_f4plus_released"),
        ),
    ),
    "efficientnet": Row(
        "mlpmixer.models.efficientnet",
        (*(f"efficientnet_b{n}" for n in range(8)), "efficientnet_b6_wide", "efficientnet_l2"),
    ),
    "resnet": Row(
        "mlpmixer.models.resnet",
        ("resnet50", "sasa_resnet50", "botnet50", "lambda_resnet50", "rednet50", "depthwise_resnet50"),
    ),
    "isotropic": Row(
        "mlpmixer.models.isotropic",
        ("isotropic_s16", "isotropic_b16", "isotropic_pico", "isotropic_nano"),
    ),
}


def family(name: str) -> Family:
    """The record of the family called `name`.

    Raises:
        UsageError: There is no such family.
    """
    if name not in FAMILIES:
        raise UsageError(f"unknown model family '{name}'{nearest(name, FAMILIES)} (there are: {', '.join(FAMILIES)})")
    return import_module(FAMILIES[name].module).FAMILY


def family_of(model: Classifier) -> Family:
    """The record of the family that `model` belongs to; of a class that is in no row, one without any answers."""
    found = next((family(name) for name in FAMILIES if isinstance(model, family(name).model)), None)
    return found or unlisted(model)


def family_name(model: str) -> str:
    """The family of the model called `model`; imports nothing."""
    return next(name for name, row in FAMILIES.items() if canonical(model) in row.sizes)


def list_models(pattern: str = "*") -> list[str]:
    """The names of all models that match `pattern`, such as `mixer_*`; the paper's Mixers first."""
    return [name for row in FAMILIES.values() for name in row.sizes if fnmatchcase(name, pattern)]


def canonical(name: str) -> str:
    """`Mixer-B/16`, the paper's way to write it, and `mixer_b16` are one model.

    Raises:
        UsageError: There is no such model.
    """
    plain = re.sub(r"[/ ]", "", name.strip().lower().replace("-", "_"))
    if plain not in list_models():
        raise UsageError(f"no model is called '{name}'{nearest(plain, list_models())} (`mixer models` lists them)")
    return plain


def create(
    name: str, *, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, **options: Any
) -> Classifier:
    """A new model, freshly initialized, in training mode.

    Args:
        name: As `list_models` has it, or as the paper writes it.
        num_classes: Outputs of the head; 0: no head. By default 1000.
        image_size: A side or (height, width), in pixels.
        **options: Fields of the family's config, such as `dropout`, `gelu="erf"` or `groups=4`.

    Raises:
        UsageError: There is no such model or option, or a value does not fit.
    """
    name = canonical(name)
    config = describe(name, num_classes=num_classes, image_size=image_size, **options)
    return family(family_name(name)).build(config, name)


def describe(
    name: str, *, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, **options: Any
) -> ClassifierConfig:
    """The config that `create` would build."""
    name = canonical(name)
    return revise(family(family_name(name)).sizes[name], num_classes, image_size, **options)


def options_of(name: str) -> list[str]:
    """The fields of the config of the model called `name`."""
    return [field.name for field in dataclasses.fields(describe(name))]


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


def with_metadata(model: Classifier, classes: object = None, preprocessing: object = None) -> Classifier:
    """`model`, or if its metadata says something else, a shallow copy around the same weights.

    Args:
        model: Any model.
        classes: The names of the classes, a sequence of str; None: as the metadata has them.
        preprocessing: A `Preprocessing`: how to prepare images; None: as the metadata has it.

    Raises:
        UsageError: They do not fit the model, or each other.
    """
    info = model.metadata
    if classes is not None:
        listed = isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes)
        if not isinstance(classes, Sequence) or isinstance(classes, str) or not listed:
            raise UsageError(f"classes must be a list of names, not {classes!r}")
        info = dataclasses.replace(info, classes=tuple(classes))
    if preprocessing is not None:
        if not isinstance(preprocessing, Preprocessing):
            raise UsageError(f"preprocessing must be an mlpmixer.metadata.Preprocessing, not {preprocessing!r}")
        info = dataclasses.replace(info, preprocessing=preprocessing)
    layers = family_of(model).mixer_layers(model.config) if info.layer_precisions else 0
    try:
        info.check(model.config.num_classes, model.config.image_size, mixer_layers=layers)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the model cannot have this preprocessing and these classes: {error}") from None
    if info == model.metadata:
        return model
    model = copy.copy(model)
    model.metadata = info
    return model
