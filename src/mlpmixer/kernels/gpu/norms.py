"""LayerNorm kernels: what needs whole rows."""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 4  # of a program
EPS = 1e-6  # as models/layers.py has it


def statistics(x: Tensor, ahead: Tensor | None = None) -> Tensor:
    """(rows, 2) in float32: the mean of each row of `x` − `ahead`, and one over its standard deviation."""
    rows, channels = x.shape
    found = torch.empty(rows, 2, dtype=torch.float32, device=x.device)
    _statistics[(triton.cdiv(rows, ROWS),)](
        *(x, x if ahead is None else ahead, found, rows, channels, EPS),
        SHIFTED=ahead is not None,
        ROWS=ROWS,
        WIDTH=triton.next_power_of_2(channels),
        num_warps=4,
    )
    return found


def normalized(x: Tensor, ahead: Tensor, dtype: torch.dtype, factor: float = 1.0) -> Tensor:
    """Rows of `x` − `ahead` with mean 0 and variance 1, times `factor`."""
    return _whole_rows(x, (ahead, ahead, ahead), dtype, factor, shifted=True, scaled=False)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return _whole_rows(x, (gamma, gamma, beta), torch.bfloat16, 1.0, shifted=False, scaled=True)


def _whole_rows(
    x: Tensor, vectors: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype, factor: float, *, shifted: bool, scaled: bool
) -> Tensor:
    rows, channels = x.shape
    found = torch.empty(rows, channels, dtype=dtype, device=x.device)
    _normalized[(triton.cdiv(rows, ROWS),)](
        *(x, *vectors, found, rows, channels, EPS, factor),
        SHIFTED=shifted,
        SCALED=scaled,
        ROWS=ROWS,
        WIDTH=triton.next_power_of_2(channels),
        num_warps=4,
    )
    return found


def mean_of_normed(x: Tensor, tokens: int, gamma: Tensor, beta: Tensor) -> Tensor:
    """(images, channels) in float32: the mean over an image's rows of LayerNorm(x), which is never made."""
    rows, channels = x.shape
    found = torch.empty(rows // tokens, channels, dtype=torch.float32, device=x.device)
    _mean_of_normed[(rows // tokens, triton.cdiv(channels, 64))](
        *(x, statistics(x), gamma, beta, found, tokens, channels), COLUMNS=64, AT_ONCE=32, num_warps=4
    )
    return found


@triton.jit
def _rows(
    x, ahead, rows, channels, eps,
    SHIFTED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """A program's rows of x − ahead: their indices, their columns, where they lie, which are inside; their means, the
    rows without these, and one over their standard deviations."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    at = row.to(tl.int64)[:, None] * channels + column[None, :]
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if SHIFTED:
        values -= tl.load(ahead + column, mask=column < channels, other=0.0)[None, :]
    mean = tl.sum(values, 1) / channels
    centered = tl.where(inside, values - mean[:, None], 0.0)
    return row, column, at, inside, mean, centered, tl.rsqrt(tl.sum(centered * centered, 1) / channels + eps)


@triton.jit
def _statistics(
    x, ahead, found, rows, channels, eps,
    SHIFTED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,  # noqa: N803
):  # fmt: skip
    row, _, _, _, mean, _, rate = _rows(x, ahead, rows, channels, eps, SHIFTED, ROWS, WIDTH)
    tl.store(found + 2 * row, mean, mask=row < rows)
    tl.store(found + 2 * row + 1, rate, mask=row < rows)


@triton.jit
def _normalized(
    x, ahead, gamma, beta, found, rows, channels, eps, factor,
    SHIFTED: tl.constexpr, SCALED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,  # noqa: N803
):  # fmt: skip
    _, column, at, inside, _, centered, rate = _rows(x, ahead, rows, channels, eps, SHIFTED, ROWS, WIDTH)
    values = centered * (factor * rate)[:, None]
    if SCALED:
        values *= tl.load(gamma + column, mask=column < channels, other=0.0)[None, :]
        values += tl.load(beta + column, mask=column < channels, other=0.0)[None, :]
    tl.store(found + at, values.to(found.dtype.element_ty), mask=inside)


@triton.jit
def _mean_of_normed(
    x, statistics, gamma, beta, found, tokens, channels, COLUMNS: tl.constexpr, AT_ONCE: tl.constexpr  # noqa: N803
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, tokens, AT_ONCE):
        token = first + tl.arange(0, AT_ONCE)
        row = image * tokens + token
        inside = (token < tokens)[:, None] & (column < channels)[None, :]
        values = tl.load(x + row[:, None] * channels + column[None, :], mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(statistics + 2 * row, mask=token < tokens, other=0.0)
        rate = tl.load(statistics + 2 * row + 1, mask=token < tokens, other=0.0)
        total += tl.sum((values - mean[:, None]) * rate[:, None], 0)
    inside = column < channels
    scale = tl.load(gamma + column, mask=inside, other=0.0)
    shift = tl.load(beta + column, mask=inside, other=0.0)
    tl.store(found + image * channels + column, total / tokens * scale + shift, mask=inside)
