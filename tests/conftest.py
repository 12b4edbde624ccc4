"""Shapes written in the models' annotations are checked in tests (and only here), on every call that a test makes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TypeVar, get_args

import jaxtyping

from mlpmixer.models import FAMILIES

OTHERS = [f"mlpmixer.models.{name}" for name in ("layers", "classifier", "convolutional", "batch_norm", "operators")]
jaxtyping.install_import_hook([*(row.module for row in FAMILIES.values()), *OTHERS], "beartype.beartype")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from messages import pytest_addoption, pytest_collection_modifyitems, pytest_sessionfinish, says  # noqa: E402
from torch import Tensor, nn  # noqa: E402

__all__ = ["pytest_addoption", "pytest_collection_modifyitems", "pytest_sessionfinish", "says"]  # for pytest

hypothesis.settings.register_profile("here", deadline=None)  # a busy machine is no mistake
hypothesis.settings.load_profile("here")

# A shell that starts tests in the background has them ignore Ctrl-C, and all that they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: a thread each
    torch.set_num_threads(1)

PHOTOS = Path(__file__).parent / "photos"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skips are easily overlooked."""
    from mlpmixer.kernels.library import Name, library

    reasons = {reason: None for name in get_args(Name) if isinstance(reason := library(name), str)}
    if reasons:
        terminalreporter.write_line(f"C++ kernels were NOT tested: {'; '.join(reasons)}", red=True, bold=True)


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
    from mlpmixer.data.images import decode
    from mlpmixer.data.preprocess import preprocess
    from mlpmixer.metadata import Preprocessing

    def batch(height: int, width: int) -> Tensor:
        how = Preprocessing(resize=max(height, width) * 8 // 7, crop=(height, width))
        return torch.stack([preprocess(decode(photo), how) for photo in photos])

    return batch


def write_idx(path: Path, array: np.ndarray) -> None:
    """A file in the form of MNIST's."""
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sides + array.astype(np.uint8).tobytes())


def noted(run: Path) -> list[str]:
    """The whole lines of its metrics to the letter, and so with the times at which they were written."""
    return (run / "metrics.jsonl").read_text().split("\n")[:-1]


def up_to(step: int, lines: list[str]) -> list[str]:
    """Those that a run keeps when it goes on from the checkpoint of that step."""
    told = {text: json.loads(text) for text in lines}
    return [text for text in lines if told[text]["step"] <= step and not told[text]["kind"].startswith("final")]


def assert_went_on(run: Path, before: list[str], step: int) -> None:
    """From that step: lines up to there stand as they were written, and none of those after it does.

    A run that began anew would learn the same, but tell it at other times.
    """
    kept, now = up_to(step, before), noted(run)
    assert kept
    assert now[: len(kept)] == up_to(step, now) == kept
    assert not {*now[len(kept) :]} & {*before}


Module = TypeVar("Module", bound=nn.Module)


def shaken(model: Module) -> Module:
    """The model with no weight left at a value that would hide a mistake: zero heads, unit scales, zero biases."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        for average in model.buffers():  # of a batch normalization: upwards, since a variance stays above zero
            if average.is_floating_point():
                average.add_(torch.rand_like(average), alpha=0.1)
    return model.eval()
