"""Which output of a model means which class of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mlpmixer.data.sources import imagenet
from mlpmixer.models.classifier import Classifier


def outputs_for(classes: Sequence[str], model: Classifier) -> Int[np.ndarray, " K"]:
    """For each class the model's output, or -1 where it has none.

    By name, if the model has names for its outputs (and for 1,000 nameless ones, if the classes are ImageNet's). Else a
    class that is a number is that output, and as many nameless outputs as classes are taken in order.
    """
    outputs = model.config.num_classes
    names = model.metadata.classes if model.metadata else None
    if names is None and outputs == len(imagenet.all_names()) and {*classes} <= {*imagenet.all_names()}:
        names = imagenet.all_names()
    if names is not None:
        places = {_plain(name): place for place, name in enumerate(names)}
        found = [places.get(_plain(name), -1) for name in classes]
        if max(found) >= 0:
            return np.array(found)
    if all(name.isdecimal() and int(name) < outputs for name in classes):  # ImageNet-V2's folders: "0" to "999"
        return np.array([int(name) for name in classes])
    in_order = names is None and outputs == len(classes)
    return np.arange(outputs) if in_order else np.full(len(classes), -1)


def _plain(name: str) -> str:
    """`T_Shirt` and `t-shirt` are one class to a person."""
    return name.casefold().replace("_", " ").replace("-", " ")
