"""Weights of one half of a Mixer's layer, as all kernels get them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

GeluForm = Literal["tanh", "erf"]


class HalfWeights(NamedTuple):
    """Token mixing or channel mixing: LayerNorm's scale and shift, then two maps as (out, in) matrices with biases."""

    gamma: Tensor
    beta: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
