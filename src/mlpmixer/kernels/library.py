"""Our own products for CPUs, in C++ files that are compiled once on the machine where they run, and kept.

`mixing.cpp` trains, `forward.cpp` answers, `resize.cpp` scales pictures.

They are an extra. Without a compiler, or on a processor that lacks the instructions, `library` says why there is none,
and models run as PyTorch runs them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from mlpmixer import processor
from mlpmixer.download import cache_folder

Name = Literal["mixing", "forward", "resize"]

# What each needs, as Linux calls what a processor can do. Compilers leave the underscores out.
ALL = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "fma")
NEEDS: dict[Name, tuple[str, ...]] = {
    "mixing": (*ALL, "avx512_bf16"),
    "forward": (*ALL, "avx512_bf16", "avx512_vnni"),
    "resize": (*ALL, "avx512_vnni", "avx512vbmi"),
}
# What products are quicker with: the matrix units of Intel's servers. All three, or none.
HELPS = ("amx_tile", "amx_bf16", "amx_int8")
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC", "-w")


@cache
def library(name: Name) -> ctypes.CDLL | str:
    """The compiled functions, or why there are none. The first call on a machine takes some seconds."""
    if os.environ.get("MLPMIXER_KERNELS") == "off":
        return "the variable MLPMIXER_KERNELS says off"
    lacking = {*NEEDS[name]} - processor.abilities()
    if platform.system() != "Linux" or lacking:
        return f"this processor has no instructions for them ({', '.join(sorted(lacking)) or 'they are for Linux'})"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if {*HELPS} <= processor.abilities():
        helped = _compiled(name, compiler, (*NEEDS[name], *HELPS))
        if isinstance(helped, ctypes.CDLL):  # a compiler may be too old for them
            return helped
    return _compiled(name, compiler, NEEDS[name])


def _compiled(name: Name, compiler: str | None, abilities: Sequence[str]) -> ctypes.CDLL | str:
    source, *headers = Path(__file__).with_name(f"{name}.cpp"), *sorted(Path(__file__).parent.glob("*.h"))
    flags = [*FLAGS, *(f"-m{ability.replace('_', '').replace('amx', 'amx-')}" for ability in abilities)]
    told = [*(file.read_bytes() for file in (source, *headers)), *map(str.encode, flags)]
    key = hashlib.sha256(b"\0".join(told)).hexdigest()[:16]
    built = cache_folder() / "kernels" / f"{name}-{key}.so"
    try:
        if not built.is_file():
            if compiler is None:
                return "there is no C++ compiler"
            _build([compiler, *flags, str(source)], built)
        # PyTorch has brought OpenMP along; what is not linked against another one uses the same threads.
        return ctypes.CDLL(str(built))
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return f"{compiler} cannot compile them: {said[0]}"
    except OSError as error:
        return f"{error.filename or built} cannot be written or loaded: {error.strerror or error}"


def _build(command: list[str], built: Path) -> None:
    if sys.stderr.isatty():
        print("compiling the CPU kernels, once on this machine", file=sys.stderr)
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        made = Path(folder) / built.name
        subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, text=True)
        made.replace(built)  # by whichever process comes last: they are the same


def address(tensor: torch.Tensor | None) -> ctypes.c_void_p | None:
    """Of its numbers, which lie one after the other."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return ctypes.c_void_p(tensor.data_ptr())
