"""Token mixing in one kernel, with tables turned: channels are rows, places are columns.

So the hidden numbers go from one product into the other without leaving the registers, where the matrix units take
their left side from. And places need no padding to a power of two: columns come in three parts, 196 as 128 + 64 + 16.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from mlpmixer.kernels.gpu.gelu import INTERPRETED, gelu

MANY = 64  # pictures: beyond that, what is the best way of cutting the work does not change


def parts(places: int) -> tuple[int, int, int]:
    """Three powers of two, none below 16, whose sum is `places` or a little more."""
    found, left = [], places
    for _ in range(2):
        found.append(max(16, 1 << (max(left, 1).bit_length() - 1)))
        left -= found[-1]
    return found[0], found[1], max(16, triton.next_power_of_2(max(left, 1)))


def turned(x: Tensor, normed: Tensor, weights: Any, ahead: Tensor, *, exact: bool) -> Tensor:
    """As `token_mixing`; `normed`: LayerNorm(x)."""
    places, channels = len(weights.b2), x.shape[1]
    pictures = len(x) // places
    y = torch.empty_like(x)

    def grid(meta: dict[str, Any]) -> tuple[Any]:
        return (pictures * triton.cdiv(channels, meta["COLUMNS"]),)

    _turned[grid](
        *(x, weights.b1, weights.b2, ahead, y),
        *(TensorDescriptor.from_tensor(normed, [16, 16]) for _ in range(3)),
        *(TensorDescriptor.from_tensor(weights.w1, [16, 16]) for _ in range(3)),
        *(TensorDescriptor.from_tensor(weights.w2, [16, 16]) for _ in range(3)),
        *(places, channels, len(weights.b1), min(triton.next_power_of_2(pictures), MANY)),
        EXACT=exact,
        **dict(zip(("A", "B", "C"), parts(places), strict=True)),
    )
    return y


def _cut(nargs: dict[str, Any]) -> None:
    for part in "ABC":
        nargs[f"normed{part}"].block_shape = [nargs[part], nargs["COLUMNS"]]
        nargs[f"w1{part}"].block_shape = [nargs["CHUNK"], nargs[part]]
        nargs[f"w2{part}"].block_shape = [nargs[part], nargs["CHUNK"]]


def ways() -> list[Any]:
    """Of cutting the work: columns, hidden rows at a time, warps, stages."""
    several = (
        (128, 64, 8, 2),
        (128, 64, 8, 1),
        (128, 32, 8, 3),
        (64, 128, 4, 1),
        (64, 64, 4, 1),
        (64, 64, 4, 2),
        (64, 32, 4, 2),
    )
    names = ("COLUMNS", "CHUNK")
    return [
        triton.Config(dict(zip(names, way, strict=False)), num_warps=way[2], num_stages=way[3], pre_hook=_cut)
        for way in several
    ]


@triton.autotune(configs=ways()[:1] if INTERPRETED else ways(), key=["places", "channels", "hidden", "size", "EXACT"])
@triton.jit
def _turned(
    x, b1, b2, ahead, y, normedA, normedB, normedC, w1A, w1B, w1C, w2A, w2B, w2C,  # noqa: N803
    places, channels, hidden, size,  # noqa: ARG001
    EXACT: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    blocks = tl.cdiv(channels, COLUMNS)
    picture = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * COLUMNS
    row = picture * places
    # Rows beyond the picture's are the next one's; the weights that meet them are 0.
    tableA = normedA.load([row, first]).T  # noqa: N806
    tableB = normedB.load([row + A, first]).T  # noqa: N806
    tableC = normedC.load([row + A + B, first]).T  # noqa: N806
    totalA = tl.zeros((COLUMNS, A), tl.float32)  # noqa: N806
    totalB = tl.zeros((COLUMNS, B), tl.float32)  # noqa: N806
    totalC = tl.zeros((COLUMNS, C), tl.float32)  # noqa: N806
    rows = tl.arange(0, CHUNK)
    for start in range(0, hidden, CHUNK):
        active = tl.dot(tableA, w1A.load([start, 0]).T)
        active = tl.dot(tableB, w1B.load([start, A]).T, active)
        active = tl.dot(tableC, w1C.load([start, A + B]).T, active)
        active = gelu(active + tl.load(b1 + start + rows)[None, :], EXACT).to(tl.bfloat16)
        totalA = tl.dot(active, w2A.load([0, start]).T, totalA)  # noqa: N806
        totalB = tl.dot(active, w2B.load([A, start]).T, totalB)  # noqa: N806
        totalC = tl.dot(active, w2C.load([A + B, start]).T, totalC)  # noqa: N806
    x += row.to(tl.int64) * channels
    y += row.to(tl.int64) * channels
    column = first + tl.arange(0, COLUMNS)
    _write(totalA, x, y, b2, ahead, column, 0, places, channels, A)
    _write(totalB, x, y, b2, ahead, column, A, places, channels, B)
    _write(totalC, x, y, b2, ahead, column, A + B, places, channels, C)


@triton.jit
def _write(total, x, y, b2, ahead, column, first, places, channels, PART: tl.constexpr):  # noqa: N803
    place = first + tl.arange(0, PART)
    there, real = column < channels, place < places
    total += tl.load(b2 + place, mask=real, other=0.0)[None, :]
    total += tl.load(ahead + column, mask=there, other=0.0)[:, None]
    at, inside = column[:, None] + place[None, :] * channels, there[:, None] & real[None, :]
    table = tl.load(x + at, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    tl.store(y + at, (table + total).to(tl.bfloat16), mask=inside)
