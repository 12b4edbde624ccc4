"""HaloNet: a ResNet whose 3×3 convolutions are local self-attention, one of the networks that the paper compares with.

Vaswani and others: "Scaling Local Self-Attention for Parameter Efficient Visual Backbones" (arXiv 2103.12731).

Stage i of the network, i from 0, is c = 64 · 2^i channels wide. Each of its units does this to a feature map X:

    H = act(BN(X · W1))                      1×1, to c channels
    A = act(BN(attention(H)))                queries and keys of c channels, values of r_v · c
    Y = act(S(X) + BN(A · W2))               1×1, to r_b · c channels

S is the identity, or a 1×1 convolution and BN where shapes change. Attention reaches from blocks of b×b pixels to h
pixels around them: see `operators/halo.py`. The first unit of each stage but the first computes only every second query
along each side, which halves the map. Before the stages are a 7×7 convolution and a maximum, each with stride 2; after
them, in large models, a 1×1 convolution to d_f channels; then the mean over pixels and a linear map:

    image → stem → stages of units → (1×1 convolution) → mean over pixels → head → logits

The authors published no code. Their counts of parameters settle all widths. They do not tell the heads, which are 8
here and in timm (keras_cv_attention_models has 4, 8, 8, 8), nor the activation, nor how weights are initialized.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.batch_norm import BatchNorm, conv_norm
from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record, require
from mlpmixer.models.family import Family
from mlpmixer.models.operators.halo import HaloAttention, Offsets

STEM_CHANNELS = 64
MAX_STAGES = 8  # more would halve feature maps to nothing; a file that claims thousands is none of ours

ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU}


@dataclass(frozen=True, kw_only=True)
class HaloNetConfig(ClassifierConfig):
    channels: int  # c of the first stage; it doubles with each stage
    units: tuple[int, ...]  # residual units in each stage
    block_size: int  # b, side of a block of queries
    halo: int  # h, margin around it
    value_ratio: float  # r_v, channels of values for each channel of queries
    output_ratio: float  # r_b, channels between units for each channel within
    final_channels: int  # d_f, of the 1×1 convolution after the stages; 0: none

    conv_stages: int = 0  # so many stages, from the first, have 3×3 convolutions of c channels in place of attention
    heads: tuple[int, ...] = (8,)  # of each stage; the last number is also that of all further stages
    activation: Literal["silu", "relu"] = "silu"  # timm's halonet_h1 has "relu"
    offsets: Offsets = "pixels"  # what queries with a stride count; timm's halonet_h1 has "queries"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("channels", "block_size")
        stages = len(self.units)
        require("units", 1 <= stages <= MAX_STAGES, f"numbers for 1 to {MAX_STAGES} stages", stages)
        require("units", min(self.units) >= 1, "1 or more for each stage", self.units)
        require("block_size", self.block_size % 2 == 0, "even, for the stride of 2", self.block_size)
        require("halo", self.halo >= 0, "0 or more", self.halo)
        require("final_channels", self.final_channels >= 0, "0 (none) or more", self.final_channels)
        require("conv_stages", 0 <= self.conv_stages <= stages, f"between 0 and {stages} stages", self.conv_stages)
        require("activation", self.activation in ACTIVATIONS, '"silu" or "relu"', repr(self.activation))
        require("offsets", self.offsets in ("pixels", "queries"), '"pixels" or "queries"', repr(self.offsets))
        for option in ("value_ratio", "output_ratio"):
            ratio = getattr(self, option)
            whole = 0 < ratio < math.inf and (self.channels * Fraction(ratio)).denominator == 1
            require(option, whole, f"above 0, and make a whole number of {self.channels} channels", ratio)
        require("heads", 1 <= len(self.heads) <= stages, f"numbers for 1 to {stages} stages", len(self.heads))
        require("heads", min(self.heads) >= 1, "1 or more", self.heads)
        for stage in range(self.conv_stages, stages):
            width, values, heads = self.width(stage), self.values(stage), self.heads_of(stage)
            fits = width % heads == 0 and values % heads == 0
            require("heads", fits, f"a divisor of {width} and {values} channels in stage {stage}", heads)

    def width(self, stage: int) -> int:
        """c, channels within the units of a stage."""
        return self.channels * 2**stage

    def values(self, stage: int) -> int:
        """r_v · c, channels of attention's output."""
        return int(self.width(stage) * Fraction(self.value_ratio))

    def outputs(self, stage: int) -> int:
        """r_b · c, channels between the units of a stage."""
        return int(self.width(stage) * Fraction(self.output_ratio))

    def heads_of(self, stage: int) -> int:
        return self.heads[min(stage, len(self.heads) - 1)]


def _size(units: int, block_size: int, halo: int, v: float, o: float, final: int, side: int) -> HaloNetConfig:
    """A row of the paper's table: units of stage 2, b, h, r_v, r_b, d_f, side of images."""
    return HaloNetConfig(
        channels=64,
        units=(3, 3, units, 3),
        block_size=block_size,
        halo=halo,
        value_ratio=v,
        output_ratio=o,
        final_channels=final,
        image_size=(side, side),
    )


SIZES = {
    #               units  b  h  r_v   r_b   d_f  side
    "halonet_h0": _size(7, 8, 3, 1.0, 0.5, 0, 256),
    "halonet_h1": _size(10, 8, 3, 1.0, 1.0, 0, 256),
    "halonet_h2": _size(11, 8, 3, 1.0, 1.25, 0, 256),
    "halonet_h3": _size(12, 10, 3, 1.0, 1.5, 1024, 320),
    "halonet_h4": _size(12, 12, 2, 1.0, 3.0, 1280, 384),
    "halonet_h5": _size(23, 14, 2, 2.5, 2.0, 1536, 448),
    "halonet_h6": _size(24, 8, 4, 3.0, 2.75, 1536, 512),
    "halonet_h7": _size(26, 10, 3, 4.0, 3.5, 2048, 600),
    # HaloNet-H4 (base 128, Conv-12), the one in the Mixer paper's Table 2: 87 M parameters, fine-tuned at 512 pixels.
    # Known are the base of 128 channels and that early stages have convolutions, here the first two. The units, b, h,
    # r_v, r_b and d_f are unknown: H4's own give 69.8 M, and its blocks of 12 fit neither 256 nor 512 pixels. These are
    # H4's units, h and r_v, with b = 8, r_b = 4 and d_f = 1024: 87.04 M. A dozen other settings come as near.
    "halonet_h4_base128": replace(_size(12, 8, 2, 1.0, 4.0, 1024, 256), channels=128, conv_stages=2),
}


class AttentionNorm(nn.Module):
    """Halo attention, batch normalization, and an activation."""

    def __init__(self, attention: HaloAttention, norm: BatchNorm, activation: nn.Module):
        super().__init__()
        self.attention = attention
        self.norm = norm
        self.activation = activation

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        return self.activation(self.norm(self.attention(x)))


class HaloNetUnit(nn.Module):
    """1×1 to the width of the stage, attention (or a 3×3 convolution), 1×1; added to its input, and activated."""

    def __init__(self, config: HaloNetConfig, stage: int, in_channels: int, stride: int):
        super().__init__()
        width, values, out_channels = config.width(stage), config.values(stage), config.outputs(stage)
        self.activation = ACTIVATIONS[config.activation]()
        self.narrow = conv_norm(in_channels, width, 1, activation=self.activation)
        if stage < config.conv_stages:
            values = width
            self.spatial = conv_norm(width, width, 3, stride, activation=self.activation)
        else:
            heads, b, h = config.heads_of(stage), config.block_size, config.halo
            attention = HaloAttention(
                width, values, stride=stride, heads=heads, block=b, halo=h, offsets=config.offsets
            )
            self.spatial = AttentionNorm(attention, BatchNorm(values), self.activation)
        self.widen = conv_norm(values, out_channels, 1, activation=None)
        nn.init.zeros_(self.widen.get_parameter("norm.weight"))  # a unit starts as its shortcut: usual for ResNets
        reshapes = in_channels != out_channels or stride > 1
        self.shortcut = conv_norm(in_channels, out_channels, 1, stride, activation=None) if reshapes else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        return self.activation(self.shortcut(x) + self.widen(self.spatial(self.narrow(x))))


class HaloNet(Classifier[HaloNetConfig]):
    """The whole network, for images of any size. Attention pads feature maps with zeros to whole blocks, and cuts its
    output to their size again. Where blocks fit, nothing is added: at the resolution of each size but halonet_h7, whose
    blocks of 10 do not fit the paper's 600 pixels (they fit 640).

    Its intermediates: `stem`, `stage{i}/unit{j}` and `stage{i}`, `features` (B, C, H/32, W/32), `pre_logits`,
    `logits`.
    """

    def __init__(self, config: HaloNetConfig, name: str = "halonet"):
        last = config.outputs(len(config.units) - 1)
        super().__init__(config, name, num_features=config.final_channels or last)
        activation = ACTIVATIONS[config.activation]()
        self.stem = conv_norm(config.in_channels, STEM_CHANNELS, 7, 2, activation=activation)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        for stage, units in enumerate(config.units):
            strides = [1 if stage == 0 else 2] + [1] * (units - 1)
            widths = [channels] + [config.outputs(stage)] * (units - 1)
            self.stages.append(
                nn.ModuleList(HaloNetUnit(config, stage, w, s) for w, s in zip(widths, strides, strict=True))
            )
            channels = config.outputs(stage)
        self.final = conv_norm(last, config.final_channels, 1, activation=activation) if config.final_channels else None
        self.head = head(self.num_features, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B C h w"]:
        x = record(intermediates, "stem", F.max_pool2d(self.stem(images), kernel_size=3, stride=2, padding=1))
        for i, stage in enumerate(self.stages):
            for j, unit in enumerate(stage):  # pyright: ignore[reportArgumentType] (a list of modules)
                x = record(intermediates, f"stage{i}/unit{j}", unit(x))
            record(intermediates, f"stage{i}", x)
        return record(intermediates, "features", x if self.final is None else self.final(x))

    def pool(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C"]:
        return features.mean(dim=(2, 3))


FAMILY = Family(
    name="halonet",
    title="HaloNet",
    config=HaloNetConfig,
    model=HaloNet,
    sizes=SIZES,
    layers=lambda config: sum(config.units),
    stages=lambda config: [f"stage{stage}" for stage in range(len(config.units))],
    mean_of=lambda _: "features",
    adapter="mlpmixer.weights.adapters.halonet",
)
