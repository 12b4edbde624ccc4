"""The three kinds of network that are compared, at each scale: of like size and cost where they are small."""

from __future__ import annotations

from mlpmixer.experiments.study import Scale
from mlpmixer.recipe import Model

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


def opponents(scale: Scale) -> dict[str, Model]:
    return {"Mixer": MIXER[scale], "ViT": VIT[scale], "BiT": BIT[scale]}
