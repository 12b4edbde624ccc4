"""Which engine can run which model here, in which numbers; and if not, why not."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch

from mlpmixer.metadata import LayerPrecision
from mlpmixer.models.classifier import Classifier

# In which numbers each engine computes. The first that can run is as a rule the fastest.
CPU = {
    "kernels": ("int8", "bf16", "fp32"),
    "openvino": ("bf16", "fp32"),
    "onnx": ("fp32",),
    "compiled": ("bf16", "fp32"),
    "eager": ("bf16", "fp32"),
}
GPU = {
    "triton": ("bf16", "fp8"),  # (fp8 rounds more than should happen unasked)
    "compiled": ("bf16", "fp16", "fp32"),
    "eager": ("bf16", "fp16", "fp32"),
}

PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime")}


def table(device: torch.device) -> dict[str, tuple[str, ...]]:
    return CPU if device.type == "cpu" else GPU


def why_not(
    model: Classifier, name: str, precision: str, device: torch.device, layer_precisions: Sequence[LayerPrecision]
) -> str | None:
    """None: nothing."""
    if precision not in table(device).get(name, ()):
        there = ", ".join(f"{engine} ({'/'.join(numbers)})" for engine, numbers in table(device).items())
        return f"a {device.type} has {there}"
    for package in PACKAGES.get(name, ()):
        if find_spec(package) is None:
            return f"it needs a package: pip install 'mlpmixer[{name}]'"
    if name == "triton":
        from mlpmixer.engines import gpu

        return gpu.why_not(model, device)
    if name == "kernels":
        from mlpmixer.engines import kernels

        if (reason := kernels.why_not(model)) is not None:
            return reason
        if precision == "int8" and not layer_precisions:
            return "this model is not quantized: mixer export RUN --to safetensors --precision int8 --data IMAGES"
    return None
