"""Mixers in files of others, and at another image size.

All of a Mixer but its token-mixing MLPs works with any number of tokens. Those have a weight for each position, and
there are two schemes to give them more, or fewer:

"tiles", the paper's (appendix C), for sizes that are whole multiples: the larger image is K×K tiles of the old size,
and each tile is mixed as before, by its own copy of the MLP (W1 and W2 become block-diagonal). Each tile then gives
exactly the tokens it would give alone; D_S and the cost of token mixing grow with K².

"resample", ours, for any height and width: a row of W1 is an image that the tokens are compared with, and a column of
W2 is one that is added to them. Token mixing on the new grid is: resample the tokens to the old grid, mix there,
resample the answer back. Both are linear, so they fold into the weights: W1' = W1·D, W2' = U·W2, b2' = U·b2.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from mlpmixer.models.mixer import MixerConfig
from mlpmixer.weights.adapters import Adapter, Hints, Scheme, State
from mlpmixer.weights.adapters.grids import Grid, Resize, tile_positions, tiles_of
from mlpmixer.weights.adapters.shapes import Shapes, blocks_in, classes_in, shape, square
from mlpmixer.weights.layouts import CONV, DENSE, SAME, Layout, Line, both, flax_norm, line, weight_and_bias

MIXER_TIMM = [
    *both("stem.patches", "stem.proj"),
    *both("blocks.{i}.norm1", "blocks.{i}.norm1"),
    *both("blocks.{i}.token_mixing.fc1", "blocks.{i}.mlp_tokens.fc1"),
    *both("blocks.{i}.token_mixing.fc2", "blocks.{i}.mlp_tokens.fc2"),
    *both("blocks.{i}.norm2", "blocks.{i}.norm2"),
    *both("blocks.{i}.channel_mixing.fc1", "blocks.{i}.mlp_channels.fc1"),
    *both("blocks.{i}.channel_mixing.fc2", "blocks.{i}.mlp_channels.fc2"),
    *both("norm", "norm"),
    *both("head", "head"),
]

MIXER_LINEN = [
    *weight_and_bias("stem.patches", "stem", CONV),
    *flax_norm("blocks.{i}.norm1", "MixerBlock_{i}/LayerNorm_0"),
    *weight_and_bias("blocks.{i}.token_mixing.fc1", "MixerBlock_{i}/token_mixing/Dense_0"),
    *weight_and_bias("blocks.{i}.token_mixing.fc2", "MixerBlock_{i}/token_mixing/Dense_1"),
    *flax_norm("blocks.{i}.norm2", "MixerBlock_{i}/LayerNorm_1"),
    *weight_and_bias("blocks.{i}.channel_mixing.fc1", "MixerBlock_{i}/channel_mixing/Dense_0"),
    *weight_and_bias("blocks.{i}.channel_mixing.fc2", "MixerBlock_{i}/channel_mixing/Dense_1"),
    *flax_norm("norm", "pre_head_layer_norm"),
    *weight_and_bias("head", "head"),
]


def numbered_mlp(ours: str, theirs: str) -> list[Line]:
    return [
        line(f"{ours}.fc{n}.{part}", f"{theirs}/{flax}{n}", form)
        for n in (1, 2)
        for part, flax, form in (("weight", "kernel", DENSE), ("bias", "bias", SAME))
    ]


MIXER_OLDER = [
    *weight_and_bias("stem.patches", "embedding", CONV),
    *flax_norm("blocks.{i}.norm1", "Mixer/encoderblock_{i}/LayerNorm_0"),
    *numbered_mlp("blocks.{i}.token_mixing", "Mixer/encoderblock_{i}/token_mixing_phase_0"),
    *flax_norm("blocks.{i}.norm2", "Mixer/encoderblock_{i}/LayerNorm_1"),
    *numbered_mlp("blocks.{i}.channel_mixing", "Mixer/encoderblock_{i}/channel_mixing_phase_0"),
    *flax_norm("norm", "Mixer/encoder_norm"),
    *weight_and_bias("head", "head"),
]

LAYOUTS = (
    Layout("timm", MIXER_TIMM, ("stem.proj.weight", "blocks.0.mlp_tokens.fc1.weight"), gelu="erf"),
    Layout("linen", MIXER_LINEN, ("stem/kernel", "MixerBlock_0/token_mixing/Dense_0/kernel")),
    Layout("older", MIXER_OLDER, ("Mixer/encoderblock_0/token_mixing_phase_0/kernel1",), squeezed="_phase_0/"),
)


def refuses(config: MixerConfig) -> str | None:
    """What keeps a Mixer out of the layouts of others; None: nothing."""
    return None if config.plain else "untied, grouped or pyramid Mixers"


def config_of(layout: Layout, shapes: Shapes, hints: Hints) -> MixerConfig:
    channels, in_channels, patch, _ = shape(shapes, "stem.patches.weight", 4)
    token_hidden, tokens = shape(shapes, "blocks.0.token_mixing.fc1.weight", 2)
    return MixerConfig(
        layers=blocks_in(shapes, "blocks"),
        patch_size=patch,
        channels=channels,
        token_hidden=token_hidden,
        channel_hidden=shape(shapes, "blocks.0.channel_mixing.fc1.weight", 2)[0],
        image_size=hints.stored_size or square(tokens, patch),
        in_channels=in_channels,
        gelu=layout.gelu,
        num_classes=classes_in(shapes),
    )


def change_resolution(state: State, config: MixerConfig, image_size: Grid, scheme: Scheme) -> tuple[State, MixerConfig]:
    new = dataclasses.replace(config, image_size=image_size)
    return tile(state, config, new) if scheme == "tiles" else (resample(state, config, new), new)


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
    tiles = tiles_of(old.image_size, new.image_size, old.patch_size)
    changed, copies = dict(state), tiles[0] * tiles[1]
    for layer, part in _token_mixing(state):
        reads = tile_positions(old.grids()[layer], tiles)
        writes = tile_positions(old.grids()[layer + 1], tiles)
        w1, b1, w2, b2 = _by_group(state, part, old.groups)
        (*untied, hidden, groups, _), tokens_in, tokens_out = w1.shape, reads.numel(), writes.numel()
        wide1 = w1.new_zeros(*untied, copies, hidden, groups, tokens_in)
        wide2 = w2.new_zeros(*untied, groups, tokens_out, copies, hidden)
        bias2 = b2.new_zeros(*untied, groups, tokens_out)
        for t in range(copies):
            wide1[..., t, :, :, reads[t]] = w1
            wide2[..., :, writes[t], t, :] = w2
            bias2[..., writes[t]] = b2
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


ADAPTER = Adapter(LAYOUTS, config_of, change_resolution, refuses)
