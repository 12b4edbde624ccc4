"""A toy engine: PyTorch, operation by operation, in float32. Its row is in test_engines.py."""

from __future__ import annotations

import torch
from torch import Tensor

from mlpmixer.engines.rewrites import Rewritten
from mlpmixer.engines.table import Run, Setup


def why_not(setup: Setup) -> str | None:
    return "it is for images of up to 256 pixels" if max(setup.model.config.image_size) > 256 else None


def build(setup: Setup) -> Run:
    network = Rewritten(setup.model, setup.how)

    def run(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return network(pixels)

    return run
