"""Augmentation of training images. Import this late: it brings torchvision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageFilter
from torch import Tensor

from mlpmixer.data.preprocess import prepare, resize
from mlpmixer.data.rand_augment import RandAugment, as_image, as_tensor
from mlpmixer.data.small_images import AutoAugment, TrivialAugment
from mlpmixer.data.torchvision_guard import ensure_torchvision
from mlpmixer.errors import DataError
from mlpmixer.metadata import Preprocessing
from mlpmixer.recipe import Augment

ensure_torchvision()

from torchvision.transforms import v2  # noqa: E402


class Augmentation:
    """A decoded image → uint8 (3, H, W), by crop, flip, policy and erasing, in this order.

    Random numbers come from torch's global generator: the same seed gives the same result, bit for bit.

    Args:
        how: The table `augment` of a recipe.
        evaluation: The preprocessing for evaluation, which gives H and W, and is what the crop "resize" does; the other
            crops scale bilinearly, with antialiasing.
    """

    def __init__(self, how: Augment, evaluation: Preprocessing):
        self.how, self.evaluation = how, evaluation
        self.size = size = evaluation.crop
        self.covering = Preprocessing(resize=max(size), crop=size)
        self.inception = v2.RandomResizedCrop(size, scale=how.area, ratio=how.ratio)
        self.policy = policy(how)
        self.erase = v2.RandomErasing(how.erase, value=127)  # gray, about 0 to the model

    def __call__(self, image: Image.Image | np.ndarray) -> UInt8[Tensor, "3 H W"]:
        """`image`: what `decode` or `pixels` gives."""
        pixels = self._crop(np.asarray(image))
        if self.how.flip and torch.rand(()) < 0.5:
            pixels = pixels.flip(2)
        if self.policy is not None:
            pixels = self.policy(pixels)
        if self.how.erase:
            pixels = self.erase(pixels)
        return pixels.contiguous()

    def _crop(self, image: np.ndarray) -> Tensor:
        height, width = self.size
        match self.how.crop:
            case "inception":
                box = self.inception.make_params([torch.empty(1).expand(3, *image.shape[:2])])
                return resize(_part(image, **box), self.size)
            case "window":
                return resize(_window(image, self.how.area), self.size)
            case "pad":
                pixels = prepare(image, self.covering)
                by = self.how.padding
                top, left = torch.randint(2 * by + 1, (2,)).tolist()
                return F.pad(pixels, (by, by, by, by))[:, top : top + height, left : left + width]
            case "resize":
                return prepare(image, self.evaluation)
            case "none":
                if image.shape[:2] != self.size:
                    rows, columns = image.shape[:2]
                    raise DataError(
                        f"an image has {rows}×{columns} pixels and the model wants {height}×{width}; "
                        'set augment.crop to "inception", "pad" or "resize"'
                    )
                return _cut(image, 0, 0, height, width)


def _cut(image: np.ndarray, top: int, left: int, height: int, width: int) -> Tensor:
    """Copied, so that no image of a data set is ever written to."""
    return torch.from_numpy(np.array(_part(image, top, left, height, width))).permute(2, 0, 1)


def _part(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    return image[top : top + height, left : left + width]


def _window(image: np.ndarray, area: tuple[float, float]) -> np.ndarray:
    """As large a part as `area` says, somewhere; made square, it is a square part of the image made square."""
    rows, columns = image.shape[:2]
    side = float(torch.empty(1).uniform_(*area)) ** 0.5
    height, width = max(1, round(side * rows)), max(1, round(side * columns))
    top, left = (int(torch.randint(left_over + 1, ())) for left_over in (rows - height, columns - width))
    return _part(image, top, left, height, width)


def policy(how: Augment) -> Callable[[Tensor], Tensor] | None:
    """What `how.policy` names: from uint8 (3, H, W) to the same."""
    match how.policy:
        case "none":
            return None
        case "rand_augment":
            return RandAugment(how.policy_layers, how.policy_magnitude)
        case "auto_augment_cifar10":
            return AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
        case "auto_augment_imagenet":
            return AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
        case "trivial":
            return TrivialAugment()
        case "three_augment":
            one = v2.RandomChoice([v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), blur])
            return v2.Compose([as_image, one, v2.ColorJitter(0.3, 0.3, 0.3), as_tensor])


def blur(image: Image.Image) -> Image.Image:
    """DeiT III's: Pillow's quick blur, its radius drawn from 0.1 to 2 pixels."""
    return image.filter(ImageFilter.GaussianBlur(torch.empty(()).uniform_(0.1, 2.0).item()))
