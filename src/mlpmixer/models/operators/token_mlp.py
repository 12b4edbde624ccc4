"""The Mixer's token mixing as an operator on maps: W2 · gelu(W1 · X), the same for every channel."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mlpmixer.models.layers import GeluForm, Mlp


class TokenMlp(Mlp):
    """The pixels of a channel are a row of S numbers, and one MLP serves all rows.

    Args:
        grid: Rows and columns of its input.
        hidden: D_S.
        gelu: Which form.
        dropout: After each linear map.
    """

    def __init__(self, *, grid: tuple[int, int], hidden: int, gelu: GeluForm = "tanh", dropout: float = 0.0):
        super().__init__(grid[0] * grid[1], hidden, gelu, dropout)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return super().forward(x.flatten(2)).unflatten(2, x.shape[2:])
