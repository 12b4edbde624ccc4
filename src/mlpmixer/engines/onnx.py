"""ONNX Runtime."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from mlpmixer.engines.rewrites import Rewritten
from mlpmixer.engines.table import Run, Setup
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier

OPSET = 20  # the first with the GELU as one operation


def convert(model: Classifier, how: Preprocessing) -> bytes:
    """An ONNX file: `pixels`, any number of images, in; `features` and `logits` out."""
    network = Rewritten(model, how)
    pixels = torch.zeros(2, model.config.in_channels, *model.config.image_size, dtype=torch.uint8)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter: that it is the older one, and of the tracer
        torch.onnx.export(
            network,
            (pixels,),
            file,  # pyright: ignore[reportArgumentType] (this exporter, which needs no further packages, takes one)
            input_names=["pixels"],
            output_names=["features", "logits"],
            dynamo=False,
            dynamic_axes={name: {0: "batch"} for name in ("pixels", "features", "logits")},
            opset_version=OPSET,
        )
    return file.getvalue()


def why_not(setup: Setup) -> None:  # noqa: ARG001 (it runs whatever there is)
    return None


def build(setup: Setup) -> Run:
    runtime = session(convert(setup.model, setup.how))

    def run(pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        features, logits = runtime.run(None, {"pixels": pixels.numpy()})
        return torch.from_numpy(features), torch.from_numpy(logits)

    return run


def session(file: bytes | str) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
