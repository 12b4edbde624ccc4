"""Our own kernels for CPUs: a plain Mixer in float32, bfloat16, int8 or a mixture."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Sequence
from typing import cast

import torch

from mlpmixer.engines.rewrites import merge_norms, stem_for_bytes, values_of_bytes
from mlpmixer.engines.table import Run, Setup
from mlpmixer.kernels.forward import Forward, Parts
from mlpmixer.kernels.library import library
from mlpmixer.kernels.weights import HalfWeights
from mlpmixer.metadata import Kind, LayerPrecision, Preprocessing
from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer


def why_not(setup: Setup) -> str | None:
    if (reason := unsupported(setup.model)) is not None:
        return reason
    if setup.precision == "int8" and not setup.layer_precisions:
        return "this model is not quantized: mixer export RUN --to safetensors --precision int8 --data IMAGES"
    return None


def unsupported(model: Classifier) -> str | None:
    """What keeps a model from running through the kernels on this machine in any precision; None: nothing."""
    if not family_of(model).plain_mixer(model.config):
        return "they run plain Mixers only"
    config = cast(Mixer, model).config
    if config.channels % 16 or config.token_hidden % 16 or config.channel_hidden % 16:
        return "channels, token_hidden and channel_hidden must be multiples of 16 for them"
    if stem_for_bytes(model) is None:
        return "the sides of images must be multiples of the patch for them"
    found = library("forward")
    return None if isinstance(found, ctypes.CDLL) else found


def build(setup: Setup) -> Run:
    layer_precisions = setup.layer_precisions if setup.precision == "int8" else ()
    return forward(cast(Mixer, setup.model), setup.how, cast(Kind, setup.precision), layer_precisions)


def forward(model: Mixer, how: Preprocessing, kind: Kind, layer_precisions: Sequence[LayerPrecision] = ()) -> Forward:
    """The model's forward pass in numbers of one kind, or of several.

    Args:
        model: A plain Mixer.
        how: Preprocessing, whose mean and std become a part of the stem.
        kind: Of all numbers, or of those that `layer_precisions` say nothing about.
        layer_precisions: One for each half of each layer.
    """
    return Forward(parts(model, how), layer_precisions or [LayerPrecision(kind)] * (2 * model.config.layers), kind)


@torch.no_grad()
def parts(model: Mixer, how: Preprocessing) -> Parts:
    model = copy.deepcopy(model).cpu().float()
    merge_norms(model)
    config, stem = model.config, model.stem.patches
    scale, shift = values_of_bytes(how)
    area = config.patch_size**2
    assert stem.bias is not None
    halves: list[HalfWeights] = []
    for block in model.blocks:
        tokens, channels = block.token_mixing, block.channel_mixing
        one, zero = torch.ones(config.channels), torch.zeros(config.channels)
        for gamma, beta, mlp in ((block.norm1.weight, block.norm1.bias, tokens), (one, zero, channels)):
            halves.append(HalfWeights(gamma, beta, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias))
    head = model.head if isinstance(model.head, torch.nn.Linear) else None
    return Parts(
        image=(config.in_channels, *config.image_size),
        patch=config.patch_size,
        gelu=config.gelu,
        stem=(stem.weight * scale[:, None, None]).flatten(1),
        stem_bias=stem.bias,
        shift=shift.repeat_interleave(area),
        halves=halves,
        gamma=model.norm.weight,
        beta=model.norm.bias,
        head=None if head is None else head.weight,
        head_bias=torch.zeros(config.num_classes) if head is None or head.bias is None else head.bias,
    )
