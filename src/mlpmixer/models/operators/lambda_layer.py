"""Lambda layer: the context is summarized in one linear map, a lambda, which is applied to each query.

Bello: "LambdaNetworks: Modeling Long-Range Interactions without Attention" (arXiv 2102.08602). Of the pixels m of a
map come keys K and values V; each query q of pixel n, of which there are h, meets the same lambda of k×v numbers:

    content       λ = softmax over m (K)ᵀ · V              the same for all n
    positions     λ_n = E_nᵀ · V                           E_n: k numbers for each offset from n to m
    output        y_n = (λ + λ_n)ᵀ · q_n

E is a convolution of V over r×r offsets, which costs as much at each pixel of a map of any size; or a table of all
offsets of a map of one size, whose cost grows with the square of its pixels. With r = 2N − 1 both say the same, but for
the bias of the convolution. u ("intra-depth") keys and values per pixel add up to one lambda.

Queries and values go through batch normalization, so the images of a batch interact in training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.batch_norm import BatchNorm
from mlpmixer.models.classifier import require
from mlpmixer.models.layers import lecun_normal_
from mlpmixer.models.operators.attention import offsets


class LambdaLayer(nn.Module):
    """A lambda for each pixel, applied to its h queries, whose results are concatenated.

    Args:
        channels: Of its input.
        out_channels: Of its output; by default `channels`.
        grid: Rows and columns of its input, for a table of positions; None: they are a convolution.
        stride: 2: the output is averaged over each 2×2 pixels.
        heads: Queries at each pixel, h; a divisor of `out_channels`.
        keys: Numbers of a key, k.
        depth: Keys and values at each pixel, u.
        scope: Side of the convolution, r; odd.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        grid: tuple[int, int] | None = None,
        stride: int = 1,
        heads: int = 4,
        keys: int = 16,
        depth: int = 1,
        scope: int = 23,
    ):
        super().__init__()
        out_channels = out_channels or channels
        require("heads", out_channels % heads == 0, f"a divisor of {out_channels} channels", heads)
        require("scope", scope % 2 == 1, "odd", scope)
        values = out_channels // heads
        self.heads, self.depth = heads, depth
        self.parts = [heads * keys, depth * keys, depth * values]  # of all queries, keys and values
        self.qkv = nn.Conv2d(channels, sum(self.parts), 1, bias=False)
        self.norm_query = BatchNorm(heads * keys)
        self.norm_value = BatchNorm(depth * values)
        self.positions = PositionConv(depth, keys, scope) if grid is None else PositionTable(depth, keys, grid)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        lecun_normal_(self.qkv.weight, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        query, key, value = self.qkv(x).split(self.parts, dim=1)
        query = self.norm_query(query).flatten(2).unflatten(1, (self.heads, -1))  # (B, h, k, S)
        key = key.flatten(2).unflatten(1, (self.depth, -1)).softmax(dim=3)  # (B, u, k, S)
        value = self.norm_value(value).unflatten(1, (self.depth, -1))  # (B, u, v, H, W)
        content = torch.einsum("bukm,buvm->bkv", key.to(value.dtype), value.flatten(3))
        positions = self.positions(value)  # (B, v, k, S)
        y = torch.einsum("bkv,bhkn->bhvn", content, query) + torch.einsum("bvkn,bhkn->bhvn", positions, query)
        return self.pool(y.flatten(1, 2).unflatten(2, x.shape[2:]))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, depth={self.depth}"


class PositionConv(nn.Module):
    """λ_n over r×r offsets: a convolution of each of the v numbers of a value by itself, by the same kernels."""

    def __init__(self, depth: int, keys: int, scope: int):
        super().__init__()
        self.conv = nn.Conv2d(depth, keys, scope, padding=scope // 2)
        # So that the sum over all offsets and keys begins as large as a query: no batch norm may be behind it.
        lecun_normal_(self.conv.weight, depth * keys * scope**2)
        nn.init.zeros_(self.conv.bias)  # pyright: ignore[reportArgumentType] (there is a bias)

    def forward(self, value: Float[Tensor, "B u v H W"]) -> Float[Tensor, "B v k S"]:
        return self.conv(value.transpose(1, 2).flatten(0, 1)).flatten(2).unflatten(0, (-1, value.shape[2]))


class PositionTable(nn.Module):
    """λ_n over all offsets of a map: a table of 2·rows − 1 by 2·columns − 1 offsets."""

    def __init__(self, depth: int, keys: int, grid: tuple[int, int]):
        super().__init__()
        rows, columns = self.grid = grid
        self.table = nn.Parameter(torch.empty(2 * rows - 1, 2 * columns - 1, keys, depth))
        lecun_normal_(self.table, depth * keys * rows * columns)

    def forward(self, value: Float[Tensor, "B u v H W"]) -> Float[Tensor, "B v k S"]:
        row, column = (offsets(side, self.table.device) for side in self.grid)
        table = self.table[row[:, None, :, None], column[None, :, None, :]]  # E_n: (y, x, i, j, k, u)
        table = table.flatten(2, 3).flatten(0, 1).permute(2, 0, 3, 1).flatten(2).flatten(0, 1)  # (k·S, u·S)
        return F.linear(value.transpose(1, 2).flatten(2), table).unflatten(2, (-1, row.shape[0] * column.shape[0]))

    def extra_repr(self) -> str:
        return "grid={}×{}".format(*self.grid)
