"""Makes `import torchvision` work beside a torch that was built for another kind of processor.

The usual torchvision wheel on a CPU-only torch cannot load its compiled part, and then fails to import for want of two
operators that it wants to describe. Naming them is enough: all we use of it is plain Python. Where torchvision imports
by itself, this does nothing.
"""

from __future__ import annotations

import importlib
import sys

import torch

_operators: torch.library.Library | None = None  # they live as long as this does


def ensure_torchvision() -> None:
    """Call before the first import of torchvision, or of anything that imports it."""
    global _operators
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _operators = torch.library.Library("torchvision", "DEF")
        _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
