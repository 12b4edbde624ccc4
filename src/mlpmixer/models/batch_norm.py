"""Batch normalization, for the convolutional networks that need it: HaloNet, EfficientNet and ResNet.

In training the images of a batch interact: each channel is normalized by its mean and variance over all of them.
Running averages of both are kept beside the weights, and take their place afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


class BatchNorm(nn.Module):
    """Normalizes each channel, then scales and shifts it.

    Args:
        channels: Of its input.
        eps: Added to the variance.
        momentum: How much of the running averages each batch replaces.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps:g}, momentum={self.momentum:g}"


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalization, and an activation."""

    def __init__(self, conv: nn.Conv2d, norm: BatchNorm, activation: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.conv = conv
        self.norm: BatchNorm | nn.Identity = norm
        self.activation = activation or nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        return self.activation(self.norm(self.conv(x)))


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> None:
    """For inference: the normalization of each `ConvNorm` becomes part of its convolution."""
    for layer in model.modules():
        if isinstance(layer, ConvNorm) and isinstance(layer.norm, BatchNorm):
            conv, norm = layer.conv, layer.norm
            mean, var, scale, shift = norm.running_mean, norm.running_var, norm.weight, norm.bias
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, scale, shift)
            layer.norm = nn.Identity()
