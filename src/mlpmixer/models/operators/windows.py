"""Windows of a map, such as the k×k pixels around each; for operators that treat each of them in its own way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def windows(
    x: Float[Tensor, "B C H W"], side: int, groups: int, stride: int = 1, margin: int | None = None
) -> Float[Tensor, "B groups S kk c"]:
    """Rows of each window from above, S windows in raster order; zeros outside of the map.

    The channels of a pixel in one group lie side by side, so that products with them need no copy. They are gathered by
    their index, since ONNX has no unfold after a pad.

    Args:
        x: The map.
        side: Of a window, k.
        groups: Parts of the channels.
        stride: From one window to the next.
        margin: How far the first window begins outside of the map; by default k/2, so that it is around a pixel.
    """
    height, width = x.shape[2:]
    around = F.pad(x, (side // 2 if margin is None else margin,) * 4)
    of_window = torch.arange(side, device=x.device)
    down = torch.arange(0, height, stride, device=x.device)[:, None] + of_window
    along = torch.arange(0, width, stride, device=x.device)[:, None] + of_window
    places = down[:, None, :, None] * around.shape[3] + along[:, None]  # (rows, columns, k, k)
    pixels = around.flatten(2).unflatten(1, (groups, -1)).transpose(2, 3).contiguous()
    return pixels.index_select(2, places.flatten()).unflatten(2, (-1, side**2))
