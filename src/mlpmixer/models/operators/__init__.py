"""Token operators: what mixes the positions of a feature map, one file each; from a map (B, C, H, W) to a map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mlpmixer.models.operators.attention import BottleneckAttention
from mlpmixer.models.operators.depthwise import DepthwiseConv
from mlpmixer.models.operators.halo import HaloAttention
from mlpmixer.models.operators.involution import Involution
from mlpmixer.models.operators.lambda_layer import LambdaLayer
from mlpmixer.models.operators.sasa import StandAloneAttention
from mlpmixer.models.operators.synthesizer import (
    DenseSynthesizer,
    FactorizedDenseSynthesizer,
    FactorizedRandomSynthesizer,
    RandomSynthesizer,
)
from mlpmixer.models.operators.token_mlp import TokenMlp

# By name, from so many channels and a map's (rows, columns) to an operator that keeps both. The options are those of
# `IsotropicConfig`: o.heads, o.window and so on. Who is given the grid serves maps of this one size.
OPERATORS: Mapping[str, Callable[[int, tuple[int, int], Any], nn.Module]] = {
    "mixer": lambda _, grid, o: TokenMlp(grid=grid, hidden=o.token_hidden, gelu=o.gelu, dropout=o.dropout),
    "attention": lambda c, grid, o: BottleneckAttention(c, grid=grid, heads=o.heads),
    "halo": lambda c, _, o: HaloAttention(c, heads=o.heads, block=o.block, halo=o.halo),
    "sasa": lambda c, _, o: StandAloneAttention(c, heads=o.heads, window=o.window),
    "lambda": lambda c, _, o: LambdaLayer(c, heads=o.queries, keys=o.keys, depth=o.depth, scope=o.scope),
    "lambda_table": lambda c, grid, o: LambdaLayer(c, grid=grid, heads=o.queries, keys=o.keys, depth=o.depth),
    "involution": lambda c, _, o: Involution(c, window=o.window, group=o.group, reduction=o.reduction),
    "dense": lambda c, grid, o: DenseSynthesizer(c, grid=grid, heads=o.heads),
    "random": lambda c, grid, o: RandomSynthesizer(c, grid=grid, heads=o.heads, learned=o.learned),
    "factorized_random": lambda c, grid, o: FactorizedRandomSynthesizer(c, grid=grid, heads=o.heads, rank=o.rank),
    "factorized_dense": lambda c, grid, o: FactorizedDenseSynthesizer(c, grid=grid, heads=o.heads),
    "depthwise": lambda c, _, o: DepthwiseConv(c, window=o.window),
    "identity": lambda *_: nn.Identity(),
}
