"""How others name and shape the arrays of our models: one literal table for each family and layout.

    timm      PyTorch Image Models, safetensors or .pth
    linen     the authors' Flax Linen code, .npz
    older     the authors' files from before that, .npz
    vit_jax   those files' ViTs as today's vit_jax has them in memory, and saves them, .npz

A line reads: our name, their name, the form theirs has. `{i}` and `{j}` stand for numbers, and hold on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mlpmixer.errors import UsageError
from mlpmixer.models.layers import GeluForm

Arrays = tuple[Tensor, ...]


@dataclass(frozen=True)
class Form:
    """A lossless way to reshape their arrays into ours and back. Works on meta tensors, where only shapes count."""

    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays, int], Arrays]  # the number is that of attention heads, which our arrays do not show


def one(to_ours: Callable[[Tensor], Tensor], to_theirs: Callable[[Tensor], Tensor]) -> Form:
    return Form(lambda theirs: (to_ours(theirs[0]),), lambda ours, _: (to_theirs(ours[0]),))


SAME = one(lambda t: t, lambda t: t)
DENSE = one(lambda t: t.transpose(0, 1), lambda t: t.transpose(0, 1))  # (in, out): Flax multiplies from the right
CONV = one(lambda t: t.permute(3, 2, 0, 1), lambda t: t.permute(2, 3, 1, 0))  # height, width, in, out
POINT = one(lambda t: t[:, :, 0, 0], lambda t: t[:, :, None, None])  # a 1×1 convolution, out first
FLAX_POINT = one(lambda t: t[0, 0].transpose(0, 1), lambda t: t.transpose(0, 1)[None, None])
BROADCAST = one(lambda t: t.flatten(), lambda t: t[None, None, None])  # (1, 1, 1, C)

# Query, key and value: three arrays (C, heads, C/heads), one of ours.
QKV = Form(
    lambda theirs: (torch.cat([t.flatten(1).transpose(0, 1) for t in theirs]),),
    lambda ours, heads: tuple(t.transpose(0, 1).unflatten(1, (heads, -1)) for t in ours[0].chunk(3)),
)
QKV_BIAS = Form(
    lambda theirs: (torch.cat([t.flatten() for t in theirs]),),
    lambda ours, heads: tuple(t.unflatten(0, (heads, -1)) for t in ours[0].chunk(3)),
)
ATTENTION_OUT = Form(
    lambda theirs: (theirs[0].flatten(0, 1).transpose(0, 1),),
    lambda ours, heads: (ours[0].transpose(0, 1).unflatten(0, (heads, -1)),),
)
# Linen adds no position to the class token: ours then is zero, and a class token with one is their sum.
CLASS_AND_POSITION = Form(
    lambda theirs: (theirs[0], torch.cat([torch.zeros_like(theirs[0]), theirs[1]], dim=1)),
    lambda ours, _: (ours[0] + ours[1][:, :1], ours[1][:, 1:]),
)


@dataclass(frozen=True)
class Line:
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    form: Form


def line(ours: str, theirs: str, form: Form) -> Line:
    return Line(tuple(ours.split()), tuple(theirs.split()), form)


def weight_and_bias(ours: str, theirs: str, kernel: Form = DENSE) -> list[Line]:
    """A linear map or convolution of Flax."""
    return [line(f"{ours}.weight", f"{theirs}/kernel", kernel), line(f"{ours}.bias", f"{theirs}/bias", SAME)]


def flax_norm(ours: str, theirs: str, form: Form = SAME) -> list[Line]:
    return [line(f"{ours}.weight", f"{theirs}/scale", form), line(f"{ours}.bias", f"{theirs}/bias", form)]


def both(ours: str, theirs: str) -> list[Line]:
    """A layer of PyTorch, named otherwise."""
    return [line(f"{ours}.weight", f"{theirs}.weight", SAME), line(f"{ours}.bias", f"{theirs}.bias", SAME)]


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

VIT_TIMM = [
    line("class_token", "cls_token", SAME),
    line("position", "pos_embed", SAME),
    *both("stem.patches", "patch_embed.proj"),
    *both("blocks.{i}.norm1", "blocks.{i}.norm1"),
    *both("blocks.{i}.attention.qkv", "blocks.{i}.attn.qkv"),
    *both("blocks.{i}.attention.out", "blocks.{i}.attn.proj"),
    *both("blocks.{i}.norm2", "blocks.{i}.norm2"),
    *both("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1"),
    *both("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"),
    *both("norm", "norm"),
    *both("head", "head"),
]


def vit_flax(attention: str, norm2: str, mlp: str) -> list[Line]:
    block = "Transformer/encoderblock_{i}"
    return [
        *weight_and_bias("stem.patches", "embedding", CONV),
        *flax_norm("blocks.{i}.norm1", f"{block}/LayerNorm_0"),
        *(
            line(f"blocks.{{i}}.attention.{ours}", " ".join(f"{block}/{attention}/{t}" for t in theirs.split()), form)
            for ours, theirs, form in (
                ("qkv.weight", "query/kernel key/kernel value/kernel", QKV),
                ("qkv.bias", "query/bias key/bias value/bias", QKV_BIAS),
                ("out.weight", "out/kernel", ATTENTION_OUT),
                ("out.bias", "out/bias", SAME),
            )
        ),
        *flax_norm("blocks.{i}.norm2", f"{block}/{norm2}"),
        *weight_and_bias("blocks.{i}.mlp.fc1", f"{block}/{mlp}/Dense_0"),
        *weight_and_bias("blocks.{i}.mlp.fc2", f"{block}/{mlp}/Dense_1"),
        *flax_norm("norm", "Transformer/encoder_norm"),
        *weight_and_bias("representation.0", "pre_logits"),
        *weight_and_bias("head", "head"),
    ]


VIT_LINEN = [
    line("class_token position", "cls pos_embedding", CLASS_AND_POSITION),
    line("position", "pos_embedding", SAME),  # where there is no class token
    *vit_flax("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
]

VIT_JAX = [
    line("class_token", "cls", SAME),
    line("position", "Transformer/posembed_input/pos_embedding", SAME),
    *vit_flax("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
]

# The parts of a block were counted together, whatever they are.
VIT_OLDER = [*VIT_JAX[:2], *vit_flax("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")]

BIT_TIMM = [
    line("stem.weight", "stem.conv.weight", SAME),
    *(
        row
        for n in (1, 2, 3)
        for row in (
            *both(f"stages.{{i}}.{{j}}.norm{n}", f"stages.{{i}}.blocks.{{j}}.norm{n}"),
            line(f"stages.{{i}}.{{j}}.conv{n}.weight", f"stages.{{i}}.blocks.{{j}}.conv{n}.weight", SAME),
        )
    ),
    line("stages.{i}.{j}.shortcut.weight", "stages.{i}.blocks.{j}.downsample.conv.weight", SAME),
    *both("norm", "norm"),
    line("head.weight", "head.fc.weight", POINT),
    line("head.bias", "head.fc.bias", SAME),
]

# Their stages count from 1, and their units from 01: `{i+1}` and `{j+1:02}`.
_UNIT = "block{i+1}/unit{j+1:02}"

BIT_LINEN = [
    line("stem.weight", "root_block/conv_root/kernel", CONV),
    *(
        row
        for n in (1, 2, 3)
        for row in (
            *flax_norm(f"stages.{{i}}.{{j}}.norm{n}", f"{_UNIT}/gn{n}", BROADCAST),
            line(f"stages.{{i}}.{{j}}.conv{n}.weight", f"{_UNIT}/conv{n}/kernel", CONV),
        )
    ),
    line("stages.{i}.{j}.shortcut.weight", f"{_UNIT}/conv_proj/kernel", CONV),
    *flax_norm("norm", "norm-pre-head", BROADCAST),
    *weight_and_bias("head", "head"),
]


def gamma_and_beta(ours: str, theirs: str) -> list[Line]:
    return [line(f"{ours}.weight", f"{theirs}/gamma", SAME), line(f"{ours}.bias", f"{theirs}/beta", SAME)]


BIT_OLDER = [
    line("stem.weight", "resnet/root_block/standardized_conv2d/kernel", CONV),
    *(
        row
        for n, letter in enumerate("abc", start=1)
        for row in (
            *gamma_and_beta(f"stages.{{i}}.{{j}}.norm{n}", f"resnet/{_UNIT}/{letter}/group_norm"),
            line(f"stages.{{i}}.{{j}}.conv{n}.weight", f"resnet/{_UNIT}/{letter}/standardized_conv2d/kernel", CONV),
        )
    ),
    line("stages.{i}.{j}.shortcut.weight", f"resnet/{_UNIT}/a/proj/standardized_conv2d/kernel", CONV),
    *gamma_and_beta("norm", "resnet/group_norm"),
    *weight_and_bias("head", "resnet/head/conv2d", FLAX_POINT),
]


@dataclass(frozen=True)
class Layout:
    name: str
    family: str
    lines: list[Line] = field(repr=False)
    marks: tuple[str, ...]  # keys that no other layout has together, or none that stands before it

    @property
    def gelu(self) -> GeluForm:
        """The form that this layout's own code computes."""
        return "erf" if self.name == "timm" else "tanh"


_ATTENTION = "Transformer/encoderblock_0/MultiHeadDotProductAttention"

LAYOUTS = [
    Layout("timm", "mixer", MIXER_TIMM, ("stem.proj.weight", "blocks.0.mlp_tokens.fc1.weight")),
    Layout("linen", "mixer", MIXER_LINEN, ("stem/kernel", "MixerBlock_0/token_mixing/Dense_0/kernel")),
    Layout("older", "mixer", MIXER_OLDER, ("Mixer/encoderblock_0/token_mixing_phase_0/kernel1",)),
    Layout("timm", "vit", VIT_TIMM, ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")),
    Layout("vit_jax", "vit", VIT_JAX, (f"{_ATTENTION}_0/query/kernel", "Transformer/posembed_input/pos_embedding")),
    Layout("linen", "vit", VIT_LINEN, (f"{_ATTENTION}_0/query/kernel",)),
    Layout("older", "vit", VIT_OLDER, (f"{_ATTENTION}_1/query/kernel",)),
    Layout("timm", "bit", BIT_TIMM, ("stem.conv.weight", "stages.0.blocks.0.conv1.weight")),
    Layout("linen", "bit", BIT_LINEN, ("root_block/conv_root/kernel",)),
    Layout("older", "bit", BIT_OLDER, ("resnet/root_block/standardized_conv2d/kernel",)),
]


def find(family: str, name: str) -> Layout:
    found = {layout.family: layout for layout in LAYOUTS if layout.name == name}
    if family not in found:
        raise UsageError(f"the {name} layout has a place for {' and '.join(found)} only, not for {family}")
    return found[family]


def own(family: str) -> Layout:
    return Layout("mlpmixer", family, [], ())


def heads_in(theirs: Mapping[str, Tensor]) -> int | None:
    """The number of attention heads, where a layout shows it: Flax's queries are (C, heads, C/heads)."""
    return next((t.shape[1] for name, t in theirs.items() if name.endswith("/query/kernel") and t.ndim == 3), None)


def recognize(keys: Iterable[str]) -> Layout | None:
    present = set(keys)
    return next((layout for layout in LAYOUTS if present.issuperset(layout.marks)), None)


_NUMBER = re.compile(r"\{([ij])(\+1)?(:02)?\}")


def fill(template: str, numbers: Mapping[str, int]) -> str:
    def digits(found: re.Match[str]) -> str:
        letter, plus, padded = found.groups()
        return format(numbers[letter] + (1 if plus else 0), "02" if padded else "")

    return _NUMBER.sub(digits, template)


def match(template: str, name: str) -> dict[str, int] | None:
    """The numbers for which `fill(template, numbers)` is `name`."""
    pattern, letters, end = "", [], 0
    for found in _NUMBER.finditer(template):
        pattern += re.escape(template[end : found.start()]) + r"(\d{1,4})"
        letters.append((found[1], 1 if found[2] else 0))
        end = found.end()
    hit = re.fullmatch(pattern + re.escape(template[end:]), name)
    if hit is None:
        return None
    numbers = {letter: int(digits) - plus for (letter, plus), digits in zip(letters, hit.groups(), strict=True)}
    return numbers if fill(template, numbers) == name else None


def pair(layout: Layout, ours: Iterable[str]) -> list[Line]:
    """The layout's lines for a model with the parameters `ours`, numbers filled in; every parameter in one line.

    Our own layout is the one without lines. Elsewhere a parameter that has no place gets a line to nowhere.
    """
    if not layout.lines:
        return [Line((name,), (name,), SAME) for name in ours]
    left = dict.fromkeys(ours)
    lines = []
    for template in layout.lines:
        for name in list(left):
            numbers = match(template.ours[0], name)
            names = numbers is not None and tuple(fill(t, numbers) for t in template.ours)
            if numbers is not None and names and all(n in left for n in names):
                lines.append(Line(names, tuple(fill(t, numbers) for t in template.theirs), template.form))
                for taken in names:
                    del left[taken]
    return lines + [Line((name,), (), SAME) for name in left]


def our_shapes(layout: Layout, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As much of our side as their (meta) tensors yield; what does not fit any line is left out."""
    ours: dict[str, Tensor] = {}
    for template in layout.lines:
        for name in theirs:
            numbers = match(template.theirs[0], name)
            names = numbers is not None and [fill(t, numbers) for t in template.theirs]
            if numbers is not None and names and all(n in theirs for n in names):
                try:
                    made = template.form.to_ours(tuple(theirs[n] for n in names))
                except (RuntimeError, IndexError):
                    continue  # of a shape that the form cannot read: the strict comparison will name it
                for ours_name, tensor in zip((fill(t, numbers) for t in template.ours), made, strict=True):
                    ours.setdefault(ours_name, tensor)
    return ours
