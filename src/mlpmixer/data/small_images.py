"""AutoAugment and TrivialAugment of torchvision, faster for small images and bit-identical.

With 32×32 pixels, what takes time is all that is around the work. So what moves pixels, or changes each value by
itself, is asked of torchvision once, with an image that tells where pixels come from or what becomes of values, and
looked up from then on; the few other operations are written for arrays. Import this late: it brings torchvision.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from mlpmixer.data.rand_augment import GRAY, SMALL, as_image, as_tensor
from mlpmixer.data.torchvision_guard import ensure_torchvision

ensure_torchvision()

from torchvision.transforms import v2  # noqa: E402

Pixels = UInt8[np.ndarray, "3 H W"]

MOVES = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
VALUE_BY_VALUE = {"Brightness", "Posterize", "Solarize", "Invert"}
SHARES = np.array((19595, 38470, 7471), dtype=np.float32)  # of red, green and blue in the brightness, times 2¹⁶


class Faster:
    """Does what torchvision's policy `theirs` does, with the same random numbers from torch."""

    def __init__(self, theirs: Any):
        self.theirs = theirs

    def __call__(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
        _, height, width = pixels.shape
        if height * width > SMALL:
            return as_tensor(self.theirs(as_image(pixels)))
        changed = pixels.contiguous().numpy()
        for operation, magnitude in self.draw(height, width):
            changed = applied(operation, magnitude, changed)
        return torch.from_numpy(changed)

    def draw(self, height: int, width: int) -> Iterator[tuple[str, float]]:
        """The operations for one image, and their magnitudes."""
        raise NotImplementedError


class AutoAugment(Faster):
    def __init__(self, policy: v2.AutoAugmentPolicy):
        super().__init__(v2.AutoAugment(policy, fill=GRAY))

    def draw(self, height: int, width: int) -> Iterator[tuple[str, float]]:
        rules, space = self.theirs._policies, _space(v2.AutoAugment, 10, height, width)
        for operation, chance, strength in rules[int(torch.randint(len(rules), ()))]:
            if torch.rand(()).item() <= np.float32(chance):
                magnitudes, either_way = space[operation]
                magnitude = magnitudes[strength] if magnitudes else 0.0
                yield operation, -magnitude if either_way and torch.rand(()).item() <= 0.5 else magnitude


class TrivialAugment(Faster):
    def __init__(self) -> None:
        super().__init__(v2.TrivialAugmentWide(fill=GRAY))

    def draw(self, height: int, width: int) -> Iterator[tuple[str, float]]:
        space = _space(v2.TrivialAugmentWide, 31, height, width)
        operation = tuple(space)[int(torch.randint(len(space), ()))]
        magnitudes, either_way = space[operation]
        magnitude = magnitudes[int(torch.randint(len(magnitudes), ()))] if magnitudes else 0.0
        yield operation, -magnitude if either_way and torch.rand(()).item() <= 0.5 else magnitude


@functools.cache
def _space(policy: Any, count: int, height: int, width: int) -> dict[str, tuple[list[float], bool]]:
    """The magnitudes of each operation, and whether it goes either way."""
    found = {}
    for operation, (magnitudes_of, either_way) in policy._AUGMENTATION_SPACE.items():
        magnitudes = magnitudes_of(count, height, width)
        found[operation] = [] if magnitudes is None else magnitudes.tolist(), either_way
    return found


def applied(operation: str, magnitude: float, pixels: Pixels) -> Pixels:
    _, height, width = pixels.shape
    if operation in MOVES:
        return _moved(pixels, _origins(operation, magnitude, height, width))
    if operation in VALUE_BY_VALUE:
        return _through(pixels, _table(operation, magnitude))
    match operation:
        case "AutoContrast":
            return np.stack([_through(color, _stretched(int(color.min()), int(color.max()))) for color in pixels])
        case "Equalize":
            return np.stack([_through(color, _evened(color)) for color in pixels])
        case "Color":
            return _away(_brightness(pixels), pixels, 1 + magnitude)
        case "Contrast":
            return _away(np.floor(_brightness(pixels).mean() + 0.5), pixels, 1 + magnitude)
        case "Sharpness":
            return _away(_smooth(pixels), pixels, 1 + magnitude)
        case _:
            assert operation == "Identity", operation
            return pixels


@functools.lru_cache(maxsize=2048)
def _origins(operation: str, magnitude: float, height: int, width: int) -> Int[np.ndarray, " HW"]:
    """The index of the pixel that each pixel comes from; one past the last where that is outside the image."""
    places = np.arange(height * width).reshape(height, width)
    low, high, filled = _by_theirs(
        operation, magnitude, np.stack([places % 256, places // 256, 0 * places]).astype(np.uint8)
    )
    return np.where(filled == GRAY, height * width, low + 256 * high.astype(np.intp)).ravel()


def _moved(pixels: Pixels, origins: Int[np.ndarray, " HW"]) -> Pixels:
    flat = np.full((3, origins.size + 1), GRAY, dtype=np.uint8)
    flat[:, :-1] = pixels.reshape(3, -1)
    return flat.take(origins, axis=1, mode="clip").reshape(pixels.shape)  # "clip" is the quickest, and clips nothing


@functools.lru_cache(maxsize=256)
def _table(operation: str, magnitude: float) -> bytes:
    """The lookup table of an operation that changes each value by itself."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return _by_theirs(operation, magnitude, np.stack([values] * 3))[0].tobytes()


def _by_theirs(operation: str, magnitude: float, pixels: Pixels) -> Pixels:
    theirs: Any = v2.TrivialAugmentWide(fill=GRAY)
    how = {"interpolation": theirs.interpolation, "fill": theirs._fill}
    image = Image.fromarray(pixels.transpose(1, 2, 0).copy())
    return np.asarray(theirs._apply_image_or_video_transform(image, operation, magnitude, **how)).transpose(2, 0, 1)


def _through(values: np.ndarray, table: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(values).translate(table), dtype=np.uint8).reshape(values.shape)


@functools.lru_cache(maxsize=4096)
def _stretched(low: int, high: int) -> bytes:
    """The darkest value becomes 0, the lightest 255."""
    values = np.arange(256)
    if low < high:
        scale = 255.0 / (high - low)
        values = np.clip(values * scale - low * scale, 0, 255)
    return values.astype(np.uint8).tobytes()


def _evened(color: UInt8[np.ndarray, "H W"]) -> bytes:
    """All values become about as frequent."""
    counts = np.bincount(color.ravel(), minlength=256)
    values, step = np.arange(256), (color.size - int(counts[color.max()])) // 255
    if step:
        values = np.minimum((counts.cumsum() - counts + step // 2) // step, 255)
    return values.astype(np.uint8).tobytes()


def _brightness(pixels: Pixels) -> UInt8[np.ndarray, "H W"]:
    """Rounded; in float32 exactly, since no sum is above 2²⁴."""
    sums = SHARES @ pixels.reshape(3, -1).astype(np.float32) + np.float32(2**15)
    return (sums * np.float32(2**-16)).astype(np.uint8).reshape(pixels.shape[1:])


def _smooth(pixels: Pixels) -> Pixels:
    """The mean of 3×3 pixels, of which the middle counts five times, rounded; the border stays as it is."""
    result, wide = pixels.copy(), pixels.astype(np.uint16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[:, 1:-1, 1:-1]
    result[:, 1:-1, 1:-1] = (2 * sums + 13) // 26
    return result


def _away(start: np.ndarray, pixels: Pixels, share: float) -> Pixels:
    """From `start`, a `share` of the way to the pixels and perhaps on; cut off to bytes."""
    start = np.asarray(start, dtype=np.float32)
    return np.clip(start + np.float32(share) * (pixels - start), 0, 255).astype(np.uint8)
