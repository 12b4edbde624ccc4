"""The interpret on a model's weights: what its first layer and its token mixing look for, and how far it sees."""

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
from mlpmixer.report.figures import Exhibit
from mlpmixer.report.progress import Watch, nobody, watched

NOISE = 4  # images of noise through which receptive fields are looked for
SHEET = 460  # pixels, about, of a sheet of maps


def usual_layers(model: Classifier) -> list[int]:
    """The first three layers with token mixing, as in Fig. 5, and the last."""
    layers = family_of(model).mixer_layers(model.config)
    return sorted({*range(min(3, layers)), layers - 1}) if layers else []


def look_at_weights(
    model: Classifier, layers: Sequence[int] | None = None, watch: Watch = nobody
) -> tuple[list[Exhibit], dict[str, Any]]:
    """And the figures in them."""
    shown, figures = [], {}
    for layer in watched("token mixing", usual_layers(model) if layers is None else layers, watch):
        units = units_of(model, layer)
        shown.append(_units(units, layer))
        found = opposites(units)
        figures[f"layer {layer}"] = {
            "units": len(units),
            "mean frequency": float(frequencies(units).mean()),
            "lowest cosine": found.lowest,
            "lowest cosine by chance": found.by_chance,
        }
    filters = stem_filters(model)
    shown.append(
        Exhibit(
            "stem",
            _sheet([heatmap.own_range(one) for one in filters]),
            f"All {len(filters):,} filters of the stem, low frequency first (Fig. 7).",
            pixels=True,
        )
    )
    if mixing := family_of(model).mixer_layers(model.config):
        shown += _spectra(model, mixing, watch)
    shown += _fields(model, figures, watch)
    return shown, figures


def _units(units: np.ndarray, layer: int) -> Exhibit:
    order = [unit for pair in pairs(units) for unit in (pair.unit, pair.opposite) if unit is not None]
    return Exhibit(
        f"units-{layer}",
        _sheet([heatmap.signed(units[unit]) for unit in order], together=2),
        f"Token-mixing units of layer {layer}: each row of W1 as places of the image, low frequency first, each with "
        "the unit nearest to its negative (Fig. 5).",
        pixels=True,
    )


def _sheet(maps: Sequence[np.ndarray], together: int = 1):
    across = max(together, int(np.ceil(np.sqrt(len(maps)))) // together * together)
    return heatmap.sheet([heatmap.larger(one, SHEET // across) for one in maps], across, together=together)


def _spectra(model: Classifier, mixing: int, watch: Watch) -> list[Exhibit]:
    layers = np.unique(np.linspace(0, mixing - 1, len(LOOKS)).round().astype(int)).tolist()
    lines = []
    for layer in layers:
        share = spectrum(units_of(model, layer))
        lines.append(Series(f"layer {layer}", [(float(n), 100 * float(value)) for n, value in enumerate(share)]))
    every = range(mixing)
    found = [opposites(units_of(model, layer)) for layer in watched("opposite units", every, watch)]
    cosines = [
        Series("lowest cosine", [(float(n), one.lowest) for n, one in zip(every, found, strict=True)]),
        Series("by chance", [(float(n), one.by_chance) for n, one in zip(every, found, strict=True)]),
    ]
    return [
        Exhibit(
            "spectra",
            line_chart("Power of token-mixing units, %", lines, across="cycles over the side of the image"),
            "At which spatial frequencies token mixing listens.",
        ),
        Exhibit(
            "opposites",
            line_chart("Cosine to the most opposite unit, mean over units", cosines, across="layer"),
            "How nearly each unit has its negative; by chance: the weights of each unit in another order.",
        ),
    ]


def _fields(model: Classifier, figures: dict[str, Any], watch: Watch) -> list[Exhibit]:
    layers = places_of(model)
    noise = torch.randn(
        NOISE, model.config.in_channels, *model.config.image_size, generator=torch.Generator().manual_seed(0)
    )
    parameter = next(model.parameters())
    watch("receptive fields", 0, 1)
    fields = receptive_fields(model, noise.to(parameter), layers)
    watch("receptive fields", 1, 1)
    radii = [(float(n), half_radius(fields[layer])) for n, layer in enumerate(layers)]
    figures["receptive fields"] = {layer: radius for layer, (_, radius) in zip(layers, radii, strict=True)}
    maps = [heatmap.larger(heatmap.unsigned(np.sqrt(fields[layer])), 120) for layer in layers]
    sheet = heatmap.sheet(maps, 4, gap=6)
    return [
        Exhibit(
            "fields",
            sheet,
            "Effective receptive fields: how strongly each pixel acts on the place in the middle, layer after layer "
            f"(root of the energy; mean over {NOISE} images of noise).",
        ),
        Exhibit(
            "field-radii",
            line_chart(
                "Radius that holds half of the receptive field, pixels", [Series("radius", radii)], across="layer"
            ),
            "How far a place sees.",
        ),
    ]


def places_of(model: Classifier) -> list[str]:
    """The names of the tables of places after each layer."""
    return family_of(model).stages_of(model.config)
