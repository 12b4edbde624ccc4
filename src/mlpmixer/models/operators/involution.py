"""Involution: a convolution whose kernel is computed at each pixel, and shared by groups of channels.

Li and others: "Involution: Inverting the Inherence of Convolution for Visual Recognition" (arXiv 2103.06255). A kernel
of k×k numbers for each group of channels comes from the pixel itself:

    H = W2 · relu(BN(W1 · x))          y = Σ over the window of H[offset] · x[offset]

It has no more positions than the offsets of its kernels. Batch normalization makes the images of a batch interact in
training. With W2 = 0 it is a depth-wise convolution, by the bias of W2.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.batch_norm import BatchNorm, ConvNorm
from mlpmixer.models.classifier import require
from mlpmixer.models.layers import lecun_normal_
from mlpmixer.models.operators.windows import windows


class Involution(nn.Module):
    """The input's channels stay as many as they are.

    Args:
        channels: Of its input, and of its output.
        stride: Of the windows; kernels are then computed from means over stride×stride pixels.
        window: Side of a kernel, k; odd.
        group: Channels that share a kernel; a divisor of `channels`.
        reduction: `channels` over the channels between W1 and W2.
    """

    def __init__(self, channels: int, *, stride: int = 1, window: int = 7, group: int = 16, reduction: int = 4):
        super().__init__()
        require("window", window % 2 == 1, "odd", window)
        require("group", channels % group == 0, f"a divisor of {channels} channels", group)
        require("reduction", channels % reduction == 0, f"a divisor of {channels} channels", reduction)
        hidden = channels // reduction
        self.window, self.group, self.stride = window, group, stride
        self.groups = channels // group
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.reduce = ConvNorm(nn.Conv2d(channels, hidden, 1, bias=False), BatchNorm(hidden), F.relu)
        self.span = nn.Conv2d(hidden, self.groups * window**2, 1)
        lecun_normal_(self.reduce.conv.weight, channels)
        # As the convolution that it is: its sum is over the window.
        lecun_normal_(self.span.weight, hidden * window**2)
        nn.init.zeros_(self.span.bias)  # pyright: ignore[reportArgumentType] (there is a bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H_out W_out"]:
        kernels = self.span(self.reduce(self.pool(x)))
        of_pixels = kernels.flatten(2).unflatten(1, (-1, self.window**2)).transpose(2, 3)  # (B, groups, S, k²)
        pixels = windows(x, self.window, self.groups, self.stride)  # (B, groups, S, k², channels)
        y = (of_pixels.unsqueeze(3) @ pixels).squeeze(3)
        return y.transpose(2, 3).flatten(1, 2).unflatten(2, kernels.shape[2:])

    def extra_repr(self) -> str:
        return f"window={self.window}, group={self.group}, stride={self.stride}"
