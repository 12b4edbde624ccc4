"""Synthesizers: attention whose weights do not come from products of queries and keys.

Tay and others: "Synthesizer: Rethinking Self-Attention for Transformer Models" (arXiv 2005.00743). In each head

    output = softmax(A) · V

of which there are four forms; S is the number of pixels, d the channels of a head:

    dense                A_n = W2 · relu(W1 · x_n)                 S numbers from each pixel alone
    factorized dense     A_n = a_n ⊗ b_n                           fewer numbers, and their outer product
    random               A = R                                     S×S numbers of the layer itself, learned or fixed
    factorized random    A = R1ᵀ · R2                              of a small rank

A row of A has a number for each position, so all of them know where things are, and serve maps of one size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.classifier import require
from mlpmixer.models.layers import lecun_normal_


class Synthesizer(nn.Module):
    """What the four have in common: values, and a map of the concatenated heads. `logits` is each one's own."""

    def __init__(self, channels: int, grid: tuple[int, int], heads: int):
        super().__init__()
        require("heads", channels % heads == 0, f"a divisor of {channels} channels", heads)
        self.heads, self.tokens, self.width = heads, grid[0] * grid[1], channels // heads
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1, bias=False)
        lecun_normal_(self.value.weight, channels)
        lecun_normal_(self.out.weight, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        value = self.split(self.value(x))
        mixed = self.logits(x).softmax(dim=3).to(value.dtype) @ value
        return self.out(mixed.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))

    def split(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B heads S d"]:
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)

    def logits(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "#B heads S S"]:
        """A: the same for all images where it does not depend on them."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"heads={self.heads}, tokens={self.tokens}"


class DenseSynthesizer(Synthesizer):
    """W2 is shared by the heads, as in the authors' code (mesh), and nothing has a bias."""

    def __init__(self, channels: int, *, grid: tuple[int, int], heads: int = 8):
        super().__init__(channels, grid, heads)
        self.fc1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.fc2 = nn.Linear(self.width, self.tokens, bias=False)
        lecun_normal_(self.fc1.weight, channels)
        lecun_normal_(self.fc2.weight, self.width)

    def logits(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B heads S S"]:
        return self.fc2(F.relu(self.split(self.fc1(x))))


class FactorizedDenseSynthesizer(Synthesizer):
    """A number for each row of the map times one for each column, so their product is one for each pixel.

    The literature leaves open which two factors of S to take, and whether both come from one W1, as they do here.
    """

    def __init__(self, channels: int, *, grid: tuple[int, int], heads: int = 8):
        super().__init__(channels, grid, heads)
        self.fc1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.row, self.column = (nn.Linear(self.width, side, bias=False) for side in grid)
        lecun_normal_(self.fc1.weight, channels)
        lecun_normal_(self.row.weight, self.width)
        lecun_normal_(self.column.weight, self.width)

    def logits(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B heads S S"]:
        hidden = F.relu(self.split(self.fc1(x)))
        return (self.row(hidden).unsqueeze(4) * self.column(hidden).unsqueeze(3)).flatten(3)


class RandomSynthesizer(Synthesizer):
    """R starts as a standard normal, so that A is as sharp as a dense one's; `learned=False` leaves it so."""

    def __init__(self, channels: int, *, grid: tuple[int, int], heads: int = 8, learned: bool = True):
        super().__init__(channels, grid, heads)
        weights = torch.empty(heads, self.tokens, self.tokens).normal_()
        if learned:
            self.weights = nn.Parameter(weights)
        else:
            self.register_buffer("weights", weights)

    def logits(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "1 heads S S"]:  # noqa: ARG002
        return self.weights[None]


class FactorizedRandomSynthesizer(Synthesizer):
    """A of a small rank, for which the paper takes 8; it starts with the variance of a full one."""

    def __init__(self, channels: int, *, grid: tuple[int, int], heads: int = 8, rank: int = 8):
        super().__init__(channels, grid, heads)
        self.left, self.right = (
            nn.Parameter(torch.empty(heads, rank, self.tokens).normal_(std=rank**-0.25)) for _ in range(2)
        )

    def logits(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "1 heads S S"]:  # noqa: ARG002
        return (self.left.transpose(1, 2) @ self.right)[None]
