"""Growing (net2net): a larger Mixer that computes the same as a trained smaller one, to be trained on from there.

What is added contributes nothing at first:

    hidden units   read what they were drawn to read, as in any new model; what they write is zero
    layers         lie evenly among the old ones; both of their MLPs write zero, so the table passes as it is
    channels       are copies of the old ones, which leaves LayerNorm's mean and variance as they are. Who reads them
                   takes a random share of the old weight from each copy, so that training tells the copies apart
"""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
from torch import Tensor

from mlpmixer.errors import UsageError, nearest
from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer

GROWS = ("layers", "channels", "token_hidden", "channel_hidden")


def grow(small: Classifier, **sizes: int) -> Mixer:
    """`small` with larger sizes, in evaluation mode; new weights are drawn by torch's generator.

    Args:
        small: A Mixer.
        **sizes: New values of what `GROWS` lists.

    Raises:
        UsageError: It is no Mixer, or a size is smaller than before.
    """
    if not family_of(small).mixer_layers(small.config):
        raise UsageError(f"only Mixers grow, and this is {small.name}")
    old = cast(Mixer, small).config
    for name, size in sizes.items():
        if name not in GROWS:
            raise UsageError(f"what grows is {', '.join(GROWS)}, not '{name}'{nearest(name, GROWS)}")
        has = getattr(old, name)
        if size < has:
            raise UsageError(f"weights only grow: {name} is {has}, and cannot become {size}")
        if name == "channels" and size % has:
            raise UsageError(f"channels grow to a multiple of the {has} that there are, not to {size}")
    layers = sizes.get("layers", old.layers)
    moved = [n * layers // old.layers for n in range(old.layers)]  # the index of each old layer among the new
    config = dataclasses.replace(old, **sizes, pyramid=tuple(moved[n] for n in old.pyramid))
    large = Mixer(config, small.name)
    with torch.device("meta"):  # only for its shapes
        wide = Mixer(dataclasses.replace(old, channels=config.channels)).state_dict()

    trained = {_moved(name, moved): _copied(array, wide[name]) for name, array in small.state_dict().items()}
    for name, array in large.state_dict().items():
        if name.endswith(("fc2.weight", "fc2.bias")):
            array.zero_()
        if name in trained:
            array[tuple(map(slice, trained[name].shape))] = trained[name]
    large.metadata = dataclasses.replace(small.metadata, layer_precisions=())
    return large.eval()


def _moved(name: str, moved: list[int]) -> str:
    """The name of an array of the old model in the new one."""
    blocks, *rest = name.split(".")
    return ".".join([blocks, str(moved[int(rest[0])]), *rest[1:]]) if blocks == "blocks" else name


def _copied(array: Tensor, like: Tensor) -> Tensor:
    """Each channel as often as `like` has it: written to along the first axis, read along the second."""
    copies = [wants // has for wants, has in zip(like.shape, array.shape, strict=True)]
    if max(copies[1:2], default=1) > 1:
        shares = torch.rand(copies[1], *array.shape, device=array.device)
        array = torch.cat([*(array * (shares / shares.sum(0)).to(array.dtype))], dim=1)
    return torch.cat([array] * copies[0])
