"""Bytes of images as rows of patches."""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MIDDLE = 128  # is taken from each byte: what is left is exact in bfloat16, and small


def patches(pixels: Tensor, patch: int) -> Tensor:
    """(B, in_channels, H, W) bytes → (B · tokens, in_channels · patch²), bytes − 128 in bfloat16."""
    images, in_channels, height, width = pixels.shape
    down, across = height // patch, width // patch
    found = torch.empty(images * down * across, in_channels * patch**2, dtype=torch.bfloat16, device=pixels.device)
    _patches[(images * in_channels, down)](
        *(pixels, found, in_channels, down, across),
        PATCH=patch,
        MIDDLE=MIDDLE,
        ROOM=triton.next_power_of_2(patch * width),
        num_warps=4,
    )
    return found


@triton.jit
def _patches(
    pixels, found, in_channels, down, across,
    PATCH: tl.constexpr, MIDDLE: tl.constexpr, ROOM: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """One channel of one row of patches: a run of bytes."""
    plane = tl.program_id(0).to(tl.int64)
    height = tl.program_id(1)
    image, channel = plane // in_channels, plane % in_channels
    width = across * PATCH
    byte = tl.arange(0, ROOM)
    inside = byte < PATCH * width
    values = tl.load(pixels + (plane * down + height) * PATCH * width + byte, mask=inside, other=0)
    row, column = byte // width, byte % width
    token = (image * down + height) * across + column // PATCH
    at = (token * in_channels + channel) * PATCH * PATCH + row * PATCH + column % PATCH
    tl.store(found + at, (values.to(tl.float32) - MIDDLE).to(tl.bfloat16), mask=inside)
