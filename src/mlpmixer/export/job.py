"""An export job: a model, and the images that its file takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.text import to_json
from mlpmixer.version import __version__

# Of the input images: any size; one size; or prepared images, of the model's own size.
Size = Literal["dynamic", "prepared"] | tuple[int, int]

Run = Callable[[UInt8[np.ndarray, "N H W 3"]], Float[np.ndarray, "N classes"]]  # images in, scores out


@dataclass(frozen=True, kw_only=True)
class Job:
    """`model` in float32. `calibration`: prepared images to calibrate int8 ranges on."""

    model: Classifier
    info: ModelInfo
    precision: str
    size: Size
    license: str
    calibration: UInt8[Tensor, "N 3 H W"] | None = None

    @property
    def how(self) -> Preprocessing:
        return self.info.preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        return self.info.classes or tuple(f"class {i}" for i in range(self.model.config.num_classes))

    @property
    def input_shape(self) -> tuple[int | str, ...]:
        """Shape of the input `images`, with a word for each dynamic dimension."""
        if self.size == "dynamic":
            return "batch", "height", "width", 3
        return "batch", *(self.how.crop if self.size == "prepared" else self.size), 3

    @property
    def may_pad(self) -> bool:
        """Whether an image may be smaller than the crop, and is padded then."""
        return self.how.resize < max(self.how.crop)

    def about(self) -> dict[str, Any]:
        """The metadata inside the file."""
        inside = "nothing: prepared images are taken" if self.size == "prepared" else "resize, center crop, normalize"
        return {
            "model": self.model.name,
            "classes": list(self.classes),
            "input": {"name": "images", "type": "uint8", "shape": list(self.input_shape), "colors": "RGB"},
            "outputs": {
                "label": "position of the likeliest class",
                "scores": "probabilities of all classes",
                "features": "embeddings (inputs of the head)",
            },
            "preprocessing": {"inside": inside, **asdict(self.how)},
            "precision": self.precision,
            "provenance": {name: text for name, text in self.info.provenance.items() if name != "quirks"},
            "license": self.license,
            "mlpmixer": __version__,
        }

    def metadata(self) -> dict[str, str]:
        """The same as texts, for formats that hold texts; class names once more, easy to find."""
        return {"mlpmixer": to_json(self.about()), "classes": to_json(list(self.classes))}
