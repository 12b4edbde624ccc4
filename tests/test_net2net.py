"""A larger Mixer from a trained smaller one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Says

from mlpmixer import create, load, recipes, save
from mlpmixer.errors import RecipeError, UsageError
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipes import toml
from mlpmixer.train.plan import init_model
from mlpmixer.weights.net2net import grow

SMALL: dict[str, Any] = {"layers": 2, "channels": 8, "token_hidden": 6, "channel_hidden": 16}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"untied": True},
    {"groups": 4},
    {"groups": 2, "group_projection": True},
    {"pyramid": (0, 1)},
    {"untied": True, "groups": 2, "pyramid": (1,)},
    {"head_bias": None},
    {"num_classes": 0},
]
MORE: dict[str, Any] = {"layers": 5, "channels": 16, "token_hidden": 9, "channel_hidden": 20}


def small(**options: Any) -> Classifier:
    model = create("mixer_nano", **{"image_size": 16, "num_classes": 3, **SMALL, **options})
    shaken(model)
    return model


@settings(max_examples=40)
@given(
    variant=st.sampled_from(VARIANTS),
    layers=st.integers(2, 7),
    copies=st.integers(1, 3),
    token_hidden=st.integers(6, 20),
    channel_hidden=st.integers(16, 40),
)
def test_it_answers_as_before(
    variant: dict[str, Any], layers: int, copies: int, token_hidden: int, channel_hidden: int
):
    sizes = {
        "layers": layers,
        "channels": 8 * copies,
        "token_hidden": token_hidden,
        "channel_hidden": channel_hidden,
    }
    model = small(**variant)
    large = grow(model, **sizes)
    assert {name: getattr(large.config, name) for name in sizes} == sizes
    images = torch.randn(2, 3, 16, 16)
    before, after = model(images), large(images)
    if variant.get("num_classes") == 0:
        before = before.repeat(1, copies)  # pre-logits: each channel as often
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_the_same_sizes_are_the_same_model():
    model = small()
    large = grow(model, **SMALL)
    assert all(torch.equal(a, b) for a, b in zip(large.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("variant", VARIANTS[:6])
def test_all_that_is_new_learns(variant: dict[str, Any]):
    """Within a few steps no new weight stays where it began, and no two copies of a channel stay the same."""
    large = grow(small(**variant), **MORE).double().train()
    first = [parameter.detach().clone() for parameter in large.parameters()]
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(large(torch.randn(8, 3, 16, 16).double()), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])).backward()
        optimizer.step()
    for (name, parameter), before in zip(large.named_parameters(), first, strict=True):
        if not name.endswith("token_mixing.fc2.bias"):  # moves all channels of a place alike: LayerNorm takes it out
            assert (parameter != before).float().mean() > 0.9, name
    stem = large.stem.patches.weight
    assert (stem[:8] != stem[8:]).float().mean() > 0.9


def test_a_saved_one_is_an_ordinary_model(tmp_path: Path):
    model = load("mixer_cifar10")
    large = grow(model, layers=10, channels=256)
    again = load(save(large, tmp_path / "large.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(images), model(images), atol=1e-4, rtol=1e-4)
    assert again.metadata.classes == (model.metadata and model.metadata.classes)


def test_what_cannot_be(says: Says):
    for sizes in ({"layers": 1}, {"channel_hidden": 8}, {"layer": 4}, {"channels": 12}):
        with says(UsageError):
            grow(small(), **sizes)


def test_only_mixers(says: Says):
    with says(UsageError):
        grow(create("bit_r50x1", units=(1, 1), num_classes=3), layers=3)


class TestRuns:
    def begun(self, tmp_path: Path, grows: bool = True, **sizes: Any) -> Classifier:
        file = save(small(num_classes=2), tmp_path / "small.safetensors")
        changes = {"model.weights": str(file), "model.grow": grows, "model.options.dropout": 0.1}
        sizes = {f"model.options.{name}": size for name, size in sizes.items()}
        return init_model(toml.change(recipes.find("cifar10"), {**changes, **sizes}), ("cat", "dog"))

    def test_a_run_begins_with_the_larger_one(self, tmp_path: Path):
        larger = self.begun(tmp_path, **MORE)
        assert {name: getattr(larger.config, name) for name in [*MORE, "dropout"]} == {**MORE, "dropout": 0.1}

    def test_a_size_too_small_is_one_line(self, tmp_path: Path, says: Says):
        with says(UsageError):
            self.begun(tmp_path, layers=1)

    def test_growing_is_asked_for(self, tmp_path: Path, says: Says):
        with says(RecipeError):
            self.begun(tmp_path, grows=False, **MORE)
        assert self.begun(tmp_path, grows=False, **SMALL).config.layers == 2
