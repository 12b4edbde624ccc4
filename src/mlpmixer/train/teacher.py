"""The teacher of a distillation: a trained model that predicts the same images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.data.torchvision_guard import ensure_torchvision
from mlpmixer.errors import RecipeError, nearest
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.packages import require
from mlpmixer.weights.files import open_arrays
from mlpmixer.weights.header import COUNTS, FLOATS
from mlpmixer.weights.load import load


class Teacher:
    """`source`: anything that `load` takes, or `timm:NAME`, or `timm:NAME=FILE` for weights on this machine.

    It gets the student's images, augmented and mixed as they are, in its own size and normalization.
    """

    def __init__(self, source: str, student: Classifier, device: torch.device):
        self.given = student.metadata.preprocessing
        if source.startswith("timm:"):
            self.model, self.expected = _from_timm(source.removeprefix("timm:"), student.config.num_classes)
        else:
            self.model = load(source)
            self.expected = self.model.metadata.preprocessing
            ours, theirs = student.metadata.classes, self.model.metadata.classes
            if ours != theirs and (theirs is not None or student.config.num_classes != self.model.config.num_classes):
                raise RecipeError(
                    f"teacher and data set have different classes ({source}); choose a teacher with the same"
                )
        self.model.to(device).float().eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) prepared for the student → the teacher's logits (B, classes)."""
        if (self.given.mean, self.given.std) != (self.expected.mean, self.expected.std):
            mean, std, to_mean, to_std = (
                images.new_tensor(values)[:, None, None]
                for values in (self.given.mean, self.given.std, self.expected.mean, self.expected.std)
            )
            images = (images * std + mean - to_mean) / to_std
        if tuple(images.shape[2:]) != self.expected.crop:
            images = F.interpolate(images, size=self.expected.crop, mode="bilinear", antialias=True)
        return self.model(images)


def _from_timm(source: str, num_classes: int) -> tuple[torch.nn.Module, Preprocessing]:
    ensure_torchvision()
    timm = require("timm", extra="bench", what="a timm teacher")
    from timm.data.config import resolve_model_data_config

    name, _, file = source.partition("=")
    if not timm.is_model(name):
        raise RecipeError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")
    try:
        model: Any = timm.create_model(name, pretrained=not file, num_classes=num_classes)
        if file:  # not by timm itself: older ones run what a pickle says
            arrays = open_arrays(file, types=FLOATS | COUNTS).read()
            model.load_state_dict({name.removeprefix("module."): array for name, array in arrays.items()})
    except Exception as error:  # timm downloads, and reads in ways of its own
        why = " ".join(str(error).split())
        raise RecipeError(f"timm cannot load {source}: {why[:200] or type(error).__name__}") from error
    if not file and model.pretrained_cfg["num_classes"] != num_classes:
        raise RecipeError(
            f"teacher and data set have different classes (timm:{source} has {model.pretrained_cfg['num_classes']}, "
            f"the data {num_classes}); timm:NAME=FILE takes weights of your own"
        )
    config = resolve_model_data_config(model)
    height, width = config["input_size"][1:]
    return model, Preprocessing(crop=(height, width), mean=tuple(config["mean"]), std=tuple(config["std"]))
