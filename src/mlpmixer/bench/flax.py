"""A Mixer in Flax, as the authors wrote theirs, compiled by XLA."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import torch

from mlpmixer.bench.systems import CLASSES, Subject, System


def start(subject: Subject, _precision: str, _batch: int, _device: torch.device, _quick: bool) -> list[System]:
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # XLA's threads; it reads this as it begins
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Other systems fork, in their time; what they fork never calls JAX.
    warnings.filterwarnings("ignore", r"os.fork\(\) was called", RuntimeWarning)
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    arrays = {name: jnp.asarray(array) for name, array in subject.authors_weights.items()}
    weights = {"params": unflatten_dict(arrays, sep="/")}
    apply = jax.jit(_mixer(subject.model.config).apply)

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(apply(weights, images))

    return [System("flax", "jit", "array, channels last", run)]


def _mixer(config: Any) -> Any:
    import flax.linen as linen

    class Mlp(linen.Module):
        hidden: int

        @linen.compact
        def __call__(self, x):
            hidden = linen.gelu(linen.Dense(self.hidden)(x), approximate=False)
            return linen.Dense(x.shape[-1])(hidden)

    class MixerBlock(linen.Module):
        @linen.compact
        def __call__(self, x):
            y = Mlp(config.token_hidden, name="token_mixing")(linen.LayerNorm()(x).swapaxes(1, 2))
            x = x + y.swapaxes(1, 2)
            return x + Mlp(config.channel_hidden, name="channel_mixing")(linen.LayerNorm()(x))

    class Mixer(linen.Module):
        @linen.compact
        def __call__(self, x):
            patch = (config.patch_size, config.patch_size)
            x = linen.Conv(config.channels, patch, strides=patch, name="stem")(x)
            x = x.reshape(x.shape[0], -1, config.channels)
            for i in range(config.layers):
                x = MixerBlock(name=f"MixerBlock_{i}")(x)
            x = linen.LayerNorm(name="pre_head_layer_norm")(x).mean(axis=1)
            return linen.Dense(CLASSES, name="head")(x)

    return Mixer()
