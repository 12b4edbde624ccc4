"""A plain Mixer's forward pass by `forward.cpp`: bytes of images in, features and logits out.

Weights are packed once, in the precision of each half of each layer. The ranges of int8 tables are fixed beforehand,
too: weights have a scale for each output, activations a range for each table.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mlpmixer.errors import UsageError
from mlpmixer.kernels.library import MOST, address, library
from mlpmixer.kernels.weights import GeluForm, HalfWeights
from mlpmixer.metadata import Kind, LayerPrecision

NUMBERS: dict[Kind, int] = {"fp32": 1, "bf16": 2, "int8": 4}  # in a word of 32 bits
PANEL: dict[Kind, int] = {"fp32": 64, "bf16": 64, "int8": 32}  # columns


@dataclass(frozen=True)
class Parts:
    """A plain Mixer, taken apart. The stem's map takes patches of values from 0 to 255, minus `shift`."""

    image: tuple[int, int, int]  # channels, rows, columns
    patch: int
    gelu: GeluForm
    stem: Float[Tensor, "C depth"]
    stem_bias: Float[Tensor, " C"]
    shift: Float[Tensor, " depth"]
    halves: Sequence[HalfWeights]  # token mixing, channel mixing, token mixing, …
    gamma: Tensor
    beta: Tensor
    head: Float[Tensor, "classes C"] | None
    head_bias: Float[Tensor, " classes"] | None


class Forward:
    """May be called from several threads. `layer_precisions`: one for each half; `kind`: of the stem and the head."""

    def __init__(self, parts: Parts, layer_precisions: Sequence[LayerPrecision], kind: Kind):
        _check(parts)
        in_channels, rows, columns = parts.image
        tokens = (rows // parts.patch) * (columns // parts.patch)
        self.image = parts.image
        self.channels = parts.stem.shape[0]
        self.classes = 0 if parts.head is None else parts.head.shape[0]
        self._kept: list[object] = []  # what the structures point into

        stem, scale = as_numbers(parts.stem, kind)
        bias = (
            parts.stem_bias - (stem.float() * scale[:, None]) @ parts.shift
        )  # of what the rounded map would make of it
        halves = (_Half * len(parts.halves))()
        for i, (half, layer) in enumerate(zip(parts.halves, layer_precisions, strict=True)):
            halves[i] = self._half(half, layer, token_mixing=i % 2 == 0)
        head, head_bias = None, None
        if parts.head is not None and parts.head_bias is not None:
            head_kind: Kind = "fp32" if kind == "fp32" else "bf16"
            head = _packed(as_numbers(parts.head, head_kind)[0], head_kind)
            head_bias = torch.nn.functional.pad(parts.head_bias, (0, -self.classes % PANEL[head_kind]))
        self._model = _Model(
            *(NUMBERS[kind], rows, columns, parts.patch, in_channels, tokens, self.channels),
            *(len(parts.halves) // 2, self.classes, int(parts.gelu == "erf")),
            *map(self._at, (_packed(stem, kind), scale, bias)),
            ctypes.cast(halves, ctypes.c_void_p),
            *map(self._at, (parts.gamma, parts.beta, head, head_bias)),
        )
        self._kept.append(halves)

    def __call__(self, images: UInt8[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B classes"]]:
        """The features before the head, and the logits."""
        if (*images.shape[1:],) != self.image:
            raise UsageError(f"images are {(*images.shape[1:],)} and the model takes {self.image}")
        found = library("forward")
        if isinstance(found, str):
            raise UsageError(f"the kernels cannot be used: {found}")
        images, count = images.contiguous(), len(images)
        features, logits = torch.empty(count, self.channels), torch.empty(count, self.classes)
        if count:
            at = address(images, torch.uint8, (count, *self.image))
            found.forward(
                *(ctypes.byref(self._model), at, count, torch.get_num_threads()),
                *(features.data_ptr(), logits.data_ptr()),
            )
        return features, logits

    def _half(self, half: HalfWeights, layer: LayerPrecision, *, token_mixing: bool) -> _Half:
        w1, scale1 = as_numbers(half.w1, layer.kind)
        w2, scale2 = as_numbers(half.w2, layer.kind)
        b1, b2 = half.b1, half.b2
        bytes1, bytes2 = _Bytes(1, 0), _Bytes(1, 0)
        if layer.kind == "int8":
            # Sums of (byte − zero) · weight: the zero's part is known beforehand.
            scale1, scale2 = scale1 * layer.normed.scale, scale2 * layer.active.scale
            b1 = b1 - scale1 * layer.normed.zero * w1.float().sum(dim=1)
            b2 = b2 - scale2 * layer.active.zero * w2.float().sum(dim=1)
            bytes1 = _Bytes(1 / layer.normed.scale, layer.normed.zero)
            bytes2 = _Bytes(1 / layer.active.scale, layer.active.zero)
        pack = _in_rows if token_mixing else _packed
        hidden = w1.shape[0]
        first, second = (pack(w, layer.kind) for w in (w1, w2))
        pointers = (half.gamma, half.beta, first, scale1, b1, second, scale2, b2)
        return _Half(NUMBERS[layer.kind], hidden, *map(self._at, pointers), bytes1, bytes2)

    def _at(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._kept.append(tensor)
        return tensor.data_ptr()


def _check(parts: Parts) -> None:
    """C++ goes by what the sizes say: tensors must be so large."""
    (in_channels, rows, columns), patch, channels = parts.image, parts.patch, len(parts.stem)
    depth = in_channels * patch**2
    if depth * rows * columns * channels < 1 or rows % patch or columns % patch:
        raise ValueError(f"the kernels take no images of {rows}×{columns} in patches of {patch}")
    tokens = (rows // patch) * (columns // patch)
    shapes: list[tuple[Tensor, tuple[int, ...]]] = [(parts.stem, (channels, depth)), (parts.shift, (depth,))]
    shapes += [(tensor, (channels,)) for tensor in (parts.stem_bias, parts.gamma, parts.beta)]
    widths = [channels]
    for i, half in enumerate(parts.halves):
        hidden, wide = len(half.w1), channels if i % 2 else tokens
        widths.append(hidden)
        shapes += [(half.gamma, (channels,)), (half.beta, (channels,)), (half.w1, (hidden, wide))]
        shapes += [(half.b1, (hidden,)), (half.w2, (wide, hidden)), (half.b2, (wide,))]
    if parts.head is not None and parts.head_bias is not None:
        shapes += [(parts.head, (len(parts.head), channels)), (parts.head_bias, (len(parts.head),))]
    for tensor, shape in shapes:
        if tensor.shape != shape or tensor.dtype != torch.float32:
            raise ValueError(f"the kernels want a float32 {shape}, not {tensor.dtype} {(*tensor.shape,)}")
    if len(parts.halves) % 2 or any(width % 16 or not 0 < width <= MOST for width in widths):
        raise ValueError(f"the kernels take multiples of 16 up to {MOST:,}, not {widths}")


def as_numbers(weight: Float[Tensor, "out in"], kind: Kind) -> tuple[Tensor, Float[Tensor, " out"]]:
    """The map in numbers of a kind, and what each of its rows is to be multiplied with."""
    weight = weight.detach()
    if kind == "int8":
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        return (weight / scale[:, None]).round().to(torch.int8), scale
    return weight.to(torch.float32 if kind == "fp32" else torch.bfloat16), torch.ones(len(weight))


def _in_rows(weight: Tensor, kind: Kind) -> Tensor:
    """(out, in) as a product's left side: rows of whole words."""
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % NUMBERS[kind]))


def _packed(weight: Tensor, kind: Kind) -> Tensor:
    """(out, in) as a product's right side: (panels, words, columns of a panel, numbers of a word)."""
    numbers, panel = NUMBERS[kind], PANEL[kind]
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % numbers, 0, -weight.shape[0] % panel))
    return weight.unflatten(0, (-1, panel)).unflatten(2, (-1, numbers)).transpose(1, 2).contiguous()


class _Bytes(ctypes.Structure):
    _fields_ = (("rate", ctypes.c_float), ("zero", ctypes.c_float))


class _Half(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "hidden")),
        *((name, ctypes.c_void_p) for name in ("gamma", "beta", "w1", "scale1", "bias1", "w2", "scale2", "bias2")),
        *((name, _Bytes) for name in ("normed", "active")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "rows", "columns", "patch", "in_channels", "tokens", "channels")),
        *((name, ctypes.c_int32) for name in ("layers", "classes", "exact")),
        *((name, ctypes.c_void_p) for name in ("stem", "stem_scale", "stem_bias", "halves")),
        *((name, ctypes.c_void_p) for name in ("gamma", "beta", "head", "head_bias")),
    )
