"""The kinds of files, and what each can be."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Format:
    """`endings`: of the files that it consists of, the one that is named first. `packages`: that it needs, and is run
    by. `resizes`: by other code than ours. `anywhere`: it can be used without mlpmixer."""

    endings: tuple[str, ...]
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    resizes: bool = False
    anywhere: bool = True

    def needs(self, precision: str) -> tuple[str, ...]:
        """The packages that it takes to write such a file."""
        return (*self.packages, *(("nncf",) if "openvino" in self.packages and precision == "int8" else ()))


FORMATS = {
    "onnx": Format((".onnx",), ("fp32", "fp16"), ("onnx", "onnxruntime"), resizes=True),
    "openvino": Format((".xml", ".bin"), ("fp32", "fp16", "int8"), ("openvino",), resizes=True),
    "pt2": Format((".pt2",), ("fp32", "bf16"), ("torch",)),
    "safetensors": Format((".safetensors",), ("fp32", "bf16", "fp16", "int8"), ("torch",), anywhere=False),
}


def code(name: str) -> Any:
    """The module of a format: `write`, `start`, `USE`. Some bring libraries along, which take their time."""
    return import_module(f"mlpmixer.export.{name}")
