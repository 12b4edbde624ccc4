"""Other frameworks to compare with, a row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch

from mlpmixer import packages
from mlpmixer.bench.systems import Subject, System
from mlpmixer.errors import UsageError, nearest


@dataclass(frozen=True)
class Baseline:
    """`start(subject, precision, batch, device, quick)` in `module` makes its systems. `packages`: as they are imported
    and, but for a dash, as they are installed."""

    module: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)


BASELINES = {
    "timm": Baseline("mlpmixer.bench.timm", ("timm",), ("fp32", "bf16"), ("cpu", "cuda")),
    "openvino": Baseline("mlpmixer.bench.openvino", ("timm", "openvino", "nncf"), ("fp32", "bf16", "int8")),
    "onnx": Baseline("mlpmixer.bench.onnx", ("timm", "onnx", "onnxruntime"), ("fp32",)),
    "flax": Baseline("mlpmixer.bench.flax", ("flax", "jax"), ("fp32",)),
}
Start = Callable[[Subject, str, int, torch.device, bool], list[System]]


def check(names: Sequence[str]) -> None:
    for name in names:
        if name not in BASELINES:
            raise UsageError(
                f"there is no baseline '{name}'{nearest(name, BASELINES)} (there are {', '.join(BASELINES)})"
            )


def why_not(name: str, device: torch.device) -> str | None:
    """None: nothing keeps it from running here, in the precisions that it has."""
    if missing := packages.missing(*BASELINES[name].packages):
        return f"it needs {' and '.join(missing)}: {packages.how_to_install('bench')}"
    if device.type not in BASELINES[name].devices:
        return f"it is for a {BASELINES[name].devices[0]}"
    return None


def start(name: str) -> Start:
    return import_module(BASELINES[name].module).start


def versions(names: Sequence[str], *others: str) -> dict[str, str]:
    """Of all packages that baselines need, and of others."""
    found = {}
    for package in dict.fromkeys([*(package for name in names for package in BASELINES[name].packages), *others]):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found
