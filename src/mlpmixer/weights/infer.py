"""Reads a model's description off the shapes of its arrays, for files that do not carry one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib import import_module

from torch import Tensor

from mlpmixer.errors import KeyMismatch, UsageError
from mlpmixer.models.bit import BiTConfig
from mlpmixer.models.classifier import ClassifierConfig
from mlpmixer.models.mixer import MixerConfig
from mlpmixer.models.vit import SIZES as VIT_SIZES
from mlpmixer.models.vit import ViTConfig
from mlpmixer.weights.layouts import Layout

Shapes = Mapping[str, Tensor]


def config_of(
    layout: Layout, shapes: Shapes, image_size: tuple[int, int] | None, heads: int | None
) -> ClassifierConfig:
    """The config whose model has these arrays, named and shaped as ours. `image_size`, in pixels, is needed only where
    the number of places is no square, and attention `heads` only for a ViT of unusual width."""
    try:
        if layout.family == "mixer":
            return _mixer(layout, shapes, image_size)
        if layout.family == "vit":
            return _vit(layout, shapes, image_size, heads)
        return _bit(shapes, image_size)
    except (KeyError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise KeyMismatch(
            f"looks like a {layout.family} in the {layout.name} layout, but lacks or misshapes "
            f"{error.args[0]}, without which its size cannot be told"
        ) from None


def name_of(family: str, config: ClassifierConfig) -> str:
    """The name in the table of models of a config that differs from it in no dimension; else the family's."""
    sizes: dict[str, ClassifierConfig] = import_module(f"mlpmixer.models.{family}").SIZES
    return next((name for name, size in sizes.items() if size.dimensions() == config.dimensions()), family)


def _mixer(layout: Layout, shapes: Shapes, image_size: tuple[int, int] | None) -> MixerConfig:
    channels, in_channels, patch, _ = _shape(shapes, "stem.patches.weight", 4)
    token_hidden, places = _shape(shapes, "blocks.0.token_mixing.fc1.weight", 2)
    return MixerConfig(
        layers=_count(shapes, "blocks"),
        patch_size=patch,
        channels=channels,
        token_hidden=token_hidden,
        channel_hidden=_shape(shapes, "blocks.0.channel_mixing.fc1.weight", 2)[0],
        image_size=image_size or _square(places, patch),
        in_channels=in_channels,
        gelu=layout.gelu,
        num_classes=_classes(shapes),
    )


def _vit(layout: Layout, shapes: Shapes, image_size: tuple[int, int] | None, heads: int | None) -> ViTConfig:
    channels, in_channels, patch, _ = _shape(shapes, "stem.patches.weight", 4)
    pool = "token" if "class_token" in shapes else "mean"
    places = _shape(shapes, "position", 3)[1] - (pool == "token")
    heads = heads or {size.channels: size.heads for size in VIT_SIZES.values()}.get(channels)
    if heads is None:
        raise UsageError(f"{channels} channels do not tell the number of attention heads; say it: heads=")
    return ViTConfig(
        layers=_count(shapes, "blocks"),
        patch_size=patch,
        channels=channels,
        heads=heads,
        hidden=_shape(shapes, "blocks.0.mlp.fc1.weight", 2)[0],
        pool=pool,
        representation=_shape(shapes, "representation.0.weight", 2)[0] if "representation.0.weight" in shapes else 0,
        image_size=image_size or _square(places, patch),
        in_channels=in_channels,
        gelu=layout.gelu,
        num_classes=_classes(shapes),
    )


def _bit(shapes: Shapes, image_size: tuple[int, int] | None) -> BiTConfig:
    channels, in_channels, _, _ = _shape(shapes, "stem.weight", 4)
    return BiTConfig(
        units=tuple(_count(shapes, f"stages.{stage}") for stage in range(_count(shapes, "stages"))),
        width=max(1, channels // 64),
        image_size=image_size or (224, 224),
        in_channels=in_channels,
        num_classes=_classes(shapes),
    )


def _shape(shapes: Shapes, name: str, sides: int) -> tuple[int, ...]:
    if name not in shapes or shapes[name].ndim != sides:
        raise KeyError(name)
    return tuple(shapes[name].shape)


def _count(shapes: Shapes, prefix: str) -> int:
    numbers = set(_numbers(shapes, prefix))
    missing = sorted(set(range(max(numbers, default=0) + 1)) - numbers)
    if missing:
        raise KeyError(f"{prefix}.{missing[0]}")
    return len(numbers)


def _numbers(names: Iterable[str], prefix: str) -> list[int]:
    return [int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in names if name.startswith(f"{prefix}.")]


def _classes(shapes: Shapes) -> int:
    return _shape(shapes, "head.weight", 2)[0] if "head.weight" in shapes else 0


def _square(places: int, patch: int) -> tuple[int, int]:
    side = math.isqrt(max(places, 0))
    if side * side != places or places == 0:
        raise UsageError(f"{places} places make no square; say the image's size: stored_size=(height, width)")
    return side * patch, side * patch
