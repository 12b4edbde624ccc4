"""Inference engines, a row each: where one runs, what it computes in, what it needs. No torch is imported here.

A new engine is a module with the functions of `EngineModule` and a row in `ENGINES`: see docs/extending/engine.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from mlpmixer import packages

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mlpmixer.metadata import LayerPrecision, Preprocessing
    from mlpmixer.models.classifier import Classifier

Run: TypeAlias = "Callable[[Tensor], tuple[Tensor, Tensor]]"


@dataclass(frozen=True)
class Setup:
    """What an engine is asked to run.

    Attributes:
        model: Any classifier; it must stay as it is.
        how: Preprocessing; an engine normalizes the bytes of images with its mean and std.
        precision: One of those in the engine's row.
        batch: Images at a time.
        device: Where to compute.
        layer_precisions: Of a quantized Mixer, one for each half of each layer.
    """

    model: Classifier
    how: Preprocessing
    precision: str
    batch: int
    device: torch.device
    layer_precisions: tuple[LayerPrecision, ...] = ()


class EngineModule(Protocol):
    """What the module of an engine has."""

    def why_not(self, setup: Setup) -> str | None:
        """What keeps the engine from running this here, as the end of a message; None: nothing."""
        ...

    def build(self, setup: Setup) -> Run:
        """A function from images, uint8 (batch, 3, H, W) on the CPU, to float32 features and logits on the CPU."""
        ...


@dataclass(frozen=True)
class EngineSpec:
    """One engine. The extra of mlpmixer's that installs its packages has the engine's name.

    Attributes:
        module: Where its `why_not` and `build` are; imported when it is first needed.
        precisions: By kind of device, the one that is usually the fastest first.
        packages: What must be installed for it, by the names that are imported.
        fixed_batch: It takes batches of `Setup.batch` images only; shorter ones are padded.
        caller_thread: On a CPU it computes in the thread that calls it, without threads of its own.
        auto: "auto" may choose it.
        own: It computes by kernels of this package.
    """

    module: str
    precisions: Mapping[str, tuple[str, ...]]
    packages: tuple[str, ...] = ()
    fixed_batch: bool = False
    caller_thread: bool = False
    auto: bool = True
    own: bool = False

    def load(self) -> EngineModule:
        return cast(EngineModule, import_module(self.module))


TORCH = {"cpu": ("bf16", "fp32"), "cuda": ("bf16", "fp16", "fp32")}

# In the order in which they are usually the fastest.
ENGINES: dict[str, EngineSpec] = {
    "kernels": EngineSpec("mlpmixer.engines.kernels", {"cpu": ("int8", "bf16", "fp32")}, caller_thread=True, own=True),
    "triton": EngineSpec(
        "mlpmixer.engines.triton",
        {"cuda": ("bf16", "fp8")},  # (fp8 rounds more than should happen unasked)
        packages=("triton",),
        fixed_batch=True,
        own=True,
    ),
    "openvino": EngineSpec(
        "mlpmixer.engines.openvino", {"cpu": ("bf16", "fp32")}, packages=("openvino",), fixed_batch=True
    ),
    "onnx": EngineSpec("mlpmixer.engines.onnx", {"cpu": ("fp32",)}, packages=("onnx", "onnxruntime")),
    # Compiling takes longer than measuring may.
    "compiled": EngineSpec("mlpmixer.engines.compiled", TORCH, fixed_batch=True, auto=False),
    "eager": EngineSpec("mlpmixer.engines.eager", TORCH, caller_thread=True),
}


def precisions() -> list[str]:
    """All that some engine computes in somewhere."""
    return [*dict.fromkeys(name for row in ENGINES.values() for some in row.precisions.values() for name in some)]


def why_not(name: str, setup: Setup) -> str | None:
    """What keeps an engine from running this here; None: nothing."""
    row, kind = ENGINES[name], setup.device.type
    if kind not in row.precisions:
        others = _listed(name for name, other in ENGINES.items() if kind in other.precisions)
        return f"it does not run on a {kind}, as {others} do"
    if setup.precision not in row.precisions[kind]:
        return f"on a {kind} it computes in {_listed(row.precisions[kind])}"
    if missing := packages.missing(*row.packages):
        return f"it needs the package {_listed(missing)}: {packages.how_to_install(name)}"
    return row.load().why_not(setup)


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
