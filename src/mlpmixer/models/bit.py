"""BiT: the ResNets that the paper compares with.

Kolesnikov and others: "Big Transfer" (arXiv 1912.11370). ResNet-v2 (norm and ReLU before each convolution) whose
kernels are standardized and whose activations are normalized in groups of channels, so that no image depends on the
others of its batch. "R50x3" has 50 layers and is 3 times as wide as usual.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record, require
from mlpmixer.models.family import Family
from mlpmixer.models.layers import lecun_normal_, standardized


@dataclass(frozen=True, kw_only=True)
class BiTConfig(ClassifierConfig):
    units: tuple[int, ...]  # bottleneck units in each stage
    width: int  # times the usual number of channels

    def __post_init__(self) -> None:
        super().__post_init__()
        require("units", len(self.units) > 0 and min(self.units) >= 1, "1 or more for each stage", self.units)
        self.require_positive("width")


_R50 = partial(BiTConfig, units=(3, 4, 6, 3))
_R101 = partial(BiTConfig, units=(3, 4, 23, 3))
_R152 = partial(BiTConfig, units=(3, 8, 36, 3))
_R200 = partial(BiTConfig, units=(3, 24, 36, 3))

SIZES = {
    "bit_r50x1": _R50(width=1),
    "bit_r50x2": _R50(width=2),
    "bit_r50x3": _R50(width=3),
    "bit_r101x1": _R101(width=1),
    "bit_r101x3": _R101(width=3),
    "bit_r152x1": _R152(width=1),
    "bit_r152x2": _R152(width=2),
    "bit_r152x4": _R152(width=4),
    "bit_r200x3": _R200(width=3),
}


class StandardizedConv(nn.Conv2d):
    """A convolution whose kernels are brought to mean 0 and variance 1 whenever they are used."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        lecun_normal_(self.weight, in_channels * kernel**2)

    def kernel(self) -> Float[Tensor, "out_channels in_channels K K"]:
        return standardized(self.weight, eps=1e-10)  # the authors' constant

    def plain(self) -> nn.Conv2d:
        """The convolution with this kernel, computed once."""
        size, stride, padding = self.kernel_size, self.stride, self.padding
        conv = nn.Conv2d(self.in_channels, self.out_channels, size, stride, padding, bias=False)  # pyright: ignore[reportArgumentType]
        conv.weight = nn.Parameter(self.kernel().detach(), requires_grad=False)
        return conv

    def forward(self, input: Float[Tensor, "B in_channels H W"]) -> Float[Tensor, "B out_channels H_out W_out"]:
        return F.conv2d(input, self.kernel(), stride=self.stride, padding=self.padding)


class GroupNormRelu(nn.GroupNorm):
    def __init__(self, channels: int):
        super().__init__(32, channels, eps=1e-5)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return F.relu(super().forward(input))


class BottleneckUnit(nn.Module):
    """1×1 to a quarter of the channels, 3×3, 1×1 back; added to its input, which a 1×1 fits where shapes change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        middle = out_channels // 4
        self.norm1 = GroupNormRelu(in_channels)
        self.conv1 = StandardizedConv(in_channels, middle, 1)
        self.norm2 = GroupNormRelu(middle)
        self.conv2 = StandardizedConv(middle, middle, 3, stride)
        self.norm3 = GroupNormRelu(middle)
        self.conv3 = StandardizedConv(middle, out_channels, 1)
        reshapes = in_channels != out_channels or stride > 1
        self.shortcut = StandardizedConv(in_channels, out_channels, 1, stride) if reshapes else None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        y = self.norm1(x)
        x = x if self.shortcut is None else self.shortcut(y)
        return x + self.conv3(self.norm3(self.conv2(self.norm2(self.conv1(y)))))


class BiT(Classifier[BiTConfig]):
    """The whole network, for images of any size. Its intermediates: `stem`, `stage{i}` and `stage{i}/unit{j}`,
    `features` (B, C, H/32, W/32), `pre_logits`, `logits`."""

    def __init__(self, config: BiTConfig, name: str = "bit"):
        super().__init__(config, name, num_features=256 * config.width * 2 ** (len(config.units) - 1))
        channels = 64 * config.width
        self.stem = StandardizedConv(config.in_channels, channels, 7, stride=2)
        self.stages = nn.ModuleList()
        for stage, units in enumerate(config.units):
            out_channels = 256 * config.width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (units - 1)
            widths = [channels] + [out_channels] * (units - 1)
            self.stages.append(
                nn.ModuleList(BottleneckUnit(w, out_channels, s) for w, s in zip(widths, strides, strict=True))
            )
            channels = out_channels
        self.norm = GroupNormRelu(channels)
        self.head = head(channels, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B C h w"]:
        # The zeros around are part of the maximum, as in the authors' PyTorch code.
        x = F.max_pool2d(F.pad(self.stem(images), (1, 1, 1, 1)), kernel_size=3, stride=2)
        x = record(intermediates, "stem", x)
        for i, stage in enumerate(self.stages):
            for j, unit in enumerate(stage):  # pyright: ignore[reportArgumentType] (a list of modules)
                x = record(intermediates, f"stage{i}/unit{j}", unit(x))
            record(intermediates, f"stage{i}", x)
        return record(intermediates, "features", self.norm(x))

    def pool(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C"]:
        return features.mean(dim=(2, 3))

    def simplified(self, *, in_rows: bool = False) -> nn.Module:
        for module in [*self.modules()]:
            for name, conv in [*module.named_children()]:
                if isinstance(conv, StandardizedConv):
                    setattr(module, name, conv.plain())
        return super().simplified(in_rows=in_rows)


FAMILY = Family(
    name="bit",
    title="BiT",
    config=BiTConfig,
    model=BiT,
    sizes=SIZES,
    layers=lambda config: sum(config.units),
    stages=lambda config: [f"stage{stage}" for stage in range(len(config.units))],
    mean_of=lambda _: "features",
    adapter="mlpmixer.weights.adapters.bit",
)
