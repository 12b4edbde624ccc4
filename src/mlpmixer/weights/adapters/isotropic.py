"""Isotropic networks at another image size. No layout of others has them.

Stem, channel mixing and head work with any number of tokens, and so do operators that read windows. The others:

mixer           as a Mixer's token mixing, by both of its schemes; see `adapters/mixer.py`
attention       its tables of offsets are resampled
lambda_table    so is its table; a sum over more tokens is scaled down by as much
synthesizers    have numbers for each pair of tokens or each token of a row, with no rule for others: refused
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from mlpmixer.errors import UsageError
from mlpmixer.models.isotropic import IsotropicConfig
from mlpmixer.models.mixer import MixerConfig
from mlpmixer.weights.adapters import Adapter, Scheme, State
from mlpmixer.weights.adapters import mixer as mixers
from mlpmixer.weights.adapters.grids import Grid, Resize, offsets_of


def config_of(*_: object) -> IsotropicConfig:
    raise NotImplementedError("no layout leads here")


def change_resolution(
    state: State, config: IsotropicConfig, image_size: Grid, scheme: Scheme
) -> tuple[State, IsotropicConfig]:
    if config.token_operator == "mixer":
        return _as_mixer(state, config, image_size, scheme)
    if scheme == "tiles":
        raise UsageError(f"tiles is a scheme for token mixing by an MLP, not for {config.token_operator}")
    if config.token_operator not in FOLLOW:
        raise UsageError(
            f"{config.token_operator} has weights for each of {'×'.join(map(str, config.grid))} tokens, which no rule "
            "takes to another image size; these follow it: mixer, " + ", ".join(FOLLOW)
        )
    new = dataclasses.replace(config, image_size=image_size)
    return {**state, **FOLLOW[config.token_operator](state, config.grid, new.grid)}, new


def _as_mixer(state: State, config: IsotropicConfig, image_size: Grid, scheme: Scheme) -> tuple[State, IsotropicConfig]:
    common = {field.name for field in dataclasses.fields(MixerConfig)} & {f.name for f in dataclasses.fields(config)}
    mixer = MixerConfig(**{name: getattr(config, name) for name in common})
    state, found = mixers.change_resolution(state, mixer, image_size, scheme)
    return state, dataclasses.replace(config, image_size=found.image_size, token_hidden=found.token_hidden)


def _of_attention(state: State, before: Grid, after: Grid) -> State:
    resized = {}
    for name, array in state.items():
        for side, ending in enumerate(("token_mixing.positions.row", "token_mixing.positions.column")):
            if name.endswith(ending):
                resize = Resize((1, offsets_of(before)[side]), (1, offsets_of(after)[side]))
                resized[name] = resize.after(array.double().T).T.to(array.dtype).contiguous()
    return resized


def _of_table(state: State, before: Grid, after: Grid) -> State:
    resize, share = Resize(offsets_of(before), offsets_of(after)), before[0] * before[1] / (after[0] * after[1])
    resized = {}
    for name, array in state.items():
        if name.endswith("token_mixing.positions.table"):
            by_offset = resize.after(array.double().permute(2, 3, 0, 1).flatten(2)) * share
            resized[name] = by_offset.unflatten(2, offsets_of(after)).permute(2, 3, 0, 1).to(array.dtype).contiguous()
    return resized


def _as_they_are(_state: State, _before: Grid, _after: Grid) -> State:
    return {}


# Of each operator whose weights follow another grid of tokens: those that change.
FOLLOW: Mapping[str, Callable[[State, Grid, Grid], State]] = {
    "attention": _of_attention,
    "halo": _as_they_are,
    "sasa": _as_they_are,
    "lambda": _as_they_are,
    "lambda_table": _of_table,
    "involution": _as_they_are,
    "depthwise": _as_they_are,
    "identity": _as_they_are,
}


ADAPTER = Adapter((), config_of, change_resolution)
