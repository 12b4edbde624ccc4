"""Maps as bytes in our own files: NAME holds whole numbers from −127 to 127, NAME.scale what each row's stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mlpmixer.kernels.forward import as_numbers
from mlpmixer.metadata import LayerPrecision

SCALE = ".scale"


def narrowed(state: Mapping[str, Tensor], layer_precisions: Sequence[LayerPrecision]) -> dict[str, Tensor]:
    """A model's arrays as they are stored. Weights that were rounded before stay what they are."""
    arrays = dict(state)
    for name in _maps(layer_precisions):
        arrays[name], arrays[name + SCALE] = as_numbers(state[name].float(), "int8")
    return arrays


def widened(arrays: Mapping[str, Tensor], layer_precisions: Sequence[LayerPrecision]) -> dict[str, Tensor]:
    """The inverse, also of arrays that have a shape only. What does not belong together is left as it is."""
    found = dict(arrays)
    for name in _maps(layer_precisions):
        values, scale = found.get(name), found.get(name + SCALE)
        if values is not None and scale is not None and values.ndim == 2 and scale.shape == values.shape[:1]:
            found[name] = values.to(torch.float32) * found.pop(name + SCALE).to(torch.float32)[:, None]
    return found


def _maps(layer_precisions: Sequence[LayerPrecision]) -> Iterator[str]:
    for i, layer in enumerate(layer_precisions):
        if layer.kind == "int8":
            mixing = "channel_mixing" if i % 2 else "token_mixing"
            yield from (f"blocks.{i // 2}.{mixing}.{linear}.weight" for linear in ("fc1", "fc2"))
