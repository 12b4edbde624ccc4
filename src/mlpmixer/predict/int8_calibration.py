"""A float model in bytes for the images at hand: what bytes stand for is learnt from some of them.

Nobody has said what is in these images, so what is held against it is the model itself: it must name nearly all of
them as it does in float32. (`mixer export --precision int8` also counts how often it is right, and keeps the result.)
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

LOOKED_AT = 128  # images
ALIKE = 0.99  # of them must be named as before
FEWEST = 100  # of fewer, a single one that is named otherwise would be more than that allows

INSTEAD = "--precision bf16 answers as it is"


def in_bytes(model: Classifier, files: Sequence[str]) -> tuple[Mixer, float, int]:
    """The quantized model, and the share of images that it names as `model` does in float32, and of how many."""
    how = model.metadata.preprocessing
    seen = []
    for file in files[:: max(1, len(files) // LOOKED_AT)][:LOOKED_AT]:
        with suppress(ImageError):  # whoever is to answer it says so
            seen.append(prepare(pixels(file), how))
    if len(seen) < FEWEST:
        raise UsageError(
            f"int8 is learnt from {FEWEST} images or more, of which it must name {ALIKE:.0%} as in float32, and here "
            f"are {len(seen)} that can be read: {INSTEAD}, and `mixer export --precision int8 --data IMAGES` keeps "
            "what it learnt from others"
        )
    shown = torch.stack(seen)
    found = quantize(model, how, shown, each_half=False).model
    settings = {"batch": len(shown), "device": torch.device("cpu")}
    before = Engine(model, how, "kernels", "fp32", **settings)(shown).logits
    after = Engine(found, how, "kernels", "int8", **settings, layer_precisions=found.metadata.layer_precisions)(
        shown
    ).logits
    return found, (before.argmax(1) == after.argmax(1)).float().mean().item(), len(shown)


def in_bytes_if_alike(model: Classifier, files: Sequence[str]) -> tuple[Mixer, str]:
    """The quantized model, and what to say about it."""
    found, alike, count = in_bytes(model, files)
    if alike < ALIKE:
        raise UsageError(
            f"in int8 this model names only {alike:.1%} of {count} images as in float32, and {ALIKE:.0%} are asked "
            f"for: {INSTEAD}"
        )
    return found, f"int8: ranges from {count} of the images, of which it names {alike:.1%} as in float32"
