"""A recipe: the frozen description of one run. What is computed follows from it alone, bit for bit, on equal machines.

A variant is `dataclasses.replace`, or `recipe.change({"optim.lr": 0.003})`. As a file it is TOML with a table for each
part; `mixer train` takes every line of it as a flag, `--optim.lr 0.003`. The text beside a default is its help, in
files, messages and reference pages.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import Any, Literal

Option = bool | int | float | str | tuple[int, ...]


def setting(default: Any, doc: str) -> Any:
    """A field of a recipe with its default and its help."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class About:
    """For readers: nothing is computed from it, but a run that leaves the curve warns."""

    description: str = setting("", "what is trained, in one sentence")
    command: str = setting("", "the command that runs this recipe")
    hardware: str = setting("", "the hardware it was run on, or is meant for")
    expected: str = setting("", "the expected result, and where that figure comes from")
    curve: tuple[tuple[float, float], ...] = setting((), "expected validation accuracy: pairs of epoch and percent")
    tolerance: float = setting(3.0, "points of accuracy a run may be off the curve before it warns")


@dataclass(frozen=True, kw_only=True)
class Model:
    name: str = setting("mixer_nano", "architecture of a new model, from `mixer models`; weights bring their own")
    weights: str = setting("", "weights to start from: a file, a run folder or a name; empty: random initialization")
    image_size: tuple[int, ...] = setting((), "input side, or height and width, in pixels; empty: the model's own")
    resize: Literal["resample", "tiles"] = setting("resample", "how the weights are adapted to another image size")
    options: dict[str, Option] = field(
        default_factory=dict, metadata={"doc": "fields of the model's config, such as dropout"}
    )
    grow: bool = setting(
        False, "enlarge the weights of a smaller Mixer to the layers, channels and hidden units in options"
    )


@dataclass(frozen=True, kw_only=True)
class Data:
    source: str = setting("fashion_mnist_small", "data set: a name, a folder, a file or a list; see docs/data.md")
    train: str = setting("train", 'training split; several are joined as in "train+val"')
    val: str = setting(
        "auto",
        'validation split: a name, "2%" of train, "val or 2%"; auto: val, or else 2% of train; empty: none',
    )
    test: str = setting("auto", "test split, measured once at the end; auto: test if there is one; empty: none")
    share: float = setting(1.0, "share of the training images that is used, the same of each class")
    shots: int = setting(0, "training images per class; 0: all")
    classes: tuple[str, ...] = setting((), "names of the classes that are used; empty: all")
    seed: int = setting(0, "seed of the choice of images: val, share and shots")
    on_bad_image: Literal["strict", "skip"] = setting(
        "strict", "unreadable images: stop the run, or replace each by another and list it"
    )


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Augmentation of training images, drawn anew each time."""

    crop: Literal["inception", "window", "pad", "resize", "none"] = setting(
        "inception",
        "inception: a part of random size and shape; window: of random size, in the image's shape; pad: shifted by up "
        "to `padding`; resize: as in evaluation; none: unchanged",
    )
    area: tuple[float, float] = setting(
        (0.05, 1.0), "smallest and largest share of the image in a crop (inception, window)"
    )
    ratio: tuple[float, float] = setting(
        (0.75, 4 / 3), "smallest and largest width-to-height ratio of an Inception crop"
    )
    padding: int = setting(4, "largest shift of the pad crop, in pixels")
    flip: bool = setting(True, "mirror every other image, drawn at random")
    policy: Literal[
        "none", "rand_augment", "auto_augment_cifar10", "auto_augment_imagenet", "trivial", "three_augment"
    ] = setting("none", "augmentation policy of colors and shapes")
    policy_layers: int = setting(2, "RandAugment: operations per image")
    policy_magnitude: int = setting(10, "RandAugment: strength of the operations, 1 to 30")
    erase: float = setting(0.0, "probability that a random rectangle is erased")
    mixup: float = setting(0.0, "mixup: p of the Beta(p, p) that the mixing ratio is drawn from; 0: off")
    cutmix: float = setting(0.0, "CutMix: p of the Beta(p, p) that the mixing ratio is drawn from; 0: off")
    mix_chance: float = setting(
        1.0, "probability that a batch is mixed; mixup and CutMix, if both are on, are equally likely"
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How images are prepared in evaluation and in use, and how often the model is validated."""

    shape: Literal["short_side", "stretch"] = setting(
        "short_side", "scale the shorter side to `resize` pixels, or both sides regardless of proportions"
    )
    resize: int = setting(0, "size before the center crop, in pixels; 0: 256/224 of the input size")
    interpolation: Literal["bilinear", "bicubic"] = setting("bilinear", "resampling filter")
    mean: tuple[float, float, float] = setting(
        (0.5, 0.5, 0.5), "mean of red, green and blue, subtracted from values in [0, 1]"
    )
    std: tuple[float, float, float] = setting((0.5, 0.5, 0.5), "standard deviation of red, green and blue, divided by")
    every_epochs: float = setting(1.0, "epochs between validation passes")


@dataclass(frozen=True, kw_only=True)
class Loss:
    kind: Literal["softmax", "sigmoid"] = setting(
        "softmax",
        "cross-entropy over the classes, or binary cross-entropy of each class as in the paper's pre-training",
    )
    smoothing: float = setting(0.0, "label smoothing: share of the target spread over all classes")
    teacher: str = setting("", 'distillation: weights of the teacher; "timm:NAME" for a timm model; empty: none')
    teacher_share: float = setting(0.5, "distillation: weight of the teacher's term in the loss")
    temperature: float = setting(1.0, "distillation: temperature of both models' predictions")


@dataclass(frozen=True, kw_only=True)
class Optim:
    name: Literal["adamw", "adam", "sgd", "lamb", "muon"] = setting(
        "adamw", "optimizer; sgd has momentum; muon is for the kernels of layers, with adamw for all other weights"
    )
    lr: float = setting(0.001, "peak learning rate")
    betas: tuple[float, float] = setting(
        (0.9, 0.999), "decay of the running means of gradients and squared gradients (adam, adamw, lamb)"
    )
    momentum: float = setting(0.9, "momentum of sgd")
    nesterov: bool = setting(False, "Nesterov's form of that momentum")
    weight_decay: float = setting(
        0.1,
        "weight decay of kernels; part of the gradient in sgd and adam, decoupled and times lr in the others",
    )
    agc: float = setting(
        0.0,
        "adaptive gradient clipping, before `clip`: largest norm of the gradient of a unit (a row or a kernel), as a "
        "share of the norm of its weights; 0: off",
    )
    clip: float = setting(1.0, "largest global gradient norm; 0: no clipping")
    warmup_steps: int = setting(0, "steps over which lr rises linearly from 0")
    warmup_share: float = setting(1.0, "largest share of the run that is warm-up; 1: no limit")
    schedule: Literal["linear", "cosine", "steps", "constant"] = setting(
        "cosine", "learning rate schedule after warm-up"
    )
    final_lr_ratio: float = setting(0.0, "learning rate at the end, as a share of the peak")
    milestones: tuple[float, ...] = setting(
        (0.3, 0.6, 0.9), 'shares of the run after which the "steps" schedule divides lr by 10'
    )
    ema: float = setting(0.0, "decay of the moving average of weights, which is evaluated and saved; 0: off")
    ema_warmup: bool = setting(False, "limit that decay to (1 + t) / (10 + t) in step t, counted from 0")
    sharpness: Literal["none", "sam", "gsam"] = setting("none", "sharpness-aware minimization; two passes per step")
    rho: float = setting(0.05, "SAM, GSAM: radius of the perturbation of the weights")
    rho_min: float = setting(0.0, "GSAM: radius at the end of the run; it falls as lr does")
    alpha: float = setting(0.4, "GSAM: weight of the surrogate gap")


@dataclass(frozen=True, kw_only=True)
class Train:
    epochs: float = setting(10.0, "epochs: passes over the training images")
    steps: int = setting(0, "training steps; more than 0: instead of epochs")
    min_steps: int = setting(
        0, "least number of steps: few images are trained on for more epochs, with as many validation passes"
    )
    batch_size: int = setting(512, "images per step, over all devices")
    precision: Literal["fp32", "bf16", "fp16"] = setting("bf16", "precision of matrix products; weights stay in fp32")
    select: Literal["last", "best"] = setting(
        "last", "weights that are the result: of the last step, or the best on the validation split"
    )
    seed: int = setting(0, "seed of initial weights, order, augmentation and dropout")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a run is executed. It may differ between machines, and between the parts of one run: what is learned stays
    the same, up to rounding and to dropout and stochastic depth, which each device draws for one part of a batch after
    another."""

    device: str = setting("auto", '"cpu", "cuda" or "cuda:N"; auto: a GPU if there is one')
    workers: int = setting(-1, "data-loading processes; 0: none; -1: by the number of cores")
    micro_batch: int = setting(
        0, "images per forward pass on one device, with gradients accumulated over a batch; 0: all at once"
    )
    kernels: bool = setting(True, "on a CPU, train Mixers in bf16 through mlpmixer's kernels, if they can be compiled")
    low_memory: bool = setting(False, "activation recomputation in the kernels: less memory, nearly as fast")
    compile: bool = setting(False, "torch.compile for what does not run through the kernels")
    parallel: Literal["ddp", "fsdp"] = setting("ddp", "over several devices: replicate the model, or shard it")
    save_every: int = setting(1000, "steps between checkpoints")
    keep_checkpoints: int = setting(2, "number of checkpoints that are kept")
    log_every: int = setting(50, "steps between lines of metrics")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The frozen description of one run: `mlpmixer.fit` computes what it says. Every part is a frozen dataclass.

    Attributes:
        name: The name of the recipe, and by default of the run folder.
        about: For readers: description, command, hardware, expected result.
        model: Architecture, weights to start from, image size.
        data: Data set, splits, which of its images.
        augment: Augmentation of training images.
        evaluation: Preprocessing in validation and use, and how often there is validation.
        loss: Loss function, label smoothing, distillation.
        optim: Optimizer, learning rate and its schedule.
        train: Length, batch size, precision, seed.
        machine: How it is executed here; nothing of what is learned depends on it, up to rounding.

    Examples:
        >>> from mlpmixer.recipes import find, toml
        >>> toml.change(find("cifar10"), {"optim.lr": 0.003}).optim.lr
        0.003
    """

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
    """The tables of a recipe's file, unchecked.

    Raises:
        ValueError: It is not TOML.
    """
    if ENDLESS.search(text):
        raise ValueError("a name of more than 16 parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("brackets in brackets without end") from error
