"""PyTorch's .pth, with `weights_only=True`, and not before its pickle has been looked through."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mlpmixer.errors import BrokenFile, UsageError
from mlpmixer.text import first_line
from mlpmixer.weights.header import MAX_EXPANSION, ArrayFile, check_names, claim, types_of

MAX_PICKLED = 2_000_000  # steps and parts, as `_rehearse` counts them; the training state of 700 arrays has 400,000

OLDER = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save began with before PyTorch 1.6
ADVICE = "have its owner save model.state_dict() alone"
# All that a pickle of weights, and of the training state beside them, has to name.
PLAIN = re.compile(
    r"collections (OrderedDict|Counter)|(__builtin__|builtins) set"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch(\.cuda|\.storage)? \w+Storage|torch (Size|device|bool|bfloat16|(float|u?int|complex)\d+\w*)"
)


def open_arrays(
    path: Path, size: int, entry: str | None, types: Mapping[str, torch.dtype], *, zipped: bool
) -> ArrayFile:
    if path.suffix == ".safetensors":  # torch goes by the name
        raise BrokenFile(f"{path} is a .pth file by its content; rename it")
    if zipped:
        pickled = torch._C.PyTorchFileReader(os.fspath(path)).get_record("data.pkl")  # as torch.load will read it
        _rehearse(path, io.BytesIO(pickled))
    else:
        with path.open("rb") as file:
            for _ in range(5):  # before PyTorch 1.6: a mark, a version, the system, the content, the order of the data
                _rehearse(path, file)
    try:
        # A zip is mapped, not read; the older kind cannot be.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise BrokenFile(f"{path} holds more than plain weights, and loading that could run code; {ADVICE}") from error
    found = _choose_entry(path, found, entry)
    check_names(path, found)
    arrays, claims = {}, {}
    for name, array in found.items():
        plain = type(array) in (Tensor, torch.nn.Parameter)
        if not plain or array.layout != torch.strided or array.device.type != "cpu":
            raise BrokenFile(f"{path} holds {name}, which is no plain array; it is no checkpoint of weights")
        if array.dtype not in types_of(name, types).values():
            raise BrokenFile(f"{path} holds {name} as {array.dtype}; weights are floating-point numbers")
        claims[name] = claim(path, name, array.shape, array.dtype)
        arrays[name] = array.detach()
    if sum(claimed.nbytes for claimed in claims.values()) > MAX_EXPANSION * size:
        raise BrokenFile(f"{path} claims over {MAX_EXPANSION} times as many numbers as it holds; it is hostile")
    return ArrayFile(path, "pth", claims, {}, lambda: arrays)


def _rehearse(path: Path, file: BinaryIO) -> None:
    """Goes through a pickle without carrying it out, and stops one that names or costs more than weights do.

    `weights_only=True` runs no code, but a few bytes can ask it for gigabytes, for hours of hashing, or for a tuple so
    deep that Python crashes. They do so by referring to one thing many times, so each is counted wherever it is used.
    """
    stack: list[list[int]] = []  # the size of each thing; in a list, since a thing may grow while others refer to it
    marks: list[int] = []
    memo: dict[Any, list[int]] = {}
    spent = 0
    for step, argument, _ in pickletools.genops(file):
        spent += 1
        if step.name == "GLOBAL" and not PLAIN.fullmatch(str(argument)):
            what = first_line(str(argument).replace(" ", "."))
            raise BrokenFile(
                f"{path} holds more than plain weights ({what}), and loading that could run code; {ADVICE}"
            )
        if step.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif step.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif step.name == "MARK":
            marks.append(len(stack))
        else:
            grows = step.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS")
            marked = pickletools.markobject in step.stack_before
            begin = marks.pop() if marked else len(stack) - len(step.stack_before) + grows
            parts = [size for (size,) in stack[begin:]]
            del stack[begin:]
            letters = len(argument) // 8 if isinstance(argument, str | bytes) else 0
            size = min(1 + letters + sum(parts), MAX_PICKLED)
            if grows:
                stack[-1][0] += size
                spent += sum(parts[::2]) if "SET" in step.name else 0  # a key is hashed, a value only referred to
            elif step.stack_after:
                stack.append([size])
                spent += size
        if spent > MAX_PICKLED:
            raise BrokenFile(f"{path} has a pickle that would become far larger than weights are; it is hostile")


def _choose_entry(path: Path, found: Any, entry: str | None) -> dict[str, Tensor]:
    """Training scripts wrap the weights: {"epoch": …, "state_dict": {…}}."""
    if not isinstance(found, dict):
        raise BrokenFile(f"{path} holds a {type(found).__name__}, not named arrays")
    inner = [name for name, value in found.items() if isinstance(value, dict) and _has_arrays(value)]
    there = first_line(", ".join(map(str, inner)) or "none")
    if entry is not None:
        if entry not in inner:
            raise UsageError(f"{path} has no entry '{entry}'; there are: {there}")
        return found[entry]
    if _has_arrays(found) or not inner:
        return found
    weights = [name for name in inner if "optim" not in str(name)]
    if len(weights) != 1:
        raise UsageError(f"{path} holds several sets of weights; say which: entry= one of {there}")
    return found[weights[0]]


def _has_arrays(found: dict[Any, Any]) -> bool:
    return bool(found) and all(isinstance(value, Tensor) for value in found.values())
