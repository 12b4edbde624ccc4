"""What a model costs: parameters, multiply-adds, activation memory; counted on shapes, without computing.

python -m mlpmixer.models.measure [NAME...]    writes measured.json, which lets `mixer models` answer without torch
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mlpmixer.models import canonical, describe, family, family_name, list_models
from mlpmixer.models.measured import MEASURED


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The cost of a model.

    Attributes:
        dimensions: What tells the sizes of the family apart.
        tokens: S, the patches of an image (0 for a convolutional network).
        gmacs: 10⁹ multiply-adds of a forward pass of one image.
        activation_mb: 10⁶ bytes of activations stored for the backward pass of one image, in float32.
    """

    name: str
    dimensions: dict[str, Any]
    image_size: tuple[int, int]
    tokens: int
    params: int
    params_without_head: int
    gmacs: float
    activation_mb: float


def measure(name: str, **options: Any) -> Measure:
    """The cost of the model that `create(name, **options)` would make."""
    name = canonical(name)
    config = describe(name, **options)
    model, image = _as_shapes(name, config)
    params, gmacs = _counted(model, image)
    head = sum(p.numel() for p in model.get_submodule("head").parameters())
    grids = family(family_name(name)).grids(config)
    return Measure(
        name=name,
        dimensions=config.dimensions(),
        image_size=config.image_size,
        tokens=math.prod(grids[0]) if grids else 0,
        params=params,
        params_without_head=params - head,
        gmacs=gmacs,
        # What a second image adds; BiT's standardized kernels, say, are kept once however many there are.
        activation_mb=(kept_for_backward(model, image.expand(2, -1, -1, -1)) - kept_for_backward(model, image)) / 1e6,
    )


def counted(name: str, **options: Any) -> tuple[float, int]:
    """`gmacs` and `params` alone: a third of the work."""
    name = canonical(name)
    params, gmacs = _counted(*_as_shapes(name, describe(name, **options)))
    return gmacs, params


def _as_shapes(name: str, config: Any) -> tuple[nn.Module, Tensor]:
    """The model and one image, without numbers."""
    with torch.device("meta"):
        model = family(family_name(name)).build(config, name)
        return model.eval(), torch.empty(1, config.in_channels, *config.image_size)


def _counted(model: nn.Module, image: Tensor) -> tuple[int, float]:
    flops = FlopCounterMode(display=False)
    with flops, torch.no_grad():
        model(image)
    return sum(p.numel() for p in model.parameters()), flops.get_total_flops() / 2e9


def kept_for_backward(model: nn.Module, images: Tensor) -> int:
    """Bytes of all tensors that autograd holds on to after a forward pass, the parameters left out."""
    kept = {p.untyped_storage()._cdata: 0 for p in model.parameters()}
    alive = []  # a storage's address names it only while it lives

    def note(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        kept.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images)
    return sum(kept.values())


if __name__ == "__main__":
    asked = sys.argv[1:] or list_models()
    known = {row["name"]: row for row in json.loads(MEASURED.read_text())}
    known |= {name: asdict(measure(name)) for name in map(canonical, asked)}
    rows = [json.dumps(known[name]) for name in list_models()]
    MEASURED.write_text("[\n  " + ",\n  ".join(rows) + "\n]\n")
