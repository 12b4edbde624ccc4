"""int8 for the images at hand: activation ranges are calibrated on some of them.

There are no labels, so the float32 model is the reference: nearly all of the images must get the label that it gives
them. (`mixer export --precision int8` also measures accuracy, and keeps the result.)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch

from mlpmixer.data.images import pixels
from mlpmixer.data.preprocess import prepare
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.quantize import quantize
from mlpmixer.errors import ImageError, UsageError
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer
from mlpmixer.predict.inputs import image_of

SAMPLE = 128  # images
AGREEMENT = 0.99  # of their labels must be float32's
FEWEST = 100  # of fewer, a single label that changes would be more than that allows
INSTEAD = "--precision bf16 needs no calibration"


def calibrated(model: Classifier, files: Sequence[str]) -> tuple[Mixer, float, int]:
    """The quantized model, the share of labels that are those of `model` in float32, and how many images that is of."""
    how = model.metadata.preprocessing
    images = []
    for file in files[:: max(1, len(files) // SAMPLE)][:SAMPLE]:
        with suppress(ImageError):  # it is reported when it is predicted
            images.append(prepare(pixels(image_of(file)), how))
    if len(images) < FEWEST:
        raise UsageError(
            f"int8 is calibrated on {FEWEST} images or more, and here are {len(images)} that can be read: {INSTEAD}, "
            "and `mixer export --precision int8 --data IMAGES` calibrates on others and keeps the result"
        )
    batch = torch.stack(images)
    found = quantize(model, how, batch, each_half=False).model
    settings = {"batch": len(batch), "device": torch.device("cpu")}
    before = Engine(model, how, "kernels", "fp32", **settings)(batch).logits
    after = Engine(found, how, "kernels", "int8", **settings, layer_precisions=found.metadata.layer_precisions)(
        batch
    ).logits
    return found, (before.argmax(1) == after.argmax(1)).float().mean().item(), len(batch)


def quantized_for(model: Classifier, files: Sequence[str], *, required: float = AGREEMENT) -> tuple[Mixer, str]:
    """The quantized model, and a line about it.

    Raises:
        UsageError: There are too few images, or fewer than `required` of their labels are float32's.
    """
    found, agreement, count = calibrated(model, files)
    if agreement < required:
        raise UsageError(
            f"in int8 only {agreement:.1%} of {count} images get the same label as in float32, and {required:.0%} are "
            f"required: {INSTEAD}"
        )
    return (
        found,
        f"int8: calibrated on {count} of the images; {agreement:.1%} of them keep float32's label",
    )
