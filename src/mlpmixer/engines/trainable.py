"""A Mixer to be trained through our own CPU kernels: the same function and gradients, in less time and memory."""

from __future__ import annotations

import ctypes
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlpmixer.kernels.library import library
from mlpmixer.kernels.mixing import channel_mixing, takes, token_mixing
from mlpmixer.kernels.weights import HalfWeights
from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.layers import Mlp, PatchStem
from mlpmixer.models.mixer import Mixer, TokenMixing


def why_not(model: Classifier) -> str | None:
    """What keeps `model` from running through the kernels on this machine; None: nothing."""
    if not family_of(model).mixer_layers(model.config):
        return "they are for Mixers only"
    config = cast(Mixer, model).config
    if config.dropout > 0:
        return "they know no dropout"
    if not takes(config.channels, config.token_hidden, config.channel_hidden):
        return "channels and channel_hidden must be multiples of 32 for them, token_hidden of 16"
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in model.parameters()):
        return "the weights must be float32 and on the CPU"
    if not all(p.is_contiguous() for p in model.parameters()):
        return "the weights must lie in order in memory"
    found = library("mixing")
    return None if isinstance(found, ctypes.CDLL) else found


class Trainable(nn.Module):
    """`model`, as it is under autocast to bfloat16; to be called there as well. `why_not(model)` must be None.

    Token mixing in one of the forms that the authors tried beside the usual one stays PyTorch's. `low_memory`: a
    quarter to a half less memory in training, for some hundredths of the speed.
    """

    def __init__(self, model: Mixer, *, low_memory: bool = False):
        super().__init__()
        self.model, self.low_memory = model, low_memory

    def forward(self, images: Tensor) -> Tensor:
        model, gelu = self.model, self.model.config.gelu
        model.check(images)
        x = described(model.stem, images).to(torch.bfloat16)
        for block in model.blocks:
            if model.config.shared and isinstance(block.skip, nn.Identity):
                half = _half(block.norm1, block.token_mixing)
                x = token_mixing(x, half, block.drop.scale(x), gelu=gelu, low_memory=self.low_memory)
            else:
                x = block.mix_tokens(x).to(torch.bfloat16)
            x = channel_mixing(x, _half(block.norm2, block.channel_mixing), block.drop.scale(x), gelu=gelu)
        return model.head(model.norm(x).mean(dim=1))


def described(stem: PatchStem, images: Tensor) -> Tensor:
    """The stem as one product: the backward pass of a convolution is slow on CPUs (S/32: a third of a step)."""
    weight, side = stem.patches.weight, stem.patches.kernel_size[0]
    if any(stem.padding):
        images = F.pad(images, stem.padding)
    table = images.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return F.linear(table, weight.flatten(1), stem.patches.bias)


def _half(norm: nn.LayerNorm, mlp: TokenMixing | Mlp) -> HalfWeights:
    return HalfWeights(norm.weight, norm.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
