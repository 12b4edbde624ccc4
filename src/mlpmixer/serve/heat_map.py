"""Heat maps by occlusion: what a prediction depends on, found by covering one part of the image after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mlpmixer.data.images import pixels
from mlpmixer.data.preprocess import visible_region
from mlpmixer.errors import ImageError
from mlpmixer.predict.predictor import Prediction, Predictor

GRID = 14  # squares each way
SPREAD = 1  # squares on each side that are gray as well: one alone changes little but noise


@dataclass(frozen=True)
class HeatMap:
    """What a prediction depends on: for each square of the prepared image, by how much the label's log probability
    falls when it and the squares around it are gray."""

    prediction: Prediction
    label: str
    drops: np.ndarray  # (rows, columns) float32
    region: list[float]  # of the upright image that the squares cover: left, top, right, bottom, as shares of its sides


def heat_map(predictor: Predictor, file: bytes) -> HeatMap | ImageError:
    """The model sees the image once for each square."""
    try:
        whole = pixels(file)  # (height, width, 3)
    except ImageError as error:
        return error
    [found] = predictor.predict_batch([whole])
    if isinstance(found, ImageError):
        return found
    image = predictor.prepared(whole)  # (3, H, W)
    rows, columns = (min(GRID, side) for side in image.shape[1:])
    gray = torch.tensor(predictor.preprocessing.mean).mul(255).round().to(torch.uint8)[:, None, None]
    views = image.repeat(1 + rows * columns, 1, 1, 1)
    height, width = image.shape[1:]
    for row in range(rows):
        for column in range(columns):
            down, along = _around(row, rows, height), _around(column, columns, width)
            views[1 + row * columns + column, :, down, along] = gray
    label = predictor.classes.index(found.label)
    scores = torch.cat([predictor.engine(part)[1].log_softmax(1)[:, label] for part in views.split(32)])
    drops = (scores[0] - scores[1:]).reshape(rows, columns)
    region = visible_region(whole.shape[0], whole.shape[1], predictor.preprocessing)
    return HeatMap(found, found.label, drops.float().numpy(), [round(share, 5) for share in region])


def _around(at: int, count: int, pixels: int) -> slice:
    """The pixels of one of `count` squares and of its neighbors, along a side."""
    first, last = max(0, at - SPREAD), min(count, at + SPREAD + 1)
    return slice(first * pixels // count, last * pixels // count)
