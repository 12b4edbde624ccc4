"""Depth-wise convolution: each channel is convolved by a kernel of its own, as in MobileNets (arXiv 1704.04861)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.classifier import require
from mlpmixer.models.layers import lecun_normal_


class DepthwiseConv(nn.Conv2d):
    """A k×k kernel and a bias for each channel.

    Args:
        channels: Of its input, and of its output.
        stride: As any convolution's.
        window: Side of a kernel, k; odd.
    """

    def __init__(self, channels: int, *, stride: int = 1, window: int = 7):
        require("window", window % 2 == 1, "odd", window)
        super().__init__(channels, channels, window, stride, padding=window // 2, groups=channels)
        lecun_normal_(self.weight, window**2)
        nn.init.zeros_(self.bias)  # pyright: ignore[reportArgumentType] (there is a bias)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H_out W_out"]:
        return super().forward(input)
