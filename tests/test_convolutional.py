"""The Mixer is a convolutional network."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from conftest import shaken
from messages import Says
from torch import nn

from mlpmixer import create
from mlpmixer.errors import UsageError
from mlpmixer.models.convolutional import as_cnn
from mlpmixer.models.mixer import ColumnLinear, Mixer


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [("mixer_s32", (224, 224), {"layers": 2}), ("mixer_nano", (64, 48), {}), ("mixer_pico", (30, 45), {"gelu": "erf"})],
)
def test_the_same_logits_on_real_images(name: str, size: tuple[int, int], options: dict[str, Any], photo_batch):
    model = shaken(create(name, image_size=size, num_classes=10, **options))
    cnn = as_cnn(cast(Mixer, model))
    images = photo_batch(*size)
    with torch.no_grad():
        torch.testing.assert_close(cnn(images), model(images), atol=2e-5, rtol=1e-5)


def test_nothing_but_convolutions_holds_the_mixing():
    cnn = as_cnn(cast(Mixer, create("mixer_pico")))
    kinds = {type(module) for module in cnn.modules()}
    assert ColumnLinear not in kinds
    assert sum(isinstance(module, nn.Linear) for module in cnn.modules()) == 1  # the head
    gather = cnn.get_submodule("2.gather")
    assert isinstance(gather, nn.Conv2d)
    assert gather.kernel_size == (7, 7)  # the full field of 28 / 4 places
    assert gather.in_channels == 1  # one kernel set for all channels


def test_weights_are_copied():
    model = shaken(create("mixer_pico"))
    cnn = as_cnn(cast(Mixer, model))
    for parameter in cnn.parameters():
        parameter.data.zero_()
    assert all(float(parameter.detach().abs().max()) > 0 for parameter in model.parameters())


def test_variants_have_no_such_reading(says: Says):
    with says(UsageError):
        as_cnn(cast(Mixer, create("mixer_pico", untied=True)))
