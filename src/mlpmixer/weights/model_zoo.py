"""The model zoo: public checkpoints that fit our models, where each lies, and who says what it is.

A number is here only if a source gives it, and the source is named beside it; what nobody states is None. The GELU form
is the one a model was trained with, whatever its port computes: "tanh" for the authors' Flax, "erf" for PyTorch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

from mlpmixer import models
from mlpmixer.errors import UsageError, nearest
from mlpmixer.metadata import Preprocessing
from mlpmixer.weights.bundled import BUNDLED


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One public file.

    `num_classes` counts the outputs of its head. `top1` is the accuracy on ImageNet's validation set, in percent.
    `sha256` is the hexadecimal checksum of the file, or as many of its first digits as are known.
    """

    name: str
    model: str  # as in `mlpmixer.create`
    what: str
    says: str
    url: str
    layout: Literal["linen", "older", "timm"]  # how its arrays are named
    preprocessing: Preprocessing
    gelu: Literal["tanh", "erf"] | None  # None: it has no GELU
    num_classes: int
    top1: float | None = None
    top1_source: str | None = None
    sha256: str | None = None


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """The names that `create` takes.

    Args:
        pattern: A shell pattern that they match, such as `mixer_*`.
        pretrained: List weights instead of models: those in the package, then those that others have published.

    Returns:
        Names, the paper's Mixers first.
    """
    if not pretrained:
        return models.list_models(pattern)
    return [name for name in (*BUNDLED, *MODEL_ZOO) if fnmatchcase(name, pattern)]


def pretrained_for(name: str) -> str:
    """The name of the weights called `name`, or of the first for the model called so.

    Raises:
        UsageError: There are none.
    """
    if name in BUNDLED or name in MODEL_ZOO:
        return name
    model = models.canonical(name)
    found = next((entry.name for entry in MODEL_ZOO.values() if entry.model == model), None)
    if found is None:
        raise UsageError(f"there are no pretrained weights for {model} (`mixer models --weights` lists what there is)")
    return found


def find(name: str) -> Entry:
    """The entry called `name`."""
    if name not in MODEL_ZOO:
        hint = nearest(name, MODEL_ZOO) or "; a name looks like 'mixer_b16.imagenet21k', see mlpmixer.weights.model_zoo"
        raise UsageError(f"no public checkpoint is called '{name}'{hint}")
    return MODEL_ZOO[name]


# Who says so. VT, BV and BIT are the authors' own repositories.
VT = "README of google-research/vision_transformer"
BV = "models/mlp_mixer.py of google-research/big_vision"
BIT = "README of google-research/big_transfer"
DISTILL = "configs/proj/distill/README.md of google-research/big_vision"
TOOLBOX = "mlp_mixer.py of gau-nernst/vision-toolbox"
TIMM = "default_cfgs of timm 1.0.31"
TIMM_RESULTS = "results-imagenet.csv of timm, measured with timm's preprocessing and erf GELU"
TIMM_BIT_RESULTS = "results-imagenet.csv of timm, measured with timm's preprocessing"
TABLE_3 = "MLP-Mixer paper, Table 3"
ERF_PORT = "Trained with tanh GELU; timm runs it with erf."

GOOGLE = "https://storage.googleapis.com"
AUGREG = f"{GOOGLE}/vit_models/augreg"
FINE_TUNED = f"{GOOGLE}/vit_models/imagenet21k%2Bimagenet2012"
HUB = "https://huggingface.co/timm"
RELEASES = "https://github.com/rwightman/pytorch-image-models/releases/download"

# The authors shrink by averaging areas; antialiased bilinear is the nearest to it that we offer.
UPSTREAM = Preprocessing(resize=256, crop=(224, 224))


def _stretched(side: int) -> Preprocessing:
    """What the authors' fine-tuning code gives ViT and BiT in evaluation: the whole image, made square."""
    return Preprocessing(resize=side, crop=(side, side), shape="stretch")


def _timm(side: int, crop_pct: float, interpolation: Literal["bilinear", "bicubic"] = "bicubic") -> Preprocessing:
    return Preprocessing(resize=math.floor(side / crop_pct), crop=(side, side), interpolation=interpolation)


# MIIL feeds values in [0, 1].
MIIL = Preprocessing(resize=256, crop=(224, 224), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

# What a row need not repeat.
_mixer = partial(Entry, layout="linen", preprocessing=UPSTREAM, gelu="tanh", num_classes=1000)
_mixer_timm = partial(Entry, layout="timm", preprocessing=_timm(224, 0.875), gelu="tanh", num_classes=1000)
_mixer_miil = partial(Entry, layout="timm", preprocessing=MIIL, gelu="erf")
_vit = partial(Entry, layout="older", preprocessing=UPSTREAM, gelu="tanh", num_classes=21843)
_vit_tuned = partial(Entry, layout="older", preprocessing=_stretched(384), gelu="tanh", num_classes=1000)
_vit_timm = partial(
    Entry,
    says=TIMM,
    layout="timm",
    preprocessing=_timm(224, 0.9),
    gelu="tanh",
    num_classes=1000,
    top1_source=TIMM_RESULTS,
)
_bit = partial(Entry, says=BIT, layout="older", preprocessing=UPSTREAM, gelu=None)
# The authors' BiT code evaluates at 480 pixels what it fine-tuned; timm chose 448 for most, big_vision 384.
_bit_480 = partial(Entry, says=BIT, layout="older", preprocessing=_stretched(480), gelu=None, num_classes=1000)
_bit_timm = partial(Entry, says=TIMM, layout="timm", gelu=None, num_classes=1000, top1_source=TIMM_BIT_RESULTS)

ENTRIES: tuple[Entry, ...] = (
    # Mixer, by its authors.
    _mixer(
        name="mixer_b16.imagenet1k",
        model="mixer_b16",
        what="ImageNet alone, 300 epochs.",
        says=f"{VT}; {BV}. Others take it for one pre-trained on 21k, see mixer_b16.timm_goog_in21k_ft_in1k. "
        "A. Kolesnikov, an author, in pull request 651 of timm (2021): the file that reaches 76.5 % is the model of "
        "ImageNet alone; one fine-tuned from 21k was not published. A user reports 72.62 % (vision_transformer 134).",
        url=f"{GOOGLE}/mixer_models/imagenet1k/Mixer-B_16.npz",
        top1=76.44,
        top1_source=TABLE_3,
    ),
    _mixer(
        name="mixer_l16.imagenet1k",
        model="mixer_l16",
        what="ImageNet alone, 300 epochs.",
        says=f"{VT}; {BV}.",
        url=f"{GOOGLE}/mixer_models/imagenet1k/Mixer-L_16.npz",
        top1=71.76,
        top1_source=TABLE_3,
    ),
    _mixer(
        name="mixer_b16.imagenet21k",
        model="mixer_b16",
        what="ImageNet-21k, 300 epochs, not fine-tuned.",
        says=f"{VT}; {BV}.",
        url=f"{GOOGLE}/mixer_models/imagenet21k/Mixer-B_16.npz",
        num_classes=21843,
    ),
    _mixer(
        name="mixer_l16.imagenet21k",
        model="mixer_l16",
        what="ImageNet-21k, 300 epochs, not fine-tuned.",
        says=f"{VT}; {BV}.",
        url=f"{GOOGLE}/mixer_models/imagenet21k/Mixer-L_16.npz",
        num_classes=21843,
    ),
    _mixer(
        name="mixer_b16.sam",
        model="mixer_b16",
        what="ImageNet alone, Inception-style augmentation, optimized with SAM.",
        says=f"{VT}. A user reports 68.9 % (issue 134 there).",
        url=f"{GOOGLE}/mixer_models/sam/Mixer-B_16.npz",
        top1=77.4,
        top1_source="arXiv 2106.01548, as quoted in issue 134 of vision_transformer",
    ),
    _mixer(
        name="mixer_b32.sam",
        model="mixer_b32",
        what="ImageNet alone, Inception-style augmentation, optimized with SAM.",
        says=f"{VT} names the folder, {TOOLBOX} the file.",
        url=f"{GOOGLE}/mixer_models/sam/Mixer-B_32.npz",
    ),
    _mixer(
        name="mixer_s32.gsam",
        model="mixer_s32",
        what="ImageNet alone, no strong augmentation, optimized with GSAM.",
        says=f"{VT} names the folder, {TOOLBOX} the file.",
        url=f"{GOOGLE}/mixer_models/gsam/Mixer-S_32.npz",
    ),
    _mixer(
        name="mixer_s16.gsam",
        model="mixer_s16",
        what="ImageNet alone, no strong augmentation, optimized with GSAM.",
        says=f"{VT} names the folder, {TOOLBOX} the file.",
        url=f"{GOOGLE}/mixer_models/gsam/Mixer-S_16.npz",
    ),
    _mixer(
        name="mixer_b32.gsam",
        model="mixer_b32",
        what="ImageNet alone, no strong augmentation, optimized with GSAM.",
        says=f"{VT} names the folder, {TOOLBOX} the file.",
        url=f"{GOOGLE}/mixer_models/gsam/Mixer-B_32.npz",
    ),
    _mixer(
        name="mixer_b16.gsam",
        model="mixer_b16",
        what="ImageNet alone, no strong augmentation, optimized with GSAM.",
        says=f"{VT} names the folder, {TOOLBOX} the file.",
        url=f"{GOOGLE}/mixer_models/gsam/Mixer-B_16.npz",
    ),
    # Mixer, timm's ports. A release's file name ends in the first 8 digits of its checksum.
    _mixer_timm(
        name="mixer_b16.timm_goog_in21k_ft_in1k",
        model="mixer_b16",
        what=f"Port of mixer_b16.imagenet1k. {ERF_PORT}",
        says=f"{TIMM}, whose name for it means ImageNet-21k, then ImageNet. A. Kolesnikov, an author of Mixer, "
        "disagrees in pull request 651 of timm (2021): 76.5 % is the model of ImageNet alone; one fine-tuned from 21k "
        "was not published. Its accuracy agrees with him: the paper has 76.44 % for ImageNet alone, 80.64 % for 21k.",
        url=f"{RELEASES}/v0.1-vitjx/jx_mixer_b16_224-76587d61.pth",
        top1=76.602,
        top1_source=TIMM_RESULTS,
        sha256="76587d61",
    ),
    _mixer_timm(
        name="mixer_b16.timm_goog_in21k",
        model="mixer_b16",
        what=f"Port of mixer_b16.imagenet21k. {ERF_PORT}",
        says=TIMM,
        url=f"{RELEASES}/v0.1-vitjx/jx_mixer_b16_224_in21k-617b3de2.pth",
        num_classes=21843,
        sha256="617b3de2",
    ),
    _mixer_timm(
        name="mixer_l16.timm_goog_in21k_ft_in1k",
        model="mixer_l16",
        what=f"Port of mixer_l16.imagenet1k. {ERF_PORT}",
        says=f"{TIMM}, whose name for it means ImageNet-21k, then ImageNet. Its accuracy speaks against that: the "
        "paper has 71.76 % for ImageNet alone, 82.89 % for 21k. See mixer_b16.timm_goog_in21k_ft_in1k.",
        url=f"{RELEASES}/v0.1-vitjx/jx_mixer_l16_224-92f9adc4.pth",
        top1=72.054,
        top1_source=TIMM_RESULTS,
        sha256="92f9adc4",
    ),
    _mixer_timm(
        name="mixer_l16.timm_goog_in21k",
        model="mixer_l16",
        what=f"Port of mixer_l16.imagenet21k. {ERF_PORT}",
        says=TIMM,
        url=f"{RELEASES}/v0.1-vitjx/jx_mixer_l16_224_in21k-846aa33c.pth",
        num_classes=21843,
        sha256="846aa33c",
    ),
    _mixer_miil(
        name="mixer_b16.timm_miil_in21k",
        model="mixer_b16",
        what="ImageNet-21k-P, trained in PyTorch by Alibaba's MIIL. Expects values in [0, 1].",
        says=f"{TIMM}; pull request 651 of timm.",
        url=f"{RELEASES}/v0.1-tresnet/mixer_b16_224_miil_in21k-2a558a71.pth",
        num_classes=11221,
        sha256="2a558a71",
    ),
    _mixer_miil(
        name="mixer_b16.timm_miil_in21k_ft_in1k",
        model="mixer_b16",
        what="mixer_b16.timm_miil_in21k, then fine-tuned on ImageNet. Expects values in [0, 1].",
        says=f"{TIMM}; pull request 651 of timm.",
        url=f"{RELEASES}/v0.1-tresnet/mixer_b16_224_miil-9229a591.pth",
        num_classes=1000,
        top1=82.306,
        top1_source=TIMM_RESULTS,
        sha256="9229a591",
    ),
    # ViT, as first published. Of the 21k files timm says that the classifier is not valid (zero).
    _vit(
        name="vit_b32.imagenet21k",
        model="vit_b32",
        what="ImageNet-21k, with a tanh layer before a head of no use: for fine-tuning.",
        says=f"{VT}; {TIMM}.",
        url=f"{GOOGLE}/vit_models/imagenet21k/ViT-B_32.npz",
    ),
    _vit(
        name="vit_b16.imagenet21k",
        model="vit_b16",
        what="ImageNet-21k, with a tanh layer before a head of no use: for fine-tuning.",
        says=f"{VT}; {TIMM}.",
        url=f"{GOOGLE}/vit_models/imagenet21k/ViT-B_16.npz",
    ),
    _vit(
        name="vit_l32.imagenet21k",
        model="vit_l32",
        what="ImageNet-21k, with a tanh layer before a head of no use: for fine-tuning.",
        says=f"{VT}; {TIMM}.",
        url=f"{GOOGLE}/vit_models/imagenet21k/ViT-L_32.npz",
    ),
    _vit(
        name="vit_l16.imagenet21k",
        model="vit_l16",
        what="ImageNet-21k, with a tanh layer before a head of no use: for fine-tuning.",
        says=f"{VT}; {TIMM}.",
        url=f"{GOOGLE}/vit_models/imagenet21k/ViT-L_16.npz",
    ),
    _vit(
        name="vit_h14.imagenet21k",
        model="vit_h14",
        what="ImageNet-21k, with a tanh layer before a head of no use: for fine-tuning.",
        says=f"{VT}; {TIMM}.",
        url=f"{GOOGLE}/vit_models/imagenet21k/ViT-H_14.npz",
    ),
    _vit_tuned(
        name="vit_b32.imagenet21k_imagenet2012",
        model="vit_b32",
        what="ImageNet-21k, then fine-tuned on ImageNet at 384 pixels.",
        says=VT,
        url=f"{FINE_TUNED}/ViT-B_32.npz",
    ),
    _vit_tuned(
        name="vit_b16.imagenet21k_imagenet2012",
        model="vit_b16",
        what="ImageNet-21k, then fine-tuned on ImageNet at 384 pixels.",
        says=VT,
        url=f"{FINE_TUNED}/ViT-B_16.npz",
    ),
    _vit_tuned(
        name="vit_l32.imagenet21k_imagenet2012",
        model="vit_l32",
        what="ImageNet-21k, then fine-tuned on ImageNet at 384 pixels.",
        says=VT,
        url=f"{FINE_TUNED}/ViT-L_32.npz",
    ),
    _vit_tuned(
        name="vit_l16.imagenet21k_imagenet2012",
        model="vit_l16",
        what="ImageNet-21k, then fine-tuned on ImageNet at 384 pixels.",
        says=VT,
        url=f"{FINE_TUNED}/ViT-L_16.npz",
    ),
    _vit_tuned(
        name="vit_b16.imagenet21k_imagenet2012_224",
        model="vit_b16",
        what="ImageNet-21k, then fine-tuned on ImageNet at 224 pixels.",
        says=VT,
        url=f"{FINE_TUNED}/ViT-B_16-224.npz",
        preprocessing=_stretched(224),
        top1=81.2,
        top1_source=f"{VT} (expected)",
    ),
    _vit_tuned(
        name="vit_l16.imagenet21k_imagenet2012_224",
        model="vit_l16",
        what="ImageNet-21k, then fine-tuned on ImageNet at 224 pixels.",
        says=VT,
        url=f"{FINE_TUNED}/ViT-L_16-224.npz",
        preprocessing=_stretched(224),
        top1=82.7,
        top1_source=f"{VT} (expected)",
    ),
    # ViT, the recommended ones of "How to train your ViT?".
    _vit(
        name="vit_ti16.augreg_in21k",
        model="vit_ti16",
        what="ImageNet-21k, 300 epochs.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0.npz",
    ),
    _vit_tuned(
        name="vit_ti16.augreg_in21k_imagenet2012",
        model="vit_ti16",
        what="vit_ti16.augreg_in21k, then fine-tuned on ImageNet at 384 pixels.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
        "--imagenet2012-steps_20k-lr_0.03-res_384.npz",
        top1=78.22,
        top1_source=VT,
    ),
    _vit(
        name="vit_s16.augreg_in21k",
        model="vit_s16",
        what="ImageNet-21k, 300 epochs.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0.npz",
    ),
    _vit_tuned(
        name="vit_s16.augreg_in21k_imagenet2012",
        model="vit_s16",
        what="vit_s16.augreg_in21k, then fine-tuned on ImageNet at 384 pixels.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"
        "--imagenet2012-steps_20k-lr_0.03-res_384.npz",
        top1=83.73,
        top1_source=VT,
    ),
    _vit(
        name="vit_b32.augreg_in21k",
        model="vit_b32",
        what="ImageNet-21k, 300 epochs.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0.npz",
    ),
    _vit_tuned(
        name="vit_b32.augreg_in21k_imagenet2012",
        model="vit_b32",
        what="vit_b32.augreg_in21k, then fine-tuned on ImageNet at 384 pixels.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0"
        "--imagenet2012-steps_20k-lr_0.01-res_384.npz",
        top1=83.59,
        top1_source=VT,
    ),
    _vit(
        name="vit_b16.augreg_in21k",
        model="vit_b16",
        what="ImageNet-21k, 300 epochs.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz",
    ),
    _vit_tuned(
        name="vit_b16.augreg_in21k_imagenet2012",
        model="vit_b16",
        what="vit_b16.augreg_in21k, then fine-tuned on ImageNet at 384 pixels.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
        "--imagenet2012-steps_20k-lr_0.03-res_384.npz",
        top1=85.49,
        top1_source=VT,
    ),
    _vit(
        name="vit_l16.augreg_in21k",
        model="vit_l16",
        what="ImageNet-21k, 300 epochs.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0.npz",
    ),
    _vit_tuned(
        name="vit_l16.augreg_in21k_imagenet2012",
        model="vit_l16",
        what="vit_l16.augreg_in21k, then fine-tuned on ImageNet at 384 pixels.",
        says=f"{VT}, recommended.",
        url=f"{AUGREG}/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0"
        "--imagenet2012-steps_20k-lr_0.01-res_384.npz",
        top1=85.59,
        top1_source=VT,
    ),
    _vit(
        name="vit_b32.sam",
        model="vit_b32",
        what="ImageNet alone, Inception-style augmentation, optimized with SAM.",
        says=f"{VT} names the folder, {TIMM} the file.",
        url=f"{GOOGLE}/vit_models/sam/ViT-B_32.npz",
        num_classes=1000,
        top1=73.694,
        top1_source=TIMM_RESULTS,
    ),
    _vit(
        name="vit_b16.sam",
        model="vit_b16",
        what="ImageNet alone, Inception-style augmentation, optimized with SAM.",
        says=f"{VT} names the folder, {TIMM} the file.",
        url=f"{GOOGLE}/vit_models/sam/ViT-B_16.npz",
        num_classes=1000,
        top1=80.244,
        top1_source=TIMM_RESULTS,
    ),
    # ViT, timm's ports.
    _vit_timm(
        name="vit_b16.timm_orig_in21k_ft_in1k",
        model="vit_b16",
        what=f"Port of vit_b16.imagenet21k_imagenet2012_224. {ERF_PORT}",
        url=f"{RELEASES}/v0.1-vitjx/jx_vit_base_p16_224-80ecf9dd.pth",
        top1=81.786,
        sha256="80ecf9dd",
    ),
    _vit_timm(
        name="vit_b16.timm_orig_in21k_ft_in1k_384",
        model="vit_b16",
        what=f"Port of vit_b16.imagenet21k_imagenet2012. {ERF_PORT}",
        url=f"{RELEASES}/v0.1-vitjx/jx_vit_base_p16_384-83fb41ba.pth",
        preprocessing=_timm(384, 1.0),
        top1=84.200,
        sha256="83fb41ba",
    ),
    _vit_timm(
        name="vit_l32.timm_orig_in21k_ft_in1k_384",
        model="vit_l32",
        what=f"Port of vit_l32.imagenet21k_imagenet2012. {ERF_PORT}",
        url=f"{RELEASES}/v0.1-vitjx/jx_vit_large_p32_384-9b920ba8.pth",
        preprocessing=_timm(384, 1.0),
        top1=81.510,
        sha256="9b920ba8",
    ),
    _vit_timm(
        name="vit_ti16.timm_augreg_in21k_ft_in1k",
        model="vit_ti16",
        what=f"Port of an augreg ViT: ImageNet-21k, then ImageNet at 224 pixels. {ERF_PORT}",
        url=f"{HUB}/vit_tiny_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
        top1=75.454,
    ),
    _vit_timm(
        name="vit_s16.timm_augreg_in21k_ft_in1k",
        model="vit_s16",
        what=f"Port of an augreg ViT: ImageNet-21k, then ImageNet at 224 pixels. {ERF_PORT}",
        url=f"{HUB}/vit_small_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
        top1=81.384,
    ),
    _vit_timm(
        name="vit_b16.timm_augreg_in21k_ft_in1k",
        model="vit_b16",
        what=f"Port of an augreg ViT: ImageNet-21k, then ImageNet at 224 pixels. {ERF_PORT}",
        url=f"{HUB}/vit_base_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
        top1=84.532,
    ),
    _vit_timm(
        name="vit_l16.timm_augreg_in21k_ft_in1k",
        model="vit_l16",
        what=f"Port of an augreg ViT: ImageNet-21k, then ImageNet at 224 pixels. {ERF_PORT}",
        url=f"{HUB}/vit_large_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
        top1=85.834,
    ),
    _vit_timm(
        name="vit_b16.timm_augreg2_in21k_ft_in1k",
        model="vit_b16",
        what="An augreg ViT of ImageNet-21k, fine-tuned on ImageNet anew by timm, in PyTorch.",
        url=f"{HUB}/vit_base_patch16_224.augreg2_in21k_ft_in1k/resolve/main/model.safetensors",
        gelu="erf",
        top1=85.096,
    ),
    # BiT, by its authors. BiT-M starts from ImageNet-21k, BiT-S from ImageNet.
    _bit(
        name="bit_r50x1.m_imagenet21k",
        model="bit_r50x1",
        what="BiT-M: ImageNet-21k.",
        url=f"{GOOGLE}/bit_models/BiT-M-R50x1.npz",
        num_classes=21843,
    ),
    _bit(
        name="bit_r101x1.m_imagenet21k",
        model="bit_r101x1",
        what="BiT-M: ImageNet-21k.",
        url=f"{GOOGLE}/bit_models/BiT-M-R101x1.npz",
        num_classes=21843,
    ),
    _bit(
        name="bit_r50x3.m_imagenet21k",
        model="bit_r50x3",
        what="BiT-M: ImageNet-21k.",
        url=f"{GOOGLE}/bit_models/BiT-M-R50x3.npz",
        num_classes=21843,
    ),
    _bit(
        name="bit_r101x3.m_imagenet21k",
        model="bit_r101x3",
        what="BiT-M: ImageNet-21k.",
        url=f"{GOOGLE}/bit_models/BiT-M-R101x3.npz",
        num_classes=21843,
    ),
    _bit(
        name="bit_r152x2.m_imagenet21k",
        model="bit_r152x2",
        what="BiT-M: ImageNet-21k.",
        url=f"{GOOGLE}/bit_models/BiT-M-R152x2.npz",
        num_classes=21843,
    ),
    _bit(
        name="bit_r152x4.m_imagenet21k",
        model="bit_r152x4",
        what="BiT-M: ImageNet-21k.",
        url=f"{GOOGLE}/bit_models/BiT-M-R152x4.npz",
        num_classes=21843,
    ),
    _bit_480(
        name="bit_r50x1.m_imagenet2012",
        model="bit_r50x1",
        what="BiT-M: ImageNet-21k, then fine-tuned on ImageNet.",
        url=f"{GOOGLE}/bit_models/BiT-M-R50x1-ILSVRC2012.npz",
    ),
    _bit_480(
        name="bit_r101x1.m_imagenet2012",
        model="bit_r101x1",
        what="BiT-M: ImageNet-21k, then fine-tuned on ImageNet.",
        url=f"{GOOGLE}/bit_models/BiT-M-R101x1-ILSVRC2012.npz",
    ),
    _bit_480(
        name="bit_r152x2.m_imagenet2012",
        model="bit_r152x2",
        what="BiT-M: ImageNet-21k, then fine-tuned on ImageNet.",
        url=f"{GOOGLE}/bit_models/BiT-M-R152x2-ILSVRC2012.npz",
    ),
    _bit_480(
        name="bit_r152x4.m_imagenet2012",
        model="bit_r152x4",
        what="BiT-M: ImageNet-21k, then fine-tuned on ImageNet.",
        url=f"{GOOGLE}/bit_models/BiT-M-R152x4-ILSVRC2012.npz",
    ),
    _bit(
        name="bit_r50x1.s_imagenet2012",
        model="bit_r50x1",
        what="BiT-S: ImageNet alone.",
        url=f"{GOOGLE}/bit_models/BiT-S-R50x1.npz",
        num_classes=1000,
    ),
    _bit(
        name="bit_r101x1.s_imagenet2012",
        model="bit_r101x1",
        what="BiT-S: ImageNet alone.",
        url=f"{GOOGLE}/bit_models/BiT-S-R101x1.npz",
        num_classes=1000,
    ),
    _bit(
        name="bit_r50x1.distilled_224",
        model="bit_r50x1",
        what="Distilled on ImageNet from a BiT-M R152x2, at 224 pixels.",
        url=f"{GOOGLE}/bit_models/distill/R50x1_224.npz",
        num_classes=1000,
        top1=82.8,
        top1_source=DISTILL,
    ),
    # BiT, timm's ports.
    _bit_timm(
        name="bit_r50x1.timm_goog_in21k_ft_in1k",
        model="bit_r50x1",
        what="Port of bit_r50x1.m_imagenet2012.",
        url=f"{HUB}/resnetv2_50x1_bit.goog_in21k_ft_in1k/resolve/main/model.safetensors",
        preprocessing=_timm(448, 1.0, "bilinear"),
        top1=80.340,
    ),
    _bit_timm(
        name="bit_r101x1.timm_goog_in21k_ft_in1k",
        model="bit_r101x1",
        what="Port of bit_r101x1.m_imagenet2012.",
        url=f"{HUB}/resnetv2_101x1_bit.goog_in21k_ft_in1k/resolve/main/model.safetensors",
        preprocessing=_timm(448, 1.0, "bilinear"),
        top1=82.342,
    ),
    _bit_timm(
        name="bit_r152x2.timm_goog_in21k_ft_in1k",
        model="bit_r152x2",
        what="Port of bit_r152x2.m_imagenet2012.",
        url=f"{HUB}/resnetv2_152x2_bit.goog_in21k_ft_in1k/resolve/main/model.safetensors",
        preprocessing=_timm(448, 1.0, "bilinear"),
        top1=84.510,
    ),
    _bit_timm(
        name="bit_r152x4.timm_goog_in21k_ft_in1k",
        model="bit_r152x4",
        what="Port of bit_r152x4.m_imagenet2012.",
        url=f"{HUB}/resnetv2_152x4_bit.goog_in21k_ft_in1k/resolve/main/model.safetensors",
        preprocessing=_timm(480, 1.0, "bilinear"),
        top1=84.916,
    ),
    _bit_timm(
        name="bit_r50x1.timm_goog_distilled_in1k",
        model="bit_r50x1",
        what="Port of bit_r50x1.distilled_224.",
        url=f"{HUB}/resnetv2_50x1_bit.goog_distilled_in1k/resolve/main/model.safetensors",
        preprocessing=_timm(224, 0.875),
        top1=82.820,
    ),
)

MODEL_ZOO: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}
