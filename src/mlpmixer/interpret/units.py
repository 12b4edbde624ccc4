"""Token-mixing units: each row of W1 as an image of its weights (the paper's Fig. 5 and 6).

Order: units by their mean frequency, low first, each followed by the one that is nearest to its negative.

- frequency: the mean distance from zero in the plane of spatial frequencies, weighted by the power there, in cycles
  over the side of the image.
- nearest to its negative: the lowest cosine among the units that are not yet placed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float

from mlpmixer.errors import UsageError
from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer


@dataclass(frozen=True)
class Pair:
    """Two units; `cosine` is 1 for equal ones, −1 for exact opposites. The last may have no partner."""

    unit: int
    opposite: int | None
    cosine: float | None


def units_of(model: Classifier, layer: int) -> Float[np.ndarray, "N rows columns"]:
    """Images of the units: D_S of them; for each of G groups, one; of untied maps, those of the first channel."""
    if not (layers := family_of(model).mixer_layers(model.config)):
        raise UsageError(f"{model.name} has no token-mixing units; only Mixers have")
    if not 0 <= layer < layers:
        raise UsageError(f"there is no layer {layer}; {model.name} has 0 to {layers - 1}")
    mixer = cast(Mixer, model)
    weight = mixer.blocks[layer].token_mixing.fc1.weight
    weight = weight[0] if mixer.config.untied else weight
    rows, columns = family_of(model).grids(model.config)[layer]
    return weight.detach().float().cpu().reshape(-1, rows, columns).numpy()


def power(images: Float[np.ndarray, "N rows columns"]) -> Float[np.ndarray, "N rows columns"]:
    """Power spectra: the share of each pair of spatial frequencies."""
    found = np.abs(np.fft.fft2(images)) ** 2
    return found / np.maximum(found.sum(axis=(1, 2), keepdims=True), np.finfo(np.float64).tiny)


def distances(rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """The distance of each pair of frequencies from zero, in cycles over the side."""
    return np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.fftfreq(columns) * columns)


def frequencies(images: Float[np.ndarray, "N rows columns"]) -> Float[np.ndarray, " N"]:
    return (power(images) * distances(*images.shape[1:])).sum(axis=(1, 2))


def spectrum(images: Float[np.ndarray, "N rows columns"]) -> Float[np.ndarray, " F"]:
    """Mean power of the units by whole cycles over the side, from 0 on."""
    ring = distances(*images.shape[1:]).round().astype(int).reshape(-1)
    return np.bincount(ring, power(images).mean(axis=0).reshape(-1))


def cosines(images: Float[np.ndarray, "N rows columns"]) -> Float[np.ndarray, "N N"]:
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return flat @ flat.T


def pairs(images: Float[np.ndarray, "N rows columns"]) -> list[Pair]:
    """All units, in the order of the paper's figures."""
    similarity = cosines(images)
    left = np.argsort(frequencies(images), kind="stable").tolist()
    found = []
    while left:
        unit = left.pop(0)
        if not left:
            found.append(Pair(unit, None, None))
            break
        opposite = min(left, key=lambda other: similarity[unit, other])
        left.remove(opposite)
        found.append(Pair(unit, opposite, float(similarity[unit, opposite])))
    return found


@dataclass(frozen=True)
class Opposites:
    """`lowest`: the mean over units of the lowest cosine to any other; `shuffled`: the same with the weights of each
    unit shuffled, as a baseline."""

    lowest: float
    shuffled: float


def opposites(images: Float[np.ndarray, "N rows columns"], seed: int = 0) -> Opposites:
    flat = images.reshape(len(images), 1, -1)
    shuffled = np.random.default_rng(seed).permuted(flat, axis=2)
    return Opposites(*(float(cosines(each).min(axis=1).mean()) for each in (flat, shuffled)))


def stem_filters(model: Classifier) -> Float[np.ndarray, "C P P in_channels"]:
    """The filters of the first layer (Fig. 7), low frequency first."""
    kernel = next(parameter for parameter in model.get_submodule("stem").parameters() if parameter.ndim == 4)
    filters = kernel.detach().float().cpu().permute(0, 2, 3, 1).contiguous()
    return filters[torch.from_numpy(np.argsort(frequencies(filters.mean(-1).numpy()), kind="stable"))].numpy()
