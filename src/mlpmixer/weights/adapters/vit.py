"""ViTs in files of others, and at another image size, for which their position embeddings are resampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from mlpmixer.errors import UsageError
from mlpmixer.models.layers import grid
from mlpmixer.models.vit import SIZES, ViTConfig
from mlpmixer.weights.adapters import Adapter, Hints, Scheme, State
from mlpmixer.weights.adapters.grids import Grid, Resize
from mlpmixer.weights.adapters.shapes import Shapes, blocks_in, classes_in, shape, square
from mlpmixer.weights.layouts import CONV, SAME, Form, Layout, Line, both, flax_norm, line, weight_and_bias

# Query, key and value: three arrays (C, heads, C/heads), one of ours.
QKV = Form(
    lambda theirs: (torch.cat([t.flatten(1).transpose(0, 1) for t in theirs]),),
    lambda ours, config: tuple(t.transpose(0, 1).unflatten(1, (config.heads, -1)) for t in ours[0].chunk(3)),
)
QKV_BIAS = Form(
    lambda theirs: (torch.cat([t.flatten() for t in theirs]),),
    lambda ours, config: tuple(t.unflatten(0, (config.heads, -1)) for t in ours[0].chunk(3)),
)
ATTENTION_OUT = Form(
    lambda theirs: (theirs[0].flatten(0, 1).transpose(0, 1),),
    lambda ours, config: (ours[0].transpose(0, 1).unflatten(0, (config.heads, -1)),),
)
# Linen adds no position to the class token: ours then is zero, and a class token with one is their sum.
CLASS_AND_POSITION = Form(
    lambda theirs: (theirs[0], torch.cat([torch.zeros_like(theirs[0]), theirs[1]], dim=1)),
    lambda ours, _: (ours[0] + ours[1][:, :1], ours[1][:, 1:]),
)


VIT_TIMM = [
    line("class_token", "cls_token", SAME),
    line("position", "pos_embed", SAME),
    *both("stem.patches", "patch_embed.proj"),
    *both("blocks.{i}.norm1", "blocks.{i}.norm1"),
    *both("blocks.{i}.attention.qkv", "blocks.{i}.attn.qkv"),
    *both("blocks.{i}.attention.out", "blocks.{i}.attn.proj"),
    *both("blocks.{i}.norm2", "blocks.{i}.norm2"),
    *both("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1"),
    *both("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"),
    *both("norm", "norm"),
    *both("head", "head"),
]


def vit_flax(attention: str, norm2: str, mlp: str) -> list[Line]:
    block = "Transformer/encoderblock_{i}"
    return [
        *weight_and_bias("stem.patches", "embedding", CONV),
        *flax_norm("blocks.{i}.norm1", f"{block}/LayerNorm_0"),
        *(
            line(f"blocks.{{i}}.attention.{ours}", " ".join(f"{block}/{attention}/{t}" for t in theirs.split()), form)
            for ours, theirs, form in (
                ("qkv.weight", "query/kernel key/kernel value/kernel", QKV),
                ("qkv.bias", "query/bias key/bias value/bias", QKV_BIAS),
                ("out.weight", "out/kernel", ATTENTION_OUT),
                ("out.bias", "out/bias", SAME),
            )
        ),
        *flax_norm("blocks.{i}.norm2", f"{block}/{norm2}"),
        *weight_and_bias("blocks.{i}.mlp.fc1", f"{block}/{mlp}/Dense_0"),
        *weight_and_bias("blocks.{i}.mlp.fc2", f"{block}/{mlp}/Dense_1"),
        *flax_norm("norm", "Transformer/encoder_norm"),
        *weight_and_bias("representation.0", "pre_logits"),
        *weight_and_bias("head", "head"),
    ]


VIT_LINEN = [
    line("class_token position", "cls pos_embedding", CLASS_AND_POSITION),
    line("position", "pos_embedding", SAME),  # where there is no class token
    *vit_flax("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
]

VIT_JAX = [
    line("class_token", "cls", SAME),
    line("position", "Transformer/posembed_input/pos_embedding", SAME),
    *vit_flax("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
]

# The parts of a block were counted together, whatever they are.
VIT_OLDER = [*VIT_JAX[:2], *vit_flax("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")]

_ATTENTION = "Transformer/encoderblock_0/MultiHeadDotProductAttention"

LAYOUTS = (
    Layout("timm", VIT_TIMM, ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), gelu="erf"),
    Layout("vit_jax", VIT_JAX, (f"{_ATTENTION}_0/query/kernel", "Transformer/posembed_input/pos_embedding")),
    Layout("linen", VIT_LINEN, (f"{_ATTENTION}_0/query/kernel",)),
    Layout("older", VIT_OLDER, (f"{_ATTENTION}_1/query/kernel",)),
)


def config_of(layout: Layout, shapes: Shapes, hints: Hints) -> ViTConfig:
    channels, in_channels, patch, _ = shape(shapes, "stem.patches.weight", 4)
    pool = "token" if "class_token" in shapes else "mean"
    tokens = shape(shapes, "position", 3)[1] - (pool == "token")
    usual = {size.channels: size.heads for size in SIZES.values()}
    heads = hints.heads or _heads_in(hints.arrays) or usual.get(channels)
    if heads is None:
        raise UsageError(f"{channels} channels do not tell the number of attention heads; say it: heads=")
    return ViTConfig(
        layers=blocks_in(shapes, "blocks"),
        patch_size=patch,
        channels=channels,
        heads=heads,
        hidden=shape(shapes, "blocks.0.mlp.fc1.weight", 2)[0],
        pool=pool,
        representation=shape(shapes, "representation.0.weight", 2)[0] if "representation.0.weight" in shapes else 0,
        image_size=hints.stored_size or square(tokens, patch),
        in_channels=in_channels,
        gelu=layout.gelu,
        num_classes=classes_in(shapes),
    )


def _heads_in(theirs: Mapping[str, Tensor]) -> int | None:
    """The number of attention heads, where a layout shows it: Flax's queries are (C, heads, C/heads)."""
    return next((t.shape[1] for name, t in theirs.items() if name.endswith("/query/kernel") and t.ndim == 3), None)


def change_resolution(state: State, config: ViTConfig, image_size: Grid, scheme: Scheme) -> tuple[State, ViTConfig]:
    if scheme == "tiles":
        raise UsageError("tiles is a scheme for Mixers; ViT's position embeddings are resampled")
    before, after = grid(config.image_size, config.patch_size), grid(image_size, config.patch_size)
    resampled = {**state, "position": resample_positions(state["position"], before, after)}
    return resampled, dataclasses.replace(config, image_size=image_size)


def resample_positions(position: Tensor, before: Grid, after: Grid) -> Tensor:
    """Position embeddings (1, [class token +] tokens, C) for another grid; the class token keeps its own."""
    tokens = before[0] * before[1]
    token, of_grid = position[:, :-tokens], position[:, -tokens:]
    resized = Resize(before, after).after(of_grid.double().transpose(1, 2)).transpose(1, 2)
    return torch.cat([token, resized.to(position.dtype)], dim=1)


ADAPTER = Adapter(LAYOUTS, config_of, change_resolution)
