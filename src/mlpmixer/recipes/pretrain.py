"""Pre-training as the paper does it (section 3, appendix B), and the authors' own config for ImageNet.

What differs from row to row stands in `TABLE_4`. The rest is the same for all: images of 224 pixels in batches of
4096, Inception crop and mirror, Adam with weight decay beside the gradient, 10,000 steps of warm-up and then a linear
decay, gradients clipped at norm 1, no dropout.

The paper leaves the loss open. It is that of the authors' config here: each class yes or no by itself, with a head that
begins by giving each class the chance of one among all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from mlpmixer.recipe import About, Augment, Data, Evaluation, Loss, Machine, Model, Optim, Option, Recipe, Train

# Images per forward pass, by model and input side in pixels: the largest power of two whose activations, in float32,
# stay within 16 GB. `mixer models NAME --image-size N` says what those of one image take.
MICRO_BATCH = {
    ("mixer_s32", 224): 512,
    ("mixer_s16", 224): 256,
    ("mixer_b32", 224): 256,
    ("mixer_b16", 224): 128,
    ("mixer_l32", 224): 64,
    ("mixer_l16", 224): 32,
    ("mixer_l16", 448): 8,
    ("mixer_h14", 224): 16,
    ("bit_r50x1", 128): 512,
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Images to train on. `measured`: what the accuracies in the paper's Table 3 are of, for models trained on it."""

    data: Data
    title: str
    head_bias: float  # log(1 / classes)
    measured: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of Table 4 for one of its models, and what Table 3 says of that: top-1 accuracy (%), TPUv3 core-days."""

    source: str
    model: str
    epochs: int
    lr: float
    weight_decay: float
    magnitude: int = 0  # of RandAugment's two layers; 0: none
    mixup: float = 0.0
    stochastic_depth: float = 0.0
    top1: float
    core_days: int


SOURCES = {
    "imagenet": Source(
        data=Data(source="imagenet", val="1%", test="val"), title="ImageNet", head_bias=-6.9, measured="ImageNet"
    ),
    "imagenet21k": Source(
        data=Data(source="imagenet21k"),
        title="ImageNet-21k",
        head_bias=-10.0,
        measured="ImageNet after fine-tuning",
    ),
    # JFT-300M belongs to Google. What stands in for it should be as large: the warm-up alone is 41 million images.
    "jft": Source(
        data=Data(source="my-large-set"),
        title="JFT-300M or another large set",
        head_bias=-10.0,
        measured="ImageNet after JFT-300M and fine-tuning",
    ),
}

_imagenet = partial(Row, source="imagenet", epochs=300, lr=0.001, weight_decay=0.1, mixup=0.5, stochastic_depth=0.1)
_imagenet21k = partial(Row, source="imagenet21k", epochs=300, lr=0.001, weight_decay=0.1, stochastic_depth=0.1)
_jft = partial(Row, source="jft", weight_decay=0.03)

TABLE_4 = {
    "imagenet_b16": _imagenet(model="mixer_b16", magnitude=15, top1=76.44, core_days=10),
    "imagenet_l16": _imagenet(model="mixer_l16", magnitude=15, top1=71.76, core_days=40),
    "imagenet21k_b16": _imagenet21k(model="mixer_b16", magnitude=10, mixup=0.2, top1=80.64, core_days=150),
    "imagenet21k_l16": _imagenet21k(model="mixer_l16", magnitude=20, mixup=0.5, top1=82.89, core_days=410),
    "jft_s32": _jft(model="mixer_s32", epochs=5, lr=0.003, top1=68.70, core_days=10),
    "jft_s16": _jft(model="mixer_s16", epochs=5, lr=0.003, top1=73.83, core_days=30),
    "jft_b32": _jft(model="mixer_b32", epochs=7, lr=0.003, top1=75.53, core_days=50),
    "jft_b16": _jft(model="mixer_b16", epochs=7, lr=0.003, top1=80.00, core_days=80),
    "jft_l32": _jft(model="mixer_l32", epochs=7, lr=0.001, top1=80.67, core_days=120),
    "jft_l16": _jft(model="mixer_l16", epochs=7, lr=0.001, top1=84.05, core_days=230),
    "jft_l16_14_epochs": _jft(model="mixer_l16", epochs=14, lr=0.001, top1=84.82, core_days=450),
    "jft_h14": _jft(model="mixer_h14", epochs=14, lr=0.001, top1=86.32, core_days=1010),
}


def table_4(name: str) -> Recipe:
    row = TABLE_4[name]
    source = SOURCES[row.source]
    options: dict[str, Option] = {"head_bias": source.head_bias}
    if row.stochastic_depth:
        options["stochastic_depth"] = row.stochastic_depth
    augment = Augment(crop="inception", flip=True, mixup=row.mixup)
    if row.magnitude:
        augment = replace(augment, policy="rand_augment", policy_layers=2, policy_magnitude=row.magnitude)
    return Recipe(
        name=name,
        about=About(
            description=f"{row.model} on {source.title}, {row.epochs} epochs.",
            command=command_of(name, source),
            hardware=f"meant for 8 GPUs; the paper's took {row.core_days:,} TPUv3 core-days",
            expected=f"{row.top1:.2f} % on {source.measured} (the paper's Table 3; not measured here)",
        ),
        model=Model(name=row.model, options=options),
        data=source.data,
        augment=augment,
        evaluation=Evaluation(shape="short_side", resize=256),
        loss=Loss(kind="sigmoid"),
        optim=Optim(
            name="adamw", lr=row.lr, weight_decay=row.weight_decay, clip=1.0, warmup_steps=10_000, schedule="linear"
        ),
        train=Train(epochs=float(row.epochs), batch_size=4096),
        machine=Machine(micro_batch=MICRO_BATCH[row.model, 224]),
    )


def like(source: str, model: Model, known: Collection[str]) -> Recipe:
    """For any network, by the row of the Mixer that is called like it (ViT-L/16 learns as Mixer-L/16 does); what no
    Mixer is called like, such as a BiT, learns by the row of B/16. `known`: the options that the network has."""
    of_source = [name for name, row in TABLE_4.items() if row.source == source]
    size = model.name.partition("_")[2]
    alike = [name for name in of_source if TABLE_4[name].model == f"mixer_{size}"]
    recipe = table_4((alike or [f"{source}_b16"])[0])
    of_row = {name: value for name, value in recipe.model.options.items() if name in known}
    options = {**of_row, **model.options}
    return replace(recipe, about=About(), model=replace(model, options=options))


def mlp_mixer_i1k() -> Recipe:
    """The row of B/16, but for the end of the learning rate."""
    recipe = table_4("imagenet_b16")
    return _renamed(
        replace(recipe, optim=replace(recipe.optim, final_lr_ratio=1e-5)),
        "mlp_mixer_i1k",
        description="mixer_b16 on ImageNet, 300 epochs, by the authors' config of this name.",
        expected="76.3 % on ImageNet (the authors' config; not measured here)",
    )


def mlp_mixer_i1k_60_epochs() -> Recipe:
    recipe = mlp_mixer_i1k()
    return _renamed(
        replace(recipe, train=replace(recipe.train, epochs=60.0)),
        "mlp_mixer_i1k_60_epochs",
        description="mixer_b16 on ImageNet, 60 epochs, by the authors' config mlp_mixer_i1k.",
        hardware="meant for 8 GPUs",
        expected="about 70.5 % on ImageNet (the authors' config; not measured here)",
    )


def _renamed(recipe: Recipe, name: str, **about: str) -> Recipe:
    command = command_of(name, SOURCES["imagenet"])
    return replace(recipe, name=name, about=replace(recipe.about, command=command, **about))


def command_of(name: str, source: Source) -> str:
    return f"torchrun --nproc-per-node 8 -m mlpmixer train {name} --data.source {source.data.source}"
