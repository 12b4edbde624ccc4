"""Halo attention: each pixel attends to a block of pixels and to a margin around it, the halo.

Vaswani and others: "Scaling Local Self-Attention for Parameter Efficient Visual Backbones" (arXiv 2103.12731).

The map is cut into blocks of b×b pixels. All queries of a block share one window of keys and values: the block with h
pixels more on each side, w = b + 2h. For the query at (y, x) of its block and the key at (i, j) of its window:

    logit = q · k / √d + q · (row[i − y] + column[j − x])          output = softmax(logits) · v

`row` and `column` are tables of d numbers for each offset. A block thus reads w² keys for its b² queries, where one
window for each pixel would read b² times as many. Outside the image k = v = 0: such a key is not masked, and takes
part in the softmax with the logit of its position.

The letters: b block, h halo, w window, d channels of a head's queries, D channels of a head's values.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlpmixer.models.classifier import require
from mlpmixer.models.layers import lecun_normal_

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
        x = F.pad(x, (0, -width % self.block, 0, -height % self.block))
        query, (key, value) = self.blocks(self.query(x)), self.windows(self.key_value(x))
        logits = query * query.shape[4] ** -0.5 @ key.transpose(3, 4) + self.positions(query)
        out = self.joined(logits.softmax(dim=4).to(value.dtype) @ value, x.shape[3] // self.block)
        return out[:, :, : -(-height // self.stride), : -(-width // self.stride)]

    def blocks(self, query: Float[Tensor, "B C H W"]) -> Float[Tensor, "B heads blocks queries d"]:
        side = self.block // self.stride
        query = query.unflatten(3, (-1, side)).unflatten(2, (-1, side)).unflatten(1, (self.heads, -1))
        return query.permute(0, 1, 3, 5, 4, 6, 2).flatten(4, 5).flatten(2, 3)

    def windows(
        self, key_value: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B heads blocks keys d"], Float[Tensor, "B heads blocks keys D"]]:
        around = F.pad(key_value, (self.halo,) * 4)
        windows = around.unfold(2, self.window, self.block).unfold(3, self.window, self.block)
        windows = windows.unflatten(1, (self.heads, -1)).permute(0, 1, 3, 4, 5, 6, 2).flatten(4, 5).flatten(2, 3)
        key, value = windows.split([self.row.shape[1], windows.shape[4] - self.row.shape[1]], dim=4)
        return key, value

    def positions(
        self, query: Float[Tensor, "B heads blocks queries d"]
    ) -> Float[Tensor, "B heads blocks queries keys"]:
        """q · (row[i − y] + column[j − x]): a number for each row of the window and one for each column, added."""
        side = self.block // self.stride
        query = query.unflatten(3, (side, side))  # (B, heads, blocks, y, x, d)
        rows = torch.einsum("bhnyxd,yid->bhnyxi", query, self.row[self.places()])
        columns = torch.einsum("bhnyxd,xjd->bhnyxj", query, self.column[self.places()])
        return (rows.unsqueeze(6) + columns.unsqueeze(5)).flatten(5, 6).flatten(3, 4)

    def places(self) -> Int[Tensor, "side w"]:
        """Where the tables have the offset from each query of a block to each key of its window, along one side."""
        step = self.stride if self.offsets == "pixels" else 1
        query = torch.arange(self.block // self.stride, device=self.row.device) * step
        return torch.arange(self.window, device=self.row.device) - query[:, None] + self.window - 1

    def joined(
        self, out: Float[Tensor, "B heads blocks queries D"], columns: int
    ) -> Float[Tensor, "B C_out H_out W_out"]:
        """The map whose blocks are `out`, so many in a row."""
        side = self.block // self.stride
        out = out.unflatten(3, (side, side)).unflatten(2, (-1, columns))  # (B, heads, rows, columns, y, x, D)
        return out.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4).flatten(1, 2)

    def extra_repr(self) -> str:
        stride = f", stride={self.stride}, offsets in {self.offsets}" if self.stride > 1 else ""
        return f"heads={self.heads}, block={self.block}, halo={self.halo}{stride}"
