"""ResNet, the network behind most convolutional baselines.

He and others: "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), in the form of today's libraries,
"v1.5": the stride is in the 3×3 convolution. Each unit narrows its input, mixes neighboring positions, and widens again:

    Z = relu(BN(X · W1))              1×1, from 4c channels to c
    Z = relu(BN(mix(Z)))              3×3, the only part that sees more than one position; with a stride of 1 or 2
    Y = relu(BN(Z · W3) + X)          1×1, back to 4c channels; where shapes change, a strided 1×1 and BN fit X to it

c is 64 in the first stage and doubles in each of the others, while rows and columns halve:

    image → 7×7 → max pool → units of stage 0 → … → units of stage 3 → mean over positions → head → logits
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.batch_norm import BatchNorm, ConvNorm, fold_batch_norms
from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record, require
from mlpmixer.models.family import Family

OperatorName = Literal["convolution", "depthwise"]
StemName = Literal["7x7", "tiered"]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(ClassifierConfig):
    units: tuple[int, ...]  # bottleneck units in each stage
    channels: int  # c of the first stage, and of the stem
    operator: OperatorName  # what mixes neighboring positions

    stem: StemName = "7x7"  # or three 3×3 convolutions, which newer forms have ("tiered" in timm)
    zero_init: bool = True  # the last scale of each unit starts at zero, so that the unit starts as the identity

    def __post_init__(self) -> None:
        super().__post_init__()
        require("units", len(self.units) > 0 and min(self.units) >= 1, "1 or more for each stage", self.units)
        self.require_positive("channels")
        known = get_args(OperatorName)
        require("operator", self.operator in known, f"one of {', '.join(known)}", repr(self.operator))
        known = get_args(StemName)
        require("stem", self.stem in known, f"one of {', '.join(known)}", repr(self.stem))
        require(
            "channels", self.stem == "7x7" or self.channels % 8 == 0, "a multiple of 8 for this stem", self.channels
        )


_R50 = partial(ResNetConfig, units=(3, 4, 6, 3), channels=64)

SIZES = {
    "resnet50": _R50(operator="convolution"),
    "depthwise_resnet50": _R50(operator="depthwise"),  # MobileNet's separable convolution: the 3×3 and the 1×1 after it
}


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, groups: int = 1, relu: bool = True
) -> ConvNorm:
    """A convolution with batch normalization and usually ReLU; a side of the map becomes ⌈side / stride⌉."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as He and others (arXiv 1502.01852)
    return ConvNorm(conv, BatchNorm(out_channels), F.relu if relu else None)


def plain_stem(in_channels: int, channels: int) -> nn.Module:
    return conv_norm(in_channels, channels, 7, stride=2)


def tiered_stem(in_channels: int, channels: int) -> nn.Module:
    narrow, middle = 3 * channels // 8, channels // 2
    convs = (conv_norm(in_channels, narrow, 3, stride=2), conv_norm(narrow, middle, 3), conv_norm(middle, channels, 3))
    return nn.Sequential(*convs)


STEMS: dict[StemName, Callable[[int, int], nn.Module]] = {"7x7": plain_stem, "tiered": tiered_stem}


class Bottleneck(nn.Module):
    """1×1 to c channels, the operator, 1×1 to 4c; added to its input, which a 1×1 fits where shapes change."""

    def __init__(self, config: ResNetConfig, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = 4 * channels
        groups = channels if config.operator == "depthwise" else 1
        self.reduce = conv_norm(in_channels, channels, 1)
        self.mix = conv_norm(channels, channels, 3, stride, groups=groups)
        self.expand = conv_norm(channels, out_channels, 1, relu=False)
        if config.zero_init:
            nn.init.zeros_(self.expand.norm.weight)  # pyright: ignore[reportArgumentType] (not folded yet)
        reshapes = in_channels != out_channels or stride > 1
        self.shortcut = conv_norm(in_channels, out_channels, 1, stride, relu=False) if reshapes else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        return F.relu(self.expand(self.mix(self.reduce(x))) + self.shortcut(x))


class ResNet(Classifier[ResNetConfig]):
    """The whole network, for images of any size. Its intermediates: `stem` (B, c, H/4, W/4), `stage{i}/unit{j}`,
    `stage{i}`, `pre_logits`, `logits`. The last stage's (B, C, H/32, W/32) is what is averaged for the head."""

    def __init__(self, config: ResNetConfig, name: str = "resnet"):
        super().__init__(config, name, num_features=4 * config.channels * 2 ** (len(config.units) - 1))
        channels = config.channels
        self.stem = STEMS[config.stem](config.in_channels, channels)
        self.stages = nn.ModuleList()
        for stage, units in enumerate(config.units):
            width = config.channels * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (units - 1)
            inputs = [channels] + [4 * width] * (units - 1)
            self.stages.append(
                nn.ModuleList(Bottleneck(config, c, width, s) for c, s in zip(inputs, strides, strict=True))
            )
            channels = 4 * width
        self.head = head(channels, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B C h w"]:
        x = record(intermediates, "stem", F.max_pool2d(self.stem(images), kernel_size=3, stride=2, padding=1))
        for i, stage in enumerate(self.stages):
            for j, unit in enumerate(stage):  # pyright: ignore[reportArgumentType] (a list of modules)
                x = record(intermediates, f"stage{i}/unit{j}", unit(x))
            record(intermediates, f"stage{i}", x)
        return x

    def pool(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C"]:
        return features.mean(dim=(2, 3))

    def simplified(self, *, in_rows: bool = False) -> nn.Module:
        fold_batch_norms(self)
        return super().simplified(in_rows=in_rows)


FAMILY = Family(
    name="resnet",
    title="ResNet",
    config=ResNetConfig,
    model=ResNet,
    sizes=SIZES,
    layers=lambda config: sum(config.units),
    stages=lambda config: [f"stage{stage}" for stage in range(len(config.units))],
    mean_of=lambda config: f"stage{len(config.units) - 1}",
    adapter="mlpmixer.weights.adapters.resnet",
)
