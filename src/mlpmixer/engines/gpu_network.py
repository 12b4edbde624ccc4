"""A plain Mixer as a string of Triton kernels, in bfloat16 or with channel mixing in 8 bits (e4m3).

The two products of channel mixing are nine tenths of the arithmetic. They are made in one of two ways: by NVIDIA's
library with a kernel before them, or by a kernel of ours with everything folded in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.kernels.forward import Half, Parts
from mlpmixer.kernels.gpu.channels import BYTE, LARGEST, active_bytes, as_bytes, centred, product
from mlpmixer.kernels.gpu.norms import mean_of_normed, normalised, statistics
from mlpmixer.kernels.gpu.stem import MIDDLE, patches
from mlpmixer.kernels.gpu.tokens import Tokens, token_mixing, tokens

Products = Literal["library", "fused"]
WAYS: tuple[Products, ...] = ("library", "fused")
ACTIVE = 4.0  # what the GELU's results are multiplied with before they are rounded to 8 bits: up to 112 they fit


class Network:
    """Bytes on `device` to features and logits in float32."""

    @torch.no_grad()
    def __init__(self, parts: Parts, precision: str, products: Products, device: torch.device):
        def here(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device)

        def vector(tensor: Tensor) -> Tensor:
            return here(tensor).float().contiguous()

        self.parts, self.products, self.exact = parts, products, parts.exact
        mixing = CHANNEL_MIXING[precision, products]
        self.layers: list[tuple[Tokens, ChannelMixing]] = []
        for token_half, channel_half in zip(parts.halves[::2], parts.halves[1::2], strict=True):
            self.layers.append((tokens(_on(device, token_half)), mixing(_on(device, channel_half), self.exact)))
        stem = here(parts.stem).to(torch.bfloat16)
        self.stem = stem.T
        self.shift = MIDDLE - vector(parts.shift)
        self.stem_bias = (vector(parts.stem_bias) + stem.float() @ self.shift).to(torch.bfloat16)
        self.gamma, self.beta = vector(parts.gamma), vector(parts.beta)
        self.head = None if parts.head is None else vector(parts.head).T
        self.head_bias = None if parts.head_bias is None else vector(parts.head_bias)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.addmm(self.stem_bias, patches(pixels, self.parts.patch), self.stem)  # (B · places, C)
        for weights, channel_mixing in self.layers:
            x = token_mixing(x, statistics(x), weights, channel_mixing.ahead, exact=self.exact)
            x = channel_mixing(x)
        features = mean_of_normed(x, len(x) // len(pixels), self.gamma, self.beta)
        if self.head is None or self.head_bias is None:
            return features, features[:, :0]
        return features, torch.addmm(self.head_bias, features, self.head)


def _on(device: torch.device, half: Half) -> Half:
    return Half(*(getattr(half, field.name).detach().float().to(device).contiguous() for field in fields(half)))


class ChannelMixing:
    """x + W2 · gelu(W1 · LN(x) + b1) + b2 for rows x, where `ahead` was added to x before. LN has no scale and shift:
    the first map has taken them over."""

    ahead: Tensor

    def __init__(self, half: Half, exact: bool):
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Library(ChannelMixing):
    """Two products of cuBLAS: the first with the GELU in it, the second onto x itself, which has its bias already."""

    def __init__(self, half: Half, exact: bool):
        self.w1, self.b1, self.w2 = (t.to(torch.bfloat16).contiguous() for t in (half.w1, half.b1, half.w2))
        self.ahead, self.exact = half.b2, exact

    def __call__(self, x: Tensor) -> Tensor:
        normed = normalised(x, self.ahead, torch.bfloat16)
        if self.exact:
            active = F.gelu(torch.addmm(self.b1, normed, self.w1.T))
        else:
            active = torch._addmm_activation(self.b1, normed, self.w1.T, use_gelu=True)  # pyright: ignore[reportPrivateImportUsage]
        return x.addmm_(active, self.w2.T)


class Fused(ChannelMixing):
    """Two products of ours: the first with LayerNorm and the GELU in it, the second with the skip."""

    def __init__(self, half: Half, exact: bool):
        self.w1, self.w2 = (w.to(torch.bfloat16).contiguous() for w in (centred(half.w1), half.w2))
        self.b1, self.b2 = half.b1, half.b2
        self.ahead, self.form = torch.zeros_like(self.b2), "erf" if exact else "tanh"

    def __call__(self, x: Tensor) -> Tensor:
        active = product(x, self.w1, self.b1, statistics=statistics(x), active=self.form)
        return product(active, self.w2, self.b2, skip=x)


class _Bytes(ChannelMixing):
    """Rows with mean 0 and variance 1 hold nothing beyond √C, so one factor serves all rows of all pictures."""

    def __init__(self, half: Half, exact: bool):
        self.rate = 2.0 ** math.floor(math.log2(LARGEST / math.sqrt(half.w1.shape[1])))
        (self.w1, scale1), (self.w2, scale2) = as_bytes(half.w1), as_bytes(half.w2)
        self.scale1, self.scale2 = scale1.div(self.rate), scale2.div(ACTIVE)
        self.b1, self.b2 = half.b1, half.b2
        self.exact, self.form = exact, "erf" if exact else "tanh"


class LibraryBytes(_Bytes):
    """Two products of cuBLAS, with kernels between them."""

    def __init__(self, half: Half, exact: bool):
        super().__init__(half, exact)
        self.ahead = self.b2
        self.one = torch.ones((), device=half.w1.device)
        self.small_scale2 = self.scale2.to(torch.bfloat16)

    def __call__(self, x: Tensor) -> Tensor:
        normed = normalised(x, self.ahead, BYTE, self.rate)
        active = active_bytes(self._product(normed, self.w1), self.b1, self.scale1, ACTIVE, exact=self.exact)
        return x.addcmul_(self._product(active, self.w2), self.small_scale2)

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        options = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
        return torch._scaled_mm(x, weight.T, self.one, self.one, **options)  # pyright: ignore[reportPrivateImportUsage]


class FusedBytes(_Bytes):
    """Two products of ours, the first of which rounds what comes out of the GELU itself."""

    def __init__(self, half: Half, exact: bool):
        super().__init__(half, exact)
        self.ahead = torch.zeros_like(self.b2)

    def __call__(self, x: Tensor) -> Tensor:
        normed = normalised(x, self.ahead, BYTE, self.rate)
        active = product(
            normed, self.w1, self.b1, scale=self.scale1, active=self.form, dtype=BYTE, factor=ACTIVE
        )  # fmt: skip
        return product(active, self.w2, self.b2, scale=self.scale2, skip=x)


CHANNEL_MIXING: dict[tuple[str, Products], Callable[[Half, bool], ChannelMixing]] = {
    ("bf16", "library"): Library,
    ("bf16", "fused"): Fused,
    ("fp8", "library"): LibraryBytes,
    ("fp8", "fused"): FusedBytes,
}
