"""The weights that come with the package, by name: here at once, on any machine, without a network."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("shipped")

# mixer_clothing: ten kinds of clothing on photographs of 224×224 pixels; docs/benchmarks.md says how it was trained.
SHIPPED = {"mixer_clothing": FOLDER / "mixer_clothing.safetensors"}

# A photograph to try them on (CC0; from the test split of the data they were trained on).
PHOTO = FOLDER / "dress.jpg"
