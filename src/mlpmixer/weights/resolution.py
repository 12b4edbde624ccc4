"""The same weights at another image size.

All of a Mixer but its token-mixing MLPs works at any number of places. Those have a weight for each place, and there
are two ways to give them more, or fewer:

"tiles", the paper's (appendix C), for sizes that are whole multiples: the larger image is K×K tiles of the old size,
and each tile is mixed as before, by its own copy of the MLP (W1 and W2 become block-diagonal). Each tile then gives
exactly the tokens it would give alone; D_S and the cost of token mixing grow with K².

"resample", ours, for any height and width: a row of W1 is an image that the tokens are compared with, and a column of
W2 is one that is painted onto them. Token mixing on the new grid is: bring the tokens to the old grid, mix there, bring
the answer back. Both changes of grid are linear, so they fold into the weights: W1' = W1·D, W2' = U·W2, b2' = U·b2.

ViT's position embeddings are painted onto the grid too, and are resampled by the same U.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.errors import UsageError
from mlpmixer.models.classifier import ClassifierConfig
from mlpmixer.models.layers import grid
from mlpmixer.models.mixer import MixerConfig
from mlpmixer.models.vit import ViTConfig

Scheme = Literal["resample", "tiles"]
Grid = tuple[int, int]
State = dict[str, Tensor]


def change_resolution(
    state: State, config: ClassifierConfig, image_size: Grid, scheme: Scheme
) -> tuple[State, ClassifierConfig]:
    """`state` of a model with `config`, made fit for images of `image_size`, and the config that it then has."""
    new = dataclasses.replace(config, image_size=image_size)
    if isinstance(config, ViTConfig):
        before, after = grid(config.image_size, config.patch_size), grid(image_size, config.patch_size)
        if scheme == "tiles":
            raise UsageError("tiles is a scheme for Mixers; ViT's position embeddings are resampled")
        return {**state, "position": resample_positions(state["position"], before, after)}, new
    if not isinstance(config, MixerConfig) or not isinstance(new, MixerConfig):
        return state, new  # a convolutional network has no weight that knows the size
    if scheme == "tiles":
        return tile(state, config, new)
    return resample(state, config, new), new


def resample(state: State, old: MixerConfig, new: MixerConfig) -> State:
    changed = dict(state)
    for layer, part in _token_mixing(state):
        to_old = Resize(new.grids()[layer], old.grids()[layer])  # D
        to_new = Resize(old.grids()[layer + 1], new.grids()[layer + 1])  # U
        w1, _, w2, b2 = (tensor.double() for tensor in _by_group(state, part, old.groups))
        moved = {
            "fc1.weight": to_old.before(w1),
            "fc2.weight": to_new.after(w2.transpose(-1, -2)).transpose(-1, -2),
            "fc2.bias": to_new.after(b2),
        }
        changed |= _joined(part, moved, state)
    return changed


def tile(state: State, old: MixerConfig, new: MixerConfig) -> tuple[State, MixerConfig]:
    tiles = tuple(after // before for after, before in zip(new.image_size, old.image_size, strict=True))
    whole = all(a == k * b for a, b, k in zip(new.image_size, old.image_size, tiles, strict=True))
    if not whole or any(side % old.patch_size for side in old.image_size):
        raise UsageError(
            f"tiles needs a whole multiple of {old.image_size[0]}×{old.image_size[1]}, "
            f"not {new.image_size[0]}×{new.image_size[1]}; resample takes any size"
        )
    changed, copies = dict(state), tiles[0] * tiles[1]
    for layer, part in _token_mixing(state):
        looks = tile_places(old.grids()[layer], tiles)
        paints = tile_places(old.grids()[layer + 1], tiles)
        w1, b1, w2, b2 = _by_group(state, part, old.groups)
        (*untied, hidden, groups, _), places_in, places_out = w1.shape, looks.numel(), paints.numel()
        wide1 = w1.new_zeros(*untied, copies, hidden, groups, places_in)
        wide2 = w2.new_zeros(*untied, groups, places_out, copies, hidden)
        bias2 = b2.new_zeros(*untied, groups, places_out)
        for t in range(copies):
            wide1[..., t, :, :, looks[t]] = w1
            wide2[..., :, paints[t], t, :] = w2
            bias2[..., paints[t]] = b2
        bias1 = b1.unsqueeze(-2).expand(*untied, copies, hidden)
        changed |= _joined(
            part,
            {
                "fc1.weight": wide1.flatten(-4, -3),
                "fc1.bias": bias1.flatten(-2),
                "fc2.weight": wide2.flatten(-2),
                "fc2.bias": bias2,
            },
            state,
        )
    return changed, dataclasses.replace(new, token_hidden=copies * old.token_hidden)


def tile_places(grid: Grid, tiles: tuple[int, ...]) -> Tensor:
    """(tiles, places of one): where, in raster order over the whole image, each place of each tile lies."""
    whole = torch.arange(tiles[0] * grid[0] * tiles[1] * grid[1])
    return whole.view(tiles[0], grid[0], tiles[1], grid[1]).transpose(1, 2).reshape(tiles[0] * tiles[1], -1)


def _token_mixing(state: State) -> list[tuple[int, str]]:
    """The layers whose token-mixing weights are in `state`, each with the name that its arrays begin with."""
    ends = "token_mixing.fc1.weight"
    return [(int(name.split(".")[1]), name.removesuffix("fc1.weight")) for name in state if name.endswith(ends)]


def _by_group(state: State, part: str, groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W1 (…, D_S, G, S), b1 (…, D_S), W2 (…, G, S, D_S), b2 (…, G, S); untied weights have their columns in front."""
    w1, b1, w2, b2 = (state[part + name] for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"))
    return w1.unflatten(-1, (groups, -1)), b1, w2.unflatten(-2, (groups, -1)), b2.unflatten(-1, (groups, -1))


def _joined(part: str, arrays: State, like: State) -> State:
    """Undoes `_by_group`, in the type of the weights before."""
    joined = {
        "fc1.weight": lambda w1: w1.flatten(-2),
        "fc1.bias": lambda b1: b1,
        "fc2.weight": lambda w2: w2.flatten(-3, -2),
        "fc2.bias": lambda b2: b2.flatten(-2),
    }
    # In order in memory, as any weights are: kernels and files rely on it.
    return {part + name: joined[name](array).to(like[part + name].dtype).contiguous() for name, array in arrays.items()}


class Resize:
    """The linear map that a bicubic resize of an image of tokens is, from one grid of places to another.

    Towards fewer places it averages what falls together. What is the same everywhere stays so.
    """

    def __init__(self, source: Grid, target: Grid):
        self.source, self.target = source, target
        self.rows, self.columns = (_resize_side(s, t) for s, t in zip(source, target, strict=True))

    def after(self, images: Tensor) -> Tensor:
        """U·p: images (…, source places) become (…, target places)."""
        images = images.unflatten(-1, self.source)
        return torch.einsum("...hw,Hh,Ww->...HW", images, self.rows, self.columns).flatten(-2)

    def before(self, weights: Tensor) -> Tensor:
        """w·U: weights (…, target places) of resized images become those (…, source places) of the images."""
        weights = weights.unflatten(-1, self.target)
        return torch.einsum("...HW,Hh,Ww->...hw", weights, self.rows, self.columns).flatten(-2)


def _resize_side(source: int, target: int) -> Tensor:
    # Along the last axis: torch 2.13 resizes columns that are one wide wrongly.
    places = torch.eye(source, dtype=torch.float64).view(source, 1, 1, source)
    return F.interpolate(places, size=(1, target), mode="bicubic", antialias=True).flatten(1).T


def resample_positions(position: Tensor, before: Grid, after: Grid) -> Tensor:
    """Position embeddings (1, [class token +] places, C) for another grid; the class token keeps its own."""
    places = before[0] * before[1]
    token, painted = position[:, :-places], position[:, -places:]
    resized = Resize(before, after).after(painted.double().transpose(1, 2)).transpose(1, 2)
    return torch.cat([token, resized.to(position.dtype)], dim=1)
