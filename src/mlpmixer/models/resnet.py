"""ResNet, the network behind most convolutional baselines, and its relatives with other token operators.

He and others: "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), in the form of today's libraries,
"v1.5": the stride is in the 3×3 convolution. Each unit narrows its input, mixes neighboring positions, and widens it:

    Z = relu(BN(X · W1))              1×1, from 4c channels to c
    Z = relu(BN(mix(Z)))              the only part that sees more than one position: a 3×3 convolution, with a stride
    Y = relu(BN(Z · W3) + X)          1×1, back to 4c channels; where shapes change, a strided 1×1 and BN fit X to it

c is 64 in the first stage and doubles in each of the others, while rows and columns halve:

    image → stem → max pool → units of stage 0 → … → units of stage 3 → mean over positions → head → logits

Other papers put another operator in the place of the 3×3 convolution and leave the rest as it is; `OPERATORS` lists
them, and `models/operators/` has one file for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.batch_norm import BatchNorm, conv_norm
from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record, require
from mlpmixer.models.family import Family
from mlpmixer.models.operators.attention import BottleneckAttention
from mlpmixer.models.operators.involution import Involution
from mlpmixer.models.operators.lambda_layer import LambdaLayer
from mlpmixer.models.operators.sasa import StandAloneAttention

OperatorName = Literal["convolution", "depthwise", "sasa", "attention", "lambda", "lambda_table", "involution"]
StemName = Literal["7x7", "tiered", "involution"]

# What channels must be multiples of: of an even number for each head, of groups, of small parts of a stem.
MULTIPLES = {"sasa": 16, "attention": 4, "lambda": 4, "lambda_table": 4, "involution": 16}
MULTIPLES_OF_STEMS = {"tiered": 8, "involution": 32}
WINDOWED = ("depthwise", "sasa", "lambda", "involution")
OF_ONE_SIZE = ("attention", "lambda_table")  # operators with tables of all offsets within a map


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(ClassifierConfig):
    units: tuple[int, ...]  # bottleneck units in each stage
    channels: int  # c of the first stage, and of the stem
    operator: OperatorName  # what mixes neighboring positions

    operator_units: tuple[int, ...] = ()  # so many units of each stage, its last ones, have it; (): all
    window: int | None = None  # side of the operator's window, in positions; None: as its authors have it
    depth: int = 1  # u of lambda layers: keys and values at each position
    # One convolution, or three small ones ("tiered" in timm), the second of them an involution in RedNet.
    stem: StemName = "7x7"
    zero_init: bool = True  # the last scale of each unit starts at zero, so that the unit starts as the identity

    def __post_init__(self) -> None:
        super().__post_init__()
        require("units", len(self.units) > 0 and min(self.units) >= 1, "1 or more for each stage", self.units)
        self.require_positive("channels", "depth")
        self.require_one_of("operator", get_args(OperatorName))
        self.require_one_of("stem", get_args(StemName))
        counts = [*self.operator_units]
        fits = not counts or (len(counts) == len(self.units) and min(counts) >= 0)
        require("operator_units", fits, f"0 or more for each of {len(self.units)} stages", self.operator_units)
        windowed = self.window is None or self.operator in WINDOWED
        require("window", windowed, f"left out for the operator {self.operator}", self.window)
        odd = self.window is None or (self.window >= 1 and self.window % 2 == 1)
        require("window", odd, "odd, 1 or more", self.window)
        deep = self.depth == 1 or self.operator in ("lambda", "lambda_table")
        require("depth", deep, "1 for all but lambda layers", self.depth)
        multiple = math.lcm(MULTIPLES.get(self.operator, 1), MULTIPLES_OF_STEMS.get(self.stem, 1))
        require(
            "channels",
            self.channels % multiple == 0,
            f"a multiple of {multiple} for this operator and stem",
            self.channels,
        )

    def require_one_of(self, option: str, known: tuple[str, ...]) -> None:
        given = getattr(self, option)
        require(option, given in known, f"one of {', '.join(known)}", repr(given))

    def has_operator(self, stage: int, unit: int) -> bool:
        """Whether this unit has the operator; the others have convolutions."""
        return not self.operator_units or unit >= self.units[stage] - self.operator_units[stage]

    @property
    def of_one_size(self) -> bool:
        """Whether images of other sizes than `image_size` need other weights."""
        return self.operator in OF_ONE_SIZE and (not self.operator_units or max(self.operator_units) > 0)

    def grids(self) -> list[list[tuple[int, int]]]:
        """Rows and columns of the input of each unit of each stage."""
        now = halved(halved(self.image_size))
        found = []
        for stage, units in enumerate(self.units):
            before, now = now, halved(now) if stage else now
            found.append([before] + [now] * (units - 1))
        return found


def halved(grid: tuple[int, int]) -> tuple[int, int]:
    """What a stride of 2 leaves of so many rows and columns."""
    return -(-grid[0] // 2), -(-grid[1] // 2)


_R50 = partial(ResNetConfig, units=(3, 4, 6, 3), channels=64)

SIZES = {
    "resnet50": _R50(operator="convolution"),
    "sasa_resnet50": _R50(operator="sasa"),  # stand-alone self-attention, behind a convolutional stem
    "botnet50": _R50(operator="attention", operator_units=(0, 0, 0, 3)),
    "lambda_resnet50": _R50(operator="lambda"),  # with timm's mean over 2×2 for a stride; other code has 3×3
    "rednet50": _R50(operator="involution", stem="involution"),
    "depthwise_resnet50": _R50(operator="depthwise"),  # MobileNet's separable convolution: the 3×3 and the 1×1 after it
}


class Mix(nn.Module):
    """A token operator with batch normalization and ReLU."""

    def __init__(self, operator: nn.Module, channels: int):
        super().__init__()
        self.operator = operator
        self.operator_norm = BatchNorm(channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H_out W_out"]:
        return F.relu(self.operator_norm(self.operator(x)))


class Place(NamedTuple):
    """Of an operator: the channels of its input and output, its stride, the rows and columns of its input."""

    channels: int
    stride: int
    grid: tuple[int, int]


def lambda_mix(config: ResNetConfig, at: Place, grid: tuple[int, int] | None) -> nn.Module:
    scope = config.window or 23
    layer = LambdaLayer(at.channels, grid=grid, stride=at.stride, heads=4, keys=16, depth=config.depth, scope=scope)
    return Mix(layer, at.channels)


def involution_mix(channels: int, stride: int, window: int) -> nn.Module:
    return Mix(Involution(channels, stride=stride, window=window, group=16, reduction=4), channels)


# The middle of a unit. Heads, keys and groups are those of the operators' authors.
OPERATORS: Mapping[OperatorName, Callable[[ResNetConfig, Place], nn.Module]] = {
    "convolution": lambda _, at: conv_norm(at.channels, at.channels, 3, at.stride),
    "depthwise": lambda o, at: conv_norm(at.channels, at.channels, o.window or 3, at.stride, groups=at.channels),
    "sasa": lambda o, at: Mix(
        StandAloneAttention(at.channels, stride=at.stride, heads=8, window=o.window or 7), at.channels
    ),
    "attention": lambda _, at: Mix(
        BottleneckAttention(at.channels, grid=at.grid, stride=at.stride, heads=4), at.channels
    ),
    "lambda": lambda o, at: lambda_mix(o, at, None),
    "lambda_table": lambda o, at: lambda_mix(o, at, at.grid),
    "involution": lambda o, at: involution_mix(at.channels, at.stride, o.window or 7),
}


def tiered_stem(in_channels: int, channels: int) -> nn.Module:
    narrow, middle = 3 * channels // 8, channels // 2
    convs = (conv_norm(in_channels, narrow, 3, stride=2), conv_norm(narrow, middle, 3), conv_norm(middle, channels, 3))
    return nn.Sequential(*convs)


def involution_stem(in_channels: int, channels: int) -> nn.Module:
    middle = channels // 2
    first, last = conv_norm(in_channels, middle, 3, stride=2), conv_norm(middle, channels, 3)
    return nn.Sequential(first, involution_mix(middle, 1, window=3), last)


# From (channels of the image, channels) to the layers before the max pool, which halve rows and columns.
STEMS: Mapping[StemName, Callable[[int, int], nn.Module]] = {
    "7x7": lambda in_channels, channels: conv_norm(in_channels, channels, 7, stride=2),
    "tiered": tiered_stem,
    "involution": involution_stem,
}


class Bottleneck(nn.Module):
    """1×1 to c channels, the operator, 1×1 to 4c; added to its input, which a 1×1 fits where shapes change."""

    def __init__(self, config: ResNetConfig, in_channels: int, operator: OperatorName, at: Place):
        super().__init__()
        out_channels = 4 * at.channels
        self.reduce = conv_norm(in_channels, at.channels, 1)
        self.mix = OPERATORS[operator](config, at)
        self.expand = conv_norm(at.channels, out_channels, 1, activation=None)
        if config.zero_init:
            nn.init.zeros_(self.expand.norm.weight)  # pyright: ignore[reportArgumentType] (not folded yet)
        reshapes = in_channels != out_channels or at.stride > 1
        self.shortcut = (
            conv_norm(in_channels, out_channels, 1, at.stride, activation=None) if reshapes else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        return F.relu(self.expand(self.mix(self.reduce(x))) + self.shortcut(x))


class ResNet(Classifier[ResNetConfig]):
    """The whole network, for images of any size where the operator takes any. Its intermediates: `stem`
    (B, c, H/4, W/4), `stage{i}/unit{j}`, `stage{i}`, of which the last (B, C, H/32, W/32) is averaged for the head,
    `pre_logits`, `logits`."""

    def __init__(self, config: ResNetConfig, name: str = "resnet"):
        super().__init__(config, name, num_features=4 * config.channels * 2 ** (len(config.units) - 1))
        channels = config.channels
        self.stem = STEMS[config.stem](config.in_channels, channels)
        self.stages = nn.ModuleList()
        for stage, grids in enumerate(config.grids()):
            width = config.channels * 2**stage
            units = nn.ModuleList()
            for unit, grid in enumerate(grids):
                operator = config.operator if config.has_operator(stage, unit) else "convolution"
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(Bottleneck(config, channels, operator, Place(width, stride, grid)))
                channels = 4 * width
            self.stages.append(units)
        self.head = head(channels, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B C h w"]:
        if self.config.of_one_size:
            self.check(images)
        x = record(intermediates, "stem", F.max_pool2d(self.stem(images), kernel_size=3, stride=2, padding=1))
        for i, stage in enumerate(self.stages):
            for j, unit in enumerate(stage):  # pyright: ignore[reportArgumentType] (a list of modules)
                x = record(intermediates, f"stage{i}/unit{j}", unit(x))
            record(intermediates, f"stage{i}", x)
        return x

    def pool(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C"]:
        return features.mean(dim=(2, 3))


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
