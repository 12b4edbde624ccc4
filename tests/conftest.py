"""Shapes written in the models' annotations are checked in tests (and only here), on every call that a test makes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TypeVar

import jaxtyping

FILES = ["mixer", "vit", "bit", "layers", "classifier", "convolutional"]
jaxtyping.install_import_hook([f"mlpmixer.models.{name}" for name in FILES], "beartype.beartype")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

# A shell that starts tests in the background has them ignore Ctrl-C, and all that they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: a thread each
    torch.set_num_threads(1)

PHOTOS = Path(__file__).parent / "photos"


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def timm():
    """timm imports torchvision, which needs our guard beside a CPU-only torch."""
    from mlpmixer.data.torchvision_guard import ensure_torchvision

    ensure_torchvision()
    import timm

    return timm


@pytest.fixture
def photos() -> list[Path]:
    """Real photographs, of different shapes (CC0; see tests/photos/README.md)."""
    return sorted(PHOTOS.glob("*.jpg"))


@pytest.fixture
def photo_batch(photos: list[Path]):
    """The photographs as a model's input, (B, 3, height, width)."""
    from mlpmixer.data.pictures import decode
    from mlpmixer.data.preprocess import preprocess
    from mlpmixer.passport import Preprocessing

    def batch(height: int, width: int) -> Tensor:
        how = Preprocessing(resize=max(height, width) * 8 // 7, crop=(height, width))
        return torch.stack([preprocess(decode(photo), how) for photo in photos])

    return batch


def write_idx(path: Path, array: np.ndarray) -> None:
    """A file in the form of MNIST's."""
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sides + array.astype(np.uint8).tobytes())


Module = TypeVar("Module", bound=nn.Module)


def shaken(model: Module) -> Module:
    """The model with no weight left at a value that would hide a mistake: zero heads, unit scales, zero biases."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()
