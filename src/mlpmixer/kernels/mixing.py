"""Token mixing and channel mixing as single operations with a gradient, computed by `mixing.cpp`.

Each does all of one half of a Mixer's layer, x + scale · MLP(LayerNorm(x)). For backward it keeps its input and the
hidden table before the GELU, and nothing else; token mixing with `low_memory` computes that table again instead.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from mlpmixer.errors import UsageError
from mlpmixer.kernels.library import address, library
from mlpmixer.kernels.weights import GeluForm, HalfWeights


def token_mixing(
    x: BFloat16[Tensor, "B S C"],
    weights: HalfWeights,
    scale: Float[Tensor, " B"] | None,
    *,
    gelu: GeluForm,
    low_memory: bool = False,
) -> BFloat16[Tensor, "B S C"]:
    """`scale`: what each image's branch is multiplied with; None: 1. Weights are float32."""
    return _TokenMixing.apply(x.contiguous(), *weights, scale, gelu, low_memory)  # pyright: ignore[reportReturnType]


def channel_mixing(
    x: BFloat16[Tensor, "B S C"], weights: HalfWeights, scale: Float[Tensor, " B"] | None, *, gelu: GeluForm
) -> BFloat16[Tensor, "B S C"]:
    return _ChannelMixing.apply(x.contiguous(), *weights, scale, gelu, False)  # pyright: ignore[reportReturnType]


def takes(channels: int, token_hidden: int, channel_hidden: int) -> bool:
    """Whether tables of these widths can be cut into the vectors that the kernels work on."""
    return channels % 32 == 0 and token_hidden % 16 == 0 and channel_hidden % 32 == 0


class _TokenMixing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        return _forward(ctx, "token_mixing", x, *given)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, *grad_outputs)


class _ChannelMixing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        return _forward(ctx, "channel_mixing", x, *given)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, *grad_outputs)


def _forward(ctx: Any, name: str, x: Tensor, *given: Any) -> Tensor:
    *weights, scale, gelu, low_memory = given
    shapes = _Shapes(name, x, weights[2])
    y, h = torch.empty_like(x), None if low_memory else x.new_empty(shapes.hidden)
    norms = torch.empty(shapes.norms)
    setting = (*shapes.sizes, int(gelu == "erf"), torch.get_num_threads())
    read = (shapes.table_at(x), *shapes.weights_at(weights), shapes.scale_at(scale))
    getattr(_functions(), name)(*read, *setting, shapes.table_at(y), shapes.hidden_at(h), shapes.norms_at(norms))
    ctx.save_for_backward(x, h, norms, *weights, scale)
    ctx.name, ctx.setting = name, setting
    return y


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, h, norms, *weights, scale = ctx.saved_tensors
    shapes = _Shapes(ctx.name, x, weights[2])
    dx, *gradients = [torch.empty_like(tensor) for tensor in (x, *weights)]
    dy = dy.contiguous()
    read = (shapes.table_at(dy), shapes.table_at(x), shapes.hidden_at(h), shapes.norms_at(norms))
    read += (*shapes.weights_at(weights)[:5], shapes.scale_at(scale))
    getattr(_functions(), f"{ctx.name}_backward")(
        *read, *ctx.setting, shapes.table_at(dx), *shapes.weights_at(gradients)
    )
    return (dx, *gradients, None, None, None)


class _Shapes:
    """Shapes that C++ expects, checked before it gets addresses."""

    def __init__(self, name: str, x: Tensor, w1: Tensor):
        images, tokens, channels = self.table = x.shape
        columns, hidden = name == "token_mixing", len(w1)
        if not takes(channels, *((hidden, 32) if columns else (16, hidden))) or 0 in (tokens, channels, hidden):
            raise ValueError(f"the kernels' {name} takes no {tokens} tokens × {channels} channels × {hidden} hidden")
        wide = tokens if columns else channels
        self.sizes = (images if columns else images * tokens, tokens, channels, hidden)
        self.hidden = (images, hidden, channels) if columns else (images, tokens, hidden)
        self.norms = (images, tokens, 2)
        self.weights = ((channels,), (channels,), (hidden, wide), (hidden,), (wide, hidden), (wide,))

    def table_at(self, tensor: Tensor) -> int | None:
        return address(tensor, torch.bfloat16, self.table)

    def hidden_at(self, tensor: Tensor | None) -> int | None:
        return address(tensor, torch.bfloat16, self.hidden)

    def norms_at(self, tensor: Tensor) -> int | None:
        return address(tensor, torch.float32, self.norms)

    def scale_at(self, tensor: Tensor | None) -> int | None:
        return address(tensor, torch.float32, self.table[:1])

    def weights_at(self, tensors: Sequence[Tensor]) -> list[int | None]:
        return [address(tensor, torch.float32, shape) for tensor, shape in zip(tensors, self.weights, strict=True)]


def _functions() -> ctypes.CDLL:
    found = library("mixing")
    if isinstance(found, str):
        raise UsageError(f"the kernels cannot be used: {found}")
    return found
