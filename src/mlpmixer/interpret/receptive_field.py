"""How far what is seen in one place is heard in others: between places, and from pixels to a place.

Both are norms of Jacobians, estimated by random signs: the expected square of signs · J is the sum of J's squares.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mlpmixer.interpret.tokens import on_grid
from mlpmixer.models.classifier import Classifier


def places_heard(
    model: Classifier, image: Float[Tensor, "3 H W"], layer: str = "tokens", seed: int = 0
) -> Float[np.ndarray, "S S"]:
    """Of each place after `layer` (rows), how strongly each place of the stem (columns) acts on it; rows sum to 1.

    For models that keep a table of places: Mixers, and ViTs, whose class token is left out.
    """
    chance = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        _, seen = model(image[None], intermediates=True)
        stem, table = seen["stem"], seen[layer]
        offset = table.shape[1] - stem.shape[1] if table.shape[1] > stem.shape[1] else 0  # the class token
        rows = []
        for place in range(offset, table.shape[1]):
            signs = torch.randint(2, (table.shape[2],), generator=chance).mul(2).sub(1).to(table)
            (gradient,) = torch.autograd.grad(table[0, place] @ signs, stem, retain_graph=True)
            rows.append(gradient[0].square().sum(1).detach().cpu())
    heard = torch.stack(rows).sqrt().numpy().astype(np.float64)
    return heard / np.maximum(heard.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def reach(heard: Float[np.ndarray, "S S"], rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """How far away, in patches, what a place hears lies on average."""
    across = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1).astype(np.float64)
    apart = np.linalg.norm(across[:, None] - across[None], axis=2)
    return (heard * apart).sum(axis=1).reshape(rows, columns)


def receptive_fields(
    model: Classifier, images: Float[Tensor, "N 3 H W"], layers: list[str], seed: int = 0
) -> dict[str, Float[np.ndarray, "H W"]]:
    """For each layer, how strongly each pixel acts on the place in the middle: the mean over images, sum 1."""
    chance = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for image in images:
        with torch.enable_grad():
            pixels = image[None].clone().requires_grad_()
            _, seen = model(pixels, intermediates=True)
            for layer in layers:
                middle = _middle(model, seen[layer])
                signs = torch.randint(2, middle.shape, generator=chance).mul(2).sub(1).to(middle)
                (gradient,) = torch.autograd.grad(middle @ signs, pixels, retain_graph=True)
                energy = gradient[0].square().sum(0).detach().cpu().double()
                found[layer] = found.get(layer, torch.zeros_like(energy)) + energy
    return {layer: (energy / energy.sum().clamp_min(1e-300)).numpy() for layer, energy in found.items()}


def _middle(model: Classifier, table: Tensor) -> Tensor:
    """The channels of the place in the middle of a (1, S, C) or (1, C, h, w) table."""
    if table.ndim == 4:
        return table[0, :, table.shape[2] // 2, table.shape[3] // 2]
    places = on_grid(model, table[0])
    return places[places.shape[0] // 2, places.shape[1] // 2]


def half_radius(field: Float[np.ndarray, "H W"]) -> float:
    """The radius, in pixels around the field's own center of mass, within which half of it lies."""
    rows, columns = np.indices(field.shape)
    down, right = (field * rows).sum(), (field * columns).sum()
    away = np.hypot(rows - down, columns - right).reshape(-1)
    order = np.argsort(away)
    return float(away[order][np.searchsorted(np.cumsum(field.reshape(-1)[order]), 0.5)])
