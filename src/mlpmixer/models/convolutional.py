"""The Mixer read as a convolutional network (section 2 of the paper): the same numbers, only convolutions."""

from __future__ import annotations

import copy
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.errors import UsageError
from mlpmixer.models.mixer import ColumnLinear, Mixer, MixerBlock


def as_cnn(model: Mixer) -> nn.Sequential:
    """The same network, its weights copied, with every matrix product written as a convolution.

    The stem is a P×P convolution already. Channel mixing is two 1×1 convolutions. Token mixing is depth-wise, its
    kernels cover the whole grid of tokens, and all channels share them.
    """
    if not model.config.plain:
        raise UsageError("only the plain Mixer reads as this CNN; this one is untied, grouped or a pyramid")
    model = copy.deepcopy(model)
    rows, columns = model.stem.grid
    return nn.Sequential(
        nn.ZeroPad2d(model.stem.padding),
        model.stem.patches,
        *(ConvolutionalBlock(block, rows, columns) for block in model.blocks),
        ChannelNorm(model.norm),
        nn.AvgPool2d((rows, columns)),
        nn.Flatten(),
        model.head,
    ).train(model.training)


class ConvolutionalBlock(nn.Module):
    def __init__(self, block: MixerBlock, rows: int, columns: int):
        super().__init__()
        mixing = block.token_mixing
        self.norm1 = ChannelNorm(block.norm1)
        self.norm2 = ChannelNorm(block.norm2)
        # One full-field kernel for each hidden unit; the answer of a unit is one number, a 1×1 image ...
        self.gather = convolution(cast(ColumnLinear, mixing.fc1), (rows, columns))
        # ... and a 1×1 convolution makes S numbers of the D_S, one for each token.
        self.spread = convolution(cast(ColumnLinear, mixing.fc2), (1, 1))
        self.widen = convolution(block.channel_mixing.fc1, (1, 1))
        self.narrow = convolution(block.channel_mixing.fc2, (1, 1))
        self.gelu = mixing.gelu
        self.dropout = mixing.dropout
        self.drop = block.drop

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        x = x + self.drop(self.token_mixing(self.norm1(x)).flatten(2)).view_as(x)
        return x + self.drop(self.channel_mixing(self.norm2(x)).flatten(2)).view_as(x)

    def token_mixing(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        # Kernels shared by all channels: to the convolution, each channel is an image of its own.
        alone = x.flatten(0, 1).unsqueeze(1)
        hidden = self.dropout(self.gelu(self.gather(alone)))
        return self.dropout(self.spread(hidden)).view_as(x)

    def channel_mixing(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return self.dropout(self.narrow(self.dropout(self.gelu(self.widen(x)))))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each token, for channels-first images."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def convolution(linear: nn.Linear | ColumnLinear, kernel: tuple[int, int]) -> nn.Conv2d:
    """The convolution with the weights of a linear map whose inputs are channels × the positions under the kernel."""
    out_features, in_features = linear.weight.shape
    conv = nn.Conv2d(in_features // (kernel[0] * kernel[1]), out_features, kernel)
    conv.weight = nn.Parameter(linear.weight.detach().reshape(conv.weight.shape))
    conv.bias = nn.Parameter(linear.bias.detach())
    return conv
