"""MLP-Mixer: an image classifier of multi-layer perceptrons alone.

Tolstikhin, Houlsby, Kolesnikov, Beyer and others: "MLP-Mixer: An all-MLP Architecture for Vision" (arXiv 2105.01601).

An image is cut into S patches, and each patch becomes a token of C channels: a table X with a row for each token and
a column for each channel. Every layer does two things to it:

    token mixing      U = X + W2 · gelu(W1 · LN(X))         along the columns, between tokens
    channel mixing    Y = U + gelu(LN(U) · W3) · W4         along the rows, within each token

One token-mixing MLP serves all C columns, and one channel-mixing MLP serves all S rows. There is no convolution that
slides over its neighbors, no attention, and no position embedding: a row of W1 has one weight for each position, so
token mixing knows where things are. The table keeps its shape from the first layer to the last. In the end its rows are
averaged, and a linear map computes the logits from that average:

    image → stem → (token mixing → channel mixing) × layers → LN → mean over tokens → head → logits

The letters are the paper's: B images, P patch side, S = HW/P² tokens, C channels, D_S and D_C the hidden widths of
the two MLPs. D_S does not grow with S, so the cost is linear in the number of pixels, where attention is quadratic.
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
from mlpmixer.models.layers import (
    LAYER_NORM_EPS,
    Gelu,
    GeluForm,
    Linear,
    Mlp,
    PatchStem,
    StochasticDepth,
    grid,
    lecun_normal_,
)


@dataclass(frozen=True, kw_only=True)
class MixerConfig(ClassifierConfig):
    layers: int
    patch_size: int  # P
    channels: int  # C
    token_hidden: int  # D_S
    channel_hidden: int  # D_C

    gelu: GeluForm = "tanh"  # the authors' form; timm's is "erf"
    dropout: float = 0.0  # after each linear map of each MLP
    stochastic_depth: float = 0.0  # chance to skip a branch: 0 in the first layer, rising evenly to this in the last
    rescale_branches: bool = False  # whether branches that stochastic depth kept are divided by their chance to stay

    # What the authors tried beside the Mixer (appendix A.1).
    untied: bool = False  # a token-mixing MLP of its own for each column
    groups: int = 1  # G: token mixing sees G neighboring columns at once, as one column of S·G
    group_projection: bool = False  # a learned linear map deals the channels out to the G groups
    pyramid: tuple[int, ...] = ()  # layers whose token mixing halves the rows and the columns of the token grid

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("layers", "patch_size", "channels", "token_hidden", "channel_hidden", "groups")
        self.require_chance("dropout", "stochastic_depth")
        require("groups", self.channels % self.groups == 0, f"a divisor of {self.channels} channels", self.groups)
        inside = all(0 <= layer < self.layers for layer in self.pyramid) and len({*self.pyramid}) == len(self.pyramid)
        require("pyramid", inside, f"different layers from 0 to {self.layers - 1}", self.pyramid)
        rows, columns = grid(self.image_size, self.patch_size)
        fits = rows % 2 ** len(self.pyramid) == 0 and columns % 2 ** len(self.pyramid) == 0
        require("pyramid", fits, f"few enough layers to halve {rows}×{columns} tokens each time", self.pyramid)

    @property
    def plain(self) -> bool:
        """Whether it is the Mixer of the paper's main part, and none of the variants of appendix A.1."""
        return self.shared and not self.pyramid

    @property
    def shared(self) -> bool:
        """Whether one token-mixing MLP serves all columns, each by itself."""
        return not (self.untied or self.groups > 1 or self.group_projection)

    def grids(self) -> list[tuple[int, int]]:
        """The token grid (rows, columns) before each layer and after the last; one shape without a pyramid."""
        rows, columns = grid(self.image_size, self.patch_size)
        halvings = [sum(p < layer for p in self.pyramid) for layer in range(self.layers + 1)]
        return [(rows >> n, columns >> n) for n in halvings]


# Table 1 of the paper, then smaller ones for small images. These keep the paper's proportions, D_S = C/2 and
# D_C = 4C, and cut their images into 49 to 144 patches, as the paper's are cut into 49 to 256.
_S = partial(MixerConfig, layers=8, channels=512, token_hidden=256, channel_hidden=2048)
_B = partial(MixerConfig, layers=12, channels=768, token_hidden=384, channel_hidden=3072)
_L = partial(MixerConfig, layers=24, channels=1024, token_hidden=512, channel_hidden=4096)
_H = partial(MixerConfig, layers=32, channels=1280, token_hidden=640, channel_hidden=5120)
_pico = partial(MixerConfig, layers=4, channels=64, token_hidden=32, channel_hidden=256)
_nano = partial(MixerConfig, layers=8, channels=96, token_hidden=48, channel_hidden=384)
_tiny = partial(MixerConfig, layers=8, channels=192, token_hidden=96, channel_hidden=768)
_mini = partial(MixerConfig, layers=8, channels=256, token_hidden=128, channel_hidden=1024)

SIZES = {
    "mixer_s32": _S(patch_size=32),
    "mixer_s16": _S(patch_size=16),
    "mixer_b32": _B(patch_size=32),
    "mixer_b16": _B(patch_size=16),
    "mixer_l32": _L(patch_size=32),
    "mixer_l16": _L(patch_size=16),
    "mixer_h14": _H(patch_size=14),
    "mixer_pico": _pico(patch_size=4, image_size=(28, 28)),  # 49 patches: Fashion-MNIST, quick tries
    "mixer_nano": _nano(patch_size=4, image_size=(32, 32)),  # 64 patches: CIFAR within 0.7 M parameters
    "mixer_tiny": _tiny(patch_size=8, image_size=(64, 64)),  # 64 patches: Tiny ImageNet, thumbnails
    "mixer_mini": _mini(patch_size=8, image_size=(96, 96)),  # 144 patches: STL-10, small photos; within 5 M
}


class Mixer(Classifier[MixerConfig]):
    """The whole network. Its intermediates, in order, where i is a layer:

    `stem` (B, S, C), `block{i}/token_hidden` (B, D_S, C), `block{i}/token_mixing` and `block{i}/channel_mixing` (what
    each adds to the table), `block{i}` (the table after the layer), `tokens` (the table after the last LayerNorm),
    `pre_logits` (B, C), `logits` (B, classes).
    """

    blocks: Sequence[MixerBlock]

    def __init__(self, config: MixerConfig, name: str = "mixer"):
        super().__init__(config, name, num_features=config.channels)
        self.stem = PatchStem(config.in_channels, config.channels, config.patch_size, config.image_size)
        blocks = nn.ModuleList(MixerBlock(config, layer) for layer in range(config.layers))
        self.blocks = cast("Sequence[MixerBlock]", blocks)
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

    def simplified(self, *, in_rows: bool = False) -> nn.Module:
        if in_rows and self.config.shared:
            for block in self.blocks:
                block.token_mixing = RowMixing(block.token_mixing)  # pyright: ignore[reportAttributeAccessIssue]
        return MeanOfNormed(self)


class MixerBlock(nn.Module):
    """One layer: token mixing, then channel mixing, each added to what it was given."""

    def __init__(self, config: MixerConfig, layer: int):
        super().__init__()
        before, after = config.grids()[layer : layer + 2]
        self.name = f"block{layer}"
        self.norm1 = nn.LayerNorm(config.channels, eps=LAYER_NORM_EPS)
        self.token_mixing = TokenMixing(config, before[0] * before[1], after[0] * after[1])
        self.norm2 = nn.LayerNorm(config.channels, eps=LAYER_NORM_EPS)
        self.channel_mixing = Mlp(config.channels, config.channel_hidden, config.gelu, config.dropout)
        self.skip = nn.Identity() if before == after else HalveGrid(before)
        self.drop = StochasticDepth(
            config.stochastic_depth * layer / max(config.layers - 1, 1), config.rescale_branches
        )

    def forward(
        self, x: Float[Tensor, "B S C"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B S_out C"]:
        x = self.mix_tokens(x, intermediates)
        mixed = record(intermediates, f"{self.name}/channel_mixing", self.channel_mixing(self.norm2(x)))
        return record(intermediates, self.name, x + self.drop(mixed))

    def mix_tokens(
        self, x: Float[Tensor, "B S C"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B S_out C"]:
        mixed = record(
            intermediates, f"{self.name}/token_mixing", self.token_mixing(self.norm1(x), intermediates, self.name)
        )
        return self.skip(x) + self.drop(mixed)


class TokenMixing(nn.Module):
    """W2 · gelu(W1 · X): mixes the tokens, with the same weights for every channel."""

    def __init__(self, config: MixerConfig, tokens_in: int, tokens_out: int):
        super().__init__()
        channels, groups = config.channels, config.groups
        linear = partial(UntiedColumnLinear, channels // groups) if config.untied else ColumnLinear
        self.groups = groups
        self.project = Linear(channels, channels, bias=False) if config.group_projection else nn.Identity()
        self.fc1 = linear(groups * tokens_in, config.token_hidden)
        self.gelu = Gelu(config.gelu)
        self.fc2 = linear(config.token_hidden, groups * tokens_out)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B S C"], intermediates: Intermediates | None, name: str
    ) -> Float[Tensor, "B S_out C"]:
        x = self.stack(self.project(x))
        hidden = record(intermediates, f"{name}/token_hidden", self.gelu(self.fc1(x)))  # (B, D_S, C)
        return self.unstack(self.dropout(self.fc2(self.dropout(hidden))))

    def stack(self, x: Float[Tensor, "B S C"]) -> Float[Tensor, "B SG C_G"]:
        """Puts each G neighboring columns on top of each other; with G = 1, the usual Mixer, nothing moves."""
        if self.groups == 1:
            return x
        return x.unflatten(2, (-1, self.groups)).permute(0, 3, 1, 2).flatten(1, 2)

    def unstack(self, x: Float[Tensor, "B SG C_G"]) -> Float[Tensor, "B S C"]:
        if self.groups == 1:
            return x
        return x.unflatten(1, (self.groups, -1)).permute(0, 2, 3, 1).flatten(2, 3)


class ColumnLinear(nn.Module):
    """W · X + b: one linear map down each of the C columns of a table, written as the product it is."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        lecun_normal_(self.weight, fan_in=in_features)

    def forward(self, x: Float[Tensor, "B in_features C"]) -> Float[Tensor, "B out_features C"]:
        return torch.baddbmm(self.bias[:, None], self.weight.expand(x.shape[0], -1, -1), x)


class UntiedColumnLinear(nn.Module):
    """W_c · X_c + b_c: a linear map of its own for each column c."""

    def __init__(self, columns: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(columns, out_features))
        lecun_normal_(self.weight, fan_in=in_features)

    def forward(self, x: Float[Tensor, "B in_features C"]) -> Float[Tensor, "B out_features C"]:
        mixed = torch.einsum("coi,bic->boc", self.weight, x)
        return mixed + self.bias.T.to(mixed.dtype)  # as other linear maps do it under autocast


class HalveGrid(nn.Module):
    """The skip connection of a pyramid's token mixing: the mean of each 2×2 tokens. (The paper leaves this open.)"""

    def __init__(self, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid

    def forward(self, x: Float[Tensor, "B S C"]) -> Float[Tensor, "B S_out C"]:
        rows, columns = self.grid
        return x.unflatten(1, (rows // 2, 2, columns // 2, 2)).mean(dim=(2, 4)).flatten(1, 2)


# Cheaper forms for inference.


class MeanOfNormed(nn.Module):
    """A Mixer without its head. The mean over tokens of LN(x) is a weighted mean of x, so LN(x) is never made."""

    def __init__(self, model: Mixer):
        super().__init__()
        self.stem, self.blocks, self.norm = model.stem, model.blocks, model.norm

    def forward(self, images: Float[Tensor, "B in_channels H W"]) -> Float[Tensor, "B C"]:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return mean_of_normed(x, self.norm)


def mean_of_normed(x: Float[Tensor, "B S C"], norm: nn.LayerNorm) -> Float[Tensor, "B C"]:
    variance, mean = torch.var_mean(x.float(), dim=2, correction=0, keepdim=True)
    rate = torch.rsqrt(variance + norm.eps) / x.shape[1]  # (B, S, 1)
    even = (rate.transpose(1, 2) @ x.float()).squeeze(1) - (rate * mean).sum(dim=1)
    return even.to(norm.weight.dtype) * norm.weight + norm.bias


class RowMixing(nn.Module):
    """`TokenMixing` with one MLP for all columns, as an MLP along rows between two transposes; for inference."""

    def __init__(self, mixing: TokenMixing):
        super().__init__()
        self.fc1, self.fc2 = linear_of(mixing.fc1), linear_of(mixing.fc2)
        self.gelu = mixing.gelu

    def forward(self, x: Float[Tensor, "B S C"], _intermediates: object, _name: object) -> Float[Tensor, "B S_out C"]:
        return self.fc2(self.gelu(self.fc1(x.transpose(1, 2)))).transpose(1, 2)


def linear_of(columns: ColumnLinear | UntiedColumnLinear) -> nn.Linear:
    out_features, in_features = columns.weight.shape
    linear = nn.Linear(in_features, out_features)
    linear.weight, linear.bias = columns.weight, columns.bias
    return linear


FAMILY = Family(
    name="mixer",
    title="Mixer",
    config=MixerConfig,
    model=Mixer,
    sizes=SIZES,
    layers=lambda config: config.layers,
    grids=MixerConfig.grids,
    mean_of=lambda _: "tokens",
    mixer_layers=lambda config: config.layers,
    plain_mixer=lambda config: config.plain,
    adapter="mlpmixer.weights.adapters.mixer",
)
