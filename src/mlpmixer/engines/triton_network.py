"""A plain Mixer as a string of Triton kernels, in bfloat16 or with channel mixing in 8 bits (e4m3).

The two products of channel mixing are nine tenths of the arithmetic. Each is made in one of two ways: by NVIDIA's
library with kernels beside it, or by a kernel of ours with everything folded in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.kernels.forward import Parts
from mlpmixer.kernels.gpu.channels import BYTE, LARGEST, active_bytes, as_bytes, centered, product
from mlpmixer.kernels.gpu.norms import mean_of_normed, normalized, statistics
from mlpmixer.kernels.gpu.stem import MIDDLE, patches
from mlpmixer.kernels.gpu.tokens import packed, token_mixing
from mlpmixer.kernels.weights import GeluForm, HalfWeights

Way = Literal["library", "fused"]
Ways = tuple[Way, Way]  # of the first product and of the second
WAYS: tuple[Ways, ...] = (("library", "library"), ("fused", "fused"), ("fused", "library"), ("library", "fused"))
ACTIVE = 4.0  # what the GELU's results are multiplied with before they are rounded to 8 bits: up to 112 they fit


class Network:
    """Bytes on `device` to features and logits in float32."""

    @torch.no_grad()
    def __init__(self, parts: Parts, precision: str, ways: Ways, device: torch.device):
        def here(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device)

        def vector(tensor: Tensor) -> Tensor:
            return here(tensor).float().contiguous()

        self.parts, self.ways = parts, ways
        self.gelu: GeluForm = parts.gelu
        self.layers: list[tuple[HalfWeights, ChannelMixing]] = []
        for token_half, channel_half in zip(parts.halves[::2], parts.halves[1::2], strict=True):
            mixing = ChannelMixing(_on(device, channel_half), self.gelu, precision, ways)
            self.layers.append((packed(_on(device, token_half)), mixing))
        stem = here(parts.stem).to(torch.bfloat16)
        self.stem = stem.T
        self.shift = MIDDLE - vector(parts.shift)
        self.stem_bias = (vector(parts.stem_bias) + stem.float() @ self.shift).to(torch.bfloat16)
        self.gamma, self.beta = vector(parts.gamma), vector(parts.beta)
        self.head = None if parts.head is None else vector(parts.head).T
        self.head_bias = None if parts.head_bias is None else vector(parts.head_bias)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.addmm(self.stem_bias, patches(pixels, self.parts.patch), self.stem)  # (B · tokens, C)
        for weights, channel_mixing in self.layers:
            x = token_mixing(x, weights, channel_mixing.ahead, gelu_form=self.gelu)
            x = channel_mixing(x)
        features = mean_of_normed(x, len(x) // len(pixels), self.gamma, self.beta)
        if self.head is None or self.head_bias is None:
            return features, features[:, :0]
        return features, torch.addmm(self.head_bias, features, self.head)


def _on(device: torch.device, half: HalfWeights) -> HalfWeights:
    return HalfWeights(*(tensor.detach().float().to(device).contiguous() for tensor in half))


class ChannelMixing:
    """x + W2 · gelu(W1 · LN(x) + b1) + b2 for rows x, where LN has no scale and shift: W1 has taken them over.

    `ahead` is to be added to x before: a bias that the second product does not add.
    """

    def __init__(self, half: HalfWeights, gelu: GeluForm, precision: str, ways: Ways):
        self.second = SECOND[precision, ways[1]](half)
        self.ahead = self.second.ahead
        self.first = FIRST[precision, ways[0]](half, gelu, self.ahead)

    def __call__(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), x)


class LibraryFirst:
    """cuBLAS has tanh's GELU in its product."""

    def __init__(self, half: HalfWeights, gelu: GeluForm, ahead: Tensor):
        self.w, self.b = half.w1.to(torch.bfloat16), half.b1.to(torch.bfloat16)
        self.gelu: GeluForm = gelu
        self.ahead = ahead

    def __call__(self, x: Tensor) -> Tensor:
        normed = normalized(x, self.ahead, torch.bfloat16)
        if self.gelu == "erf":
            return F.gelu(torch.addmm(self.b, normed, self.w.T))
        return torch._addmm_activation(self.b, normed, self.w.T, use_gelu=True)  # pyright: ignore[reportPrivateImportUsage]


class FusedFirst:
    """LayerNorm and the GELU are in the product."""

    def __init__(self, half: HalfWeights, gelu: GeluForm, ahead: Tensor):
        self.w, self.b, self.ahead = centered(half.w1).to(torch.bfloat16), half.b1, ahead
        self.before = -(self.w.float() @ ahead)
        self.gelu: GeluForm = gelu

    def __call__(self, x: Tensor) -> Tensor:
        return product(x, self.w, self.b, normed=(statistics(x, self.ahead), self.before), active=self.gelu)


class LibrarySecond:
    """Onto x itself, which has the bias already."""

    def __init__(self, half: HalfWeights):
        self.w, self.ahead = half.w2.to(torch.bfloat16), half.b2

    def __call__(self, active: Tensor, x: Tensor) -> Tensor:
        return x.addmm_(active, self.w.T)


class FusedSecond:
    def __init__(self, half: HalfWeights):
        self.w, self.b = half.w2.to(torch.bfloat16), half.b2
        self.ahead = torch.zeros_like(self.b)

    def __call__(self, active: Tensor, x: Tensor) -> Tensor:
        return product(active, self.w, self.b, skip=x)


class BytesFirst:
    """Rows with mean 0 and variance 1 hold nothing beyond √C, so one factor serves all rows of all images."""

    def __init__(self, half: HalfWeights, gelu: GeluForm, ahead: Tensor):
        self.rate = 2.0 ** math.floor(math.log2(LARGEST / math.sqrt(half.w1.shape[1])))
        self.w, scale = as_bytes(half.w1)
        self.scale, self.b = scale / self.rate, half.b1
        self.gelu: GeluForm = gelu
        self.ahead = ahead

    def __call__(self, x: Tensor) -> Tensor:
        normed = normalized(x, self.ahead, BYTE, self.rate)
        return product(normed, self.w, self.b, scale=self.scale, active=self.gelu, dtype=BYTE, factor=ACTIVE)


class LibraryBytesFirst(BytesFirst):
    def __call__(self, x: Tensor) -> Tensor:
        normed = normalized(x, self.ahead, BYTE, self.rate)
        return active_bytes(library_product(normed, self.w), self.b, self.scale, ACTIVE, gelu_form=self.gelu)


class BytesSecond:
    def __init__(self, half: HalfWeights):
        self.w, scale = as_bytes(half.w2)
        self.scale, self.b = scale / ACTIVE, half.b2
        self.ahead = torch.zeros_like(self.b)

    def __call__(self, active: Tensor, x: Tensor) -> Tensor:
        return product(active, self.w, self.b, scale=self.scale, skip=x)


class LibraryBytesSecond:
    def __init__(self, half: HalfWeights):
        self.w, scale = as_bytes(half.w2)
        self.scale, self.ahead = (scale / ACTIVE).to(torch.bfloat16), half.b2

    def __call__(self, active: Tensor, x: Tensor) -> Tensor:
        return x.addcmul_(library_product(active, self.w), self.scale)


def library_product(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ of tables in 8 bits."""
    one, options = _one(x.device), {"out_dtype": torch.bfloat16, "use_fast_accum": True}
    return torch._scaled_mm(x, weight.T, one, one, **options)  # pyright: ignore[reportPrivateImportUsage]


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), device=device)


FIRST: dict[tuple[str, Way], Callable[[HalfWeights, GeluForm, Tensor], Callable[[Tensor], Tensor]]] = {
    ("bf16", "library"): LibraryFirst,
    ("bf16", "fused"): FusedFirst,
    ("fp8", "library"): LibraryBytesFirst,
    ("fp8", "fused"): BytesFirst,
}
Second = LibrarySecond | FusedSecond | LibraryBytesSecond | BytesSecond
SECOND: dict[
    tuple[str, Way], Callable[[HalfWeights], LibrarySecond | FusedSecond | LibraryBytesSecond | BytesSecond]
] = {
    ("bf16", "library"): LibrarySecond,
    ("bf16", "fused"): FusedSecond,
    ("fp8", "library"): LibraryBytesSecond,
    ("fp8", "fused"): BytesSecond,
}
