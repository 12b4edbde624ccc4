"""Our own products for CPUs: `mixing.cpp`, compiled once on the machine where it runs, and kept.

They are an extra. Without a compiler, or on a processor without bfloat16 products, `library` says why there is none,
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
from functools import cache
from pathlib import Path

import torch

from mlpmixer.download import cache_folder

SOURCE = Path(__file__).with_name("mixing.cpp")
FLAGS = (
    *("-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC", "-w"),
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma"),
)
NEEDS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16")  # as Linux calls what a processor can do


@cache
def library() -> ctypes.CDLL | str:
    """The compiled functions, or why there are none. The first call on a machine takes some seconds."""
    if os.environ.get("MLPMIXER_KERNELS") == "off":
        return "the variable MLPMIXER_KERNELS says off"
    if platform.system() != "Linux" or not {*NEEDS} <= _abilities():
        return "this processor has no bfloat16 products (AVX-512 BF16)"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "there is no C++ compiler"
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), compiler.encode(), *map(str.encode, FLAGS)])).hexdigest()[:16]
    built = cache_folder() / "kernels" / f"mixing-{key}.so"
    try:
        if not built.is_file():
            _build(compiler, built)
        # PyTorch has brought OpenMP along; what is not linked against another one uses the same threads.
        return ctypes.CDLL(str(built))
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return f"{compiler} cannot compile them: {said[0]}"
    except OSError as error:
        return f"{error.filename or built} cannot be written or loaded: {error.strerror or error}"


def _build(compiler: str, built: Path) -> None:
    if sys.stderr.isatty():
        print("compiling the CPU kernels, once on this machine", file=sys.stderr)
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        made = Path(folder) / built.name
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True, text=True)
        made.replace(built)  # by whichever process comes last: they are the same


def _abilities() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return {*line.split(":", 1)[1].split()}
    return set()


def address(tensor: torch.Tensor | None) -> ctypes.c_void_p | None:
    """Of its numbers, which lie one after the other."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return ctypes.c_void_p(tensor.data_ptr())
