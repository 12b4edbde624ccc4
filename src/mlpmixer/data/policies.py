"""Augmentation policies by name. Import this late: it brings torchvision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from mlpmixer.data.rand_augment import RandAugment, as_image, as_tensor
from mlpmixer.data.small_images import AutoAugment, TrivialAugment
from mlpmixer.data.torchvision_guard import ensure_torchvision
from mlpmixer.recipe import Augment

ensure_torchvision()

from torchvision.transforms import v2  # noqa: E402


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
