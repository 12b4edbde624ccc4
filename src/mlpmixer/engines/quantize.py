"""Post-training quantization of a Mixer to int8, with the most sensitive halves of layers left in bfloat16.

Weights get a scale for each output. Activations get one range for each table, the one that rounds what images make of
it with the least squared error: single large values are cut off, where that helps the others. Some halves are more
sensitive to it than others, and some save more time by it; those that are the most sensitive for what they save stay in
bfloat16, until the rest changes the logits by no more than the tolerance.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from mlpmixer.data.preprocess import normalize
from mlpmixer.engines import kernels
from mlpmixer.engines.rewrites import merge_norms
from mlpmixer.errors import UsageError
from mlpmixer.kernels.forward import as_numbers
from mlpmixer.metadata import Kind, LayerPrecision, Preprocessing, Range
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer, MixerConfig

AT_ONCE = 8  # images
KEPT = 1 << 18  # values of each table that ranges are chosen by
ENDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # shares of the largest value that a range may end at
TRIED = 128  # images that the halves are tried on, one by one
TOLERANCE = 0.05


@dataclass(frozen=True)
class Sensitivity:
    """What int8 does in one half of a layer, all others in float32."""

    half: str
    change: float  # of the logits, root mean square, as a share of their spread
    work: float  # as a share of all layers'
    kind: str  # what became of it


@dataclass(frozen=True)
class Quantized:
    model: Mixer  # its weights are rounded, in float32; its metadata has the layer_precisions
    sensitivities: tuple[Sensitivity, ...]  # none where they were not measured


def quantize(
    model: Classifier,
    how: Preprocessing,
    pixels: UInt8[Tensor, "N 3 H W"],
    tolerance: float = TOLERANCE,
    *,
    each_half: bool = True,
) -> Quantized:
    """`pixels`: prepared images of the kind that it will see, some hundreds. `tolerance`: how far logits may be
    changed, root mean square, as a share of their spread. `each_half` False: what each suffers by itself is only found
    out if islands are needed, which saves most of the time."""
    if (reason := kernels.unsupported(model)) is not None:
        raise UsageError(f"this model cannot be quantized here: {reason}")
    if len(pixels) == 0:
        raise UsageError("quantization is calibrated on images; there are none")
    mixer = cast(Mixer, model)
    merged = copy.deepcopy(mixer).cpu().float().eval()
    merge_norms(merged)
    layer_precisions = [LayerPrecision("int8", *ranges) for ranges in _ranges(merged, how, pixels)]
    trial = _Trial(mixer, how, pixels[:TRIED])
    if not each_half and trial.change(layer_precisions, "int8") <= tolerance:
        return Quantized(_rounded(merged, mixer, tuple(layer_precisions)), ())
    exact = [LayerPrecision("fp32")] * len(layer_precisions)
    changes = [trial.change([*exact[:i], layer, *exact[i + 1 :]]) for i, layer in enumerate(layer_precisions)]
    work = _work(mixer.config)
    cost = [change**2 / share for change, share in zip(changes, work, strict=True)]
    kept = _with_islands(trial, layer_precisions, cost, tolerance)
    names = [f"block {i // 2}, {'channel' if i % 2 else 'token'} mixing" for i in range(len(layer_precisions))]
    rows = zip(names, changes, work, (layer.kind for layer in kept), strict=True)
    return Quantized(_rounded(merged, mixer, kept), tuple(Sensitivity(*each) for each in rows))


def calibrate(model: Classifier, how: Preprocessing, pixels: UInt8[Tensor, "N 3 H W"]) -> tuple[LayerPrecision, ...]:
    return quantize(model, how, pixels, each_half=False).model.metadata.layer_precisions


class _Table:
    """Takes a sample of what a module makes, by chance (but the same each time), and the ends of it all."""

    def __init__(self, module: nn.Module, batches: int):
        self.taken, self.low, self.high = max(1, KEPT // batches), 0.0, 0.0
        self.chance = torch.Generator().manual_seed(0)
        self.sample: list[Tensor] = []
        self.hook = module.register_forward_hook(lambda _module, _given, made: self._see(made))

    def _see(self, made: Any) -> None:
        self.low, self.high = min(self.low, made.min().item()), max(self.high, made.max().item())
        self.sample.append(made.flatten()[torch.randint(made.numel(), (self.taken,), generator=self.chance)])

    def range(self) -> Range:
        """With the least squared error. What is only a little below zero (the GELU's dip) is not cut off."""
        values = torch.cat(self.sample)
        lows = [self.low * end for end in ENDS] if self.low < -0.5 else [self.low]
        ranges = [Range(low, self.high * end) for low in lows for end in ENDS]
        return min(ranges, key=lambda range_: (fake_quantize(values, range_) - values).square().mean().item())


def fake_quantize(values: Tensor, range_: Range) -> Tensor:
    """Rounded to int8 and back."""
    rounded = (values / range_.scale + range_.zero).round().clamp(0, 255)
    return (rounded - range_.zero) * range_.scale


@torch.inference_mode()
def _ranges(merged: Mixer, how: Preprocessing, pixels: Tensor) -> list[tuple[Range, Range]]:
    """For each half, of the table after LayerNorm and of that after the GELU."""
    parts = pixels.split(AT_ONCE)
    halves: list[tuple[_Table, _Table]] = []
    for block in merged.blocks:
        for norm, mlp in ((block.norm1, block.token_mixing), (block.norm2, block.channel_mixing)):
            halves.append((_Table(norm, len(parts)), _Table(mlp.gelu, len(parts))))
    for part in parts:
        merged(normalize(part, how))
    for table in itertools.chain(*halves):
        table.hook.remove()
    return [(normed.range(), active.range()) for normed, active in halves]


class _Trial:
    """How far a model's outputs are from float32's when it is computed otherwise."""

    def __init__(self, model: Mixer, how: Preprocessing, pixels: Tensor):
        self.model, self.how, self.pixels = model, how, pixels
        self.wanted = self._outputs([], "fp32")

    def change(self, layer_precisions: Sequence[LayerPrecision], around: Kind = "fp32") -> float:
        return (
            (self._outputs(layer_precisions, around) - self.wanted).square().mean().sqrt() / self.wanted.std()
        ).item()

    def _outputs(self, layer_precisions: Sequence[LayerPrecision], around: Kind) -> Tensor:
        features, logits = kernels.forward(self.model, self.how, around, layer_precisions)(self.pixels)
        return logits if self.model.config.num_classes else features


def _work(config: MixerConfig) -> list[float]:
    """Each half's share: a token-mixing map costs S · D_S · C, a channel-mixing map S · C · D_C."""
    token, channel = config.token_hidden, config.channel_hidden
    return [half / (config.layers * (token + channel)) for _ in range(config.layers) for half in (token, channel)]


def _with_islands(
    trial: _Trial, layer_precisions: Sequence[LayerPrecision], cost: Sequence[float], tolerance: float
) -> tuple[LayerPrecision, ...]:
    """As few islands as will do, those first that suffer the most for what bytes save there."""
    kept = list(layer_precisions)
    for i in sorted(range(len(layer_precisions)), key=lambda i: -cost[i]):
        if trial.change(kept, "int8") <= tolerance:
            break
        kept[i] = LayerPrecision("bf16")
    return tuple(kept)


def _rounded(merged: Mixer, model: Mixer, layer_precisions: tuple[LayerPrecision, ...]) -> Mixer:
    """`merged` with the weights that bytes stand for, and LayerNorms that have a scale again: of 1, where merged."""
    channels = model.config.channels
    with torch.no_grad():
        for i, layer in enumerate(layer_precisions):
            block = merged.blocks[i // 2]
            if i % 2:
                block.norm2.weight, block.norm2.bias = (nn.Parameter(f(channels)) for f in (torch.ones, torch.zeros))
            mlp = block.channel_mixing if i % 2 else block.token_mixing
            for linear in (mlp.fc1, mlp.fc2) if layer.kind == "int8" else ():
                values, scale = as_numbers(linear.weight, "int8")
                linear.weight.copy_(values * scale[:, None])
    merged.metadata = dataclasses.replace(model.metadata, layer_precisions=layer_precisions)
    return merged
