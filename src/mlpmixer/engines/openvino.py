"""OpenVINO, Intel's runtime."""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlpmixer.engines.rewrites import Rewritten
from mlpmixer.engines.table import Run, Setup
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier

# OpenVINO and nncf would tell their makers over the network what they convert; without this package they do not.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def convert(model: Classifier, how: Preprocessing, batch: int | None) -> Any:
    """An OpenVINO model: `pixels` in, `features` and `logits` out. `batch` None: any number of images."""
    import openvino

    network = Rewritten(model, how, in_rows=True)
    shape = (model.config.in_channels, *model.config.image_size)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the tracer: that shapes are taken as they are
        found = openvino.convert_model(
            network,
            example_input=torch.zeros(batch or 2, *shape, dtype=torch.uint8),
            input=[("pixels", openvino.PartialShape([-1 if batch is None else batch, *shape]), openvino.Type.u8)],
        )
    for output, name in zip(found.outputs, ("features", "logits"), strict=True):
        output.get_tensor().set_names({name})
    return found


def why_not(setup: Setup) -> None:  # noqa: ARG001 (it runs whatever there is)
    return None


def build(setup: Setup) -> Run:
    return compiled(convert(setup.model, setup.how, setup.batch), setup.precision)


@functools.cache
def core() -> Any:
    """The same for all. Each gives the thread that first uses it another stack for signals, and takes that away when it
    ends: of two that overlap, the first to end leaves a stack that is gone, and the next Ctrl-C ends the process."""
    import openvino

    return openvino.Core()


def compiled(network: Any, precision: str) -> Run:
    """On as many threads as PyTorch has."""
    # Latency is what one batch takes; calls from several threads are run one after the other.
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core().compile_model(network, "CPU", settings).create_infer_request()
    one_at_a_time = threading.Lock()

    def run(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with one_at_a_time:
            found = request.infer({0: np.ascontiguousarray(pixels.numpy())}, share_inputs=True)
            features, logits = (torch.from_numpy(found[i].copy()) for i in (0, 1))
        return features, logits

    return run
