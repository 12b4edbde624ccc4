"""Training of NFNets as their authors do it (arXiv 2102.06171 and its code).

What differs from size to size stands in `IMAGENET`. The rest is the same for all: 360 epochs in batches of 4096, SGD
with Nesterov's momentum, a learning rate of 0.1 for each 256 images of a batch, 5 epochs of warm-up and then a cosine,
weight decay as part of the gradient, adaptive gradient clipping, label smoothing, and an average of weights whose decay
begins low. Images are scaled to 32 pixels more than the input, regardless of proportions, and cropped.

The paper's accuracies are at larger images than those of training: `load(run, image_size=256)` and so on. What is left
out here: the authors mix half of each batch by mixup and half by CutMix, with an amount for each image, and RandAugment
comes afterwards. Here the batches take turns, each has one amount, and RandAugment comes before; and mixup never leaves
an image the smaller share. The head begins at zero, as all heads do here, where theirs has weights of deviation 0.01.

F4+ is pre-trained on JFT-300M and fine-tuned. The size of its images when it is fine-tuned, and in pre-training the
learning rate, its warm-up, dropout and stochastic depth are not known here. They are those of F4 on ImageNet, and of
the fine-tuning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from mlpmixer.recipe import About, Augment, Evaluation, Loss, Machine, Model, Optim, Recipe, Train
from mlpmixer.recipes.pretrain import SOURCES, command_of


class Row(NamedTuple):
    """Tables 1 and 3 of the paper for one size.

    Attributes:
        model: The size.
        image_size: Of training, in pixels.
        test_size: Of the accuracy `top1`, in percent.
        magnitude: Of RandAugment's four layers.
        dropout: Before the head.
        micro_batch: By the rule of `pretrain.MICRO_BATCH`.
        sharpness: By what `top1` is reached.
    """

    model: str
    image_size: int
    test_size: int
    magnitude: int
    dropout: float
    top1: float
    micro_batch: int
    sharpness: Literal["none", "sam"] = "none"


IMAGENET = {
    "imagenet_nfnet_f0": Row("nfnet_f0", 192, 256, 5, 0.2, 83.6, 128),
    "imagenet_nfnet_f1": Row("nfnet_f1", 224, 320, 10, 0.3, 84.7, 64),
    "imagenet_nfnet_f2": Row("nfnet_f2", 256, 352, 10, 0.4, 85.1, 32),
    "imagenet_nfnet_f3": Row("nfnet_f3", 320, 416, 15, 0.4, 85.7, 16),
    "imagenet_nfnet_f4": Row("nfnet_f4", 384, 512, 15, 0.5, 85.9, 8),
    "imagenet_nfnet_f5": Row("nfnet_f5", 416, 544, 15, 0.5, 86.0, 4),
    "imagenet_nfnet_f6": Row("nfnet_f6", 448, 576, 15, 0.5, 86.5, 4, sharpness="sam"),
}

# The mean and deviation of ImageNet's pixels, as the authors' code has them.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet(name: str) -> Recipe:
    """A row of the table, from scratch."""
    row = IMAGENET[name]
    by = " by SAM" if row.sharpness == "sam" else ""
    return Recipe(
        name=name,
        about=About(
            description=f"{row.model} on ImageNet at {row.image_size} pixels, 360 epochs{by}.",
            command=command_of(name, SOURCES["imagenet"]),
            hardware="meant for 8 GPUs or more",
            expected=f"{row.top1:.1f} % on ImageNet at {row.test_size} pixels, with batches mixed in both ways, before "
            "RandAugment (the NFNet paper; not measured here)",
        ),
        model=Model(
            name=row.model,
            image_size=(row.image_size,),
            options={"dropout": row.dropout, "stochastic_depth": 0.25},
        ),
        data=SOURCES["imagenet"].data,
        augment=Augment(
            crop="inception",
            area=(0.08, 1.0),
            flip=True,
            policy="rand_augment",
            policy_layers=4,
            policy_magnitude=row.magnitude,
            mixup=0.2,
            cutmix=1.0,
        ),
        evaluation=Evaluation(
            shape="stretch",
            resize=row.image_size + 32,
            interpolation="bicubic",
            mean=_MEAN,
            std=_STD,
            every_epochs=2.0,
        ),
        loss=Loss(kind="softmax", smoothing=0.1),
        optim=Optim(
            name="sgd",
            lr=1.6,
            momentum=0.9,
            nesterov=True,
            weight_decay=2e-5,
            agc=0.01,
            clip=0.0,
            warmup_steps=1_564,
            schedule="cosine",
            ema=0.99999,
            ema_warmup=True,
            sharpness=row.sharpness,
            rho=0.05,
        ),
        train=Train(epochs=360.0, batch_size=4096),
        machine=Machine(micro_batch=row.micro_batch),
    )


def jft_nfnet_f4plus() -> Recipe:
    """Crops and mirrored images alone, and no average of weights."""
    recipe, source = imagenet("imagenet_nfnet_f4"), SOURCES["jft"]
    return replace(
        recipe,
        name="jft_nfnet_f4plus",
        about=About(
            description=f"nfnet_f4plus on {source.title}, 20 epochs.",
            command=command_of("jft_nfnet_f4plus", source),
            hardware="meant for 8 GPUs or many more; the paper's took 1,860 TPUv3 core-days",
            expected="89.2 % on ImageNet after fine-tuning (the NFNet paper; not measured here)",
        ),
        model=Model(name="nfnet_f4plus", image_size=(224,), options=recipe.model.options),
        data=source.data,
        augment=Augment(crop="inception", area=(0.08, 1.0), flip=True),
        evaluation=replace(recipe.evaluation, resize=256, every_epochs=1.0),
        loss=Loss(kind="softmax"),
        optim=replace(recipe.optim, weight_decay=1e-6, warmup_steps=5_000, ema=0.0, ema_warmup=False),
        train=Train(epochs=20.0, batch_size=4096),
        machine=Machine(micro_batch=16),
    )


def finetune_imagenet_nfnet_f4plus() -> Recipe:
    """From the run of the recipe before. Augmented and mixed as F4 is from scratch."""
    recipe = imagenet("imagenet_nfnet_f4")
    return replace(
        recipe,
        name="finetune_imagenet_nfnet_f4plus",
        about=About(
            description="nfnet_f4plus of JFT-300M or another large set on ImageNet, at 384 pixels by SAM.",
            command="mixer train finetune_imagenet_nfnet_f4plus --data.source imagenet",
            hardware="meant for 8 GPUs or more, by torchrun",
            expected="89.2 % on ImageNet at 512 pixels (the NFNet paper; not measured here)",
        ),
        model=Model(
            name="nfnet_f4plus",
            weights="runs/jft_nfnet_f4plus",
            image_size=(384,),
            options={"dropout": 0.25, "stochastic_depth": 0.1},
        ),
        evaluation=replace(recipe.evaluation, every_epochs=1.0),
        optim=replace(recipe.optim, lr=0.1, weight_decay=1e-5, warmup_steps=5_000, sharpness="sam", rho=0.05),
        train=Train(steps=15_000, batch_size=2048),
        machine=Machine(micro_batch=4),
    )
