"""Halo attention: each pixel attends to a block of pixels and to a margin around it, the halo.

Vaswani and others: "Scaling Local Self-Attention for Parameter Efficient Visual Backbones" (arXiv 2103.12731).

The map is cut into blocks of b×b pixels. All queries of a block share one window of keys and values: the block with h
pixels more on each side, w = b + 2h. For the query at (y, x) of its block and the key at (i, j) of its window:

    logit = q · k / √d + q · (row[i − y] + column[j − x])          output = softmax(logits) · v

`row` and `column` are tables with a vector of d numbers for each offset; all heads share them. The b² queries of a
block together read w² keys: with a window for each of them, they would read b² times as many. Outside the image
k = v = 0; such a key is not masked, so it takes part in the softmax with the logit of its position.

The letters: b block, h halo, w window, d channels of a head's queries, D channels of a head's values.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlpmixer.models.classifier import require
from mlpmixer.models.layers import lecun_normal_
from mlpmixer.models.operators.windows import windows

Offsets = Literal["pixels", "queries"]


class HaloAttention(nn.Module):
    """Multi-head attention of each block to its window. There is no map after it: heads are only concatenated.

    A map whose sides are no multiples of the block is extended by zeros below and to the right. These are what lies
    outside the image anyway, k = v = 0, and their own output is cut off; where blocks fit, nothing is added.

    Args:
        channels: Of its input.
        out_channels: Of its output, and so of all values together; by default `channels`.
        query_channels: Of all queries together; by default `channels`.
        stride: Only every so many queries along each side are computed, the upper left one of each; keys stay.
        heads: A divisor of both.
        block: Side of a block, b; a multiple of the stride.
        halo: Margin around it, h.
        offsets: What y and x count in a block with a stride: "pixels", so that the output is that of stride 1
            subsampled; or, as timm does, "queries", though these are `stride` pixels apart.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        query_channels: int | None = None,
        stride: int = 1,
        heads: int = 8,
        block: int = 8,
        halo: int = 3,
        offsets: Offsets = "pixels",
    ):
        super().__init__()
        out_channels, query_channels = out_channels or channels, query_channels or channels
        fits = out_channels % heads == 0 and query_channels % heads == 0
        require("heads", fits, f"a divisor of {query_channels} and {out_channels} channels", heads)
        require("block", block % stride == 0, f"a multiple of the stride {stride}", block)
        require("offsets", offsets in ("pixels", "queries"), '"pixels" or "queries"', repr(offsets))
        self.heads, self.stride, self.block, self.halo, self.offsets = heads, stride, block, halo, offsets
        self.window = block + 2 * halo
        width = query_channels // heads
        self.query = nn.Conv2d(channels, query_channels, 1, stride, bias=False)
        # Head by head, its keys and then its values.
        self.key_value = nn.Conv2d(channels, query_channels + out_channels, 1, bias=False)
        self.row = nn.Parameter(torch.empty(2 * self.window - 1, width).normal_(std=width**-0.5))
        self.column = nn.Parameter(torch.empty(2 * self.window - 1, width).normal_(std=width**-0.5))
        lecun_normal_(self.query.weight, channels)
        lecun_normal_(self.key_value.weight, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        height, width = x.shape[2:]
        rows, columns = math.ceil(height / self.block), math.ceil(width / self.block)
        x = F.pad(x, (0, columns * self.block - width, 0, rows * self.block - height))
        query = self.blocks(self.query(x))
        around = windows(self.key_value(x), self.window, self.heads, stride=self.block, margin=self.halo).flatten(1, 2)
        d = self.row.shape[1]
        key, value = around.split([d, around.shape[3] - d], dim=3)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=self.positions(query))
        out = self.joined(out, rows, columns)
        return out[:, :, : math.ceil(height / self.stride), : math.ceil(width / self.stride)]

    # Between map and map, N = heads · blocks: attention of each head in each block is a matter of its own.

    def blocks(self, query: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N queries d"]:
        side = self.block // self.stride
        query = query.unflatten(3, (-1, side)).unflatten(2, (-1, side)).unflatten(1, (self.heads, -1))
        return query.permute(0, 1, 3, 5, 4, 6, 2).flatten(4, 5).flatten(1, 3)

    def positions(self, query: Float[Tensor, "B N queries d"]) -> Float[Tensor, "B N queries keys"]:
        """q · (row[i − y] + column[j − x]): a number for each row of the window and one for each column, added."""
        side = self.block // self.stride
        query = query.unflatten(2, (side, side))  # (B, N, y, x, d)
        rows = torch.einsum("bnyxd,yid->bnyxi", query, self.row[self.places()])
        columns = torch.einsum("bnyxd,xjd->bnyxj", query, self.column[self.places()])
        return (rows.unsqueeze(5) + columns.unsqueeze(4)).flatten(4, 5).flatten(2, 3)

    def places(self) -> Int[Tensor, "side w"]:
        """Where the tables have the offset from each query of a block to each key of its window, along one side."""
        step = self.stride if self.offsets == "pixels" else 1
        query = torch.arange(self.block // self.stride, device=self.row.device) * step
        return torch.arange(self.window, device=self.row.device) - query[:, None] + self.window - 1

    def joined(
        self, out: Float[Tensor, "B N queries D"], rows: int, columns: int
    ) -> Float[Tensor, "B C_out H_out W_out"]:
        side = self.block // self.stride
        out = out.unflatten(2, (side, side)).unflatten(1, (self.heads, rows, columns))
        return out.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4).flatten(1, 2)

    def extra_repr(self) -> str:
        stride = f", stride={self.stride}, offsets in {self.offsets}" if self.stride > 1 else ""
        return f"heads={self.heads}, block={self.block}, halo={self.halo}{stride}"
