"""What a model costs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

import pytest
import torch

from mlpmixer import create, list_models
from mlpmixer.models.measure import measure
from mlpmixer.models.measured import TABLE_1, measured

SMALL = ["mixer_s32", "mixer_nano", "vit_ti16", "bit_r50x1", "nfnet_f0"]  # one of each family, and other patches
REST = [name for name in list_models() if not name.startswith("bit_r") or name == "bit_r50x3"]


def test_all_models_are_written_down():
    assert [row["name"] for row in measured()] == list_models()


def differing(names: Iterable[str]) -> list[str]:
    """Those that measure otherwise than what is written down."""
    written = {row["name"]: row for row in measured()}
    return [name for name in names if json.loads(json.dumps(asdict(measure(name)))) != written[name]]


def test_what_is_written_down_is_what_one_measures():
    wrong = differing(SMALL)
    assert not wrong


@pytest.mark.slow
def test_what_is_written_down_is_what_one_measures_of_the_others():
    wrong = differing({*REST} - {*SMALL})
    assert not wrong


def test_parameters_of_all_models():
    for row in measured():
        with torch.device("meta"):
            model = create(row["name"])
        assert sum(p.numel() for p in model.parameters()) == row["params"], row["name"]
        assert (
            sum(p.numel() for name, p in model.named_parameters() if not name.startswith("head."))
            == (row["params_without_head"])
        ), row["name"]


def test_table_1_of_the_paper():
    for row in measured()[:7]:
        # The paper prints S/16's 18.02 M as 18 and H/14's 431.07 M as 431.
        assert round(row["params_without_head"] / 1e6) == TABLE_1[row["name"]]


def test_dimensions_of_table_1():
    rows = {row["name"]: row["dimensions"] for row in measured()}
    assert rows["mixer_b16"] == {
        "layers": 12,
        "patch_size": 16,
        "channels": 768,
        "token_hidden": 384,
        "channel_hidden": 3072,
    }
    assert [rows[name]["layers"] for name in TABLE_1] == [8, 8, 12, 12, 24, 24, 32]
    assert [row["tokens"] for row in measured()[:7]] == [49, 196, 49, 196, 49, 196, 256]
    for name in TABLE_1:
        assert rows[name]["token_hidden"] * 2 == rows[name]["channels"] == rows[name]["channel_hidden"] / 4


def test_multiply_adds_by_hand():
    """Mixer-S/32: stem, 8 times two MLPs, head."""
    S, C, D_S, D_C = 49, 512, 256, 2048  # noqa: N806 (the paper's symbols)
    by_hand = S * 32 * 32 * 3 * C + 8 * (2 * S * D_S * C + 2 * S * C * D_C) + C * 1000
    assert measure("mixer_s32").gmacs == by_hand / 1e9


def test_size_and_options_count():
    assert measure("mixer_b16", image_size=448).tokens == 784
    assert measure("mixer_b16", image_size=(320, 192)).image_size == (320, 192)
    assert measure("mixer_s32", num_classes=10).params == 18_591_624 + 512 * 10 + 10
    assert measure("mixer_s32", untied=True).params > 100 * 10**6


def test_activations_are_what_training_keeps():
    """Against real tensors of a real forward pass: what a second image adds to all that autograd saved."""
    model = create("mixer_pico").train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def kept(batch: int) -> int:
        alive = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: alive.append(t) or t, lambda t: t):
            model(torch.randn(batch, 3, 28, 28))
        sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
        return sum(size for pointer, size in sizes.items() if pointer not in own)

    assert (kept(2) - kept(1)) / 1e6 == pytest.approx(measure("mixer_pico").activation_mb, rel=0.02)
