"""Inference engines behind one call: bytes of prepared images in, features and logits out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mlpmixer.engines.table import ENGINES, Setup, why_not
from mlpmixer.errors import UsageError
from mlpmixer.metadata import LayerPrecision, Preprocessing
from mlpmixer.models.classifier import Classifier


class Outputs(NamedTuple):
    features: Float[Tensor, "N D"]  # what the head is given
    logits: Float[Tensor, "N classes"]


class Engine:
    """A model that was prepared to run: `engine(pixels)`. May be called from several threads.

    Args:
        model: Any classifier. It stays as it is; its weights are copied.
        how: How images are prepared; what is done after they are bytes is done here.
        name: One of `ENGINES`.
        precision: One of those that the engine has on this device.
        batch: Images at a time.
        device: Where to compute.
        layer_precisions: Of a quantized Mixer.

    Raises:
        UsageError: The engine cannot run this model here.
    """

    def __init__(
        self,
        model: Classifier,
        how: Preprocessing,
        name: str,
        precision: str,
        *,
        batch: int,
        device: torch.device,
        layer_precisions: tuple[LayerPrecision, ...] = (),
    ):
        setup = Setup(model, how, precision, batch, device, layer_precisions)
        if (reason := why_not(name, setup)) is not None:
            raise UsageError(f"the engine {name} in {precision} cannot run this model here: {reason}")
        self.name, self.precision, self.batch = name, precision, batch
        self._fixed_batch = ENGINES[name].fixed_batch
        self._run = ENGINES[name].load().build(setup)

    def __call__(self, pixels: UInt8[Tensor, "N 3 H W"]) -> Outputs:
        """Of any number of prepared images."""
        parts = [self._batch(part) for part in pixels.split(self.batch)]
        return Outputs(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _batch(self, pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        missing = self.batch - len(pixels)
        if not self._fixed_batch or missing == 0:
            return self._run(pixels)
        features, logits = self._run(F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, missing)))
        return features[:-missing], logits[:-missing]
