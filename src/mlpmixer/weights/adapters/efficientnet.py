"""EfficientNets in timm's files, TensorFlow's among them. No weight of theirs knows the image size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mlpmixer.models.efficientnet import SIZES, STAGES, STEM, TOP, EfficientNetConfig
from mlpmixer.weights.adapters import Adapter, Hints, Scheme, State
from mlpmixer.weights.adapters.grids import Grid
from mlpmixer.weights.adapters.shapes import Shapes, blocks_in, classes_in, shape
from mlpmixer.weights.layouts import SAME, Layout, Line, batch_norm, both, line


def conv_norm(ours: str, conv: str, norm: str) -> list[Line]:
    return [line(f"{ours}.conv.weight", f"{conv}.weight", SAME), *batch_norm(f"{ours}.norm", norm)]


def block(ours: str, theirs: str, **convs: str) -> list[Line]:
    """Its layers are numbered in the order in which they come, by what they normalize."""
    return [
        *(
            row
            for n, name in enumerate(convs, 1)
            for row in conv_norm(f"{ours}.{name}", f"{theirs}.{convs[name]}", f"{theirs}.bn{n}")
        ),
        *both(f"{ours}.gate.reduce", f"{theirs}.se.conv_reduce"),
        *both(f"{ours}.gate.expand", f"{theirs}.se.conv_expand"),
    ]


TIMM = [
    *conv_norm("stem", "conv_stem", "bn1"),
    # The first stage's blocks have no first 1×1, and their last one has its name.
    *block("stages.0.{j}", "blocks.0.{j}", depthwise="conv_dw", project="conv_pw"),
    *block("stages.{i}.{j}", "blocks.{i}.{j}", expand="conv_pw", depthwise="conv_dw", project="conv_pwl"),
    *conv_norm("top", "conv_head", "bn2"),
    *both("head", "classifier"),
]

LAYOUTS = (Layout("timm", TIMM, ("conv_stem.weight", "blocks.0.0.se.conv_reduce.weight")),)


def config_of(_layout: Layout, shapes: Shapes, hints: Hints) -> EfficientNetConfig:
    stem, in_channels, _, _ = shape(shapes, "stem.conv.weight", 4)
    blocks = tuple(blocks_in(shapes, f"stages.{stage}") for stage in range(len(STAGES)))
    channels = [shape(shapes, f"stages.{stage}.0.project.conv.weight", 4)[0] for stage in range(len(STAGES))]
    wanted = {STEM: stem, **{stage.channels: here for stage, here in zip(STAGES, channels, strict=True)}}
    top = "top.conv.weight" in shapes
    if top:
        wanted[TOP] = shape(shapes, "top.conv.weight", 4)[0]

    def has_channels(config: EfficientNetConfig) -> bool:
        return all(config.scaled(of_b0) == here for of_b0, here in wanted.items())

    size = next((size for size in SIZES.values() if has_channels(size) and size.blocks == blocks), None)
    if size is None:
        width = _factor("width", "stem.conv.weight", has_channels)
        depth = _factor("depth", "stages.1.0.expand.conv.weight", lambda config: config.blocks == blocks)
        size = EfficientNetConfig(width=width, depth=depth)
    return dataclasses.replace(
        size,
        image_size=hints.stored_size or hints.prepared_size or size.image_size,
        in_channels=in_channels,
        num_classes=classes_in(shapes),
        top=top,
    )


def _factor(option: str, array: str, fits: Callable[[EfficientNetConfig], bool]) -> float:
    """The least in hundredths with which B0 becomes a network that fits; others may round to the same network."""
    for hundredths in range(1, 1001):
        if fits(dataclasses.replace(SIZES["efficientnet_b0"], **{option: hundredths / 100})):
            return hundredths / 100
    raise ValueError(array)


def change_resolution(
    state: State, config: EfficientNetConfig, image_size: Grid, _scheme: Scheme
) -> tuple[State, EfficientNetConfig]:
    return state, dataclasses.replace(config, image_size=image_size)


ADAPTER = Adapter(LAYOUTS, config_of, change_resolution)
