"""The weights that come with the package, by name: here at once, on any machine, without a network."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("bundled")

# mixer_cifar10: ten animals and vehicles, trained on images of 32×32 pixels; docs/results.md says how, and how good.
# mixer_clothing: ten kinds of clothing on photographs of 224×224 pixels; docs/benchmarks.md says how it was trained.
BUNDLED = {name: FOLDER / f"{name}.safetensors" for name in ("mixer_cifar10", "mixer_clothing")}

DEFAULT = "mixer_cifar10"

# A photograph to try it on: Chelsea, by Stéfan van der Walt (CC0).
PHOTO = FOLDER / "cat.jpg"
