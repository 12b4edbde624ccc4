"""The interpret on one image: what each layer makes of it, how far its places hear each other, what speaks for the
answer, and whether that map deserves trust."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mlpmixer.data.images import decode
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.draw import heatmap
from mlpmixer.draw.chart import Series, line_chart
from mlpmixer.errors import UsageError, nearest
from mlpmixer.interpret.attribution import (
    by_place,
    deletion_and_insertion,
    gray,
    integrated_gradients,
    occlusion,
    on_squares,
)
from mlpmixer.interpret.receptive_field import places_heard, reach
from mlpmixer.interpret.tokens import on_grid
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.layers import PatchStem
from mlpmixer.report.figures import Exhibit
from mlpmixer.report.progress import Watch, nobody, watched
from mlpmixer.report.weights import places_of

RANDOM = 8  # orders by chance, to compare maps with
SHOWN = 224  # pixels of a photograph


@dataclass(frozen=True)
class Question:
    """An image as the model is given it, and the output that is asked about; None: the one that the model says."""

    pixels: UInt8[Tensor, "3 H W"]
    output: int | None


def question(model: Classifier, image: str | os.PathLike[str], label: str | None = None) -> Question:
    if model.config.num_classes == 0:
        raise UsageError("this model has no head, so nothing speaks for an answer; leave --image away")
    names = _names(model)
    if label is not None and label not in names:
        raise UsageError(f"the model has no class '{label}'{nearest(label, names)}")
    how = model.metadata.preprocessing
    pixels = prepare(decode(image), how)
    return Question(pixels, None if label is None else names.index(label))


def look_at_photo(model: Classifier, asked: Question, watch: Watch = nobody) -> tuple[list[Exhibit], dict[str, Any]]:
    image = normalize(asked.pixels, model.metadata.preprocessing).to(next(model.parameters()))
    photo = Image.fromarray(asked.pixels.permute(1, 2, 0).numpy()).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    names = _names(model)
    with torch.inference_mode():
        scores = model(image[None]).softmax(1)[0]
    answer = int(scores.argmax()) if asked.output is None else asked.output

    shown = [Exhibit("photo", photo, f"As the model sees it. It says {names[answer]}, {scores[answer]:.1%}.")]
    figures: dict[str, Any] = {"answer": names[answer], "score": float(scores[answer])}
    shown += _activations(model, image)
    shown += _hearing(model, image, figures, watch)
    maps = _maps(model, image, answer, watch)
    for name, (values, caption) in maps.items():
        shown.append(Exhibit(name, heatmap.over(photo, values.float().cpu().numpy()), caption))
    shown += _trust(model, image, answer, maps, figures, watch)
    return shown, figures


def _names(model: Classifier) -> tuple[str, ...]:
    return model.metadata.classes or tuple(f"class {n}" for n in range(model.config.num_classes))


def side_of(model: Classifier) -> int:
    """Of the squares by which maps are compared: patches, but no more than 14 by 14 of them, for time."""
    patch = getattr(model.config, "patch_size", 1)
    return patch * -(-max(model.config.image_size) // (14 * patch))


def _activations(model: Classifier, image: Tensor) -> list[Exhibit]:
    """How strong each place is, layer after layer."""
    with torch.inference_mode():
        _, seen = model(image[None], intermediates=True)
    maps = []
    for layer in places_of(model):
        table = seen[layer][0].float()
        table = on_grid(model, table.norm(dim=1)) if table.ndim == 2 else table.norm(dim=0)
        maps.append(heatmap.larger(heatmap.unsigned(table.cpu().numpy()), 112))
    widest = max(one.width for one in maps)
    maps = [one.resize((widest, widest * one.height // one.width), Image.Resampling.NEAREST) for one in maps]
    caption = "The length of each place's row after each layer, from its lowest to its highest."
    return [Exhibit("activations", heatmap.sheet(maps, 4, gap=6), caption, pixels=True)]


def _hearing(model: Classifier, image: Tensor, figures: dict[str, Any], watch: Watch) -> list[Exhibit]:
    stem = model.get_submodule("stem")
    if not isinstance(stem, PatchStem):  # a ResNet keeps no table of places
        return []
    rows, columns = stem.grid
    points = []
    heard = np.eye(1)
    for number, layer in enumerate(watched("what places hear", places_of(model), watch)):
        heard = places_heard(model, image, layer)
        if len(heard) != rows * columns:  # a pyramid has other places by now
            break
        points.append((float(number), float(reach(heard, rows, columns).mean())))
    if not points:
        return []
    figures["reach in patches"] = [value for _, value in points]
    chosen = [row * columns + column for row in _three(rows) for column in _three(columns)]
    shown = [
        Exhibit(
            "reach",
            line_chart("How far away what a place hears lies, patches", [Series("reach", points)], across="layer"),
            "The mean distance from which places are acted on, layer after layer, on this image.",
        )
    ]
    if len(heard) == rows * columns:
        maps = [heatmap.larger(heatmap.unsigned(heard[place].reshape(rows, columns)), 140) for place in chosen]
        caption = "What nine places, spread over the image as these maps are, hear after the last layer."
        shown.append(Exhibit("heard", heatmap.sheet(maps, 3, gap=6), caption, pixels=True))
    return shown


def _three(count: int) -> list[int]:
    return sorted({round((count - 1) * share) for share in (0.15, 0.5, 0.85)})


def _maps(model: Classifier, image: Tensor, answer: int, watch: Watch) -> dict[str, tuple[Tensor, str]]:
    side = side_of(model)
    ways: dict[str, tuple[Callable[[], Tensor | None], str]] = {
        "integrated-gradients": (
            lambda: on_squares(integrated_gradients(model, image, answer), side),
            "Integrated gradients, from gray to the image: orange speaks for the answer, blue against it.",
        ),
        "occlusion": (
            lambda: occlusion(model, image, answer, side),
            "What hiding each square takes from the answer's logit.",
        ),
        "places": (
            lambda: by_place(model, image, answer),
            "What each place after the last layer adds to the answer's logit, exactly; by then each holds more than "
            "its own patch.",
        ),
    }
    found = {}
    for name, (look, caption) in watched("what speaks for the answer", [*ways.items()], watch):
        values = look()
        if values is not None:
            found[name] = values, caption
    return found


def _trust(
    model: Classifier,
    image: Tensor,
    answer: int,
    maps: dict[str, tuple[Tensor, str]],
    figures: dict[str, Any],
    watch: Watch,
) -> list[Exhibit]:
    side = side_of(model)
    height, width = image.shape[1:]
    squares = -(-height // side) * -(-width // side)
    together = side // getattr(model.config, "patch_size", side)  # patches on one side of a square
    orders = {}
    for name, (values, _) in maps.items():
        if values.numel() > squares:  # of places, one for each patch
            values = F.avg_pool2d(values[None].float(), together, ceil_mode=True)[0]
        if values.numel() == squares:  # a ResNet's places are larger than squares
            orders[name] = [np.argsort(-values.reshape(-1).float().cpu().numpy(), kind="stable")]
    chance = np.random.default_rng(0)
    orders["by chance"] = [chance.permutation(squares) for _ in range(RANDOM)]
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, tried in watched("whether that deserves trust", [*orders.items()], watch):
        both = [deletion_and_insertion(model, image, answer, order, side) for order in tried]
        curves[name] = (np.mean([one for one, _ in both], axis=0), np.mean([other for _, other in both], axis=0))
    nothing = gray(model, image).expand_as(image)
    with torch.inference_mode():
        change = (model(image[None]) - model(nothing[None]))[0, answer]
    figures["integrated gradients"] = {
        "sum": float(maps["integrated-gradients"][0].sum()),
        "logit beyond gray": float(change),
    }
    figures["deletion"] = {name: float(one.mean()) for name, (one, _) in curves.items()}
    figures["insertion"] = {name: float(other.mean()) for name, (_, other) in curves.items()}
    shown = []
    for number, (name, title) in enumerate(
        {
            "deletion": "Probability as squares vanish, the most important first, %",
            "insertion": "And as they appear, %",
        }.items()
    ):
        lines = [
            Series(kind, [(100 * n / (len(both[number]) - 1), 100 * float(y)) for n, y in enumerate(both[number])])
            for kind, both in curves.items()
        ]
        caption = {
            "deletion": "A map that finds what counts makes the answer vanish sooner than chance does.",
            "insertion": "And appear sooner.",
        }[name]
        shown.append(Exhibit(name, line_chart(title, lines, across="squares, %"), caption))
    return shown
