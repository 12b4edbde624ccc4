"""As PyTorch runs it, operation by operation; and as its compiler puts the operations together."""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from mlpmixer.engines.rewrites import Rewritten
from mlpmixer.machine.dtypes import DTYPES
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier


class Eager:
    def __init__(self, model: Classifier, how: Preprocessing, precision: str, device: torch.device):
        self.device = device
        self.network = Rewritten(model, how, DTYPES[precision]).to(device)

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            features, logits = self.network(pixels.to(self.device, non_blocking=True))
            return features.cpu(), logits.cpu()


class Compiled(Eager):
    """The first batch takes seconds to minutes, and so does the first of any other size."""

    def __init__(self, model: Classifier, how: Preprocessing, precision: str, device: torch.device):
        super().__init__(model, how, precision, device)
        import torch._inductor.config as inductor

        self.frozen = inductor.patch(freezing=True)  # weights are laid out for their products, once
        on_gpu = device.type == "cuda"
        self.network = torch.compile(self.network, mode="max-autotune" if on_gpu else None, dynamic=False)

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        with self.frozen, torch.no_grad():  # (frozen graphs are not for inference_mode)
            features, logits = self.network(pixels.to(self.device, non_blocking=True))
            return features.cpu(), logits.cpu()
