"""timm's Mixer through OpenVINO; in int8 by nncf's post-training quantization, as both advise."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mlpmixer.bench.systems import CALIBRATION, Subject, System
from mlpmixer.bench.timm import twin
from mlpmixer.engines.openvino import core

# In int8, what is left in floats is in OpenVINO's own choice: bfloat16 where the processor has it.
HINTS = {"fp32": {"INFERENCE_PRECISION_HINT": "f32"}, "bf16": {"INFERENCE_PRECISION_HINT": "bf16"}, "int8": {}}


def start(subject: Subject, precision: str, batch: int, _device: torch.device, _quick: bool) -> list[System]:

    network = _converted(subject, batch)
    if precision == "int8":
        network = _quantized(network, subject, batch)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        **HINTS[precision],
    }
    request = core().compile_model(network, "CPU", settings).create_infer_request()
    return [System("openvino", "nncf" if precision == "int8" else "openvino", "array", _run(request))]


def _run(request: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: request.infer({0: images}, share_inputs=True)[0]


def _converted(subject: Subject, batch: int) -> Any:
    import openvino

    shape = (batch, subject.model.config.in_channels, *subject.model.config.image_size)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the tracer: that shapes are taken as they are
        return openvino.convert_model(twin(subject), example_input=torch.zeros(shape), input=[shape])


def _quantized(network: Any, subject: Subject, batch: int) -> Any:
    """With nncf's defaults, which are also the fastest of what it offers."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of libraries that it imports
        import nncf

        nncf.set_log_level(logging.ERROR)
        shape = (batch, subject.model.config.in_channels, *subject.model.config.image_size)
        count = -(-CALIBRATION // batch)
        how = subject.how
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (how.mean, how.std))
        chance = np.random.default_rng(0)
        images = [(chance.integers(0, 256, shape).astype(np.float32) / 255 - mean) / std for _ in range(max(2, count))]
        return nncf.quantize(network, nncf.Dataset(images), subset_size=len(images))
