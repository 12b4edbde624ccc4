"""What runs of a study have in common at each scale, where they learn from nothing.

tiny: minutes, with the images that come with the package. small: CIFAR-10, hours on 2 cores for a whole study. paper:
a large set of your own in JFT-300M's stead, as the paper trains on that.
"""

from __future__ import annotations

from dataclasses import replace

from mlpmixer.experiments.study import Scale
from mlpmixer.models import options_of
from mlpmixer.recipe import Augment, Data, Evaluation, Loss, Machine, Model, Optim, Recipe, Train
from mlpmixer.recipes import pretrain

SEEDS = {"tiny": (0, 1), "small": (0, 1, 2), "paper": (0,)}
FEW_OF = {"tiny": "", "small": "", "paper": "imagenet"}  # where few shots are taken from; empty: what was learnt from


def base(scale: Scale, model: Model, name: str) -> Recipe:
    """How `model` learns in the study of that name."""
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
