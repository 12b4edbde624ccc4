"""BiTs in files of others. No weight of theirs knows the image size."""

from __future__ import annotations

import dataclasses

from mlpmixer.models.bit import BiTConfig
from mlpmixer.weights.adapters import Adapter, Hints, Scheme, State
from mlpmixer.weights.adapters.grids import Grid
from mlpmixer.weights.adapters.shapes import Shapes, blocks_in, classes_in, shape
from mlpmixer.weights.layouts import (
    BROADCAST,
    CONV,
    FLAX_POINT,
    POINT,
    SAME,
    Layout,
    Line,
    both,
    flax_norm,
    line,
    weight_and_bias,
)

BIT_TIMM = [
    line("stem.weight", "stem.conv.weight", SAME),
    *(
        row
        for n in (1, 2, 3)
        for row in (
            *both(f"stages.{{i}}.{{j}}.norm{n}", f"stages.{{i}}.blocks.{{j}}.norm{n}"),
            line(f"stages.{{i}}.{{j}}.conv{n}.weight", f"stages.{{i}}.blocks.{{j}}.conv{n}.weight", SAME),
        )
    ),
    line("stages.{i}.{j}.shortcut.weight", "stages.{i}.blocks.{j}.downsample.conv.weight", SAME),
    *both("norm", "norm"),
    line("head.weight", "head.fc.weight", POINT),
    line("head.bias", "head.fc.bias", SAME),
]

# Their stages count from 1, and their units from 01: `{i+1}` and `{j+1:02}`.
_UNIT = "block{i+1}/unit{j+1:02}"

BIT_LINEN = [
    line("stem.weight", "root_block/conv_root/kernel", CONV),
    *(
        row
        for n in (1, 2, 3)
        for row in (
            *flax_norm(f"stages.{{i}}.{{j}}.norm{n}", f"{_UNIT}/gn{n}", BROADCAST),
            line(f"stages.{{i}}.{{j}}.conv{n}.weight", f"{_UNIT}/conv{n}/kernel", CONV),
        )
    ),
    line("stages.{i}.{j}.shortcut.weight", f"{_UNIT}/conv_proj/kernel", CONV),
    *flax_norm("norm", "norm-pre-head", BROADCAST),
    *weight_and_bias("head", "head"),
]


def gamma_and_beta(ours: str, theirs: str) -> list[Line]:
    return [line(f"{ours}.weight", f"{theirs}/gamma", SAME), line(f"{ours}.bias", f"{theirs}/beta", SAME)]


BIT_OLDER = [
    line("stem.weight", "resnet/root_block/standardized_conv2d/kernel", CONV),
    *(
        row
        for n, letter in enumerate("abc", start=1)
        for row in (
            *gamma_and_beta(f"stages.{{i}}.{{j}}.norm{n}", f"resnet/{_UNIT}/{letter}/group_norm"),
            line(f"stages.{{i}}.{{j}}.conv{n}.weight", f"resnet/{_UNIT}/{letter}/standardized_conv2d/kernel", CONV),
        )
    ),
    line("stages.{i}.{j}.shortcut.weight", f"resnet/{_UNIT}/a/proj/standardized_conv2d/kernel", CONV),
    *gamma_and_beta("norm", "resnet/group_norm"),
    *weight_and_bias("head", "resnet/head/conv2d", FLAX_POINT),
]

LAYOUTS = (
    Layout("timm", BIT_TIMM, ("stem.conv.weight", "stages.0.blocks.0.conv1.weight")),
    Layout("linen", BIT_LINEN, ("root_block/conv_root/kernel",)),
    Layout("older", BIT_OLDER, ("resnet/root_block/standardized_conv2d/kernel",)),
)


def config_of(_layout: Layout, shapes: Shapes, hints: Hints) -> BiTConfig:
    channels, in_channels, _, _ = shape(shapes, "stem.weight", 4)
    return BiTConfig(
        units=tuple(blocks_in(shapes, f"stages.{stage}") for stage in range(blocks_in(shapes, "stages"))),
        width=max(1, channels // 64),
        image_size=hints.stored_size or hints.prepared_size or (224, 224),
        in_channels=in_channels,
        num_classes=classes_in(shapes),
    )


def change_resolution(state: State, config: BiTConfig, image_size: Grid, _scheme: Scheme) -> tuple[State, BiTConfig]:
    return state, dataclasses.replace(config, image_size=image_size)


# Some of the first files number their convolutions as TensorFlow happened to.
SPELLINGS = {r"/standardized_conv2d_\d+/": "/standardized_conv2d/"}

ADAPTER = Adapter(LAYOUTS, config_of, change_resolution, spellings=SPELLINGS)
