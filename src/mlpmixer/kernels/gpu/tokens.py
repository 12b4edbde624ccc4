"""Token mixing in one kernel: both products and what is around them, without leaving the chip.

    y = x + W2 · gelu(W1 · LN(x) + b1) + b2

A program takes a block of a picture's columns, with all places. The hidden table is made some rows at a time: they
come out of the first product into registers, go through the GELU and by way of shared memory into the second, whose
sums over all hidden rows stay in registers. Weights come from the L2 cache through Hopper's copy engine, which fills in
zeros beyond the last place.
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
    """Weights of token mixing as the kernel reads them: (out, in) matrices in bfloat16, vectors in float32.

    `w1`'s places are padded to a multiple of 8 (rows of whole 16 bytes), the hidden rows of all to one of 128 (the
    largest chunk)."""

    gamma: Tensor
    beta: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def tokens(half: Half) -> Tokens:
    hidden, places = half.w1.shape
    assert places <= PLACES
    more = -hidden % 128
    first = F.pad(half.w1, (0, -places % 8, 0, more)).to(torch.bfloat16).contiguous()
    second = F.pad(half.w2, (0, more)).to(torch.bfloat16).contiguous()
    vectors = (half.gamma, half.beta, F.pad(half.b1, (0, more)), half.b2)
    gamma, beta, b1, b2 = (v.float().contiguous() for v in vectors)
    return Tokens(gamma, beta, first, b1, second, b2)


def token_mixing(x: Tensor, statistics: Tensor, weights: Tokens, ahead: Tensor, *, exact: bool) -> Tensor:
    """`x`: (B · places, C). `ahead`: (C,), is added as well: a bias of what comes next. `exact`: GELU's erf form."""
    places, channels = len(weights.b2), x.shape[1]
    pictures = len(x) // places
    room = max(64, triton.next_power_of_2(places))
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
    nargs["w1"].block_shape = [nargs["CHUNK"], nargs["ROOM"]]
    nargs["w2"].block_shape = [nargs["ROOM"], nargs["CHUNK"]]


def ways() -> list[Any]:
    """Of cutting the work; the GPU says which is the best. (columns, hidden rows at a time, ahead, warps, stages)

    With 256 places, the first leaves room for a second program beside it, which computes while this one waits; the
    second reads the weights half as often.
    """
    several = (
        (64, 64, False, 4, 1),
        (128, 64, True, 8, 2),
        (64, 64, True, 8, 2),
        (64, 64, False, 4, 2),
        (128, 128, False, 8, 2),
    )
    names = ("COLUMNS", "CHUNK", "AHEAD")
    return [
        triton.Config(dict(zip(names, way, strict=False)), num_warps=way[3], num_stages=way[4], pre_hook=_cut)
        for way in several
    ]


@triton.autotune(configs=ways()[:1] if INTERPRETED else ways(), key=["places", "channels", "hidden", "size", "EXACT"])
@triton.jit
def _token_mixing(
    x, statistics, gamma, beta, w1, b1, w2, b2, ahead, y, places, channels, hidden, size,  # noqa: ARG001
    EXACT: tl.constexpr, ROOM: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr, AHEAD: tl.constexpr,  # noqa: N803
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
    normed = normed.to(tl.bfloat16)

    total = tl.zeros((ROOM, COLUMNS), tl.float32)
    rows = tl.arange(0, CHUNK)
    if AHEAD:
        # The compiler deals the work of a product whose result goes straight into another one out by rows only; with
        # 8 warps and 64 rows half of it would be done twice. So the result goes once around the loop.
        last = hidden - CHUNK
        coming = tl.dot(w1.load([0, 0]), normed)  # (hidden rows, columns)
        for start in range(0, last, CHUNK):
            active = coming
            coming = tl.dot(w1.load([start + CHUNK, 0]), normed)
            active = gelu(active + tl.load(b1 + start + rows)[:, None], EXACT).to(tl.bfloat16)
            total = tl.dot(w2.load([0, start]), active, total)
        active = gelu(coming + tl.load(b1 + last + rows)[:, None], EXACT).to(tl.bfloat16)
        total = tl.dot(w2.load([0, last]), active, total)
    else:
        for start in range(0, hidden, CHUNK):
            active = tl.dot(w1.load([start, 0]), normed)
            active = gelu(active + tl.load(b1 + start + rows)[:, None], EXACT).to(tl.bfloat16)
            total = tl.dot(w2.load([0, start]), active, total)
    total += tl.load(b2 + place, mask=real, other=0.0)[:, None]
    total += tl.load(ahead + column, mask=there, other=0.0)[None, :]
    # Read once more, from the cache: it would fill registers all the while. (.cg keeps the compiler from doing that.)
    table = tl.load(x + at, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    tl.store(y + at, (table + total).to(tl.bfloat16), mask=inside)
