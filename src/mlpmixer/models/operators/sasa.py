"""Stand-alone self-attention: each pixel attends to the k×k pixels around it.

Ramachandran and others: "Stand-Alone Self-Attention in Vision Models" (arXiv 1906.05909). For the query at (y, x) and
the key at (i, j) of its window, in one head:

    logit = q · k + q · [row[i − y], column[j − x]]          output = softmax(logits) · v

Half of the numbers that tell an offset come from its row and half from its column; each head has tables of its own, of
k rows and k columns. Logits are not divided by √d. Outside the map k = v = 0: such keys are not masked, and take part
in the softmax with the logit of their position.

The cost is linear in S, the number of pixels. Keys and values are gathered k² times: that costs memory, not products.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.classifier import require
from mlpmixer.models.layers import lecun_normal_
from mlpmixer.models.operators.windows import windows


class StandAloneAttention(nn.Module):
    """Multi-head attention of each pixel to its window. There is no map after it: heads are only concatenated.

    Args:
        channels: Of its input.
        out_channels: Of its output; by default `channels`.
        stride: 2: the output is averaged over each 2×2 pixels.
        heads: So many parts of `out_channels`, each of an even number of channels.
        window: Side of a window, k; odd.
    """

    def __init__(
        self, channels: int, out_channels: int | None = None, *, stride: int = 1, heads: int = 8, window: int = 7
    ):
        super().__init__()
        out_channels = out_channels or channels
        even = out_channels % (2 * heads) == 0
        require("heads", even, f"a divisor of half of {out_channels} channels", heads)
        require("window", window % 2 == 1, "odd", window)
        self.heads, self.window = heads, window
        self.qkv = nn.Conv2d(channels, 3 * out_channels, 1, bias=False)
        half = out_channels // heads // 2
        self.row = nn.Parameter(torch.empty(heads, window, half).normal_(std=half**-0.5))
        self.column = nn.Parameter(torch.empty(heads, window, half).normal_(std=half**-0.5))
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        lecun_normal_(self.qkv.weight, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        query, key, value = self.qkv(x).chunk(3, dim=1)
        query = query.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)  # (B, heads, S, d)
        key, value = (windows(part, self.window, self.heads) for part in (key, value))  # (B, heads, S, k², d)
        logits = (key @ query.unsqueeze(4)).squeeze(4) + self.positions(query)
        out = logits.softmax(dim=3).to(value.dtype).unsqueeze(3) @ value  # (B, heads, S, 1, d)
        return self.pool(out.squeeze(3).transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))

    def positions(self, query: Float[Tensor, "B heads S d"]) -> Float[Tensor, "B heads S kk"]:
        """A number for each row of the window and one for each column, added."""
        of_row, of_column = (
            half @ table.transpose(1, 2)
            for half, table in zip(query.chunk(2, dim=3), (self.row, self.column), strict=True)
        )
        return (of_row.unsqueeze(4) + of_column.unsqueeze(3)).flatten(3, 4)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}"
