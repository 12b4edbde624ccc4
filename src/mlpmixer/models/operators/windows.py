"""The k×k pixels around each pixel of a map, gathered once; for operators that treat each pixel in its own way."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def windows(x: Float[Tensor, "B C H W"], side: int, stride: int = 1) -> Float[Tensor, "B C kk S"]:
    """Rows of each window from above, S windows in raster order; zeros outside of the map."""
    return F.unfold(x, side, padding=side // 2, stride=stride).unflatten(1, (x.shape[1], side**2))
