"""The weights that come with the package, by name: here at once, on any machine, without a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("bundled")

# mixer_cifar10: ten animals and vehicles, trained on images of 32×32 pixels; docs/results.md says how, and how good.
# mixer_clothing: ten kinds of clothing on photographs of 224×224 pixels; docs/benchmarks.md says how it was trained.
BUNDLED = {name: FOLDER / f"{name}.safetensors" for name in ("mixer_cifar10", "mixer_clothing")}

DEFAULT = "mixer_cifar10"

# A photograph to try it on: Chelsea, by Stéfan van der Walt (CC0).
PHOTO = FOLDER / "cat.jpg"


@dataclass(frozen=True)
class About:
    """What bundled weights are.

    Attributes:
        model: The architecture they are of.
        what: What they are, in a few words.
        top1: Accuracy in percent.
        measured_on: The images that it was measured on.
    """

    model: str
    what: str
    top1: float
    measured_on: str


ABOUT = {
    "mixer_cifar10": About("mixer_nano", "10 animals and vehicles; the default", 91.09, "CIFAR-10"),
    "mixer_clothing": About("mixer_nano", "10 kinds of clothes, at 224 pixels", 70.70, "clothing photos"),
}
