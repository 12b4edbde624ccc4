"""PyTorch through torch.compile. The first batch takes seconds to minutes, and so does the first of any other size."""

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
    import torch._inductor.config as inductor

    network = Rewritten(setup.model, setup.how, DTYPES[setup.precision]).to(setup.device)
    frozen = inductor.patch(freezing=True)  # weights are laid out for their products, once
    mode = "max-autotune" if setup.device.type == "cuda" else None
    compiled = torch.compile(network, mode=mode, dynamic=False)

    def run(pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        with frozen, torch.no_grad():  # (frozen graphs are not for inference_mode)
            features, logits = compiled(pixels.to(setup.device, non_blocking=True))
            return features.cpu(), logits.cpu()

    return run
