"""Export formats: a table of what each can hold, what it needs and what its files are called."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        endings: Of its files; the first is the one that users name.
        precisions: Those that it can be written in.
        packages: What writes and runs it.
        resizes: Whether it resizes images by other code than ours.
        standalone: Whether it can be used without mlpmixer.
    """

    endings: tuple[str, ...]
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    resizes: bool = False
    standalone: bool = True

    def needs(self, precision: str) -> tuple[str, ...]:
        """The packages that writing such a file takes."""
        return (*self.packages, *(("nncf",) if "openvino" in self.packages and precision == "int8" else ()))


FORMATS = {
    "onnx": Format((".onnx",), ("fp32", "fp16"), ("onnx", "onnxruntime"), resizes=True),
    "openvino": Format((".xml", ".bin"), ("fp32", "fp16", "int8"), ("openvino",), resizes=True),
    "pt2": Format((".pt2",), ("fp32", "bf16"), ("torch",)),
    "safetensors": Format((".safetensors",), ("fp32", "bf16", "fp16", "int8"), ("torch",), standalone=False),
}


def code(name: str) -> Any:
    """The module of a format, with `write`, `start` and `USE`; imported late, since some bring large libraries."""
    return import_module(f"mlpmixer.export.{name}")
