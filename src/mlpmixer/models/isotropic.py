"""The Mixer's frame with any token operator: one network in which they can be compared.

As MetaFormer has it (Yu and others, arXiv 2111.11418), a layer is an operator f that mixes tokens and an MLP within
each token, each behind a LayerNorm and added to what it was given:

    token mixing      U = X + f(LN(X))                      between tokens
    channel mixing    Y = U + gelu(LN(U) · W3) · W4         within each token

Stem, channel mixing and head are the Mixer's, and so are the letters: S tokens of C channels, of patches of P×P pixels.
With `token_operator="mixer"` it is the Mixer, with the same arrays of the same names. `operators/` has the others, of
which "identity" is the least that any may reach. There is no position embedding: what an operator knows of places, it
brings along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record, require
from mlpmixer.models.family import Family
from mlpmixer.models.layers import LAYER_NORM_EPS, GeluForm, Mlp, PatchStem, StochasticDepth, grid
from mlpmixer.models.operators import OPERATORS


@dataclass(frozen=True, kw_only=True)
class IsotropicConfig(ClassifierConfig):
    layers: int
    patch_size: int  # P
    channels: int  # C
    token_hidden: int  # D_S, of "mixer" alone
    channel_hidden: int  # D_C

    token_operator: str = "mixer"  # f: a row of `OPERATORS`
    gelu: GeluForm = "tanh"
    dropout: float = 0.0  # after each linear map of each MLP
    stochastic_depth: float = 0.0  # chance to skip a branch: 0 in the first layer, rising evenly to this in the last
    rescale_branches: bool = False  # whether branches that stochastic depth kept are divided by their chance to stay

    # Options of operators; what an operator has no use for changes nothing.
    heads: int = 8  # of attention, halo, sasa and the synthesizers
    window: int = 7  # k: side of the windows of sasa, involution and depthwise
    block: int = 7  # b of halo
    halo: int = 3  # h of halo
    queries: int = 4  # h of a lambda layer
    keys: int = 16  # k of a lambda layer
    depth: int = 1  # u of a lambda layer
    scope: int = 23  # r of "lambda"
    group: int = 16  # channels that share a kernel of involution
    reduction: int = 4  # r of involution
    rank: int = 8  # k of "factorized_random"
    learned: bool = True  # whether the weights of "random" are learned

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("layers", "patch_size", "channels", "token_hidden", "channel_hidden")
        self.require_positive("heads", "window", "block", "queries", "keys", "depth", "scope")
        self.require_positive("group", "reduction", "rank")
        self.require_chance("dropout", "stochastic_depth")
        require("halo", self.halo >= 0, "0 or more", self.halo)
        names = ", ".join(OPERATORS)
        require("token_operator", self.token_operator in OPERATORS, f"one of {names}", repr(self.token_operator))
        with torch.device("meta"):
            self.operator()  # refuses options that do not fit together

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return grid(self.image_size, self.patch_size)

    def operator(self) -> nn.Module:
        """A new f."""
        return OPERATORS[self.token_operator](self.channels, self.grid, self)


# The Mixer's proportions. Blocks divide the grid of tokens; a lambda layer's convolution has at most all offsets.
_S = partial(IsotropicConfig, layers=8, channels=512, token_hidden=256, channel_hidden=2048)
_B = partial(IsotropicConfig, layers=12, channels=768, token_hidden=384, channel_hidden=3072)
_pico = partial(IsotropicConfig, layers=4, channels=64, token_hidden=32, channel_hidden=256)
_nano = partial(IsotropicConfig, layers=8, channels=96, token_hidden=48, channel_hidden=384)

SIZES = {
    "isotropic_s16": _S(patch_size=16),
    "isotropic_b16": _B(patch_size=16),
    "isotropic_pico": _pico(patch_size=4, image_size=(28, 28), block=7, scope=13),  # 7×7 patches
    "isotropic_nano": _nano(patch_size=4, image_size=(32, 32), block=4, scope=15, heads=6),  # 8×8 patches
}


class IsotropicBlock(nn.Module):
    """One layer: the operator, then channel mixing, each added to what it was given."""

    def __init__(self, config: IsotropicConfig, layer: int):
        super().__init__()
        self.name = f"block{layer}"
        self.grid = config.grid
        self.norm1 = nn.LayerNorm(config.channels, eps=LAYER_NORM_EPS)
        self.token_mixing = config.operator()
        self.norm2 = nn.LayerNorm(config.channels, eps=LAYER_NORM_EPS)
        self.channel_mixing = Mlp(config.channels, config.channel_hidden, config.gelu, config.dropout)
        self.drop = StochasticDepth(
            config.stochastic_depth * layer / max(config.layers - 1, 1), config.rescale_branches
        )

    def forward(self, x: Float[Tensor, "B S C"], intermediates: Intermediates | None = None) -> Float[Tensor, "B S C"]:
        mixed = record(intermediates, f"{self.name}/token_mixing", self.mix_tokens(self.norm1(x)))
        x = x + self.drop(mixed)
        mixed = record(intermediates, f"{self.name}/channel_mixing", self.channel_mixing(self.norm2(x)))
        return record(intermediates, self.name, x + self.drop(mixed))

    def mix_tokens(self, x: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        """f, which takes and gives maps."""
        return self.token_mixing(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)


class Isotropic(Classifier[IsotropicConfig]):
    """The whole network. Its intermediates, in order, where i is a layer:

    `stem` (B, S, C), `block{i}/token_mixing` and `block{i}/channel_mixing` (what each adds to the table), `block{i}`
    (the table after the layer), `tokens` (the table after the last LayerNorm), `pre_logits` (B, C), `logits`.
    """

    blocks: Sequence[IsotropicBlock]

    def __init__(self, config: IsotropicConfig, name: str = "isotropic"):
        super().__init__(config, name, num_features=config.channels)
        self.stem = PatchStem(config.in_channels, config.channels, config.patch_size, config.image_size)
        blocks = nn.ModuleList(IsotropicBlock(config, layer) for layer in range(config.layers))
        self.blocks = cast("Sequence[IsotropicBlock]", blocks)
        self.norm = nn.LayerNorm(config.channels, eps=LAYER_NORM_EPS)
        self.head = head(config.channels, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B S C"]:
        self.check(images)
        x = record(intermediates, "stem", self.stem(images))
        for block in self.blocks:
            x = block(x, intermediates)
        return record(intermediates, "tokens", self.norm(x))

    def normed_linears(self) -> list[tuple[nn.LayerNorm, nn.Linear]]:
        return [(block.norm2, block.channel_mixing.fc1) for block in self.blocks]


FAMILY = Family(
    name="isotropic",
    title="Isotropic",
    config=IsotropicConfig,
    model=Isotropic,
    sizes=SIZES,
    layers=lambda config: config.layers,
    grids=lambda config: [config.grid],
    mean_of=lambda _: "tokens",
    adapter="mlpmixer.weights.adapters.isotropic",
)
