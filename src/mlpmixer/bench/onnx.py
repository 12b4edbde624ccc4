"""timm's Mixer through ONNX Runtime."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch

from mlpmixer.bench.systems import Subject, System
from mlpmixer.bench.timm import twin

OPSET = 20  # the first with the GELU as one operation; no other is faster


def start(subject: Subject, _precision: str, batch: int, _device: torch.device, _quick: bool) -> list[System]:
    import onnxruntime

    images = torch.zeros(batch, subject.model.config.in_channels, *subject.model.config.image_size)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter: that it is the older one, and of the tracer
        torch.onnx.export(
            twin(subject),
            (images,),
            file,  # pyright: ignore[reportArgumentType] (this exporter takes one)
            input_names=["images"],
            output_names=["logits"],
            dynamo=False,
            opset_version=OPSET,
        )
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(file.getvalue(), settings, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> object:
        return session.run(None, {"images": images})[0]

    return [System("onnx", "onnxruntime", "array", run)]
