"""Global attention with relative positions, as in BoTNet: each pixel of a map attends to all of them.

Srinivas and others: "Bottleneck Transformers for Visual Recognition" (arXiv 2101.11605). For the query at (y, x) and
the key at (i, j) of one head:

    logit = q · k / √d + q · (row[i − y] + column[j − x])          output = softmax(logits) · v

`row` and `column` are tables of d numbers for each offset, shared by the heads; each has 2N − 1 offsets of a side of N
pixels. So the map has a fixed size, and the cost grows with the square of its S pixels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlpmixer.models.classifier import require
from mlpmixer.models.layers import lecun_normal_


class BottleneckAttention(nn.Module):
    """Multi-head attention of all pixels to all pixels. There is no map after it: heads are only concatenated.

    Args:
        channels: Of its input.
        out_channels: Of its output; by default `channels`.
        grid: Rows and columns of its input.
        stride: 2: the output is averaged over each 2×2 pixels.
        heads: A divisor of `out_channels`.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        grid: tuple[int, int],
        stride: int = 1,
        heads: int = 4,
    ):
        super().__init__()
        out_channels = out_channels or channels
        require("heads", out_channels % heads == 0, f"a divisor of {out_channels} channels", heads)
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * out_channels, 1, bias=False)
        self.positions = RelativePositions(grid, out_channels // heads)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        lecun_normal_(self.qkv.weight, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        query, key, value = (
            self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).permute(1, 0, 2, 4, 3)
        )  # each (B, heads, S, d)
        logits = query * query.shape[3] ** -0.5 @ key.transpose(2, 3) + self.positions(query)
        out = logits.softmax(dim=3).to(value.dtype) @ value
        return self.pool(out.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class RelativePositions(nn.Module):
    """q · (row[i − y] + column[j − x]): a number for each row of keys and one for each column, added."""

    def __init__(self, grid: tuple[int, int], width: int):
        super().__init__()
        rows, columns = self.grid = grid
        self.row = nn.Parameter(torch.empty(2 * rows - 1, width).normal_(std=width**-0.5))
        self.column = nn.Parameter(torch.empty(2 * columns - 1, width).normal_(std=width**-0.5))

    def forward(self, query: Float[Tensor, "B heads S d"]) -> Float[Tensor, "B heads S S"]:
        rows, columns = (offsets(side, self.row.device) for side in self.grid)
        query = query.unflatten(2, self.grid)
        of_row = torch.einsum("bhyxd,yid->bhyxi", query, self.row[rows])
        of_column = torch.einsum("bhyxd,xjd->bhyxj", query, self.column[columns])
        return (of_row.unsqueeze(5) + of_column.unsqueeze(4)).flatten(4, 5).flatten(2, 3)

    def extra_repr(self) -> str:
        return "grid={}×{}".format(*self.grid)


def offsets(side: int, device: torch.device | None = None) -> Int[Tensor, "N N"]:
    """Where a table of 2N − 1 offsets, from 1 − N to N − 1, has that from each of N positions (rows) to each other."""
    positions = torch.arange(side, device=device)
    return positions - positions[:, None] + side - 1
