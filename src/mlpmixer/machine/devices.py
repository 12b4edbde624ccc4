"""Devices and floating-point types, by the names that recipes and commands have for them."""

from __future__ import annotations

import torch

from mlpmixer.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(name: str, local: int = 0) -> torch.device:
    """The device that `name` means on this machine.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto" for a GPU where there is one.
        local: The number of this process on its machine, which "cuda" takes the GPU of.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"a device is cpu, cuda, cuda:N or auto, not '{name}'")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("this machine, or its torch, has no CUDA; the device can be cpu or auto")
    try:
        device = torch.device(f"cuda:{local}" if name == "cuda" else name)
    except RuntimeError:
        raise UsageError(f"a device is cpu, cuda, cuda:N or auto, not '{name}'") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no {device} here; the last one is cuda:{torch.cuda.device_count() - 1}")
    return device
