"""Base recipes: the networks that are compared and the recipe that they are trained by, at each scale.

tiny: minutes, with the images that come with the package. small: CIFAR-10, hours on 2 cores for a whole study. paper:
a large data set of your own in place of JFT-300M, which the paper trains on.
"""

from __future__ import annotations

from dataclasses import replace

from mlpmixer.experiments.study import Scale
from mlpmixer.models import options_of
from mlpmixer.recipe import Augment, Data, Evaluation, Loss, Machine, Model, Optim, Recipe, Train
from mlpmixer.recipes import pretrain

SEEDS = {"tiny": (0, 1), "small": (0, 1, 2), "paper": (0,)}
FEW_SHOT_SOURCE = {"tiny": "", "small": "", "paper": "imagenet"}  # empty: the training data of the run itself

# Of similar size and cost at the small scales.
MIXER = {
    "tiny": Model(name="mixer_pico"),
    "small": Model(name="mixer_nano", options={"channels": 128, "token_hidden": 64, "channel_hidden": 256}),
    "paper": Model(name="mixer_b16"),
}
VIT = {
    "tiny": Model(
        name="vit_ti16",
        image_size=(28,),
        options={"patch_size": 4, "layers": 3, "channels": 64, "heads": 2, "hidden": 256},
    ),
    "small": Model(
        name="vit_ti16",
        image_size=(32,),
        options={"patch_size": 4, "layers": 5, "channels": 128, "heads": 4, "hidden": 256},
    ),
    "paper": Model(name="vit_b16"),
}
BIT = {
    "tiny": Model(name="bit_r50x1", image_size=(28,), options={"units": (1, 1)}),
    "small": Model(name="bit_r50x1", image_size=(32,), options={"units": (2, 2)}),
    "paper": Model(name="bit_r50x1"),
}


def networks(scale: Scale) -> dict[str, Model]:
    """The three networks that are compared at `scale`, by kind."""
    return {"Mixer": MIXER[scale], "ViT": VIT[scale], "BiT": BIT[scale]}


def base_recipe(scale: Scale, model: Model, name: str) -> Recipe:
    """The recipe by which `model` is trained from scratch in the study called `name`."""
    if scale == "paper":
        return replace(pretrain.like("jft", model, options_of(model.name)), name=name)
    tiny = scale == "tiny"
    return Recipe(
        name=name,
        model=model,
        data=Data(source="fashion_mnist_small", val="5%") if tiny else Data(source="cifar10", val="2%"),
        augment=Augment(crop="pad", padding=2 if tiny else 4, flip=True),
        evaluation=Evaluation(resize=28 if tiny else 32),
        loss=Loss(smoothing=0.1),
        optim=Optim(name="adamw", lr=0.002, weight_decay=0.1, clip=1.0, warmup_steps=50 if tiny else 300),
        train=Train(epochs=2.0 if tiny else 6.0, batch_size=64 if tiny else 256),
        machine=Machine(log_every=10 if tiny else 50),
    )
