"""Receptive fields: the influence of pixels on a token, and of tokens on each other.

Both are norms of Jacobians, estimated by random signs: the expected square of signs · J is the sum of J's squares.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier


def on_grid(model: Classifier, table: Tensor) -> Tensor:
    """Tokens in their places: (S, …), as a Mixer or ViT has them after some layer → (rows, columns, …).

    A class token is left out.
    """
    by_count = {math.prod(grid): grid for grid in family_of(model).grids(model.config)}
    count = max(count for count in by_count if count <= len(table))
    return table[len(table) - count :].unflatten(0, by_count[count])


def token_influence(
    model: Classifier, image: Float[Tensor, "3 H W"], layer: str = "tokens", seed: int = 0
) -> Float[np.ndarray, "S S"]:
    """The influence on each token after `layer` (rows) of each token of the stem (columns); rows sum to 1.

    For models of tokens: Mixers, and ViTs, whose class token is left out.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        _, seen = model(image[None], intermediates=True)
        stem, table = seen["stem"], seen[layer]
        offset = table.shape[1] - stem.shape[1] if table.shape[1] > stem.shape[1] else 0  # the class token
        rows = []
        for token in range(offset, table.shape[1]):
            signs = torch.randint(2, (table.shape[2],), generator=rng).mul(2).sub(1).to(table)
            (gradient,) = torch.autograd.grad(table[0, token] @ signs, stem, retain_graph=True)
            rows.append(gradient[0].square().sum(1).detach().cpu())
    influence = torch.stack(rows).sqrt().numpy().astype(np.float64)
    return influence / np.maximum(influence.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def mean_distance(influence: Float[np.ndarray, "S S"], rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """The mean distance, in patches, from which each token is influenced."""
    across = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1).astype(np.float64)
    apart = np.linalg.norm(across[:, None] - across[None], axis=2)
    return (influence * apart).sum(axis=1).reshape(rows, columns)


def receptive_fields(
    model: Classifier, images: Float[Tensor, "N 3 H W"], layers: list[str], seed: int = 0
) -> dict[str, Float[np.ndarray, "H W"]]:
    """Effective receptive fields: for each layer, the influence of each pixel on the central token; they sum to 1.

    The mean over images.
    """
    rng = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for image in images:
        with torch.enable_grad():
            pixels = image[None].clone().requires_grad_()
            _, seen = model(pixels, intermediates=True)
            for layer in layers:
                middle = _middle(model, seen[layer])
                signs = torch.randint(2, middle.shape, generator=rng).mul(2).sub(1).to(middle)
                (gradient,) = torch.autograd.grad(middle @ signs, pixels, retain_graph=True)
                energy = gradient[0].square().sum(0).detach().cpu().double()
                found[layer] = found.get(layer, torch.zeros_like(energy)) + energy
    return {layer: (energy / energy.sum().clamp_min(1e-300)).numpy() for layer, energy in found.items()}


def _middle(model: Classifier, table: Tensor) -> Tensor:
    """The channels of the central token of (1, S, C), or place of (1, C, h, w)."""
    if table.ndim == 4:
        return table[0, :, table.shape[2] // 2, table.shape[3] // 2]
    tokens = on_grid(model, table[0])
    return tokens[tokens.shape[0] // 2, tokens.shape[1] // 2]


def half_radius(field: Float[np.ndarray, "H W"]) -> float:
    """The radius of half of a receptive field, in pixels around its center of mass."""
    rows, columns = np.indices(field.shape)
    down, right = (field * rows).sum(), (field * columns).sum()
    away = np.hypot(rows - down, columns - right).reshape(-1)
    order = np.argsort(away)
    return float(away[order][np.searchsorted(np.cumsum(field.reshape(-1)[order]), 0.5)])
