"""The products of channel mixing, with all that is around them done on their results while these are in registers.

LayerNorm before a product needs no pass of its own: weights whose rows sum to zero take away the mean of what they are
multiplied with, and one over the standard deviation is a factor of the result's row.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from mlpmixer.kernels.gpu.gelu import INTERPRETED, gelu
from mlpmixer.kernels.weights import GeluForm

BYTE = torch.float8_e4m3fn
LARGEST = 448.0  # of these
MANY = 2**14  # rows: beyond that, what is the best way of cutting the work does not change


def centered(weight: Tensor) -> Tensor:
    """(out, in) with rows that sum to zero: the same function of what has mean zero, and blind to any mean."""
    return weight - weight.mean(dim=1, keepdim=True)


def as_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) in 8 bits, and what each of its rows is to be multiplied with."""
    scale = weight.abs().amax(dim=1).clamp(min=1e-12) / LARGEST
    return (weight / scale[:, None]).to(BYTE), scale


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    normed: tuple[Tensor, Tensor] | None = None,
    scale: Tensor | None = None,
    skip: Tensor | None = None,
    active: GeluForm | None = None,
    dtype: torch.dtype = torch.bfloat16,
    factor: float = 1.0,
) -> Tensor:
    """factor · (gelu(rate · scale · (x · weightᵀ + before) + bias) + skip), where all but the product and the bias are
    optional.

    `x`: (rows, in), `weight`: (out, in), both in bfloat16 or in 8 bits. `normed`: statistics of rows, which LayerNorm's
    rate is read from, and `before`. `scale`: of outputs. `active`: GELU's form, "tanh" or "erf". Results in 8 bits stop
    at the largest of these.
    """
    (rows, depth), outputs = x.shape, len(weight)
    found = torch.empty(rows, outputs, dtype=dtype, device=x.device)

    def grid(meta: dict[str, Any]) -> tuple[Any]:
        tiles = triton.cdiv(rows, meta["ROWS"]) * triton.cdiv(outputs, meta["COLUMNS"])
        return (min(tiles, processors(x.device)) if meta["STAYS"] else tiles,)

    _product[grid](
        *(_tiles(x), _tiles(weight), _tiles(found), _tiles(found if skip is None else skip)),
        *(bias, *(normed or (bias, bias)), bias if scale is None else scale),
        *(rows, outputs, depth, factor, min(triton.next_power_of_2(rows), MANY)),
        NORMED=normed is not None,
        SCALED=scale is not None,
        SKIP=skip is not None,
        ACTIVE=0 if active is None else 1 + (active == "erf"),
        SMALL=dtype == BYTE,
    )
    return found


def active_bytes(x: Tensor, bias: Tensor, scale: Tensor, factor: float, *, gelu_form: GeluForm) -> Tensor:
    """factor · gelu(scale · x + bias) in 8 bits, for products that another library makes."""
    found = torch.empty(x.shape, dtype=BYTE, device=x.device)
    rows, channels = x.shape
    _active_bytes[(triton.cdiv(rows, 8), triton.cdiv(channels, 512))](
        *(x, bias, scale, found, rows, channels, factor), ERF=gelu_form == "erf", ROWS=8, COLUMNS=512, num_warps=4
    )
    return found


@cache
def processors(device: torch.device) -> int:
    return 2 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def _tiles(table: Tensor) -> Any:
    return TensorDescriptor.from_tensor(table, [16, 16])  # (the size of a tile is set for each way of cutting)


def _cut(nargs: dict[str, Any]) -> None:
    rows, columns = nargs["ROWS"], nargs["COLUMNS"]
    depth = nargs["DEPTH"] // nargs["x"].base.element_size()
    nargs["x"].block_shape, nargs["weight"].block_shape = [rows, depth], [columns, depth]
    nargs["found"].block_shape = nargs["skip"].block_shape = [rows, columns // nargs["PARTS"]]


def ways() -> list[Any]:
    """Of cutting the work; the GPU says which is the best.

    (rows, columns, bytes of the depth at a time, parts that results are written in, whether a program goes on to
    another tile, warps, stages)
    """
    several = (
        (128, 256, 128, 2, True, 8, 3),
        (128, 128, 128, 1, True, 8, 4),
        (128, 128, 128, 2, False, 4, 3),
        (256, 128, 128, 2, True, 8, 3),
    )
    names = ("ROWS", "COLUMNS", "DEPTH", "PARTS", "STAYS")
    return [
        triton.Config(dict(zip(names, way, strict=False)), num_warps=way[5], num_stages=way[6], pre_hook=_cut)
        for way in several
    ]


@triton.jit
def _tile(number, down, across, GROUP: tl.constexpr):  # noqa: N803
    """Tiles in an order that uses what is in the L2 cache: strips of GROUP tiles' height, column by column."""
    strip = number // (GROUP * across)
    height = min(down - strip * GROUP, GROUP)
    within = number % (GROUP * across)
    return strip * GROUP + within % height, within // height


@triton.jit
def _finish(
    total, row, column, bias, statistics, before, scale, skip, rows, outputs, factor,
    NORMED: tl.constexpr, SCALED: tl.constexpr, SKIP: tl.constexpr,  # noqa: N803
    ACTIVE: tl.constexpr, SMALL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    tokens, channels = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    if NORMED:
        total += tl.load(before + channels, mask=channels < outputs, other=0.0)[None, :]
        total *= tl.load(statistics + 2 * tokens + 1, mask=tokens < rows, other=0.0)[:, None]
    if SCALED:
        total *= tl.load(scale + channels, mask=channels < outputs, other=0.0)[None, :]
    total += tl.load(bias + channels, mask=channels < outputs, other=0.0)[None, :]
    if ACTIVE != 0:
        total = gelu(total, ACTIVE == 2)
    if SKIP:
        total += skip.load([row, column]).to(tl.float32)
    total *= factor
    return tl.minimum(tl.maximum(total, -448.0), 448.0).to(tl.float8e4nv) if SMALL else total.to(tl.bfloat16)


@triton.autotune(
    configs=ways()[:1] if INTERPRETED else ways(),
    key=["size", "outputs", "depth", "NORMED", "SCALED", "SKIP", "ACTIVE", "SMALL"],
)
@triton.jit
def _product(
    x, weight, found, skip, bias, statistics, before, scale, rows, outputs, depth, factor, size,  # noqa: ARG001
    NORMED: tl.constexpr, SCALED: tl.constexpr, SKIP: tl.constexpr,  # noqa: N803
    ACTIVE: tl.constexpr, SMALL: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,  # noqa: N803
    PARTS: tl.constexpr, STAYS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    STEP: tl.constexpr = DEPTH * 8 // x.dtype.primitive_bitwidth  # noqa: N806
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(outputs, COLUMNS)
    steps = tl.cdiv(depth, STEP)
    for number in tl.range(tl.program_id(0), down * across, tl.num_programs(0), flatten=STAYS):
        high, far = _tile(number, down, across, 8)
        row, column = high * ROWS, far * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for step in range(steps):
            total = tl.dot(x.load([row, step * STEP]), weight.load([column, step * STEP]).T, total)
        if PARTS == 1:
            done = _finish(
                total, row, column, bias, statistics, before, scale, skip, rows, outputs, factor,
                NORMED, SCALED, SKIP, ACTIVE, SMALL, ROWS, COLUMNS,
            )  # fmt: skip
            found.store([row, column], done)
        else:
            # In halves: what waits for being written takes half the room.
            HALF: tl.constexpr = COLUMNS // 2  # noqa: N806
            left, right = total.reshape(ROWS, 2, HALF).permute(0, 2, 1).split()
            done = _finish(
                left, row, column, bias, statistics, before, scale, skip, rows, outputs, factor,
                NORMED, SCALED, SKIP, ACTIVE, SMALL, ROWS, HALF,
            )  # fmt: skip
            found.store([row, column], done)
            done = _finish(
                right, row, column + HALF, bias, statistics, before, scale, skip, rows, outputs, factor,
                NORMED, SCALED, SKIP, ACTIVE, SMALL, ROWS, HALF,
            )  # fmt: skip
            found.store([row, column + HALF], done)


@triton.jit
def _active_bytes(
    x, bias, scale, found, rows, channels, factor,
    ERF: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = column < channels
    inside = (row < rows)[:, None] & there[None, :]
    at = row.to(tl.int64)[:, None] * channels + column[None, :]
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    values *= tl.load(scale + column, mask=there, other=0.0)[None, :]
    values += tl.load(bias + column, mask=there, other=0.0)[None, :]
    values = tl.minimum(gelu(values, ERF) * factor, 448.0)
    tl.store(found + at, values.to(tl.float8e4nv), mask=inside)
