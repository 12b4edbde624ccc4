"""Cheaper forms of a finished model: what is done once to weights need not be done to each image.

Each rewrite keeps the function, but for rounding. docs/benchmarks.md says what each gains.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.layers import PatchStem


class Rewritten(nn.Module):
    """`model` as a map from bytes (B, 3, H, W) to features and logits. The model that is given stays as it is.

    `in_rows`: a Mixer's token mixing goes along rows, between two transposes. It is for OpenVINO, whose products in
    bfloat16 are quicker with the weights on the right; others lose by it.
    """

    def __init__(
        self, model: Classifier, how: Preprocessing, dtype: torch.dtype = torch.float32, *, in_rows: bool = False
    ):
        super().__init__()
        model = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.normalize: nn.Module = nn.Identity()
        if (stem := stem_for_bytes(model)) is not None:
            normalize_within(stem, how, dtype)
        else:
            self.normalize = Normalize(how)
        merge_norms(model)
        self.head = model.head
        self.body = model.simplified(in_rows=in_rows)
        self.to(dtype)
        self.dtype = dtype

    def forward(self, pixels: UInt8[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B classes"]]:
        features = self.body(self.normalize(pixels.to(self.dtype)))
        logits = features[:, :0] if isinstance(self.head, nn.Identity) else self.head(features)
        return features.float(), logits.float()


def stem_for_bytes(model: Classifier) -> PatchStem | None:
    """The stem, if normalization can become a part of it: not where that pads what is normalized already."""
    stem = getattr(model, "stem", None)
    return stem if isinstance(stem, PatchStem) and not any(stem.padding) else None


def values_of_bytes(how: Preprocessing) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """`scale` and `shift`: a byte's value is scale · (byte − shift)."""
    mean, std = torch.tensor(how.mean), torch.tensor(how.std)
    return 1 / (255 * std), 255 * mean


class Normalize(nn.Module):
    """What nothing else could take over."""

    def __init__(self, how: Preprocessing):
        super().__init__()
        scale, shift = values_of_bytes(how)
        self.scale, self.shift = nn.Buffer(scale[:, None, None]), nn.Buffer(shift[:, None, None])

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return (pixels - self.shift) * self.scale


@torch.no_grad()
def normalize_within(stem: PatchStem, how: Preprocessing, dtype: torch.dtype) -> None:
    """W · scale · (byte − shift) + b, as one map. Bytes are exact in bfloat16; the map is rounded to `dtype` first, so
    that what the rounding does to the mean of all images goes into the bias."""
    scale, shift = values_of_bytes(how)
    weight, bias = stem.patches.weight, stem.patches.bias
    assert bias is not None
    weight.mul_(scale[:, None, None]).copy_(weight.to(dtype))
    bias.sub_(torch.einsum("ocij,c->o", weight, shift))


def merge_norms(model: Classifier) -> None:
    """Wherever a linear map along the channels comes after LayerNorm. (Token mixing maps along the tokens.)"""
    for norm, linear in model.normed_linears():
        merge_norm(norm, linear)


@torch.no_grad()
def merge_norm(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """LayerNorm's scale and shift, done by the linear map that comes next."""
    linear.bias.add_(linear.weight @ norm.bias)
    linear.weight.mul_(norm.weight)
    norm.weight, norm.bias = None, None  # pyright: ignore[reportAttributeAccessIssue] (as without elementwise_affine)
