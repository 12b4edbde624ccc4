"""The exact side of section 3.4: a Mixer that does with scrambled images what another does with the original ones."""

from __future__ import annotations

import copy
import dataclasses

import torch

from mlpmixer.data.scramble import order_of_patches, order_within
from mlpmixer.errors import UsageError
from mlpmixer.models.layers import grid
from mlpmixer.models.mixer import Mixer


def permuted(model: Mixer) -> Mixer:
    """A copy with the same weights in another order: for images that are scrambled by patches.

    The stem's weights follow the pixels within a patch; what token mixing reads and writes follows the patches. All
    else knows no places. Since optimizers treat each weight by itself, both also learn the same.
    """
    config = model.config
    if not config.plain:
        raise UsageError("only the plain Mixer is put into another order")
    places = torch.from_numpy(order_of_patches(*grid(config.image_size, config.patch_size)))
    pixels = torch.from_numpy(order_within(config.patch_size))
    other = copy.deepcopy(model)
    with torch.no_grad():
        kernel = model.stem.patches.weight  # (C, in_channels, P, P)
        other.stem.patches.weight.copy_(kernel.flatten(2)[..., pixels].view_as(kernel))
        for block, old in zip(other.blocks, model.blocks, strict=True):
            block.token_mixing.fc1.weight.copy_(old.token_mixing.fc1.weight[:, places])
            block.token_mixing.fc2.weight.copy_(old.token_mixing.fc2.weight[places])
            block.token_mixing.fc2.bias.copy_(old.token_mixing.fc2.bias[places])
    how = dataclasses.replace(model.metadata.preprocessing, scramble="patches", scramble_patch=config.patch_size)
    other.metadata = dataclasses.replace(model.metadata, preprocessing=how)
    return other
