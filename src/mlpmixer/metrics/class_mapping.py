"""Class mapping: which output of a model stands for which class of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mlpmixer.data.sources import imagenet
from mlpmixer.models.classifier import Classifier


def outputs_for(classes: Sequence[str], model: Classifier) -> Int[np.ndarray, " K"]:
    """The model's output for each class. Evaluation, and the checks of an export, both follow this rule.

    Classes are matched by name if the model has names for its outputs (or has 1,000 nameless ones and the classes are
    ImageNet's); case, `_`, `-` and spaces do not matter. Else a class that is a number is that output, and as many
    nameless outputs as classes are taken in order.

    Returns:
        Positions among the outputs; -1 for a class that the model does not have.
    """
    outputs = model.config.num_classes
    names = model.metadata.classes if model.metadata else None
    if names is None and outputs == len(imagenet.all_names()) and {*classes} <= {*imagenet.all_names()}:
        names = imagenet.all_names()
    if names is not None:
        positions = {_plain(name): position for position, name in enumerate(names)}
        found = [positions.get(_plain(name), -1) for name in classes]
        if max(found) >= 0:
            return np.array(found)
    if all(name.isdecimal() and int(name) < outputs for name in classes):  # ImageNet-V2's folders: "0" to "999"
        return np.array([int(name) for name in classes])
    in_order = names is None and outputs == len(classes)
    return np.arange(outputs) if in_order else np.full(len(classes), -1)


def _plain(name: str) -> str:
    """`T_Shirt` and `t-shirt` are one class to a person."""
    return name.casefold().replace("_", " ").replace("-", " ")
