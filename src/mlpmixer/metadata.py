"""Model metadata, stored beside the weights: preprocessing, class names, origin, precision of layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mlpmixer.text import fault

MAX_PIXELS = 16_384  # of a side of a prepared image
MOST_RANGE = 1e6  # where a table of a quantized Mixer may end; LayerNorm and the GELU give some tens
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
    """A model's metadata: every model has one, and every save writes it.

    Attributes:
        preprocessing: How an image is prepared.
        classes: The names of the outputs; None: they have none.
        provenance: Where the weights come from; any keys.
        layer_precisions: Of a quantized Mixer, one for each half of each layer.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    classes: tuple[str, ...] | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    layer_precisions: tuple[LayerPrecision, ...] = ()

    def check(self, num_classes: int, image_size: tuple[int, int], *, mixer_layers: int) -> None:
        """Stops what would go wrong only when an image is prepared or a class is named.

        Args:
            num_classes: Of the model.
            image_size: Height and width that the model takes, in pixels.
            mixer_layers: Layers whose two halves may have a precision of their own.

        Raises:
            ValueError: Something does not fit the model, or cannot be computed with.
        """
        if self.classes is not None:
            if len(self.classes) != num_classes:
                raise ValueError(f"{len(self.classes)} class names for {num_classes} classes")
            if (wrong := fault(self.classes)) is not None:
                raise ValueError(f"it {wrong}")
        how = self.preprocessing
        if not all(1 <= side <= MAX_PIXELS for side in (how.resize, *how.crop)):
            raise ValueError(f"images scaled to {how.resize} and cropped to {how.crop} pixels")
        if how.crop != image_size:
            cropped, taken = ("×".join(map(str, size)) for size in (how.crop, image_size))
            raise ValueError(f"images cropped to {cropped} pixels for a model that takes {taken}")
        low, high = STD_RANGE
        sound = all(abs(value) <= MOST_MEAN for value in how.mean) and all(low <= value <= high for value in how.std)
        if not sound or len(how.mean) != 3 or len(how.std) != 3:
            raise ValueError(f"images with a mean of {how.mean} and a deviation of {how.std}")
        halves = 2 * mixer_layers
        if self.layer_precisions and len(self.layer_precisions) != halves:
            raise ValueError(f"{len(self.layer_precisions)} layer precisions for {halves} halves of layers")
        for layer in self.layer_precisions:
            ends = (layer.normed.low, layer.normed.high, layer.active.low, layer.active.high)
            if not all(abs(end) <= MOST_RANGE for end in ends):
                raise ValueError(f"a layer precision without ranges: {layer}")
