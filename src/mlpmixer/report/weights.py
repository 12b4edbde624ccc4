"""Figures of a model's weights: stem filters, token-mixing units, receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mlpmixer.draw import heatmap
from mlpmixer.draw.chart import LOOKS, Series, line_chart
from mlpmixer.interpret.receptive_field import half_radius, receptive_fields
from mlpmixer.interpret.units import frequencies, opposites, pairs, spectrum, stem_filters, units_of
from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.report.figures import Figure, Progress, Scale, no_progress, tracked

NOISE_IMAGES = 4  # over which receptive fields are averaged
SHEET = 460  # pixels, about, of a sheet of maps


def usual_layers(model: Classifier) -> list[int]:
    """The first three layers with token mixing, as in Fig. 5, and the last."""
    layers = family_of(model).mixer_layers(model.config)
    return sorted({*range(min(3, layers)), layers - 1}) if layers else []


def weight_figures(
    model: Classifier, layers: Sequence[int] | None = None, progress: Progress = no_progress
) -> tuple[list[Figure], dict[str, Any]]:
    """The figures, and the values in them. `layers`: whose token-mixing units are drawn; None: the first three and the
    last."""
    figures, values = [], {}
    for layer in tracked("token mixing", usual_layers(model) if layers is None else layers, progress):
        units = units_of(model, layer)
        figures.append(_units(units, layer))
        found = opposites(units)
        values[f"layer {layer}"] = {
            "units": len(units),
            "mean frequency": float(frequencies(units).mean()),
            "lowest cosine": found.lowest,
            "lowest cosine, shuffled": found.shuffled,
        }
    filters = stem_filters(model)
    figures.append(
        Figure(
            "stem",
            _sheet([heatmap.own_range(one) for one in filters]),
            f"All {len(filters):,} filters of the stem, low frequency first (Fig. 7).",
            pixels=True,
        )
    )
    if mixing := family_of(model).mixer_layers(model.config):
        figures += _spectra(model, mixing, progress)
    figures += _fields(model, values, progress)
    return figures, values


def _units(units: np.ndarray, layer: int) -> Figure:
    order = [unit for pair in pairs(units) for unit in (pair.unit, pair.opposite) if unit is not None]
    return Figure(
        f"units-{layer}",
        _sheet([heatmap.signed(units[unit]) for unit in order], together=2),
        f"Token-mixing units of layer {layer}: each row of W1 laid out as the image, low frequency first, each with "
        "the unit nearest to its negative (Fig. 5).",
        pixels=True,
        scale=Scale(heatmap.SIGNED, "negative weight", "positive"),
    )


def _sheet(maps: Sequence[np.ndarray], together: int = 1):
    across = max(together, int(np.ceil(np.sqrt(len(maps)))) // together * together)
    return heatmap.sheet([heatmap.larger(one, SHEET // across) for one in maps], across, together=together)


def _spectra(model: Classifier, mixing: int, progress: Progress) -> list[Figure]:
    layers = np.unique(np.linspace(0, mixing - 1, len(LOOKS)).round().astype(int)).tolist()
    lines = []
    for layer in layers:
        share = spectrum(units_of(model, layer))
        lines.append(Series(f"layer {layer}", [(float(n), 100 * float(value)) for n, value in enumerate(share)]))
    every = range(mixing)
    found = [opposites(units_of(model, layer)) for layer in tracked("opposite units", every, progress)]
    cosines = [
        Series("lowest cosine", [(float(n), one.lowest) for n, one in zip(every, found, strict=True)]),
        Series("shuffled", [(float(n), one.shuffled) for n, one in zip(every, found, strict=True)]),
    ]
    return [
        Figure(
            "spectra",
            line_chart("Power of token-mixing units (%)", lines, x_label="spatial frequency (cycles over the side)"),
            "Power spectra of token-mixing units.",
        ),
        Figure(
            "opposites",
            line_chart("Cosine to the most opposite unit", cosines, x_label="layer"),
            "How close each unit comes to having its negative; shuffled: with the weights of each unit shuffled.",
        ),
    ]


def _fields(model: Classifier, values: dict[str, Any], progress: Progress) -> list[Figure]:
    layers = token_layers(model)
    noise = torch.randn(
        NOISE_IMAGES, model.config.in_channels, *model.config.image_size, generator=torch.Generator().manual_seed(0)
    )
    parameter = next(model.parameters())
    progress("receptive fields", 0, 1)
    fields = receptive_fields(model, noise.to(parameter), layers)
    progress("receptive fields", 1, 1)
    radii = [(float(n), half_radius(fields[layer])) for n, layer in enumerate(layers)]
    values["receptive fields"] = {layer: radius for layer, (_, radius) in zip(layers, radii, strict=True)}
    maps = [heatmap.larger(heatmap.unsigned(np.sqrt(fields[layer])), 120) for layer in layers]
    sheet = heatmap.sheet(maps, 4, gap=6)
    return [
        Figure(
            "receptive-fields",
            sheet,
            "Effective receptive fields: the influence of each pixel on the central token, layer after layer "
            f"(root of the energy; mean over {NOISE_IMAGES} noise images).",
            scale=Scale(heatmap.UNSIGNED, "no influence", "strongest"),
        ),
        Figure(
            "receptive-field-radii",
            line_chart("Radius of half of the receptive field (pixels)", [Series("radius", radii)], x_label="layer"),
            "The size of the effective receptive field.",
        ),
    ]


def token_layers(model: Classifier) -> list[str]:
    """The names of the intermediate outputs after each layer."""
    return family_of(model).stages_of(model.config)
