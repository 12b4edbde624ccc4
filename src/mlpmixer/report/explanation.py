"""Figures that explain a prediction: token norms, influence between tokens, attribution maps and their faithfulness."""

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
    deletion_and_insertion,
    gray,
    integrated_gradients,
    occlusion,
    on_squares,
    token_contributions,
)
from mlpmixer.interpret.receptive_field import mean_distance, on_grid, token_influence
from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.report.figures import Figure, Progress, Scale, no_progress, tracked
from mlpmixer.report.weights import token_layers

RANDOM_ORDERS = 8  # the baseline of attribution maps
PHOTO = 320  # pixels of the longer side, as it is shown
TOP = 5  # classes that are listed
MAP = Scale(heatmap.SIGNED, "lowers the logit", "raises it")


@dataclass(frozen=True)
class Question:
    """A prepared image, and the class that is explained; None: the predicted one."""

    pixels: UInt8[Tensor, "3 H W"]
    output: int | None


def question(model: Classifier, image: str | os.PathLike[str], label: str | None = None) -> Question:
    """Prepares the image and checks the label.

    Raises:
        UsageError: if the model has no head, or no such class.
    """
    if model.config.num_classes == 0:
        raise UsageError("this model has no head, so it makes no predictions; leave out --image")
    names = _names(model)
    if label is not None and label not in names:
        raise UsageError(f"the model has no class '{label}'{nearest(label, names)}")
    how = model.metadata.preprocessing
    pixels = prepare(decode(image), how)
    return Question(pixels, None if label is None else names.index(label))


def explain(
    model: Classifier, asked: Question, progress: Progress = no_progress
) -> tuple[list[Figure], dict[str, Any]]:
    """The figures, and the values in them."""
    image = normalize(asked.pixels, model.metadata.preprocessing).to(next(model.parameters()))
    photo = Image.fromarray(asked.pixels.permute(1, 2, 0).numpy())
    sides = [max(1, round(side * PHOTO / max(photo.size))) for side in photo.size]
    photo = photo.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
    names = _names(model)
    with torch.inference_mode():
        scores = model(image[None]).softmax(1)[0]
    label = int(scores.argmax()) if asked.output is None else asked.output

    caption = f"The prepared image. Predicted probability of {names[label]}: {scores[label]:.1%}."
    figures = [Figure("photo", photo, caption)]
    values: dict[str, Any] = {"class": names[label], "probability": float(scores[label])}
    likeliest = scores.topk(min(TOP, len(names)))
    pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    values["top"] = [{"class": names[n], "probability": share} for n, share in pairs]
    figures += _token_norms(model, image)
    figures += _influence(model, image, values, progress)
    maps = _attribution(model, image, label, progress)
    for name, (found, caption) in maps.items():
        figures.append(Figure(name, heatmap.over(photo, found.float().cpu().numpy()), caption, scale=MAP))
    figures += _faithfulness(model, image, label, maps, values, progress)
    return figures, values


def _names(model: Classifier) -> tuple[str, ...]:
    return model.metadata.classes or tuple(f"class {n}" for n in range(model.config.num_classes))


def side_of(model: Classifier) -> int:
    """The side of the squares by which maps are compared: a patch, or more, so that there are at most 14×14."""
    patch = getattr(model.config, "patch_size", 1)
    return patch * -(-max(model.config.image_size) // (14 * patch))


def _token_norms(model: Classifier, image: Tensor) -> list[Figure]:
    with torch.inference_mode():
        _, seen = model(image[None], intermediates=True)
    maps = []
    for layer in token_layers(model):
        table = seen[layer][0].float()
        table = on_grid(model, table.norm(dim=1)) if table.ndim == 2 else table.norm(dim=0)
        maps.append(heatmap.larger(heatmap.unsigned(table.cpu().numpy()), 112))
    widest = max(one.width for one in maps)
    maps = [one.resize((widest, widest * one.height // one.width), Image.Resampling.NEAREST) for one in maps]
    caption = "Token norm after each layer, each from its lowest to its highest."
    scale = Scale(heatmap.UNSIGNED, "lowest", "highest")
    return [Figure("token-norms", heatmap.sheet(maps, 4, gap=6), caption, pixels=True, scale=scale)]


def _influence(model: Classifier, image: Tensor, values: dict[str, Any], progress: Progress) -> list[Figure]:
    grids = family_of(model).grids(model.config)
    if not grids:  # a ResNet has no tokens
        return []
    rows, columns = grids[0]
    points = []
    influence = np.eye(1)
    for number, layer in enumerate(tracked("influence between tokens", token_layers(model), progress)):
        influence = token_influence(model, image, layer)
        if len(influence) != rows * columns:  # a pyramid has other tokens by now
            break
        points.append((float(number), float(mean_distance(influence, rows, columns).mean())))
    if not points:
        return []
    values["influence distance in patches"] = [value for _, value in points]
    chosen = [row * columns + column for row in _three(rows) for column in _three(columns)]
    chart = line_chart("Mean distance of influence (patches)", [Series("distance", points)], x_label="layer")
    figures = [
        Figure("influence-distance", chart, "The mean distance from which tokens are influenced, on this image.")
    ]
    if len(influence) == rows * columns:
        maps = [heatmap.larger(heatmap.unsigned(influence[token].reshape(rows, columns)), 140) for token in chosen]
        caption = "The influence on nine tokens after the last layer, spread over the image as these maps are."
        scale = Scale(heatmap.UNSIGNED, "no influence", "strongest")
        figures.append(Figure("influence", heatmap.sheet(maps, 3, gap=6), caption, pixels=True, scale=scale))
    return figures


def _three(count: int) -> list[int]:
    return sorted({round((count - 1) * share) for share in (0.15, 0.5, 0.85)})


def _attribution(model: Classifier, image: Tensor, label: int, progress: Progress) -> dict[str, tuple[Tensor, str]]:
    side = side_of(model)
    methods: dict[str, tuple[Callable[[], Tensor | None], str]] = {
        "integrated-gradients": (
            lambda: on_squares(integrated_gradients(model, image, label), side),
            "Integrated gradients, from gray to the image: orange raises the class's logit, blue lowers it.",
        ),
        "occlusion": (
            lambda: occlusion(model, image, label, side),
            "Occlusion: the fall of the class's logit when each square is hidden.",
        ),
        "tokens": (
            lambda: token_contributions(model, image, label),
            "The exact contribution of each token after the last layer to the class's logit; by then each is "
            "influenced by more than its own patch.",
        ),
    }
    found = {}
    for name, (attribute, caption) in tracked("attribution", [*methods.items()], progress):
        values = attribute()
        if values is not None:
            found[name] = values, caption
    return found


def _faithfulness(
    model: Classifier,
    image: Tensor,
    label: int,
    maps: dict[str, tuple[Tensor, str]],
    values: dict[str, Any],
    progress: Progress,
) -> list[Figure]:
    side = side_of(model)
    height, width = image.shape[1:]
    squares = -(-height // side) * -(-width // side)
    together = side // getattr(model.config, "patch_size", side)  # patches on one side of a square
    orders = {}
    for name, (found, _) in maps.items():
        if found.numel() > squares:  # of tokens, one for each patch
            found = F.avg_pool2d(found[None].float(), together, ceil_mode=True)[0]
        if found.numel() == squares:  # a ResNet's places are larger than squares
            orders[name] = [np.argsort(-found.reshape(-1).float().cpu().numpy(), kind="stable")]
    rng = np.random.default_rng(0)
    orders["random"] = [rng.permutation(squares) for _ in range(RANDOM_ORDERS)]
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, tried in tracked("faithfulness", [*orders.items()], progress):
        both = [deletion_and_insertion(model, image, label, order, side) for order in tried]
        curves[name] = (np.mean([one for one, _ in both], axis=0), np.mean([other for _, other in both], axis=0))
    nothing = gray(model, image).expand_as(image)
    with torch.inference_mode():
        change = (model(image[None]) - model(nothing[None]))[0, label]
    values["integrated gradients"] = {
        "sum": float(maps["integrated-gradients"][0].sum()),
        "logit change from gray": float(change),
    }
    values["deletion"] = {name: float(one.mean()) for name, (one, _) in curves.items()}
    values["insertion"] = {name: float(other.mean()) for name, (_, other) in curves.items()}
    captions = {
        "deletion": "Squares are hidden, the most important first; with a faithful map the curve falls before random.",
        "insertion": "Squares are shown, the most important first; with a faithful map the curve rises before random.",
    }
    figures, done = [], {"deletion": "hidden", "insertion": "shown"}
    for number, (name, caption) in enumerate(captions.items()):
        lines = [
            Series(kind, [(100 * n / (len(both[number]) - 1), 100 * float(y)) for n, y in enumerate(both[number])])
            for kind, both in curves.items()
        ]
        chart = line_chart(f"{name.capitalize()} curve: probability (%)", lines, x_label=f"squares {done[name]} (%)")
        figures.append(Figure(name, chart, caption))
    return figures
