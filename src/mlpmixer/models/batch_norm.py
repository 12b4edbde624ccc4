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

from mlpmixer.errors import UsageError


class BatchNorm(nn.Module):
    """Normalizes each channel, then scales and shifts it.

    Args:
        channels: Of its input.
        eps: Added to the variance.
        momentum: How much of the running averages each batch replaces.

    Attributes:
        sum_over_devices: Where several devices share a batch, the differentiable sum over them, which makes the
            statistics those of the whole batch. Training sets it.
    """

    running_mean: Tensor
    running_var: Tensor
    sum_over_devices: Callable[[Tensor], Tensor] | None = None

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        mean, var = self.running_mean, self.running_var
        if self.training:
            if self.sum_over_devices is not None:
                return self._with_others(x, self.sum_over_devices)
            if x.numel() == len(mean):
                raise UsageError(
                    "batch normalization cannot train on one value of each channel; take more than one image at a time "
                    "(train.batch_size, machine.micro_batch), or larger images (model.image_size)"
                )
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def _with_others(self, x: Float[Tensor, "B C H W"], total: Callable[[Tensor], Tensor]) -> Float[Tensor, "B C H W"]:
        """In training, with the mean and variance over the images of all devices."""
        values = x.to(self.running_mean.dtype)
        count = torch.full((1,), x.numel() / x.shape[1]).to(values)
        sums, count = total(torch.cat([values.sum(dim=(0, 2, 3)), count])).split([x.shape[1], 1])
        mean = sums / count
        centered = values - mean[:, None, None]
        var = total(centered.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)  # unbiased, as torch has it
        scale = self.weight * (var + self.eps).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

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


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the images of a batch interact in training."""
    return any(isinstance(layer, BatchNorm) for layer in model.modules())


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: Callable[[Tensor], Tensor] | None = F.relu,
) -> ConvNorm:
    """As ResNets have it; a side of the map becomes ⌈side / stride⌉. Initialized as by He and others (1502.01852)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return ConvNorm(conv, BatchNorm(out_channels), activation)


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> None:
    """For inference: the normalization of each `ConvNorm` becomes part of its convolution."""
    for layer in model.modules():
        if isinstance(layer, ConvNorm) and isinstance(layer.norm, BatchNorm):
            conv, norm = layer.conv, layer.norm
            mean, var, scale, shift = norm.running_mean, norm.running_var, norm.weight, norm.bias
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, scale, shift)
            layer.norm = nn.Identity()
