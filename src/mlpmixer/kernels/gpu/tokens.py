"""Token mixing in one kernel: both products and what is around them, without leaving the chip.

    y = x + W2 · gelu(W1 · LN(x) + b1) + b2

A program takes a block of a picture's columns and lays it on its side, (channels of the block, places): it is then the
left side of both products, and what comes out of the GELU can go into the second product from the registers where it
is, as attention does it with its scores. The hidden table is made a few rows at a time. Weights come from the L2 cache
through Hopper's copy engine, which fills in zeros beyond the last place.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from mlpmixer.kernels.forward import Half
from mlpmixer.kernels.gpu.gelu import INTERPRETED, gelu

MANY = 64  # pictures: beyond that, what is the best way of cutting the work does not change
PLACES = 256  # no more: the sums over all places of a block must fit into the registers


class Tokens(NamedTuple):
    """Weights of token mixing as the kernel reads them. Both maps are (hidden, places), the second one transposed;
    places are padded to 8, hidden rows to 64."""

    gamma: Tensor
    beta: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def tokens(half: Half) -> Tokens:
    hidden, places = half.w1.shape
    assert places <= PLACES
    room = (0, -places % 8, 0, -hidden % 64)
    first, second = (F.pad(w, room).to(torch.bfloat16).contiguous() for w in (half.w1, half.w2.T))
    vectors = (half.gamma, half.beta, F.pad(half.b1, (0, -hidden % 64)), half.b2)
    gamma, beta, b1, b2 = (v.float().contiguous() for v in vectors)
    return Tokens(gamma, beta, first, b1, second, b2)


def token_mixing(x: Tensor, statistics: Tensor, weights: Tokens, ahead: Tensor, *, exact: bool) -> Tensor:
    """`x`: (B · places, C). `ahead`: (C,), is added as well: a bias of what comes next. `exact`: GELU's erf form."""
    places, channels = len(weights.b2), x.shape[1]
    pictures = len(x) // places
    room = max(16, triton.next_power_of_2(places))
    y = torch.empty_like(x)

    def grid(meta: dict[str, Any]) -> tuple[Any]:
        return (pictures * triton.cdiv(channels, meta["COLUMNS"]),)

    _token_mixing[grid](
        *(x, statistics, weights.gamma, weights.beta),
        *(_rows(weights.w1), weights.b1, _rows(weights.w2), weights.b2, ahead, y),
        *(places, channels, len(weights.b1), min(triton.next_power_of_2(pictures), MANY)),
        EXACT=exact,
        ROOM=room,
    )
    return y


def _rows(weight: Tensor) -> Any:
    return TensorDescriptor.from_tensor(weight, [16, 16])  # (the size of a block is set for each way of cutting)


def _cut(nargs: dict[str, Any]) -> None:
    for name in ("w1", "w2"):
        nargs[name].block_shape = [nargs["CHUNK"], nargs["ROOM"]]


def ways() -> list[Any]:
    """Of cutting the work; the GPU says which is the best. (columns, hidden rows at a time, warps, stages)"""
    several = ((128, 64, 8, 2), (128, 32, 8, 2), (128, 32, 8, 3), (64, 32, 4, 2), (64, 64, 4, 2), (64, 32, 4, 3))
    return [
        triton.Config({"COLUMNS": columns, "CHUNK": chunk}, num_warps=warps, num_stages=stages, pre_hook=_cut)
        for columns, chunk, warps, stages in (several[:1] if INTERPRETED else several)
    ]


@triton.autotune(configs=ways(), key=["places", "channels", "hidden", "size", "EXACT"])
@triton.jit
def _token_mixing(
    x, statistics, gamma, beta, w1, b1, w2, b2, ahead, y, places, channels, hidden, size,  # noqa: ARG001
    EXACT: tl.constexpr, ROOM: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    blocks = tl.cdiv(channels, COLUMNS)
    picture = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    place = tl.arange(0, ROOM)
    x += picture * places * channels
    y += picture * places * channels
    statistics += picture * places * 2
    at = place[:, None] * channels + column[None, :]
    there, real = column < channels, place < places
    inside = real[:, None] & there[None, :]

    mean = tl.load(statistics + 2 * place, mask=real, other=0.0)
    rate = tl.load(statistics + 2 * place + 1, mask=real, other=0.0)
    scale = tl.load(gamma + column, mask=there, other=0.0)
    shift = tl.load(beta + column, mask=there, other=0.0)
    table = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    normed = (table - mean[:, None]) * rate[:, None] * scale[None, :] + shift[None, :]
    normed = normed.to(tl.bfloat16).T  # (columns, places)

    total = tl.zeros((COLUMNS, ROOM), tl.float32)
    for start in range(0, hidden, CHUNK):
        active = tl.dot(normed, w1.load([start, 0]).T)  # (columns, hidden rows)
        active += tl.load(b1 + start + tl.arange(0, CHUNK))[None, :]
        active = gelu(active, EXACT).to(tl.bfloat16)
        total = tl.dot(active, w2.load([start, 0]), total)
    total += tl.load(b2 + place, mask=real, other=0.0)[None, :]
    total += tl.load(ahead + column, mask=there, other=0.0)[:, None]
    mixed = total.to(tl.bfloat16).T
    # Read once more, from the cache: it would fill registers all the while. (.cg keeps the compiler from doing that.)
    table = tl.load(x + at, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    tl.store(y + at, (table + mixed.to(tl.float32)).to(tl.bfloat16), mask=inside)
