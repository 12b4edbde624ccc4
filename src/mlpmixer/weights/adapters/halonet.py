"""HaloNets in files of others. No weight of theirs knows the image size."""

from __future__ import annotations

import dataclasses

from mlpmixer.errors import UsageError
from mlpmixer.models.halonet import SIZES, HaloNetConfig
from mlpmixer.weights.adapters import Adapter, Hints, Scheme, State
from mlpmixer.weights.adapters.grids import Grid
from mlpmixer.weights.adapters.shapes import Shapes, blocks_in, classes_in, shape
from mlpmixer.weights.layouts import SAME, Layout, Line, batch_norm, both, line

_BLOCK = "stages.{i}.{j}"


def conv_norm(ours: str, theirs: str) -> list[Line]:
    return [line(f"{ours}.conv.weight", f"{theirs}.conv.weight", SAME), *batch_norm(f"{ours}.norm", f"{theirs}.bn")]


TIMM = [
    *conv_norm("stem", "stem.conv1"),
    *conv_norm(f"{_BLOCK}.narrow", f"{_BLOCK}.conv1_1x1"),
    line(f"{_BLOCK}.spatial.attention.query.weight", f"{_BLOCK}.self_attn.q.weight", SAME),
    line(f"{_BLOCK}.spatial.attention.key_value.weight", f"{_BLOCK}.self_attn.kv.weight", SAME),
    line(f"{_BLOCK}.spatial.attention.row", f"{_BLOCK}.self_attn.pos_embed.height_rel", SAME),
    line(f"{_BLOCK}.spatial.attention.column", f"{_BLOCK}.self_attn.pos_embed.width_rel", SAME),
    *batch_norm(f"{_BLOCK}.spatial.norm", f"{_BLOCK}.post_attn"),
    *conv_norm(f"{_BLOCK}.widen", f"{_BLOCK}.conv3_1x1"),
    *conv_norm(f"{_BLOCK}.shortcut", f"{_BLOCK}.shortcut"),
    *conv_norm("final", "final_conv"),
    *both("head", "head.fc"),
]

LAYOUTS = (Layout("timm", TIMM, ("stem.conv1.conv.weight", "stages.0.0.self_attn.kv.weight")),)


def refuses(config: HaloNetConfig) -> str | None:
    """What timm's HaloNets cannot be; None: nothing."""
    if config.conv_stages:
        return "HaloNets with stages of convolutions"
    if config.value_ratio != 1:
        return "HaloNets whose values are wider than their queries"
    return None if config.offsets == "queries" else 'HaloNets whose offsets count pixels (timm\'s: offsets="queries")'


def config_of(_layout: Layout, shapes: Shapes, hints: Hints) -> HaloNetConfig:
    """timm's halonet_h1 has ReLU, and so have others of its layout here. Blocks and halos can only be told apart by
    their window and the widths that usually go with them."""
    units = tuple(blocks_in(shapes, f"stages.{stage}") for stage in range(blocks_in(shapes, "stages")))
    channels = shape(shapes, "stages.0.0.narrow.conv.weight", 4)[0]
    output_ratio = shape(shapes, "stages.0.0.widen.conv.weight", 4)[0] / channels
    rows, _ = shape(shapes, "stages.0.0.spatial.attention.row", 2)
    usual = {
        (size.block_size, size.halo)
        for size in SIZES.values()
        if 2 * (size.block_size + 2 * size.halo) - 1 == rows and size.output_ratio == output_ratio
    }
    if len(usual) != 1:
        raise UsageError(f"tables of {rows} offsets do not tell block and halo of this HaloNet; save as .safetensors")
    (block_size, halo) = usual.pop()
    widths = [shape(shapes, f"stages.{stage}.0.spatial.attention.row", 2)[1] for stage in range(len(units))]
    heads = tuple(channels * 2**stage // width for stage, width in enumerate(widths))
    return HaloNetConfig(
        channels=channels,
        units=units,
        block_size=block_size,
        halo=halo,
        value_ratio=1.0,
        output_ratio=output_ratio,
        final_channels=shape(shapes, "final.conv.weight", 4)[0] if "final.conv.weight" in shapes else 0,
        heads=heads,
        activation="relu",
        offsets="queries",
        image_size=hints.stored_size or hints.prepared_size or (256, 256),
        in_channels=shape(shapes, "stem.conv.weight", 4)[1],
        num_classes=classes_in(shapes),
    )


def change_resolution(
    state: State, config: HaloNetConfig, image_size: Grid, _scheme: Scheme
) -> tuple[State, HaloNetConfig]:
    return state, dataclasses.replace(config, image_size=image_size)


ADAPTER = Adapter(LAYOUTS, config_of, change_resolution, refuses)
