"""Cheaper forms of a finished model: what is done once to weights need not be done to each image.

Each rewrite keeps the function, but for rounding. docs/benchmarks.md says what each gains.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mlpmixer.metadata import Preprocessing
from mlpmixer.models import family_of
from mlpmixer.models.bit import StandardizedConv
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.layers import PatchStem
from mlpmixer.models.mixer import ColumnLinear, Mixer, MixerBlock, TokenMixing
from mlpmixer.models.vit import ViTBlock


class Rewritten(nn.Module):
    """`model` as a map from bytes (B, 3, H, W) to features and logits. The model that is given stays as it is.

    `in_rows`: token mixing goes along rows, between two transposes.
    """

    def __init__(
        self, model: Classifier, how: Preprocessing, dtype: torch.dtype = torch.float32, *, in_rows: bool = False
    ):
        super().__init__()
        model = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.normalize: nn.Module = nn.Identity()
        if takes_bytes(model):
            normalize_within(cast(PatchStem, model.stem), how, dtype)
        else:
            self.normalize = Normalize(how)
        standardize(model)
        merge_norms(model)
        if in_rows:
            columns_as_rows(model)
        self.head, model.head = model.head, nn.Identity()
        mixes = family_of(model).mixer_layers(model.config) > 0
        self.body: nn.Module = MeanOfNormed(cast(Mixer, model)) if mixes else model
        self.to(dtype)
        self.dtype = dtype

    def forward(self, pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B classes"]]:
        features = self.body(self.normalize(pixels.to(self.dtype)))
        logits = features[:, :0] if isinstance(self.head, nn.Identity) else self.head(features)
        return features.float(), logits.float()


def takes_bytes(model: Classifier) -> bool:
    """Whether normalization can become a part of the stem: not where that pads what is normalized already."""
    stem = getattr(model, "stem", None)
    return isinstance(stem, PatchStem) and not any(stem.padding)


def values_of_bytes(how: Preprocessing) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """`scale` and `shift`: a byte's value is scale · (byte − shift)."""
    mean, std = torch.tensor(how.mean), torch.tensor(how.std)
    return 1 / (255 * std), 255 * mean


class Normalize(nn.Module):
    """What nothing else could take over."""

    def __init__(self, how: Preprocessing):
        super().__init__()
        scale, shift = values_of_bytes(how)
        self.scale, self.shift = nn.Buffer(scale[:, None, None]), nn.Buffer(shift[:, None, None])

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return (pixels - self.shift) * self.scale


@torch.no_grad()
def normalize_within(stem: PatchStem, how: Preprocessing, dtype: torch.dtype) -> None:
    """W · scale · (byte − shift) + b, as one map. Bytes are exact in bfloat16; the map is rounded to `dtype` first, so
    that what the rounding does to the mean of all images goes into the bias."""
    scale, shift = values_of_bytes(how)
    weight, bias = stem.patches.weight, stem.patches.bias
    assert bias is not None
    weight.mul_(scale[:, None, None]).copy_(weight.to(dtype))
    bias.sub_(torch.einsum("ocij,c->o", weight, shift))


def merge_norms(model: Classifier) -> None:
    """Wherever a linear map along the channels comes after LayerNorm. (Token mixing maps along the tokens.)"""
    for block in model.modules():
        if isinstance(block, MixerBlock):
            merge_norm(block.norm2, block.channel_mixing.fc1)
        if isinstance(block, ViTBlock):
            merge_norm(block.norm1, block.attention.qkv)
            merge_norm(block.norm2, block.mlp.fc1)


@torch.no_grad()
def merge_norm(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """LayerNorm's scale and shift, done by the linear map that comes next."""
    linear.bias.add_(linear.weight @ norm.bias)
    linear.weight.mul_(norm.weight)
    norm.weight, norm.bias = None, None  # pyright: ignore[reportAttributeAccessIssue] (as without elementwise_affine)


class MeanOfNormed(nn.Module):
    """A Mixer without its head. The mean over tokens of LN(x) is a weighted mean of x, so LN(x) is never made."""

    def __init__(self, model: Mixer):
        super().__init__()
        self.stem, self.blocks, self.norm = model.stem, model.blocks, model.norm

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return mean_of_normed(x, self.norm)


def mean_of_normed(x: Float[Tensor, "B S C"], norm: nn.LayerNorm) -> Float[Tensor, "B C"]:
    variance, mean = torch.var_mean(x.float(), dim=2, correction=0, keepdim=True)
    rate = torch.rsqrt(variance + norm.eps) / x.shape[1]  # (B, S, 1)
    even = (rate.transpose(1, 2) @ x.float()).squeeze(1) - (rate * mean).sum(dim=1)
    return even.to(norm.weight.dtype) * norm.weight + norm.bias


class RowMixing(nn.Module):
    """Token mixing as an MLP along rows, between two transposes."""

    def __init__(self, mixing: TokenMixing):
        super().__init__()
        self.fc1, self.fc2 = _linear(mixing.fc1), _linear(mixing.fc2)
        self.gelu = mixing.gelu

    def forward(self, x: Float[Tensor, "B S C"], _seen: object, _name: object) -> Float[Tensor, "B S C"]:
        return self.fc2(self.gelu(self.fc1(x.transpose(1, 2)))).transpose(1, 2)


def columns_as_rows(model: Classifier) -> None:
    """For OpenVINO, whose products in bfloat16 are quicker with the weights on the right; others lose by it."""
    for block in model.modules():
        if isinstance(block, MixerBlock) and isinstance(block.token_mixing.fc1, ColumnLinear):
            mixing = block.token_mixing
            if mixing.groups == 1 and isinstance(mixing.project, nn.Identity):
                block.token_mixing = RowMixing(mixing)  # pyright: ignore[reportAttributeAccessIssue]


def _linear(columns: nn.Module) -> nn.Linear:
    assert isinstance(columns, ColumnLinear)
    outputs, inputs = columns.weight.shape
    linear = nn.Linear(inputs, outputs)
    linear.weight, linear.bias = columns.weight, columns.bias
    return linear


def standardize(model: Classifier) -> None:
    """Plain convolutions with the kernels that the standardized ones would make of theirs each time."""
    for module in list(model.modules()):
        for name, conv in list(module.named_children()):
            if isinstance(conv, StandardizedConv):
                size, stride, padding = conv.kernel_size, conv.stride, conv.padding
                plain = nn.Conv2d(conv.in_channels, conv.out_channels, size, stride, padding, bias=False)  # pyright: ignore[reportArgumentType]
                plain.weight = nn.Parameter(conv.kernel().detach(), requires_grad=False)
                setattr(module, name, plain)
