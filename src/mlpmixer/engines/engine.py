"""The seam: a finished model in, an engine out, and bytes of images through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mlpmixer.engines import availability
from mlpmixer.errors import UsageError
from mlpmixer.metadata import Kind, LayerPrecision, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer

Name = Literal["eager", "compiled", "kernels", "openvino", "onnx", "triton"]
Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8"]


class Answers(NamedTuple):
    features: Float[Tensor, "N D"]  # what the head is given
    logits: Float[Tensor, "N classes"]


class Engine:
    """`engine(pixels)`: any number of prepared images (N, 3, H, W), as bytes. May be called from several threads.

    `batch`: how many go through at a time; the same number each time for those that are made for one (`fixed`).
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
        reason = availability.why_not(model, name, precision, device, layer_precisions)
        if reason is not None:
            raise UsageError(f"the engine {name} in {precision} cannot run this model here: {reason}")
        self.name, self.precision, self.batch = name, precision, batch
        self.fixed = name in ("compiled", "openvino", "triton")
        self._run = _build(model, how, name, precision, batch, device, layer_precisions)

    def __call__(self, pixels: UInt8[Tensor, "N 3 H W"]) -> Answers:
        found = [self._batch(part) for part in pixels.split(self.batch)]
        return Answers(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _batch(self, pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        lacking = self.batch - len(pixels)
        if not self.fixed or lacking == 0:
            return self._run(pixels)
        features, logits = self._run(F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, lacking)))
        return features[:-lacking], logits[:-lacking]


def _build(
    model: Classifier,
    how: Preprocessing,
    name: str,
    precision: str,
    batch: int,
    device: torch.device,
    layer_precisions: tuple[LayerPrecision, ...],
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    # Each brings a library of its own, which takes its time to be imported.
    if name == "kernels":
        from mlpmixer.engines import kernels

        assert isinstance(model, Mixer)
        return kernels.build(model, how, cast(Kind, precision), layer_precisions if precision == "int8" else ())
    if name == "triton":
        from mlpmixer.engines import gpu

        assert isinstance(model, Mixer)
        return gpu.build(model, how, precision, batch, device)
    if name == "openvino":
        from mlpmixer.engines.openvino import OpenVino

        return OpenVino(model, how, precision, batch)
    if name == "onnx":
        from mlpmixer.engines.onnx import Onnx

        return Onnx(model, how)
    from mlpmixer.engines.eager import Compiled, Eager

    return (Compiled if name == "compiled" else Eager)(model, how, precision, device)
