"""Vision Transformer, the attention network that the paper compares with.

Dosovitskiy and others: "An Image is Worth 16×16 Words" (arXiv 2010.11929). It starts and ends as the Mixer does;
between, tokens are mixed by self-attention, which needs a position embedding:

    U = X + attention(LN(X))          Y = U + gelu(LN(U) · W1) · W2

The head reads a class token (`pool="token"`), or the mean over tokens (`pool="mean"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record, require
from mlpmixer.models.family import Family
from mlpmixer.models.layers import LAYER_NORM_EPS, GeluForm, Mlp, PatchStem, StochasticDepth, grid, xavier_linear


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ClassifierConfig):
    layers: int
    patch_size: int
    channels: int
    heads: int
    hidden: int  # of the MLP

    pool: Literal["token", "mean"] = "token"
    representation: int = 0  # width of a tanh layer before the head, as in the paper's pre-training; 0: none
    gelu: GeluForm = "tanh"
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    rescale_branches: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("layers", "patch_size", "channels", "heads", "hidden")
        self.require_chance("dropout", "stochastic_depth")
        require("pool", self.pool in ("token", "mean"), '"token" or "mean"', self.pool)
        require("representation", self.representation >= 0, "0 (none) or more", self.representation)
        require("heads", self.channels % self.heads == 0, f"a divisor of {self.channels} channels", self.heads)


_Ti = partial(ViTConfig, layers=12, channels=192, heads=3, hidden=768)
_S = partial(ViTConfig, layers=12, channels=384, heads=6, hidden=1536)
_B = partial(ViTConfig, layers=12, channels=768, heads=12, hidden=3072)
_L = partial(ViTConfig, layers=24, channels=1024, heads=16, hidden=4096)
_H = partial(ViTConfig, layers=32, channels=1280, heads=16, hidden=5120)

SIZES = {
    "vit_ti32": _Ti(patch_size=32),
    "vit_ti16": _Ti(patch_size=16),
    "vit_s32": _S(patch_size=32),
    "vit_s16": _S(patch_size=16),
    "vit_b32": _B(patch_size=32),
    "vit_b16": _B(patch_size=16),
    "vit_l32": _L(patch_size=32),
    "vit_l16": _L(patch_size=16),
    "vit_h14": _H(patch_size=14),
}


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = xavier_linear(config.channels, config.channels, parts=3)
        self.out = xavier_linear(config.channels, config.channels)

    def forward(self, x: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        query, key, value = (
            self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, S, ·)
        return self.out(attend(query, key, value).transpose(1, 2).flatten(2))


def attend(
    query: Float[Tensor, "B heads S D"], key: Float[Tensor, "B heads S D"], value: Float[Tensor, "B heads S D"]
) -> Float[Tensor, "B heads S D"]:
    """softmax(Q · Kᵀ / √D) · V"""
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # PyTorch's fused form takes up to twice as long there for an answer, and six times on the way back.
        return (query * query.shape[3] ** -0.5 @ key.transpose(2, 3)).softmax(dim=3).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value)


class ViTBlock(nn.Module):
    def __init__(self, config: ViTConfig, layer: int):
        super().__init__()
        self.name = f"block{layer}"
        self.norm1 = nn.LayerNorm(config.channels, eps=LAYER_NORM_EPS)
        self.attention = Attention(config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm2 = nn.LayerNorm(config.channels, eps=LAYER_NORM_EPS)
        linear = partial(xavier_linear, bias_std=1e-6)
        self.mlp = Mlp(config.channels, config.hidden, config.gelu, config.dropout, linear)
        self.drop = StochasticDepth(
            config.stochastic_depth * layer / max(config.layers - 1, 1), config.rescale_branches
        )

    def forward(self, x: Float[Tensor, "B S C"], intermediates: Intermediates | None = None) -> Float[Tensor, "B S C"]:
        attended = record(intermediates, f"{self.name}/attention", self.dropout(self.attention(self.norm1(x))))
        x = x + self.drop(attended)
        mixed = record(intermediates, f"{self.name}/mlp", self.mlp(self.norm2(x)))
        return record(intermediates, self.name, x + self.drop(mixed))


class ViT(Classifier[ViTConfig]):
    """The whole network. Its intermediates: `stem` (before positions), `block{i}/attention`, `block{i}/mlp`,
    `block{i}`, `tokens`, `pre_logits`, `logits`. With a class token, it is row 0 of all tables but the stem's."""

    blocks: Sequence[ViTBlock]

    def __init__(self, config: ViTConfig, name: str = "vit"):
        super().__init__(config, name, num_features=config.representation or config.channels)
        rows, columns = grid(config.image_size, config.patch_size)
        tokens = rows * columns + (config.pool == "token")
        self.stem = PatchStem(config.in_channels, config.channels, config.patch_size, config.image_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.channels)) if config.pool == "token" else None
        self.position = nn.Parameter(torch.empty(1, tokens, config.channels).normal_(std=0.02))
        self.dropout = nn.Dropout(config.dropout)
        blocks = nn.ModuleList(ViTBlock(config, layer) for layer in range(config.layers))
        self.blocks = cast("Sequence[ViTBlock]", blocks)
        self.norm = nn.LayerNorm(config.channels, eps=LAYER_NORM_EPS)
        self.representation = (
            nn.Sequential(xavier_linear(config.channels, config.representation), nn.Tanh())
            if config.representation
            else nn.Identity()
        )
        self.head = head(self.num_features, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B S C"]:
        self.check(images)
        x = record(intermediates, "stem", self.stem(images))
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.dropout(x + self.position)
        for block in self.blocks:
            x = block(x, intermediates)
        return record(intermediates, "tokens", self.norm(x))

    def normed_linears(self) -> list[tuple[nn.LayerNorm, nn.Linear]]:
        attention = [(block.norm1, block.attention.qkv) for block in self.blocks]
        return attention + [(block.norm2, block.mlp.fc1) for block in self.blocks]

    def pool(self, features: Float[Tensor, "B S C"]) -> Float[Tensor, "B D"]:
        pooled = features[:, 0] if self.class_token is not None else features.mean(dim=1)
        return self.representation(pooled)


FAMILY = Family(
    name="vit",
    title="ViT",
    config=ViTConfig,
    model=ViT,
    sizes=SIZES,
    layers=lambda config: config.layers,
    grids=lambda config: [grid(config.image_size, config.patch_size)],
    mean_of=lambda config: None if config.pool == "token" or config.representation else "tokens",
    adapter="mlpmixer.weights.adapters.vit",
)
