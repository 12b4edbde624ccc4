"""The GELU inside kernels, in both forms that Mixers have."""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def gelu(x, ERF: tl.constexpr):  # noqa: N803
    """ERF: the erf form instead of tanh's."""
    half = 0.5 * x
    if ERF:
        return half + half * tl.erf(x * 0.7071067811865476)
    return half + half * _tanh(x * (0.7978845608028654 + 0.035677408136300125 * x * x))


@triton.jit
def _tanh(x):
    if INTERPRETED:
        return 2 * tl.sigmoid(2 * x) - 1
    # One instruction, right to 11 bits; bfloat16 keeps 8.
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
