"""Tables of places, laid out as in the image."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mlpmixer.models.classifier import Classifier


def on_grid(model: Classifier, table: Tensor) -> Tensor:
    """(S, …), as a Mixer or ViT has it after some layer → (rows, columns, …); a class token is left out."""
    stem: Any = model.get_submodule("stem")
    grids = model.config.grids() if hasattr(model.config, "grids") else [stem.grid]
    by_places = {math.prod(grid): grid for grid in grids}
    places = max(count for count in by_places if count <= len(table))
    return table[len(table) - places :].unflatten(0, by_places[places])
