"""Recipes for one machine: data sets that come with the package or are fetched, and photographs of your own.

`photos` takes minutes on any machine; `photos_b16` starts from weights of millions of images, and wants a GPU;
`photos_from_scratch` is for those who want to know what pre-training is worth. Few photographs tell the two small ones
little (docs/results.md), so these make at least 400 steps of them; and none of the three spends more than a tenth of
its steps on warm-up.
"""

from __future__ import annotations

from dataclasses import replace

from mlpmixer.recipe import About, Augment, Data, Evaluation, Loss, Machine, Model, Optim, Option, Recipe, Train
from mlpmixer.recipes.pretrain import MICRO_BATCH

OWN_PHOTOS = "my-photos"  # stands for the folder that `--data.source` names


def fashion_mnist() -> Recipe:
    """The demonstration: images that come with the package, and minutes on any machine."""
    return Recipe(
        name="fashion_mnist",
        about=About(
            description="A Mixer of 0.15 M parameters on Fashion-MNIST (bundled).",
            command="mixer train fashion_mnist",
            hardware="2 cores; 3 minutes in bf16 where they have AVX-512 BF16, as `mixer demo` sees for itself",
            expected="89.5 to 90.0 % top-1 on the 10,000 test images (by processor and seed, --train.precision bf16)",
            curve=(
                *((1.0, 74.3), (2.0, 77.7), (3.0, 79.8), (5.0, 82.8), (10.0, 84.2), (15.0, 84.9)),
                *((20.0, 86.1), (25.0, 87.6), (30.0, 88.7), (35.0, 89.4), (40.0, 89.7)),
            ),
            tolerance=5.0,
        ),
        model=Model(name="mixer_pico"),
        data=Data(source="fashion_mnist_small", val="5%", test="test"),
        augment=Augment(crop="pad", padding=1, flip=True),
        evaluation=Evaluation(resize=28),
        optim=Optim(name="adamw", lr=0.006, weight_decay=0.1, clip=1.0, warmup_steps=100, schedule="cosine"),
        train=Train(epochs=40.0, batch_size=64, precision="fp32"),  # quick on processors without bf16, too
    )


# A wider table and a narrower channel mixing than mixer_nano's: a point better on CIFAR-10 after 12 epochs.
FLAT: dict[str, Option] = {"layers": 9, "channels": 128, "token_hidden": 64, "channel_hidden": 256}


def cifar10() -> Recipe:
    """From nothing, with fewer than 0.7 M parameters."""
    return Recipe(
        name="cifar10",
        about=About(
            description="A Mixer of 0.68 M parameters on CIFAR-10, from scratch.",
            command="mixer train cifar10",
            hardware="2 cores with AVX-512 BF16; 4 h 34 min with other work beside it",
            expected="90.36 % top-1 on the 10,000 test images (one seed)",
            curve=(
                *((10.0, 60.4), (20.0, 69.5), (30.0, 72.7), (50.0, 78.4), (75.0, 81.7), (100.0, 83.2), (125.0, 84.4)),
                *((150.0, 87.1), (175.0, 86.1), (200.0, 87.9), (225.0, 88.7), (250.0, 89.5), (275.0, 89.9)),
                (300.0, 90.0),
            ),
            tolerance=5.0,
        ),
        model=Model(name="mixer_nano", options=FLAT),
        data=Data(source="cifar10", val="2%", test="test"),
        augment=Augment(crop="pad", padding=4, flip=True, policy="auto_augment_cifar10", cutmix=1.0, mix_chance=0.5),
        evaluation=Evaluation(resize=32, every_epochs=5.0),
        loss=Loss(smoothing=0.1),
        optim=Optim(name="adamw", lr=0.002, weight_decay=0.05, clip=1.0, warmup_steps=1_000, schedule="cosine"),
        train=Train(epochs=300.0, batch_size=256),
    )


def cifar100() -> Recipe:
    recipe = cifar10()
    return replace(
        recipe,
        name="cifar100",
        about=About(
            description="A Mixer of 0.69 M parameters on CIFAR-100, from scratch.",
            command="mixer train cifar100",
            hardware="meant for 2 cores with AVX-512 BF16, for as long as cifar10 takes",
            expected="no figure; not measured here",
        ),
        data=replace(recipe.data, source="cifar100"),
    )


def photos() -> Recipe:
    """The model of `cifar10` at twice its resolution, in minutes on 2 cores. `--model.weights ''`: from scratch."""
    return Recipe(
        name="photos",
        about=About(
            description="Your own photos, from the small model in the package.",
            command="mixer train photos --data.source my-photos",
            hardware="2 cores; 3 minutes for 3,000 photographs",
            expected="75.9 % top-1 on 372 photographs of clothes, trained on 2,761 (3 seeds); 54.1 % from scratch",
        ),
        model=Model(name="mixer_nano", weights="mixer_cifar10", image_size=(64,), options=FLAT),
        data=Data(source=OWN_PHOTOS, val="val or 10%", test="auto"),
        augment=Augment(crop="inception", area=(0.25, 1.0), flip=True),
        loss=Loss(smoothing=0.1),
        optim=Optim(
            name="adamw", lr=0.001, weight_decay=0.05, clip=1.0, warmup_steps=100, warmup_share=0.1, schedule="cosine"
        ),
        train=Train(epochs=30.0, min_steps=400, batch_size=64),
    )


def photos_b16() -> Recipe:
    """The paper's way to fine-tune on Pets and Flowers, in batches an eighth as large, at an eighth of the rate."""
    return Recipe(
        name="photos_b16",
        about=About(
            description="Your own photos, from mixer_b16 of ImageNet-21k.",
            command="mixer train photos_b16 --data.source my-photos",
            hardware="meant for a GPU; 2 cores take hours",
            expected="depends on the photographs; not measured here",
        ),
        model=Model(name="mixer_b16", weights="mixer_b16.imagenet21k", image_size=(224,)),
        data=Data(source=OWN_PHOTOS, val="val or 10%", test="auto"),
        augment=Augment(crop="resize", flip=True),
        optim=Optim(
            name="sgd",
            lr=0.004,
            momentum=0.9,
            weight_decay=0.0,
            clip=1.0,
            warmup_steps=100,
            warmup_share=0.1,
            schedule="cosine",
        ),
        train=Train(steps=500, batch_size=64),
        machine=Machine(micro_batch=MICRO_BATCH["mixer_b16", 224]),
    )


def photos_from_scratch() -> Recipe:
    """Patches of 16 pixels, as in the paper's larger models, under a small one; mixed images and many epochs."""
    return Recipe(
        name="photos_from_scratch",
        about=About(
            description="Your own photos, thousands of them, from scratch.",
            command="mixer train photos_from_scratch --data.source my-photos",
            hardware="2 cores; 13 minutes for 3,000 photographs",
            expected="62.1 % top-1 on 372 photographs of clothes, ten classes, trained on 2,761 (one seed)",
        ),
        model=Model(name="mixer_nano", image_size=(224,), options={"patch_size": 16, "stochastic_depth": 0.1}),
        data=Data(source=OWN_PHOTOS, val="val or 10%", test="auto"),
        augment=Augment(crop="inception", area=(0.25, 1.0), flip=True, mixup=0.3),
        loss=Loss(smoothing=0.1),
        optim=Optim(
            name="adamw", lr=0.001, weight_decay=0.1, clip=1.0, warmup_steps=200, warmup_share=0.1, schedule="cosine"
        ),
        train=Train(epochs=100.0, min_steps=400, batch_size=64),
    )
