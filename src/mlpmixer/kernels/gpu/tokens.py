"""Token mixing in one kernel: both products and what is around them, without leaving the chip.

    y = x + W2 · gelu(W1 · LN(x) + b1) + b2

A program takes a block of an image's columns, with all tokens. Tables lie on their sides: channels are rows, tokens
are columns. So the hidden numbers, made some at a time, come out of the first product into registers, go through the
GELU, and from there into the second, since the matrix units take their left side from registers; its sums over all
hidden rows stay there, too. And tokens need no padding to a power of two: they come in three parts, 196 as 128, 64 and
16. Weights and normalized tables come through Hopper's copy engine, which fills in zeros beyond the last token.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from mlpmixer.kernels.gpu.gelu import INTERPRETED, gelu
from mlpmixer.kernels.gpu.norms import layer_norm
from mlpmixer.kernels.weights import GeluForm, HalfWeights

MANY = 64  # images: beyond that, what is the best way of cutting the work does not change
TOKENS = 256  # no more: the sums over all tokens of a block must fit into the registers


def packed(half: HalfWeights) -> HalfWeights:
    """As the kernel reads them: matrices in bfloat16, vectors in float32.

    `w1`'s tokens are padded to a multiple of 8 (rows of whole 16 bytes), the hidden rows of all to one of 128 (the
    largest chunk)."""
    hidden, tokens = half.w1.shape
    assert tokens <= TOKENS
    more = -hidden % 128
    first = F.pad(half.w1, (0, -tokens % 8, 0, more)).to(torch.bfloat16).contiguous()
    second = F.pad(half.w2, (0, more)).to(torch.bfloat16).contiguous()
    vectors = (half.gamma, half.beta, F.pad(half.b1, (0, more)), half.b2)
    gamma, beta, b1, b2 = (v.float().contiguous() for v in vectors)
    return HalfWeights(gamma, beta, first, b1, second, b2)


def token_mixing(x: Tensor, weights: HalfWeights, ahead: Tensor, *, gelu_form: GeluForm) -> Tensor:
    """`x`: (B · tokens, C). `ahead`: (C,), is added as well: a bias of what comes next."""
    return mixed(x, layer_norm(x, weights.gamma, weights.beta), weights, ahead, gelu_form=gelu_form)


def mixed(x: Tensor, normed: Tensor, weights: HalfWeights, ahead: Tensor, *, gelu_form: GeluForm) -> Tensor:
    """What is left when LayerNorm is done."""
    tokens, channels = len(weights.b2), x.shape[1]
    images = len(x) // tokens
    y = torch.empty_like(x)

    def grid(meta: dict[str, Any]) -> tuple[Any]:
        return (images * triton.cdiv(channels, meta["COLUMNS"]),)

    _token_mixing[grid](
        *(x, weights.b1, weights.b2, ahead, y),
        *(_block(table) for table in (normed, weights.w1, weights.w2) for _ in "ABC"),
        *(tokens, channels, len(weights.b1), min(triton.next_power_of_2(images), MANY)),
        ERF=gelu_form == "erf",
        **dict(zip("ABC", parts(tokens), strict=True)),
    )
    return y


def parts(tokens: int) -> tuple[int, int, int]:
    """Three powers of two, none below 16, whose sum is `tokens` or a little more."""
    first = _power(tokens) // 2
    second = _power(tokens - first) // 2
    return max(16, first), max(16, second), max(16, _power(tokens - first - second))


def _power(number: int) -> int:
    """Of two, not below `number`."""
    return 1 << max(number - 1, 0).bit_length()


def _block(table: Tensor) -> Any:
    return TensorDescriptor.from_tensor(table, [16, 16])  # (the size of a block is set for each way of cutting)


def _cut(nargs: dict[str, Any]) -> None:
    for part in "ABC":
        nargs[f"normed{part}"].block_shape = [nargs[part], nargs["COLUMNS"]]
        nargs[f"w1{part}"].block_shape = [nargs["CHUNK"], nargs[part]]
        nargs[f"w2{part}"].block_shape = [nargs[part], nargs["CHUNK"]]


def ways() -> list[Any]:
    """Of cutting the work; the GPU says which is the best. (columns, hidden rows at a time, warps, stages)"""
    several = (
        (128, 64, 8, 2),
        (128, 64, 8, 1),
        (128, 32, 8, 3),
        (64, 128, 4, 1),
        (64, 64, 4, 1),
        (64, 64, 4, 2),
        (64, 32, 4, 2),
    )
    return [
        triton.Config({"COLUMNS": way[0], "CHUNK": way[1]}, num_warps=way[2], num_stages=way[3], pre_hook=_cut)
        for way in several
    ]


@triton.autotune(configs=ways()[:1] if INTERPRETED else ways(), key=["tokens", "channels", "hidden", "size", "ERF"])
@triton.jit
def _token_mixing(
    x, b1, b2, ahead, y, normedA, normedB, normedC, w1A, w1B, w1C, w2A, w2B, w2C,  # noqa: N803
    tokens, channels, hidden, size,  # noqa: ARG001
    ERF: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    blocks = tl.cdiv(channels, COLUMNS)
    row = tl.program_id(0) // blocks * tokens
    first = tl.program_id(0) % blocks * COLUMNS
    # Rows beyond the image's are the next one's; the weights that meet them are 0.
    tableA = normedA.load([row, first]).T  # noqa: N806
    tableB = normedB.load([row + A, first]).T  # noqa: N806
    tableC = normedC.load([row + A + B, first]).T  # noqa: N806
    totalA = tl.zeros((COLUMNS, A), tl.float32)  # noqa: N806
    totalB = tl.zeros((COLUMNS, B), tl.float32)  # noqa: N806
    totalC = tl.zeros((COLUMNS, C), tl.float32)  # noqa: N806
    for start in range(0, hidden, CHUNK):
        active = tl.dot(tableA, w1A.load([start, 0]).T)
        active = tl.dot(tableB, w1B.load([start, A]).T, active)
        active = tl.dot(tableC, w1C.load([start, A + B]).T, active)
        active = gelu(active + tl.load(b1 + start + tl.arange(0, CHUNK))[None, :], ERF).to(tl.bfloat16)
        totalA = tl.dot(active, w2A.load([0, start]).T, totalA)  # noqa: N806
        totalB = tl.dot(active, w2B.load([A, start]).T, totalB)  # noqa: N806
        totalC = tl.dot(active, w2C.load([A + B, start]).T, totalC)  # noqa: N806
    x += row.to(tl.int64) * channels
    y += row.to(tl.int64) * channels
    column = first + tl.arange(0, COLUMNS)
    _finish(totalA, x, y, b2, ahead, column, 0, tokens, channels, A)
    _finish(totalB, x, y, b2, ahead, column, A, tokens, channels, B)
    _finish(totalC, x, y, b2, ahead, column, A + B, tokens, channels, C)


@triton.jit
def _finish(total, x, y, b2, ahead, column, first, tokens, channels, PART: tl.constexpr):  # noqa: N803
    token = first + tl.arange(0, PART)
    there, real = column < channels, token < tokens
    at, inside = column[:, None] + token[None, :] * channels, there[:, None] & real[None, :]
    total += tl.load(b2 + token, mask=real, other=0.0)[None, :]
    total += tl.load(ahead + column, mask=there, other=0.0)[:, None]
    table = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, (table + total).to(tl.bfloat16), mask=inside)
