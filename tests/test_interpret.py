"""Interpretation: known values on small models of all families, and the page that shows them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shaken
from hypothesis import given
from hypothesis import strategies as st
from messages import Says
from PIL import Image

import mlpmixer
from mlpmixer.cli import main
from mlpmixer.draw import heatmap
from mlpmixer.errors import UsageError
from mlpmixer.interpret.attribution import (
    deletion_and_insertion,
    gray,
    integrated_gradients,
    occlusion,
    on_squares,
    token_contributions,
)
from mlpmixer.interpret.receptive_field import (
    half_radius,
    mean_distance,
    on_grid,
    receptive_fields,
    token_influence,
)
from mlpmixer.interpret.units import frequencies, opposites, pairs, power, spectrum, stem_filters, units_of
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer, MixerBlock
from mlpmixer.report.interpret import interpret
from mlpmixer.report.weights import weight_figures

SMALL = {
    "mixer": ("mixer_nano", {"layers": 3}),
    "vit with a class token": ("vit_ti16", {"patch_size": 4, "layers": 2, "channels": 64, "heads": 2, "hidden": 64}),
    "vit with a mean": (
        "vit_ti16",
        {"patch_size": 4, "layers": 2, "channels": 64, "heads": 2, "hidden": 64, "pool": "mean"},
    ),
    "bit": ("bit_r50x1", {"units": (1, 1)}),
}


def small(kind: str) -> Classifier:
    name, options = SMALL[kind]
    model = shaken(mlpmixer.create(name, num_classes=4, image_size=32, **options))
    model.metadata = ModelInfo(preprocessing=Preprocessing.usual((32, 32)))
    return model.requires_grad_(False) if kind == "bit" else model


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(3, 32, 32) * 0.5


def waves(rows: int = 8, columns: int = 8) -> np.ndarray:
    """Cosines of 0 to 3 cycles, and their negatives, in another order."""
    across = np.arange(columns) / columns
    found = [np.cos(2 * np.pi * n * across)[None].repeat(rows, 0) for n in range(4)]
    return np.stack([found[2], -found[3], found[0], -found[1], found[3], -found[0], found[1], -found[2]])


class TestUnits:
    def test_a_unit_is_a_row_of_w1(self):
        model = mlpmixer.create("mixer_nano", image_size=(32, 48))
        block = model.blocks[1]  # pyright: ignore[reportIndexIssue]
        assert isinstance(block, MixerBlock)
        units = units_of(model, 1)
        assert units.shape == (48, 8, 12)
        assert units[5].reshape(-1).tolist() == block.token_mixing.fc1.weight[5].tolist()

    @pytest.mark.parametrize(
        ("options", "shape"),
        [({"untied": True}, (48, 8, 8)), ({"groups": 4}, (192, 8, 8)), ({"pyramid": (0,)}, (48, 4, 4))],
    )
    def test_of_variants(self, options: dict[str, Any], shape: tuple[int, ...]):
        assert units_of(mlpmixer.create("mixer_nano", **options), 1).shape == shape

    def test_what_has_none(self, says: Says):
        with says(UsageError):
            units_of(small("vit with a mean"), 0)
        with says(UsageError):
            units_of(mlpmixer.create("mixer_nano"), 8)

    def test_frequencies_of_waves(self):
        np.testing.assert_allclose(frequencies(waves()), [2, 3, 0, 1, 3, 0, 1, 2], atol=1e-12)
        np.testing.assert_allclose(spectrum(waves())[:5], [0.25, 0.25, 0.25, 0.25, 0], atol=1e-12)

    def test_the_order_of_the_figures(self):
        found = pairs(waves())
        assert [(pair.unit, pair.opposite) for pair in found] == [(2, 5), (3, 6), (0, 7), (1, 4)]
        assert [pair.cosine for pair in found] == pytest.approx([-1] * 4)
        assert opposites(waves()).lowest == pytest.approx(-1)
        assert opposites(waves()).shuffled > -0.9

    @given(st.integers(1, 9), st.integers(2, 5), st.integers(2, 5))
    def test_every_unit_has_its_place(self, count: int, rows: int, columns: int):
        units = np.random.default_rng(count).normal(size=(count, rows, columns))
        placed = [unit for pair in pairs(units) for unit in (pair.unit, pair.opposite) if unit is not None]
        assert sorted(placed) == list(range(count))
        np.testing.assert_allclose(power(units).sum((1, 2)), 1)
        assert spectrum(units).sum() == pytest.approx(1)

    @pytest.mark.parametrize("kind", SMALL)
    def test_stem_filters(self, kind: str):
        filters = stem_filters(small(kind))
        assert filters.shape[3] == 3
        assert (np.diff(frequencies(filters.mean(-1))) >= -1e-6).all()


class TestInfluence:
    @pytest.mark.parametrize("kind", ["mixer", "vit with a class token", "vit with a mean"])
    def test_places_heard_are_those_that_matter(self, kind: str, image: torch.Tensor):
        """The estimate against whole Jacobians."""
        model = small(kind)
        with torch.no_grad():
            heard = token_influence(model, image, "block0")
        assert heard.shape == (64, 64)
        np.testing.assert_allclose(heard.sum(1), 1)
        assert (heard.argmax(1) == np.arange(64)).mean() > 0.9  # the skip leads a place to itself

    def test_without_token_mixing_nobody_hears_another(self, image: torch.Tensor):
        model = small("mixer")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "token_mixing" in name:
                    parameter.zero_()
        heard = token_influence(model, image)
        np.testing.assert_allclose(heard, np.eye(64), atol=1e-12)
        assert mean_distance(heard, 8, 8).max() == 0
        fields = receptive_fields(model, image[None], ["block0", "block2"])
        field = fields["block2"]
        assert field[16:20, 16:20].sum() == pytest.approx(1)
        assert half_radius(field) < 2.9

    def test_a_step_to_the_side_is_heard_from_there(self, image: torch.Tensor):
        """Token mixing that carries over the neighbor's row: each place hears the place before it."""
        model = mlpmixer.create("mixer_nano", num_classes=2, layers=1, token_hidden=64)
        assert isinstance(model, Mixer)
        block = model.blocks[0]
        assert isinstance(block, MixerBlock)
        mixing: Any = block.token_mixing
        with torch.no_grad():
            mixing.fc1.weight.copy_(torch.roll(torch.eye(64), 1, 0) * 8)
            mixing.fc2.weight.copy_(torch.eye(64) * 8)
        heard = token_influence(model.eval(), image)
        others = heard - np.diag(np.diag(heard))
        assert (others.argmax(1) == (np.arange(64) - 1) % 64).all()
        inner = mean_distance(others / others.sum(1, keepdims=True), 8, 8)
        assert inner[:, 1:] == pytest.approx(np.ones((8, 7)), rel=1e-3)

    @pytest.mark.parametrize("kind", SMALL)
    def test_fields_are_shares(self, kind: str, image: torch.Tensor):
        model = small(kind)
        layer = "stage1" if kind == "bit" else "block1"
        field = receptive_fields(model, image[None], [layer])[layer]
        assert field.shape == (32, 32)
        assert field.sum() == pytest.approx(1)
        assert (field >= 0).all()


class TestImageWiderThanHigh:
    @pytest.mark.parametrize("name", ["mixer_nano", "vit_ti16"])
    def test_places_lie_as_in_the_image(self, name: str):
        """Where a pixel changes is where the first table does, in an image whose places would also make a square."""
        options: dict[str, Any] = {"patch_size": 4, "layers": 1, "channels": 64}
        options |= {"heads": 2} if name == "vit_ti16" else {}
        model = mlpmixer.create(name, num_classes=4, image_size=(16, 64), **options)  # 4×16 places; 8×8 is no less
        changed = torch.zeros(3, 16, 64)
        changed[:, 9, 50] = 1
        tables = [model(image[None], intermediates=True)[1]["stem"][0] for image in (torch.zeros(3, 16, 64), changed)]
        apart = on_grid(model, (tables[1] - tables[0]).norm(dim=1))
        assert apart.shape == (4, 16)
        assert apart.nonzero().tolist() == [[2, 12]]

    def test_after_a_pyramid_and_without_the_class_token(self):
        pyramid = mlpmixer.create("mixer_nano", image_size=(16, 64), layers=2, pyramid=(1,))
        assert on_grid(pyramid, torch.arange(16)).tolist() == torch.arange(16).view(2, 8).tolist()
        vit = mlpmixer.create("vit_ti16", image_size=(16, 64), patch_size=4, layers=1)
        assert on_grid(vit, torch.arange(65)).flatten().tolist() == [*range(1, 65)]

    def test_the_middle_is_the_middle(self):
        model = shaken(mlpmixer.create("mixer_nano", num_classes=4, image_size=(16, 64), layers=1))
        with torch.no_grad():
            model.get_parameter("blocks.0.token_mixing.fc2.weight").zero_()  # nobody hears another
        field = receptive_fields(model, torch.randn(1, 3, 16, 64), ["block0"])["block0"]
        assert np.argwhere(field > 0).min(axis=0).tolist() == [8, 32]
        assert np.argwhere(field > 0).max(axis=0).tolist() == [11, 35]


class TestAttribution:
    @pytest.mark.parametrize("kind", SMALL)
    def test_integrated_gradients_add_up(self, kind: str, image: torch.Tensor):
        model = small(kind)
        nothing = gray(model, image).expand_as(image)
        with torch.no_grad():
            change = (model(image[None]) - model(nothing[None]))[0, 2]
        found = integrated_gradients(model, image, 2, steps=200)
        # BiT's norms make all of an image that has hardly begun to differ from gray: a stretch too short for any step.
        near = 0.25 if kind == "bit" else 0.05
        assert float(found.sum()) == pytest.approx(float(change), rel=near, abs=0.01)
        assert on_squares(found, 5).shape == (7, 7)
        assert float(on_squares(found, 5).sum()) == pytest.approx(float(found.sum()), rel=1e-4)

    @pytest.mark.parametrize("kind", ["mixer", "vit with a mean", "bit"])
    def test_places_add_up_to_the_logit(self, kind: str, image: torch.Tensor):
        model = small(kind)
        found = token_contributions(model, image, 1)
        assert found is not None
        with torch.no_grad():
            logit = model(image[None])[0, 1]
        bias = model.head.bias
        assert isinstance(bias, torch.Tensor)
        torch.testing.assert_close(found.sum() + bias[1], logit, rtol=1e-4, atol=1e-5)

    def test_a_class_token_is_no_mean(self, image: torch.Tensor):
        assert token_contributions(small("vit with a class token"), image, 0) is None

    def test_occlusion_against_one_by_one(self, image: torch.Tensor):
        model = small("mixer")
        found = occlusion(model, image, 0, 8)
        hidden = image.clone()
        hidden[:, 8:16, 24:32] = 0
        with torch.no_grad():
            expected = (model(image[None]) - model(hidden[None]))[0, 0]
        assert found.shape == (4, 4)
        torch.testing.assert_close(found[1, 3], expected, rtol=1e-4, atol=1e-5)

    def test_deletion_and_insertion_know_a_good_map_from_a_bad_one(self):
        """A model that looks at one square only: what counts is found first, or last."""
        model = _Corner()
        image = torch.ones(3, 32, 32)
        good = np.arange(16)
        gone, there = deletion_and_insertion(model, image, 1, good, 8)
        gone_late, there_late = deletion_and_insertion(model, image, 1, good[::-1].copy(), 8)
        assert (gone[0], there[0]) == (gone_late[0], there_late[0]) == pytest.approx((there[-1], gone[-1]))
        assert gone.mean() < gone_late.mean()
        assert there.mean() > there_late.mean()
        assert gone[1] < 0.55 < 0.9 < gone_late[-2]


class _Corner(Classifier[Any]):
    """Answers by the brightness of the first 8×8 pixels. (A trained one that looks at nothing else is hard to get.)"""

    def __init__(self):
        super().__init__(mlpmixer.create("mixer_nano", num_classes=2).config, "corner", num_features=2)
        self.metadata = ModelInfo()

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        bright = images[:, :, :8, :8].mean((1, 2, 3)) * 4
        return torch.stack([torch.zeros_like(bright), bright], 1)


class TestHeat:
    def test_signed_is_white_at_zero(self):
        found = heatmap.signed(np.array([[-2.0, 0.0, 1.0, 2.0]]))
        assert found[0, 1].tolist() == [255, 255, 255]
        assert found[0, 0].tolist() == [10, 91, 176]
        assert found[0, 3].tolist() == [168, 72, 12]

    def test_of_nothing(self):
        assert heatmap.signed(np.zeros((2, 2))).min() == 255
        assert heatmap.unsigned(np.ones((2, 2))).shape == (2, 2, 3)
        assert heatmap.own_range(np.ones((2, 2, 1))).shape == (2, 2, 3)

    def test_a_sheet_has_room_for_all(self):
        one = Image.new("RGB", (10, 6))
        assert heatmap.sheet([one] * 5, 3, gap=2).size == (36, 18)


@pytest.mark.parametrize("kind", SMALL)
def test_a_page_for_every_kind(kind: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = small(kind)
    mlpmixer.save(model, tmp_path / "model.safetensors", classes=("cat", "dog", "hat", "dress"))
    arguments = ["interpret", str(tmp_path / "model.safetensors"), "--image", str(photos[0]), "--label", "dress"]
    main([*arguments, "--folder", str(tmp_path / "look"), "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((tmp_path / "look" / "interpret.json").read_text())
    assert figures["prediction"]["class"] == "dress"
    assert set(figures["prediction"]["deletion"]) >= {"integrated-gradients", "occlusion", "random"}
    page = (tmp_path / "look" / "interpret.html").read_text()
    assert page.count("<figure") >= 8
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert (tmp_path / "look" / "units-0.png").exists() == (kind == "mixer")


def test_maps_of_many_places_are_tried_too(photos: list[Path], tmp_path: Path):
    """More than 14 by 14 patches, as H/14 has, go together into squares."""
    torch.manual_seed(0)
    model = mlpmixer.create("mixer_pico", image_size=60, num_classes=3, layers=1)
    torch.nn.init.normal_(model.get_submodule("head").weight)  # pyright: ignore[reportArgumentType]
    mlpmixer.save(model, tmp_path / "model.safetensors")
    found = interpret(tmp_path / "model.safetensors", tmp_path / "look", image=photos[0])["prediction"]
    assert set(found["deletion"]) == {"integrated-gradients", "occlusion", "tokens", "random"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixer_clothing", "--layers", "one"], "--layers looks like 0,1,5; got 'one'"),
        (["mixer_clothing", "--layers", "99"], "there is no layer 99; mixer_nano has 0 to 7"),
        (["mixer_clothing", "--image", "{photo}", "--label", "bicycle"], "the model has no class 'bicycle'"),
        (
            ["mixer_clothing", "--image", "{photo}", "--label", "tshirt"],
            "the model has no class 'tshirt'; did you mean 't-shirt'?",
        ),
        (["mixer_clothing", "--label", "hat"], "label: 'hat' is explained for an image; give one with --image"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], message: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        main(["interpret", *(text.format(photo=photos[0]) for text in arguments), "--folder", str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"mixer: {message}\n"


def test_a_terminal_shows_how_far_it_is(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    mlpmixer.save(small("mixer"), tmp_path / "model.safetensors")
    ours, theirs = os.openpty()
    seen: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, seen))
    reader.start()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        main(["interpret", str(tmp_path / "model.safetensors"), "--image", str(photos[0]), "--folder", str(tmp_path)])
    reader.join()
    os.close(ours)
    shown = b"".join(seen).decode()
    assert re.search(r"faithfulness.* \x1b\[32m4/4", shown)  # the last is shown even if all was quick
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor comes back


def _read_all(terminal: int, into: list[bytes]) -> None:
    """Until nobody writes to it."""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65_536):
            into.append(part)


def test_how_far_it_is(photos: list[Path], tmp_path: Path):
    """Each stage begins with nothing done and ends with all."""
    mlpmixer.save(small("mixer"), tmp_path / "model.safetensors")
    told: dict[str, list[tuple[int, int]]] = {}
    interpret(
        tmp_path / "model.safetensors",
        tmp_path,
        image=photos[0],
        progress=lambda what, done, total: told.setdefault(what, []).append((done, total)),
    )
    assert told.pop("receptive fields") == [(0, 1), (1, 1)]
    counts = {"token mixing": 3, "opposite units": 3, "influence between tokens": 3, "attribution": 3}
    counts["faithfulness"] = 4  # and random orders
    assert told == {what: [(n, count) for n in range(count + 1)] for what, count in counts.items()}


def test_all_filters_of_the_stem_are_drawn():
    """Each is found again in the sheet, in the order of frequency."""
    model = shaken(mlpmixer.create("mixer_nano", layers=1, channels=300))
    shown, _ = weight_figures(model)
    stem = next(one for one in shown if one.name == "stem")
    assert stem.caption.startswith("All 300 filters of the stem, low frequency first")
    assert isinstance(stem.shown, Image.Image)
    filters = stem_filters(model)
    across = 18  # of a sheet of 300, as square as can be
    wide, high = stem.shown.width // across, stem.shown.height // -(-len(filters) // across)
    for n in (0, 255, 256, 299):
        left, top = n % across * wide + 1, n // across * high + 1
        field = np.asarray(stem.shown)[top : top + high - 2, left : left + wide - 2]
        times = field.shape[0] // 4
        assert np.array_equal(field[times // 2 :: times, times // 2 :: times], heatmap.own_range(filters[n]))
