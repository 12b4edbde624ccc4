"""Random images, in every form that some system takes. They are made and prepared before anybody's time runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mlpmixer.data.preprocess import normalize
from mlpmixer.metadata import Preprocessing

# From bytes and from their normalized values to what is handed over.
FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "bytes": lambda pixels, _values: pixels,
    "floats": lambda _pixels, values: values,
    "bfloats": lambda _pixels, values: values.to(torch.bfloat16),
    "array": lambda _pixels, values: values.numpy(),
    "array, channels last": lambda _pixels, values: values.permute(0, 2, 3, 1).contiguous().numpy(),
}


class Images:
    """`count` batches at a time, the same for all systems; other ones after `renew`."""

    def __init__(self, shape: tuple[int, ...], how: Preprocessing, device: torch.device):
        self.shape, self.how, self.device = shape, how, device
        self.count, self.forms = 1, ("bytes",)
        self.renew()

    def renew(self) -> None:
        pixels = [torch.randint(0, 256, self.shape, dtype=torch.uint8) for _ in range(self.count)]
        values = [normalize(each, self.how).to(self.device) for each in pixels]
        self._batches = {
            form: [FORMS[form](*pair) for pair in zip(pixels, values, strict=True)] for form in {*self.forms, "bytes"}
        }

    def prepare(self, forms: Iterable[str], count: int) -> None:
        self.forms, self.count = tuple(forms), count
        self.renew()

    def __getitem__(self, form: str) -> list[Any]:
        return self._batches[form]
