"""NFNets in files of others. No weight of theirs knows the image size."""

from __future__ import annotations

import dataclasses

from mlpmixer.models.nfnet import NFNetConfig
from mlpmixer.weights.adapters import Adapter, Hints, Scheme, State
from mlpmixer.weights.adapters.grids import Grid
from mlpmixer.weights.adapters.shapes import Shapes, blocks_in, classes_in, shape
from mlpmixer.weights.layouts import POINT, SAME, Layout, Line, both, line, one

GAIN = one(lambda t: t[:, 0, 0, 0], lambda t: t[:, None, None, None])  # (C, 1, 1, 1)
NUMBER = one(lambda t: t[None], lambda t: t[0])  # an array without sides


def scaled_conv(ours: str, theirs: str) -> list[Line]:
    return [*both(ours, theirs), line(f"{ours}.gain", f"{theirs}.gain", GAIN)]


_BLOCK = "stages.{i}.{j}"

# Those whose names begin with dm_, which are the authors' networks; the others of timm compute something else.
NFNET_TIMM = [
    *scaled_conv("stem.{i}", "stem.conv{i+1}"),
    *(
        row
        for ours, theirs in (
            ("conv1", "conv1"),
            ("conv2", "conv2"),
            ("conv3", "conv2b"),
            ("conv4", "conv3"),
            ("shortcut", "downsample.conv"),
        )
        for row in scaled_conv(f"{_BLOCK}.{ours}", f"{_BLOCK}.{theirs}")
    ),
    *(
        row
        for fc in ("fc1", "fc2")
        for row in (
            line(f"{_BLOCK}.squeeze_excite.{fc}.weight", f"{_BLOCK}.attn_last.{fc}.weight", POINT),
            line(f"{_BLOCK}.squeeze_excite.{fc}.bias", f"{_BLOCK}.attn_last.{fc}.bias", SAME),
        )
    ),
    line(f"{_BLOCK}.skip_gain", f"{_BLOCK}.skipinit_gain", NUMBER),
    *scaled_conv("conv", "final_conv"),
    *both("head", "head.fc"),
]

LAYOUTS = (
    Layout("timm", NFNET_TIMM, ("stem.conv1.gain", "stages.0.0.conv2b.gain", "stages.0.0.skipinit_gain"), gelu="erf"),
)


def config_of(layout: Layout, shapes: Shapes, hints: Hints) -> NFNetConfig:
    stages = range(blocks_in(shapes, "stages"))
    kernels = [shape(shapes, f"stages.{stage}.0.conv2.weight", 4) for stage in stages]
    return NFNetConfig(
        depths=tuple(blocks_in(shapes, f"stages.{stage}") for stage in stages),
        widths=tuple(shape(shapes, f"stages.{stage}.0.conv4.weight", 4)[0] for stage in stages),
        inner=tuple(inner for inner, *_ in kernels),
        group_width=min(width for _, width, *_ in kernels),  # F4+ has one group of more
        image_size=hints.stored_size or hints.prepared_size or (256, 256),
        in_channels=shape(shapes, "stem.0.weight", 4)[1],
        gelu=layout.gelu,
        kernel_eps="added",
        num_classes=classes_in(shapes),
    )


def change_resolution(
    state: State, config: NFNetConfig, image_size: Grid, _scheme: Scheme
) -> tuple[State, NFNetConfig]:
    return state, dataclasses.replace(config, image_size=image_size)


ADAPTER = Adapter(LAYOUTS, config_of, change_resolution)
