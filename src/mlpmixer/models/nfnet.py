"""NFNet: a convolutional network without normalization layers, which the paper compares with.

Brock, De, Smith, Simonyan: "High-Performance Large-Scale Image Recognition Without Normalization" (arXiv 2102.06171).

What batch normalization does for a residual network is done here by known factors. A block adds a branch f to its
input x,

    Y = X + α · g · f(β · γ · gelu(X))

where f keeps the variance of what it is given, so that the variance of Y is that of X plus α² while g = 1. So it is
known in advance: σ² is 1 + α² after the first block of a stage and grows by α² with each further one, and β = 1/σ
brings the input of f back to variance 1. The first block of a stage starts afresh: its skip connection also reads the
activated, scaled input, through a 1×1 convolution. The rest is what f needs to keep the variance:

    γ            gelu(N(0, 1)) has the standard deviation 1/γ
    convolutions their kernels are used as  gain · (W − mean) / √(N · var),  with the N weights that one output reads
    2 · σ(…)     squeeze and excitation halves its input on average, so it is doubled

g, one number a block, starts at 0: at first every block but the first of its stage is the identity. Without the noise
of batch statistics, such a network needs strong regularization and gradients clipped unit by unit (train/agc.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record, require
from mlpmixer.models.family import Family
from mlpmixer.models.layers import Gelu, GeluForm, Linear, SameConv2d, StochasticDepth, lecun_normal_, standardized
from mlpmixer.text import listed

ALPHA = 0.2  # α, by which each branch is multiplied
GAMMA = 1.7015043497085571  # γ as in the authors' code; to six digits, that of the exact gelu is 1.70093
STEM = (16, 32, 64)  # channels of its first convolutions; the last one has half of the first stage's


@dataclass(frozen=True, kw_only=True)
class NFNetConfig(ClassifierConfig):
    depths: tuple[int, ...]  # blocks in each stage
    widths: tuple[int, ...]  # channels of each stage
    inner: tuple[int, ...]  # channels between the 1×1 convolutions of its blocks

    group_width: int = 128  # channels of each group in 3×3 convolutions; fewer `inner` ones are one group
    gelu: GeluForm = "tanh"  # the authors' form; timm's is "erf"
    # What keeps kernels finite whose weights are all alike: N · var is 1e-4 at least ("floor", the authors' way), or
    # 1e-5 is added to var ("added", timm's). The latter takes about a percent of the variance of a new 3×3 kernel.
    kernel_eps: Literal["floor", "added"] = "floor"
    dropout: float = 0.0  # before the head
    stochastic_depth: float = 0.0  # p: block i of L leaves its branch out with the chance p · i / L
    rescale_branches: bool = False  # whether branches that stochastic depth kept are divided by their chance to stay

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("depths", "widths", "inner"):
            given = getattr(self, option)
            sound = len(given) == len(self.widths) > 0 and all(isinstance(n, int) and n >= 1 for n in given)
            require(option, sound, "a whole number, 1 or more, for each stage", listed(given, 8))
        self.require_positive("group_width")
        require("widths", min(self.widths) >= 2, "2 or more", listed(self.widths, 8))
        fits = all(channels % self.groups(channels) == 0 for channels in self.inner)
        require("inner", fits, f"below {self.group_width}, or whole groups of about as many", listed(self.inner, 8))
        require("kernel_eps", self.kernel_eps in ("floor", "added"), '"floor" or "added"', repr(self.kernel_eps))
        self.require_chance("dropout", "stochastic_depth")

    def groups(self, inner: int) -> int:
        """Groups of a 3×3 convolution of `inner` channels: the whole ones, and one at least."""
        return max(1, inner // self.group_width)


# Tables 1 and 3 of the paper. The image size is that of testing; they are trained on smaller images (recipes/nfnet.py).
_F = partial(NFNetConfig, widths=(256, 512, 1536, 1536), inner=(128, 256, 768, 768))
_F4plus = partial(NFNetConfig, depths=(5, 10, 30, 15), widths=(384, 768, 2048, 2048), image_size=(512, 512))

SIZES = {
    "nfnet_f0": _F(depths=(1, 2, 6, 3), image_size=(256, 256)),
    "nfnet_f1": _F(depths=(2, 4, 12, 6), image_size=(320, 320)),
    "nfnet_f2": _F(depths=(3, 6, 18, 9), image_size=(352, 352)),
    "nfnet_f3": _F(depths=(4, 8, 24, 12), image_size=(416, 416)),
    "nfnet_f4": _F(depths=(5, 10, 30, 15), image_size=(512, 512)),
    "nfnet_f5": _F(depths=(6, 12, 36, 18), image_size=(544, 544)),
    "nfnet_f6": _F(depths=(7, 14, 42, 21), image_size=(576, 576)),
    # The wider F4+ of pre-training on JFT-300M, read in two ways. Half of the first stage's 384 channels are 192, no
    # multiple of a group's 128. As one group of 192 they give the paper's 527 M parameters and 367 GMAC; the released
    # code cuts them to 128, which makes 525 M and 333 GMAC.
    "nfnet_f4plus": _F4plus(inner=(192, 384, 1024, 1024)),
    "nfnet_f4plus_released": _F4plus(inner=(128, 384, 1024, 1024)),
}


class ScaledStandardizedConv(SameConv2d):
    """gain · (W − mean) / √(N · var) as the kernels of a convolution: the sum of their squares is gain²."""

    def __init__(
        self, config: NFNetConfig, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ):
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups)
        self.kernel_eps = config.kernel_eps
        self.gain = nn.Parameter(torch.ones(out_channels))
        lecun_normal_(self.weight, self.weight[0].numel())  # theirs is not cut off; standardized, it hardly matters
        nn.init.zeros_(self.bias)  # pyright: ignore[reportArgumentType] (there is a bias)

    def kernel(self) -> Float[Tensor, "out_channels in_group K K"]:
        if self.kernel_eps == "added":
            kernel = standardized(self.weight, eps=1e-5) * self.weight[0].numel() ** -0.5
        else:
            centered = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
            kernel = F.normalize(centered.flatten(1), eps=1e-4**0.5).view_as(centered)  # N · var = Σ (W − mean)²
        return self.gain.view(-1, 1, 1, 1) * kernel

    def plain(self) -> SameConv2d:
        """The convolution with this kernel, computed once."""
        conv = SameConv2d(self.in_channels, self.out_channels, self.kernel_size[0], self.stride[0], groups=self.groups)
        conv.weight = nn.Parameter(self.kernel().detach(), requires_grad=False)
        conv.bias = self.bias
        return conv

    def forward(self, input: Float[Tensor, "B in_channels H W"]) -> Float[Tensor, "B out_channels H_out W_out"]:
        return self.convolve(input, self.kernel())


class ScaledGelu(Gelu):
    """γ · gelu(x), of variance 1 where x is normal with variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * GAMMA


class SqueezeExcite(nn.Module):
    """2 · σ(W2 · relu(W1 · mean(X))) · X: each channel weighed by what all of them have on average.

    The text of the paper has a gelu for the relu, its code this.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = Linear(channels, max(1, channels // 2))
        self.fc2 = Linear(max(1, channels // 2), channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        gates = 2 * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3))))))  # (B, C)
        return gates[:, :, None, None] * x


class NFBlock(nn.Module):
    """X + α · g · f(β · γ · gelu(X)); f is 1×1, two grouped 3×3, 1×1, and squeeze and excitation.

    The first block of a stage halves the map, but in stage 0: f by the stride of its first 3×3, the skip connection by
    the mean of each 2×2.
    """

    def __init__(self, config: NFNetConfig, stage: int, block: int, in_channels: int):
        super().__init__()
        out_channels, inner = config.widths[stage], config.inner[stage]
        groups = config.groups(inner)
        conv = partial(ScaledStandardizedConv, config)
        self.stride = 2 if block == 0 and stage > 0 else 1
        grown = block or (config.depths[stage - 1] if stage else 0)  # blocks since the variance of x was 1
        self.beta = (1 + ALPHA**2 * grown) ** -0.5
        self.activation = ScaledGelu(config.gelu)
        self.shortcut = conv(in_channels, out_channels, 1) if block == 0 else None
        self.conv1 = conv(in_channels, inner, 1)
        self.conv2 = conv(inner, inner, 3, self.stride, groups)
        self.conv3 = conv(inner, inner, 3, groups=groups)
        self.conv4 = conv(inner, out_channels, 1)
        self.squeeze_excite = SqueezeExcite(out_channels)
        self.skip_gain = nn.Parameter(torch.zeros(1))  # g
        before = sum(config.depths[:stage]) + block
        self.drop = StochasticDepth(config.stochastic_depth * before / sum(config.depths), config.rescale_branches)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        activated = self.activation(x) * self.beta
        y = activated
        for conv in (self.conv1, self.conv2, self.conv3):
            y = self.activation(conv(y))
        branch = self.drop(self.squeeze_excite(self.conv4(y)))
        return self.skip(x, activated) + branch * (self.skip_gain * ALPHA)

    def skip(
        self, x: Float[Tensor, "B C H W"], activated: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C_out H_out W_out"]:
        if self.shortcut is None:
            return x
        if self.stride > 1:  # an odd side ends with a mean of fewer
            activated = F.avg_pool2d(activated, self.stride, ceil_mode=True, count_include_pad=False)
        return self.shortcut(activated)


class NFNet(Classifier[NFNetConfig]):
    """The whole network, for images of any size. Its intermediates: `stem`, `stage{i}` and `stage{i}/block{j}`,
    `features` (B, C, H/32, W/32), `pre_logits`, `logits`."""

    def __init__(self, config: NFNetConfig, name: str = "nfnet"):
        super().__init__(config, name, num_features=2 * config.widths[-1])
        self.activation = ScaledGelu(config.gelu)
        channels = [config.in_channels, *STEM, config.widths[0] // 2]
        self.stem = nn.ModuleList(
            ScaledStandardizedConv(config, inputs, outputs, 3, stride)
            for inputs, outputs, stride in zip(channels, channels[1:], (2, 1, 1, 2), strict=False)
        )
        self.stages = nn.ModuleList()
        before = channels[-1]
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            inputs = [before] + [width] * (depth - 1)
            self.stages.append(nn.ModuleList(NFBlock(config, stage, block, n) for block, n in enumerate(inputs)))
            before = width
        self.conv = ScaledStandardizedConv(config, before, self.num_features, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.head = head(self.num_features, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B C h w"]:
        first, *others = self.stem
        x = first(images)
        for conv in others:
            x = conv(self.activation(x))
        record(intermediates, "stem", x)
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):  # pyright: ignore[reportArgumentType] (a list of modules)
                x = record(intermediates, f"stage{i}/block{j}", block(x))
            record(intermediates, f"stage{i}", x)
        return record(intermediates, "features", self.activation(self.conv(x)))

    def pool(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C"]:
        return self.dropout(features.mean(dim=(2, 3)))

    def simplified(self, *, in_rows: bool = False) -> nn.Module:
        for module in [*self.modules()]:
            for name, conv in [*module.named_children()]:
                if isinstance(conv, ScaledStandardizedConv):
                    setattr(module, name, conv.plain())
        return super().simplified(in_rows=in_rows)


FAMILY = Family(
    name="nfnet",
    title="NFNet",
    config=NFNetConfig,
    model=NFNet,
    sizes=SIZES,
    layers=lambda config: sum(config.depths),
    stages=lambda config: [f"stage{stage}" for stage in range(len(config.depths))],
    mean_of=lambda _: "features",
    adapter="mlpmixer.weights.adapters.nfnet",
)
