"""PyTorch, operation by operation."""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from mlpmixer.engines.rewrites import Rewritten
from mlpmixer.engines.table import Run, Setup
from mlpmixer.machine.devices import DTYPES


def why_not(setup: Setup) -> None:  # noqa: ARG001 (it runs whatever there is)
    return None


def build(setup: Setup) -> Run:
    network = Rewritten(setup.model, setup.how, DTYPES[setup.precision]).to(setup.device)

    def run(pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            features, logits = network(pixels.to(setup.device, non_blocking=True))
            return features.cpu(), logits.cpu()

    return run
