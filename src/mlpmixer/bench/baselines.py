"""What one would use otherwise, what each needs, and how to begin with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from mlpmixer.bench.systems import Subject, System
from mlpmixer.errors import UsageError, nearest


@dataclass(frozen=True)
class Peer:
    """`start(subject, precision, batch, device, quick)` in `module` makes its systems. `packages`: as they are imported
    and, but for a dash, as they are installed."""

    module: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)


PEERS = {
    "timm": Peer("mlpmixer.bench.timm", ("timm",), ("fp32", "bf16"), ("cpu", "cuda")),
    "openvino": Peer("mlpmixer.bench.openvino", ("timm", "openvino", "nncf"), ("fp32", "bf16", "int8")),
    "onnx": Peer("mlpmixer.bench.onnx", ("timm", "onnx", "onnxruntime"), ("fp32",)),
    "flax": Peer("mlpmixer.bench.flax", ("flax", "jax"), ("fp32",)),
}
Start = Callable[[Subject, str, int, torch.device, bool], list[System]]


def check(names: Sequence[str]) -> None:
    for name in names:
        if name not in PEERS:
            raise UsageError(f"there is no peer '{name}'{nearest(name, PEERS)} (there are {', '.join(PEERS)})")


def why_not(name: str, device: torch.device) -> str | None:
    """None: nothing keeps it from running here, in the precisions that it has."""
    missing = [package for package in PEERS[name].packages if find_spec(package) is None]
    if missing:
        return f"it needs {' and '.join(missing)}: pip install 'mlpmixer[bench]'"
    if device.type not in PEERS[name].devices:
        return f"it is for a {PEERS[name].devices[0]}"
    return None


def start(name: str) -> Start:
    return import_module(PEERS[name].module).start


def versions(names: Sequence[str], *packages: str) -> dict[str, str]:
    """Of all that the peers are made of, and of other packages."""
    found = {}
    for package in dict.fromkeys([*(package for name in names for package in PEERS[name].packages), *packages]):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found
