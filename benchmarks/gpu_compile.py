"""What the compiler makes of our GPU kernels, without a GPU: registers, stack, shared memory, matrix instructions.

python benchmarks/gpu_compile.py [tokens|product|product8|others] [--first] [--json]

It needs triton, which brings NVIDIA's assembler and disassembler along. Stack is where registers spill to; a program
may have 227 KB of shared memory and 255 registers a thread: what takes more is left out when a GPU is asked which way
of cutting the work is the best. Sides are those of Mixer-B/16 (and S/32's 49 tokens). --first: the first way only.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mlpmixer.kernels.gpu import channels, norms, stem, tokens

HOPPER = GPUTarget("cuda", 90, 32)
TOOLS = Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin"
MATRIX = ("HGMMA", "QGMMA", "HMMA")  # of 16 bits, of 8 bits; the last is the slow way
ALIGNED = ("channels", "hidden", "rows", "outputs", "depth")  # multiples of 16
BF16, FP32, FP8, BYTES = "*bf16", "*fp32", "*fp8e4nv", "*u8"


@dataclass(frozen=True)
class Case:
    """One kernel, cut in one way."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int = 3


@dataclass(frozen=True)
class Found:
    name: str
    cut: str
    registers: int
    stack: int
    shared: int
    waits: int  # for the matrix units
    instructions: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", nargs="*", default=["tokens", "product", "product8", "others"])
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    makers = {
        "tokens": lambda: token_mixing(options.first),
        "product": lambda: products(options.first, 16),
        "product8": lambda: products(options.first, 8),
        "others": others,
    }
    found = [look(case) for which in options.which for case in makers[which]()]
    if options.json:
        print(json.dumps([asdict(each) for each in found]))
        return
    print("| kernel | cut | registers | stack | shared, KB | waits | instructions |\n" + "|---" * 7 + "|")
    for each in found:
        said = ", ".join(f"{number} {name}" for name, number in each.instructions.items())
        used = f"{each.registers} | {each.stack} | {each.shared / 1024:.0f} | {each.waits}"
        print(f"| {each.name} | {each.cut} | {used} | {said} |", flush=True)


def token_mixing(first: bool) -> Iterator[Case]:
    for count in (196, 49):
        sides = dict(zip("ABC", tokens.parts(count), strict=True))
        for way in tokens._token_mixing.configs[: 1 if first else None]:
            columns, chunk = way.kwargs["COLUMNS"], way.kwargs["CHUNK"]
            types = {"x": BF16, "y": BF16}
            for part, side in sides.items():
                types[f"normed{part}"] = f"tensordesc<bf16[{side}, {columns}]>"
                types[f"w1{part}"] = f"tensordesc<bf16[{chunk}, {side}]>"
                types[f"w2{part}"] = f"tensordesc<bf16[{side}, {chunk}]>"
            yield Case(
                f"token mixing, {count} tokens",
                tokens._token_mixing,
                types,
                {"ERF": False, **sides, **way.kwargs},
                way.num_warps,
                way.num_stages,
            )


def products(first: bool, bits: int) -> Iterator[Case]:
    small = bits == 8
    number = "fp8e4nv" if small else "bf16"
    for name, result, flags in (
        (
            "first",
            number,
            {"NORMED": not small, "SCALED": small, "SKIP": False, "ACTIVE": 1, "SMALL": small},
        ),
        (
            "second",
            "bf16",
            {"NORMED": False, "SCALED": small, "SKIP": True, "ACTIVE": 0, "SMALL": False},
        ),
    ):
        for way in channels._product.configs[: 1 if first else None]:
            cut = way.kwargs
            depth = cut["DEPTH"] * 8 // bits
            part = f"tensordesc<{result}[{cut['ROWS']}, {cut['COLUMNS'] // cut['PARTS']}]>"
            types = {
                "x": f"tensordesc<{number}[{cut['ROWS']}, {depth}]>",
                "weight": f"tensordesc<{number}[{cut['COLUMNS']}, {depth}]>",
                **{"found": part, "skip": part, "factor": "fp32"},
            }
            yield Case(
                f"{name} product, {number}", channels._product, types, flags | cut, way.num_warps, way.num_stages
            )


def others() -> Iterator[Case]:
    rows = {"ROWS": norms.ROWS, "WIDTH": 1024}
    scalars = {"eps": "fp32", "factor": "fp32"}
    yield Case("statistics", norms._statistics, {"x": BF16, **scalars}, rows | {"SHIFTED": True}, 4)
    shifted, scaled = rows | {"SHIFTED": True, "SCALED": False}, rows | {"SHIFTED": False, "SCALED": True}
    yield Case("LayerNorm", norms._normalized, {"x": BF16, "found": BF16, **scalars}, scaled, 4)
    yield Case("normalized", norms._normalized, {"x": BF16, "found": BF16, **scalars}, shifted, 4)
    yield Case("normalized, fp8e4nv", norms._normalized, {"x": BF16, "found": FP8, **scalars}, shifted, 4)
    yield Case("mean of normed", norms._mean_of_normed, {"x": BF16}, {"COLUMNS": 64, "AT_ONCE": 32}, 4)
    bytes_ = {"ERF": True, "ROWS": 8, "COLUMNS": 512}
    yield Case("active bytes", channels._active_bytes, {"x": BF16, "found": FP8, **scalars}, bytes_, 4)
    sides = {"PATCH": 16, "MIDDLE": stem.MIDDLE, "ROOM": 4096}
    yield Case("patches", stem._patches, {"pixels": BYTES, "found": BF16}, sides, 4)


SIZES = ("tokens", "channels", "hidden", "size", "rows", "outputs", "depth", "in_channels", "down", "across")


def look(case: Case) -> Found:
    function = getattr(case.kernel, "fn", case.kernel) if hasattr(case.kernel, "configs") else case.kernel
    types = {}
    for name in function.arg_names:
        usual = "i32" if name in SIZES else FP32
        types[name] = "constexpr" if name in case.constants else case.types.get(name, usual)
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(types.items())
        if kind.startswith("*") or name in ALIGNED
    }
    source = ASTSource(function, types, case.constants, aligned)
    made = triton.compile(source, target=HOPPER, options={"num_warps": case.warps, "num_stages": case.stages})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        used = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    registers, stack = (int(re.findall(rf"{name}:(\d+)", used)[0]) for name in ("REG", "STACK"))
    seen = Counter(re.findall(rf"\b({'|'.join(MATRIX)}|UTMALDG|UTMASTG)\b", code))
    cut = ", ".join(f"{name} {value}" for name, value in case.constants.items() if name.isupper())
    cut = f"{cut}, warps {case.warps}, stages {case.stages}"
    waits = len(re.findall(r"WARPGROUP\.DEPBAR", code))
    return Found(case.name, cut, registers, stack, made.metadata.shared, waits, {**seen})


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
