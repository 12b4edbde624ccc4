"""ResNets in files of others: timm's, and torchvision's, which have the same names. No weight knows the image size."""

from __future__ import annotations

import dataclasses

from mlpmixer.models.resnet import ResNetConfig
from mlpmixer.weights.adapters import Adapter, Hints, Scheme, State
from mlpmixer.weights.adapters.grids import Grid
from mlpmixer.weights.adapters.shapes import Shapes, blocks_in, classes_in, shape
from mlpmixer.weights.layouts import SAME, Layout, Line, batch_norm, both, line


def conv_norm(ours: str, conv: str, norm: str) -> list[Line]:
    return [line(f"{ours}.conv.weight", f"{conv}.weight", SAME), *batch_norm(f"{ours}.norm", norm)]


# Their stages count from 1. torchvision's ResNet-50 has the same names.
_UNIT = "layer{i+1}.{j}"

RESNET_TIMM = [
    *conv_norm("stem", "conv1", "bn1"),
    *conv_norm("stages.{i}.{j}.reduce", f"{_UNIT}.conv1", f"{_UNIT}.bn1"),
    *conv_norm("stages.{i}.{j}.mix", f"{_UNIT}.conv2", f"{_UNIT}.bn2"),
    *conv_norm("stages.{i}.{j}.expand", f"{_UNIT}.conv3", f"{_UNIT}.bn3"),
    *conv_norm("stages.{i}.{j}.shortcut", f"{_UNIT}.downsample.0", f"{_UNIT}.downsample.1"),
    *both("head", "fc"),
]

LAYOUTS = (Layout("timm", RESNET_TIMM, ("conv1.weight", "layer1.0.conv3.weight")),)


def config_of(_layout: Layout, shapes: Shapes, hints: Hints) -> ResNetConfig:
    channels, in_channels, _, _ = shape(shapes, "stem.conv.weight", 4)
    return ResNetConfig(
        units=tuple(blocks_in(shapes, f"stages.{stage}") for stage in range(blocks_in(shapes, "stages"))),
        channels=channels,
        operator="convolution",
        image_size=hints.stored_size or hints.prepared_size or (224, 224),
        in_channels=in_channels,
        num_classes=classes_in(shapes),
    )


def change_resolution(
    state: State, config: ResNetConfig, image_size: Grid, _scheme: Scheme
) -> tuple[State, ResNetConfig]:
    return state, dataclasses.replace(config, image_size=image_size)


def refuses(config: ResNetConfig) -> str | None:
    return None if config.operator == "convolution" else f"ResNets of the operator {config.operator}"


ADAPTER = Adapter(LAYOUTS, config_of, change_resolution, refuses)
