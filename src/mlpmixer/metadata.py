"""What travels with a model's weights: how to prepare an image, what the outputs are called, the origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MOST_MEAN = 1e3  # the largest that may be taken off a value, up or down
STD_RANGE = (1e-3, 1e3)  # by which values may be divided; beyond, they or what is made of them may overflow


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a decoded RGB image to the numbers a model expects.

    `shape`: "short_side" scales the shorter side to `resize` pixels and keeps the proportions; "stretch" scales both
    sides to `resize`, as the paper does for its Table 2. The center `crop` (height, width) follows. Values in [0, 1]
    then become (value − mean) / std; the defaults give the authors' [−1, 1].
    """

    resize: int = 256
    crop: tuple[int, int] = (224, 224)
    shape: Literal["short_side", "stretch"] = "short_side"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def usual(cls, image_size: tuple[int, int]) -> Preprocessing:
        """The defaults in the proportions of 256 to 224."""
        return cls(crop=image_size, resize=round(max(image_size) * 256 / 224))


Kind = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Range:
    """What the bytes 0 to 255 stand for, evenly. Zero is one of them, since padding is zero."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        return max(self.high - self.low, 1e-12) / 255

    @property
    def zero(self) -> int:
        return min(255, max(0, round(-self.low / self.scale)))


@dataclass(frozen=True)
class LayerPrecision:
    """In what numbers one half of a Mixer's layer is computed: token mixing, or channel mixing. Bytes need the ranges
    of two tables: after LayerNorm and after the GELU."""

    kind: Kind
    normed: Range = field(default_factory=lambda: Range(0, 255))
    active: Range = field(default_factory=lambda: Range(0, 255))


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Carried by every model that was loaded, written by every save."""

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    classes: tuple[str, ...] | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    layer_precisions: tuple[LayerPrecision, ...] = ()  # of a quantized Mixer: one for each half of each layer
