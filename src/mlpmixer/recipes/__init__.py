"""Recipes by name. A recipe is data; each has its command, its hardware, and its expected result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mlpmixer.errors import RecipeError, nearest
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import finetune, nfnet, pretrain, small

RECIPES: dict[str, Callable[[], Recipe]] = {
    "fashion_mnist": small.fashion_mnist,
    "cifar10": small.cifar10,
    "cifar100": small.cifar100,
    "photos": small.photos,
    "photos_b16": small.photos_b16,
    "photos_from_scratch": small.photos_from_scratch,
    **{name: partial(finetune.fine_tuning, name) for name in finetune.FINE_TUNING},
    "mixer_base16_cifar10": finetune.mixer_base16_cifar10,
    "bit_cifar10": finetune.bit_cifar10,
    **{name: partial(pretrain.table_4, name) for name in pretrain.TABLE_4},
    "mlp_mixer_i1k": pretrain.mlp_mixer_i1k,
    "mlp_mixer_i1k_60_epochs": pretrain.mlp_mixer_i1k_60_epochs,
    **{name: partial(nfnet.imagenet, name) for name in nfnet.IMAGENET},
    "jft_nfnet_f4plus": nfnet.jft_nfnet_f4plus,
    "finetune_imagenet_nfnet_f4plus": nfnet.finetune_imagenet_nfnet_f4plus,
}


def find(name: str) -> Recipe:
    if name not in RECIPES:
        raise RecipeError(
            f"no recipe is called '{name}'{nearest(name, RECIPES)} (`mixer recipes` lists them; a file ends in .toml)"
        )
    return RECIPES[name]()
