"""Layers that several families share, and how they are initialized."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.classifier import require

GeluForm = Literal["tanh", "erf"]

LAYER_NORM_EPS = 1e-6


def lecun_normal_(weight: Tensor, fan_in: int) -> None:
    """Flax's default for kernels: a normal cut off at ±2σ whose variance, after the cut, is 1 / fan_in."""
    cut_off_std = 0.87962566103423978  # of a standard normal cut off at ±2
    std = fan_in**-0.5 / cut_off_std
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class Linear(nn.Linear):
    """`x Wᵀ + b` along the last axis, initialized as Flax does."""

    def reset_parameters(self) -> None:
        lecun_normal_(self.weight, self.in_features)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def xavier_linear(in_features: int, out_features: int, *, parts: int = 1, bias_std: float = 0.0) -> nn.Linear:
    """A linear map initialized as ViT's authors do; `parts` maps that share their input lie in one matrix."""
    linear = nn.Linear(in_features, parts * out_features)
    for part in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(part)
    nn.init.normal_(linear.bias, std=bias_std)
    return linear


class Gelu(nn.Module):
    """x · Φ(x): exactly ("erf"), or with the tanh approximation that the authors' Flax code uses ("tanh")."""

    def __init__(self, form: GeluForm):
        super().__init__()
        require("gelu", form in ("tanh", "erf"), '"tanh" or "erf"', repr(form))
        self.form = form
        self.approximate = "tanh" if form == "tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)

    def extra_repr(self) -> str:
        return self.form


class Mlp(nn.Module):
    """gelu(X · W1) · W2 along each row: one MLP for all tokens, hidden units between two linear maps."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        gelu: GeluForm,
        dropout: float = 0.0,
        linear: Callable[[int, int], nn.Linear] = Linear,
    ):
        super().__init__()
        self.fc1 = linear(channels, hidden)
        self.gelu = Gelu(gelu)
        self.fc2 = linear(hidden, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        return self.dropout(self.fc2(self.dropout(self.gelu(self.fc1(x)))))


class PatchStem(nn.Module):
    """Cuts an image into P×P patches and maps each, with one shared linear map, to C numbers.

    "Cut, flatten, multiply" is a convolution whose stride is its kernel size. A side that is no multiple of P is padded
    with zeros, half before and half after, as Flax's convolution does.
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int, image_size: tuple[int, int]):
        super().__init__()
        self.image_size = image_size
        self.grid = grid(image_size, patch_size)
        (rows, columns), (height, width) = self.grid, image_size
        down, right = rows * patch_size - height, columns * patch_size - width
        self.padding = (right // 2, right - right // 2, down // 2, down - down // 2)
        self.patches = nn.Conv2d(in_channels, channels, kernel_size=patch_size, stride=patch_size)
        lecun_normal_(self.patches.weight, in_channels * patch_size**2)
        nn.init.zeros_(self.patches.bias)  # pyright: ignore[reportArgumentType] (there is a bias)

    def forward(self, images: Float[Tensor, "B in_channels H W"]) -> Float[Tensor, "B S C"]:
        if any(self.padding):
            images = F.pad(images, self.padding)
        return self.patches(images).flatten(2).transpose(1, 2)


def grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches; their product is S."""
    return math.ceil(image_size[0] / patch_size), math.ceil(image_size[1] / patch_size)


def standardized(
    kernels: Float[Tensor, "out_channels in_channels K K"], eps: float
) -> Float[Tensor, "out_channels in_channels K K"]:
    """Weight standardization: the kernel of each output channel with mean 0 and variance 1, to which `eps` is added."""
    flat = kernels.flatten(1)
    # Layer norm without scale and shift is exactly this.
    return F.layer_norm(flat, flat.shape[1:], eps=eps).view_as(kernels)


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow and JAX do ("SAME"): ⌈side / stride⌉ positions along each side.

    Where the zeros cannot be shared out evenly, the one more comes after: a 3×3 convolution of stride 2 pads an even
    side by none before and one after, where PyTorch's usual padding is one and one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=bias)

    def forward(self, input: Float[Tensor, "B in_channels H W"]) -> Float[Tensor, "B out_channels H_out W_out"]:
        return self.convolve(input, self.weight)

    def convolve(
        self, x: Float[Tensor, "B in_channels H W"], kernels: Float[Tensor, "out_channels in_group K K"]
    ) -> Float[Tensor, "B out_channels H_out W_out"]:
        """With these kernels."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        # Tracing, as OpenVINO and ONNX do it, has tensors for sides.
        (top, bottom), (left, right) = (same_padding(int(side), kernel, stride) for side in x.shape[2:])
        if (top, left) == (bottom, right):  # which the convolution does itself
            return F.conv2d(x, kernels, self.bias, self.stride, (top, left), groups=self.groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), kernels, self.bias, self.stride, groups=self.groups)


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side of so many positions."""
    zeros = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
    return zeros // 2, zeros - zeros // 2


class StochasticDepth(nn.Module):
    """In training, leaves a residual branch out, for each example by itself, with probability `p`.

    The paper does not rescale the branches that stay; `rescale` divides them by 1 − p, as most other code does.
    """

    def __init__(self, p: float, rescale: bool = False):
        super().__init__()
        self.p = p
        self.rescale = rescale

    def forward(self, branch: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        scale = self.scale(branch)
        return branch if scale is None else branch * scale.to(branch.dtype).view(-1, *(1,) * (branch.ndim - 1))

    def scale(self, branch: Float[Tensor, "B ..."]) -> Float[Tensor, " B"] | None:
        """What each example's branch is multiplied with, drawn anew; None: nothing is left to chance."""
        if not self.training or self.p == 0:
            return None
        stays = torch.empty(branch.shape[0], device=branch.device).bernoulli_(1 - self.p)
        # p = 1 leaves nothing that could be rescaled.
        return stays / (1 - self.p) if self.rescale and self.p < 1 else stays

    def extra_repr(self) -> str:
        return f"p={self.p:g}" + (", rescale" if self.rescale else "")
