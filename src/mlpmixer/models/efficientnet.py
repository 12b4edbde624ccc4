"""EfficientNet: the trunks of Meta Pseudo Labels and ALIGN, which the paper compares with.

Tan and Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (arXiv 1905.11946). One small
network, B0, and one rule to enlarge it in all directions at once: `width` times the channels, `depth` times the blocks
of each stage, and larger images with both.

A block is an inverted bottleneck (MobileNet v2's), with a gate for each channel (squeeze and excitation):

    Y = 1×1 to t·C channels → depth-wise k×k            norm and SiLU after each
    X' = X + norm(1×1(Y · σ(W2 · silu(W1 · mean(Y)))))   the mean over all positions

The first stage has t = 1 and no first 1×1, all others t = 6. X is added where its shape stays. B0's stages have the
letters k, stride, t, C and the number of blocks in `STAGES`. After the last one a 1×1 widens the map, and its mean is
the head's input:

    image → 3×3 stride 2 → stages → 1×1 → mean over positions → head → logits

Trained with TensorFlow, whose "same" padding puts the odd row and column of zeros after the image, not before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.batch_norm import BatchNorm, ConvNorm
from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record, require
from mlpmixer.models.family import Family
from mlpmixer.models.layers import SameConv2d, StochasticDepth


class Stage(NamedTuple):
    """A stage of B0."""

    kernel: int  # k
    stride: int  # of its first block
    expansion: int  # t
    channels: int  # C of its output
    blocks: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
STEM, TOP = 32, 1280  # channels of B0 before the stages and after them
SQUEEZE = 4  # the gate's hidden width is this part of what comes into its block


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(ClassifierConfig):
    width: float  # times the channels of B0, rounded to multiples of 8
    depth: float  # times the blocks of each of its stages, rounded up

    top: bool = True  # the last 1×1 convolution; ALIGN's trunk has none
    dropout: float = 0.0  # of the head's input; the paper's rises from 0.2 (B0) to 0.5 (B7)
    tensorflow: bool = True  # its padding, and ε = 1e-3; otherwise PyTorch's, as timm's without `tf_` have both
    norm_momentum: float = 0.01  # how much of the running averages a batch replaces; short runs want 0.1
    stochastic_depth: float = 0.0  # chance to skip a block, rising evenly from 0 to nearly this; the paper's is 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("width", "depth"):
            require(option, 0 < getattr(self, option) <= 100, "above 0, and 100 at most", getattr(self, option))
        self.require_chance("dropout", "norm_momentum", "stochastic_depth")

    def scaled(self, channels: int) -> int:
        """So many channels of B0, as many as this network has: the nearest multiple of 8 that is not below 90 %."""
        wanted = channels * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    @property
    def blocks(self) -> tuple[int, ...]:
        """Of each stage."""
        return tuple(math.ceil(stage.blocks * self.depth) for stage in STAGES)


def _size(width: float, depth: float, side: int) -> EfficientNetConfig:
    return EfficientNetConfig(width=width, depth=depth, image_size=(side, side))


SIZES = {
    "efficientnet_b0": _size(1.0, 1.0, 224),
    "efficientnet_b1": _size(1.0, 1.1, 240),
    "efficientnet_b2": _size(1.1, 1.2, 260),
    "efficientnet_b3": _size(1.2, 1.4, 300),
    "efficientnet_b4": _size(1.4, 1.8, 380),
    "efficientnet_b5": _size(1.6, 2.2, 456),
    "efficientnet_b6": _size(1.8, 2.6, 528),
    "efficientnet_b7": _size(2.0, 3.1, 600),
    # Meta Pseudo Labels' smaller one, as its released code has it (there at 800 pixels). It has 317 M parameters where
    # the paper says 390 M; what the paper's own had is unknown.
    "efficientnet_b6_wide": _size(5.0, 2.6, 512),
    "efficientnet_l2": _size(4.3, 5.3, 512),  # at Meta Pseudo Labels' size; Noisy Student's is 800, ALIGN's 289
}


class Conv(SameConv2d):
    """A convolution with TensorFlow's padding, or with PyTorch's where `symmetric` is set."""

    symmetric = False

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
        # The authors' normal with variance 2 / fan_out; each filter of a depth-wise convolution has a fan-out of k².
        nn.init.normal_(self.weight, std=math.sqrt(2 * groups / (kernel**2 * out_channels)))

    def forward(self, input: Float[Tensor, "B in_channels H W"]) -> Float[Tensor, "B out_channels H_out W_out"]:
        if self.symmetric:
            padding = self.kernel_size[0] // 2
            return F.conv2d(input, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return super().forward(input)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[Tensor], Tensor] | None = F.silu,
) -> ConvNorm:
    conv = Conv(in_channels, out_channels, kernel, stride, groups)
    return ConvNorm(conv, BatchNorm(out_channels), activation)


class SqueezeExcite(nn.Module):
    """Multiplies each channel by σ(W2 · silu(W1 · m)), where m is the mean of all channels over positions."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        for conv in (self.reduce, self.expand):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / conv.out_channels))
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType] (there is a bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * self.expand(F.silu(self.reduce(mean))).sigmoid()


class MBConv(nn.Module):
    """An inverted bottleneck: wide in the middle, where the convolution is depth-wise, and thin at its ends."""

    def __init__(self, in_channels: int, out_channels: int, stage: Stage, stride: int, stochastic_depth: float):
        super().__init__()
        middle = in_channels * stage.expansion
        self.expand = conv_norm(in_channels, middle, 1) if stage.expansion > 1 else nn.Identity()
        self.depthwise = conv_norm(middle, middle, stage.kernel, stride, groups=middle)
        self.gate = SqueezeExcite(middle, in_channels // SQUEEZE)
        self.project = conv_norm(middle, out_channels, 1, activation=None)
        self.adds = in_channels == out_channels and stride == 1
        self.stochastic_depth = StochasticDepth(stochastic_depth, rescale=True)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        y = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + self.stochastic_depth(y) if self.adds else y


class EfficientNet(Classifier[EfficientNetConfig]):
    """The whole network, for images of any size. Its intermediates: `stem`, `stage{i}` and `stage{i}/block{j}`,
    `features` (B, C, H/32, W/32), `pre_logits`, `logits`."""

    def __init__(self, config: EfficientNetConfig, name: str = "efficientnet"):
        channels, last = config.scaled(STEM), config.scaled(STAGES[-1].channels)
        super().__init__(config, name, num_features=config.scaled(TOP) if config.top else last)
        self.stem = conv_norm(config.in_channels, channels, 3, stride=2)
        self.stages = nn.ModuleList()
        before, total = 0, sum(config.blocks)
        for stage, count in zip(STAGES, config.blocks, strict=True):
            blocks = nn.ModuleList()
            for block in range(count):
                chance = config.stochastic_depth * (before + block) / total
                out_channels, stride = config.scaled(stage.channels), stage.stride if block == 0 else 1
                blocks.append(MBConv(channels, out_channels, stage, stride, chance))
                channels = out_channels
            self.stages.append(blocks)
            before += count
        self.top = conv_norm(channels, self.num_features, 1) if config.top else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        for layer in self.modules():
            if isinstance(layer, BatchNorm):
                layer.momentum, layer.eps = config.norm_momentum, 1e-3 if config.tensorflow else 1e-5
            elif isinstance(layer, Conv):
                layer.symmetric = not config.tensorflow
        self.head = head(self.num_features, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B C h w"]:
        x = record(intermediates, "stem", self.stem(images))
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):  # pyright: ignore[reportArgumentType] (a list of modules)
                x = record(intermediates, f"stage{i}/block{j}", block(x))
            record(intermediates, f"stage{i}", x)
        return record(intermediates, "features", self.top(x))

    def pool(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C"]:
        return self.dropout(features.mean(dim=(2, 3)))


FAMILY = Family(
    name="efficientnet",
    title="EfficientNet",
    config=EfficientNetConfig,
    model=EfficientNet,
    sizes=SIZES,
    layers=lambda config: sum(config.blocks),
    stages=lambda config: [f"stage{stage}" for stage in range(len(config.blocks))],
    mean_of=lambda _: "features",
    adapter="mlpmixer.weights.adapters.efficientnet",
)
