"""What is compared: one model with one set of weights, run by one system and another."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mlpmixer.data.preprocess import normalize
from mlpmixer.engines import fastest, kernels, quantize
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.table import ENGINES, Setup, why_not
from mlpmixer.errors import UsageError, nearest
from mlpmixer.metadata import LayerPrecision, ModelInfo, Preprocessing
from mlpmixer.models import create, list_models
from mlpmixer.models.mixer import Mixer
from mlpmixer.weights.save import save

CLASSES = 1000
CALIBRATION = 8  # images
SHAKE = 0.02  # on top of what a new model has, so that no weight is left at a value that hides a mistake


@dataclass(frozen=True)
class System:
    """`run` takes images in the form `takes` (see inputs.py) and returns logits, as any kind of array."""

    name: str  # mlpmixer, or a baseline
    engine: str
    takes: str
    run: Callable[[Any], Any]


class Subject:
    """The model that all have, with the erf form of the GELU, which is timm's."""

    def __init__(self, name: str):
        known = list_models("mixer_*")
        if name not in known:
            raise UsageError(f"'{name}' is no Mixer that could be measured{nearest(name, known)}")
        self.name = name
        chance = torch.Generator().manual_seed(0)
        model = cast(Mixer, create(name, num_classes=CLASSES, gelu="erf").eval())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=SHAKE)
        self.how = Preprocessing.usual(model.config.image_size)
        model.metadata = ModelInfo(preprocessing=self.how)
        self.model = model

    def logits(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B classes"]:
        """As the model that is written to be read gives them, in float32."""
        with torch.inference_mode():
            return self.model(normalize(pixels, self.how))

    @cached_property
    def layer_precisions(self) -> tuple[LayerPrecision, ...]:
        shape = (CALIBRATION, self.model.config.in_channels, *self.model.config.image_size)
        return quantize.calibrate(self.model, self.how, torch.randint(0, 256, shape, dtype=torch.uint8))

    @cached_property
    def timm_weights(self) -> dict[str, Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            return torch.load(save(self.model, Path(folder) / "weights.pth", layout="timm"), weights_only=True)

    @cached_property
    def authors_weights(self) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder, np.load(save(self.model, Path(folder) / "weights.npz")) as arrays:
            return dict(arrays)


def ours(subject: Subject, precision: str, batch: int, device: torch.device) -> tuple[list[System], str]:
    """Our kernels, where they run, and whatever `auto` picks, if that is something else; and what it says."""
    model, how = subject.model, subject.how
    layer_precisions = subject.layer_precisions if precision == "int8" and kernels.unsupported(model) is None else ()
    setup = Setup(model, how, precision, batch, device, layer_precisions)
    able = [name for name, row in ENGINES.items() if row.own and why_not(name, setup) is None]
    made = [
        Engine(model, how, name, precision, batch=batch, device=device, layer_precisions=layer_precisions)
        for name in able
    ]
    best, choice = fastest.start(
        model, how, precision=precision, batch=batch, device=device, layer_precisions=layer_precisions
    )  # pyright: ignore[reportArgumentType]
    if choice.engine not in [engine.name for engine in made]:
        made.append(best)
    return [System("mlpmixer", engine.name, "bytes", _logits(engine)) for engine in made], str(choice)


def _logits(engine: Engine) -> Callable[[Tensor], Tensor]:
    return lambda pixels: engine(pixels).logits
