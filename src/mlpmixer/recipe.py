"""A recipe: the frozen description of one run. What is computed follows from it alone, bit for bit, on equal machines.

A variant is `dataclasses.replace`, or `recipe.change({"optim.lr": 0.003})`. As a file it is TOML with a table for each
part; `mixer train` takes every line of it as a flag, `--optim.lr 0.003`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import Any, Literal

Option = bool | int | float | str | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class About:
    """What a reader should know before running it; nothing is computed from it, but the curve is watched."""

    what: str = ""  # one sentence
    command: str = ""  # that runs it
    hardware: str = ""  # that it was run on, or is meant for
    expect: str = ""  # the result, and where that figure comes from
    curve: tuple[tuple[float, float], ...] = ()  # (epoch, accuracy in % on the validation split), as it should go
    band: float = 3.0  # points of accuracy that a run may be away from the curve before it warns


@dataclass(frozen=True, kw_only=True)
class Model:
    name: str = "mixer_nano"  # of a fresh one, from `mixer models`; weights bring their own
    weights: str = ""  # to start from: a file, a run folder or a name; empty: fresh ones
    image_size: tuple[int, ...] = ()  # side, or height and width, in pixels; empty: the model's own
    resize: Literal["resample", "tiles"] = "resample"  # how the weights follow another image size
    options: dict[str, Option] = field(default_factory=dict)  # fields of the model's config, such as dropout
    grow: bool = False  # the weights are a smaller Mixer's: give it the options' layers, channels and hidden units


@dataclass(frozen=True, kw_only=True)
class Data:
    source: str = "fashion_mnist_small"  # what `mlpmixer.data.open` takes
    train: str = "train"  # the split that is trained on; several: "train+val"
    # the split that choices are made by; "2%": so much of train; "val or 2%", or auto: val if there is one, or else
    # 2%; empty: none
    val: str = "auto"
    test: str = "auto"  # the split that is looked at once, in the end; auto: test if there is one; empty: none
    share: float = 1.0  # of the training images, evenly over the classes
    shots: int = 0  # training images of each class; 0: all
    classes: tuple[str, ...] = ()  # only these; empty: all
    seed: int = 0  # of the choices above
    on_bad_image: Literal["strict", "skip"] = (
        "strict"  # images that cannot be read: stop, or take another and list them
    )


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to training images, each time anew."""

    # inception: a part of random size and shape; window: a part of random size in the image's own shape; pad: shifted
    # a little; resize: as in evaluation; none: as it is
    crop: Literal["inception", "window", "pad", "resize", "none"] = "inception"
    area: tuple[float, float] = (0.05, 1.0)  # of the Inception crop and the window, as a share of the image
    ratio: tuple[float, float] = (0.75, 4 / 3)  # of the Inception crop, width to height
    padding: int = 4  # pixels on each side, for the "pad" crop
    flip: bool = True  # every other image is mirrored
    # what else is done to the colors and the shape of each image
    policy: Literal[
        "none", "rand_augment", "auto_augment_cifar10", "auto_augment_imagenet", "trivial", "three_augment"
    ] = "none"
    policy_layers: int = 2  # of RandAugment
    policy_magnitude: int = 10  # of RandAugment, the authors' m
    erase: float = 0.0  # chance that a rectangle is painted over
    mixup: float = 0.0  # p of Beta(p, p); 0: none
    cutmix: float = 0.0  # p of Beta(p, p); 0: none
    mix_chance: float = 1.0  # that a batch is mixed at all; where both kinds are on, either is as likely


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How images are prepared when the model is measured and used, and how often it is measured."""

    shape: Literal["short_side", "stretch"] = "short_side"  # scaled in proportion; or both sides to `resize`
    resize: int = 0  # pixels before the center crop; 0: in the proportion of 256 to 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # how images are scaled
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of red, green and blue; taken off values from 0 to 1
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)  # by which they are divided then
    every: float = 1.0  # epochs


@dataclass(frozen=True, kw_only=True)
class Loss:
    kind: Literal["softmax", "sigmoid"] = "softmax"  # one class of many; or each class yes or no, as pre-training does
    smoothing: float = 0.0  # share of the target spread over all classes
    teacher: str = ""  # weights of a model whose answers are to be matched as well; "timm:NAME" for timm's
    teacher_share: float = 0.5  # of the loss that is the distance to the teacher
    temperature: float = 1.0  # of both when they are compared


@dataclass(frozen=True, kw_only=True)
class Optim:
    name: Literal["adamw", "adam", "sgd", "lamb"] = "adamw"  # the optimizer; sgd has momentum
    lr: float = 0.001  # at the peak
    betas: tuple[float, float] = (0.9, 0.999)  # of adam, adamw and lamb: the memory of gradients and their squares
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.1  # of kernels only; adamw and lamb: times lr, apart from the gradient; sgd and adam: in it
    clip: float = 1.0  # the gradient's global norm at most; 0: as it is
    warmup_steps: int = 0  # over which lr rises from 0, at most
    warmup_share: float = 1.0  # of the run, that those steps are at most; 1: never fewer
    schedule: Literal["linear", "cosine", "steps", "constant"] = "cosine"  # how lr falls from the peak
    final: float = 0.0  # lr in the end, as a share of the peak
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)  # shares of the run after which "steps" divides lr by 10
    ema: float = 0.0  # decay of the average of weights that is evaluated and kept instead; 0: none
    sharpness: Literal["none", "sam", "gsam"] = "none"  # also look at the worst place nearby; two passes a step
    rho: float = 0.05  # how far that place is
    rho_min: float = 0.0  # gsam: how far in the end; rho falls as lr does
    alpha: float = 0.4  # gsam: how strongly the gap between both places is made smaller


@dataclass(frozen=True, kw_only=True)
class Train:
    epochs: float = 10.0  # times that every training image is seen
    steps: int = 0  # instead of epochs, when more than 0
    least_steps: int = 0  # where the epochs of few images come to fewer: more epochs, with as many looks at val
    batch_size: int = 512  # images a step, over all devices
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # of the products; weights stay in fp32
    keep: Literal["last", "best"] = "last"  # the weights that are the result; best: on the validation split
    seed: int = 0  # of first weights, order, augmentation, dropout


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What may differ between machines, and between the parts of one run. What is learnt stays the same, up to rounding
    and to the draws of dropout and stochastic depth, which each device makes for one part of a batch after another."""

    device: str = "auto"  # "cpu", "cuda", or auto
    workers: int = -1  # processes that load images; 0: none, -1: by the number of cores
    micro_batch: int = 0  # images at once on one device, the rest one after another; 0: all
    kernels: bool = True  # on a CPU, Mixers train in bf16 through kernels of our own, if they can be compiled here
    low_memory: bool = (
        False  # the kernels keep less for the way back, and compute a part again: less memory, nearly as fast
    )
    compile: bool = False  # what does not go through the kernels goes through torch.compile
    parallel: Literal["ddp", "fsdp"] = "ddp"  # over several devices: whole copies of the model, or a share on each
    save_every: int = 1000  # steps between checkpoints
    keep: int = 2  # checkpoints, beside the best
    log_every: int = 50  # steps between lines of metrics


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str = "recipe"
    about: About = field(default_factory=About)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    evaluation: Evaluation = field(default_factory=Evaluation)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    machine: Machine = field(default_factory=Machine)


# Many more names than any line has. Python's reader of TOML takes the square of their number in time.
ENDLESS = re.compile(
    r"""(?<![\w-])(?:[\w-]++|"[^"\n]*"|'[^'\n]*')(?:[ \t]*\.[ \t]*(?:[\w-]++|"[^"\n]*"|'[^'\n]*')){16}"""
)


def tables(text: str) -> dict[str, Any]:
    """A recipe's file as it comes, unchecked; a `ValueError` says why it is none."""
    if ENDLESS.search(text):
        raise ValueError("a name of more than 16 parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("brackets in brackets without end") from error
