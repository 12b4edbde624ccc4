"""Token mixing and channel mixing as single operations with a gradient, computed by `mixing.cpp`.

Each does all of one half of a Mixer's layer, x + scale · MLP(LayerNorm(x)). For the way back it keeps its input and the
hidden table before the GELU, and nothing else; `lean` token mixing computes that table again instead.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from mlpmixer.kernels.library import address, library


class Weights(NamedTuple):
    """Of one half: LayerNorm, then the two maps as (out, in) matrices and biases; float32."""

    gamma: Tensor
    beta: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def token_mixing(
    x: BFloat16[Tensor, "B S C"],
    weights: Weights,
    scale: Float[Tensor, " B"] | None,
    *,
    exact: bool,
    lean: bool = False,
) -> BFloat16[Tensor, "B S C"]:
    """`scale`: what each picture's branch is multiplied with; None: 1. `exact`: GELU's erf form instead of tanh's."""
    return _TokenMixing.apply(x.contiguous(), *weights, scale, exact, lean)  # pyright: ignore[reportReturnType]


def channel_mixing(
    x: BFloat16[Tensor, "B S C"], weights: Weights, scale: Float[Tensor, " B"] | None, *, exact: bool
) -> BFloat16[Tensor, "B S C"]:
    return _ChannelMixing.apply(x.contiguous(), *weights, scale, exact, False)  # pyright: ignore[reportReturnType]


def takes(channels: int, token_hidden: int, channel_hidden: int) -> bool:
    """Whether tables of these widths can be cut into the vectors that the kernels work on."""
    return channels % 32 == 0 and token_hidden % 16 == 0 and channel_hidden % 32 == 0


class _TokenMixing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        pictures, tokens, channels = x.shape
        hidden = given[2].shape[0]
        sizes = (pictures, tokens, channels, hidden)
        return _forward(ctx, _functions().token_mixing, x, (pictures, hidden, channels), sizes, *given)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, _functions().token_mixing_backward, *grad_outputs)


class _ChannelMixing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        pictures, tokens, channels = x.shape
        hidden = given[2].shape[0]
        sizes = (pictures * tokens, tokens, channels, hidden)
        return _forward(ctx, _functions().channel_mixing, x, (pictures, tokens, hidden), sizes, *given)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, _functions().channel_mixing_backward, *grad_outputs)


def _forward(
    ctx: Any,
    function: Callable[..., None],
    x: Tensor,
    hidden_shape: tuple[int, ...],
    sizes: tuple[int, ...],
    *given: Any,
) -> Tensor:
    *weights, scale, exact, lean = given
    y, h = torch.empty_like(x), None if lean else x.new_empty(hidden_shape)
    norms = torch.empty(*x.shape[:2], 2)
    setting = (*sizes, int(exact), torch.get_num_threads())
    function(*map(address, (x, *weights, scale)), *setting, *map(address, (y, h, norms)))
    ctx.save_for_backward(x, h, norms, *weights, scale)
    ctx.setting = setting
    return y


def _backward(ctx: Any, function: Callable[..., None], dy: Tensor) -> tuple[Tensor | None, ...]:
    x, h, norms, gamma, beta, w1, b1, w2, b2, scale = ctx.saved_tensors
    gradients = [torch.empty_like(tensor) for tensor in (x, gamma, beta, w1, b1, w2, b2)]
    read = (dy.contiguous(), x, h, norms, gamma, beta, w1, b1, w2, scale)
    function(*map(address, read), *ctx.setting, *map(address, gradients))
    return (*gradients, None, None, None)


def _functions() -> ctypes.CDLL:
    found = library("mixing")
    assert isinstance(found, ctypes.CDLL), found
    return found
