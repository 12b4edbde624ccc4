"""Creating: `create` makes a model by name, new or with pretrained weights."""

from __future__ import annotations

import os
from typing import Any

from mlpmixer import models
from mlpmixer.models.classifier import Classifier
from mlpmixer.weights.load import load, open_checkpoint
from mlpmixer.weights.model_zoo import pretrained_for


def create(
    name: str,
    *,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Classifier:
    """A model by name, in training mode.

    Args:
        name: As `list_models` has it, or as the paper writes it (`Mixer-B/16`).
        pretrained: False: freshly initialized. True: the first weights that `list_models(pretrained=True)` lists for
            this model, or those called `name` there. Otherwise what `load` takes: a name, a file, a run folder, an
            address.
        num_classes: Outputs of the head; 0: no head. By default 1000, or those of the weights; for another number than
            theirs a new head is initialized.
        image_size: A side or (height, width), in pixels; weights follow it as `load` says.
        **options: Fields of the family's config, such as `dropout`, `gelu="erf"` or `groups=4`.

    Returns:
        The model; `model(images)` are logits, `model(images, intermediates=True)` also what is inside.

    Raises:
        UsageError: There is no such model, weights or option, or a value does not fit.
        WeightsError: The file of weights is broken.

    Examples:
        >>> model = mlpmixer.create("mixer_nano", num_classes=5, image_size=64, dropout=0.1)
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """
    if pretrained is False:
        return models.create(name, num_classes=num_classes, image_size=image_size, **options)
    source = pretrained_for(name) if pretrained is True else pretrained
    model = None if source == name else name
    checkpoint = open_checkpoint(source, model=model, heads=options.get("heads"))
    if num_classes not in (None, checkpoint.config.num_classes):
        options["fresh"] = ("head",)
    return load(checkpoint, num_classes=num_classes, image_size=image_size, **options).train()
