"""Tables of places, laid out as in the image."""

from __future__ import annotations

import math

from torch import Tensor

from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier


def on_grid(model: Classifier, table: Tensor) -> Tensor:
    """(S, …), as a Mixer or ViT has it after some layer → (rows, columns, …); a class token is left out."""
    by_places = {math.prod(grid): grid for grid in family_of(model).grids(model.config)}
    places = max(count for count in by_places if count <= len(table))
    return table[len(table) - places :].unflatten(0, by_places[places])
