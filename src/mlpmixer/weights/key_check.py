"""Nothing loads silently: what a model needs and what a file has are laid side by side before a number is read."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mlpmixer.errors import KeyMismatch
from mlpmixer.text import listed

SHOWN = 4  # of each kind; a file of another model differs in hundreds


def compare(file: str, model: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Stops unless `given` has exactly the names and shapes of `wanted`, both named as in the file."""
    missing = [f"{name} {shape(wanted[name])}" for name in wanted if name not in given]
    extra = [f"{name} {shape(given[name])}" for name in given if name not in wanted]
    misshapen = [
        f"{name} is {shape(given[name])} in the file and {shape(wanted[name])} in the model"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    if not (missing or extra or misshapen):
        return
    sides = [
        f"the model has {listed(missing, SHOWN)} that the file lacks" if missing else "",
        f"the file has {listed(extra, SHOWN)} that the model lacks" if extra else "",
        listed(misshapen, SHOWN) if misshapen else "",
    ]
    raise KeyMismatch(
        f"{file} does not fit {model}: {'; '.join(side for side in sides if side)}"
        " (to start parts anew instead: fresh=('head',) with the names of our parts)"
    )


def shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
