"""Quantized Mixers: nearly as right as in float32, in a quarter of the space, the same after a round trip."""

from __future__ import annotations

import ctypes
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shaken
from messages import Says
from torch import Tensor

import mlpmixer
from mlpmixer import data
from mlpmixer.engines import kernels
from mlpmixer.engines.quantize import Quantized, fake_quantize, quantize
from mlpmixer.errors import BrokenFile, MixerError, UsageError
from mlpmixer.kernels.library import library
from mlpmixer.metadata import LayerPrecision, ModelInfo, Preprocessing, Range
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer

missing = library("forward")
pytestmark = pytest.mark.skipif(not isinstance(missing, ctypes.CDLL), reason=f"no kernels here: {missing}")
HOW = Preprocessing(resize=32, crop=(32, 32))


def clothes(count: int) -> Tensor:
    """Real images at the size of mixer_cifar10, which has something to say of any image."""
    split = data.open("fashion_mnist_small")["test"]
    images = torch.stack([torch.from_numpy(np.array(split.read(i))) for i in range(count)])
    return torch.nn.functional.pad(images[:, None].expand(-1, 3, -1, -1), (2, 2, 2, 2)).contiguous()


def logits(model: Classifier, pixels: Tensor, kind: str) -> Tensor:
    assert isinstance(model, Mixer)
    layer_precisions = model.metadata.layer_precisions if kind == "int8" else ()
    return kernels.forward(model, HOW, kind, layer_precisions)(pixels)[1]  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def model() -> Classifier:
    return mlpmixer.load("mixer_cifar10")


@pytest.fixture(scope="module")
def coarse(model: Classifier) -> Quantized:
    """All in int8."""
    return quantize(model, HOW, clothes(60), tolerance=1.0)


@pytest.fixture(scope="module")
def fine(model: Classifier) -> Quantized:
    """With some halves in bfloat16."""
    return quantize(model, HOW, clothes(60), tolerance=0.02)


@pytest.mark.slow
def test_bytes_answer_nearly_as_floats(model: Classifier):
    pixels = clothes(400)
    found = quantize(model, HOW, pixels[:100])
    wanted, ours = logits(model, pixels[100:], "fp32"), logits(found.model, pixels[100:], "int8")
    assert ((ours - wanted).square().mean().sqrt() / wanted.std()).item() < 0.08
    assert (ours.argmax(dim=1) == wanted.argmax(dim=1)).float().mean().item() > 0.95
    assert sum(sensitivity.work for sensitivity in found.sensitivities) == pytest.approx(1)
    assert all(0 < sensitivity.change < 0.05 for sensitivity in found.sensitivities)


@pytest.mark.slow
def test_islands_make_it_finer(model: Classifier, coarse: Quantized, fine: Quantized):
    assert {sensitivity.kind for sensitivity in coarse.sensitivities} == {"int8"}
    islands = [sensitivity for sensitivity in fine.sensitivities if sensitivity.kind == "bf16"]
    assert islands
    rank = {sensitivity.half: sensitivity.change**2 / sensitivity.work for sensitivity in fine.sensitivities}
    least = min(rank[sensitivity.half] for sensitivity in islands)
    assert all(rank[s.half] <= least for s in fine.sensitivities if s.kind == "int8")
    pixels = clothes(60)
    wanted = logits(model, pixels, "fp32")
    off = [(logits(found.model, pixels, "int8") - wanted).square().mean().item() for found in (coarse, fine)]
    assert off[1] < off[0]


def test_a_range_is_chosen_for_the_many_not_for_the_few():
    """One image is white where the others are dim: its values may be cut off."""
    values = torch.randn(10_000)
    usual = fake_quantize(values, Range(-4, 4))
    assert (usual - values).abs().mean() < (fake_quantize(values, Range(-400, 400)) - values).abs().mean() / 50
    assert fake_quantize(torch.zeros(1), Range(-0.17, 3.3)) == 0  # zero is itself, whatever the range


def test_a_round_trip_changes_nothing(fine: Quantized, tmp_path: Path):
    made, pixels = fine.model, clothes(60)
    path = mlpmixer.save(made, tmp_path / "small.safetensors")
    read = mlpmixer.load(path)
    assert read.metadata.layer_precisions == made.metadata.layer_precisions
    assert read.metadata.classes == made.metadata.classes
    for name, weight in read.state_dict().items():
        torch.testing.assert_close(weight, made.state_dict()[name], rtol=1e-6, atol=0)
    assert torch.equal(logits(read, pixels, "int8"), logits(made, pixels, "int8"))
    again = mlpmixer.save(read, tmp_path / "again.safetensors")
    assert torch.equal(logits(mlpmixer.load(again), pixels, "int8"), logits(made, pixels, "int8"))


def test_the_file_is_a_third_as_large(model: Classifier, coarse: Quantized, tmp_path: Path):
    small = mlpmixer.save(coarse.model, tmp_path / "small.safetensors").stat().st_size
    assert small < mlpmixer.save(model, tmp_path / "large.safetensors").stat().st_size / 3


def test_plans_go_when_they_no_longer_fit(fine: Quantized, tmp_path: Path):
    path = mlpmixer.save(fine.model, tmp_path / "small.safetensors")
    larger = mlpmixer.load(path, image_size=64)
    assert larger.metadata.layer_precisions == ()
    mlpmixer.save(larger, tmp_path / "larger.safetensors")
    assert mlpmixer.load(tmp_path / "larger.safetensors").config.image_size == (64, 64)


def rewrite(path: Path, change: str, to: str) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + length].decode()
    assert change in header
    changed = header.replace(change, to, 1).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ('"blocks.0.token_mixing.fc1.weight.scale"', '"blocks.0.token_mixing.fc1.weight.scall"'),  # bytes of nothing
        ('"shape":[9]', '"shape":[9,1]'),
        ("int8", "int9"),
        ('\\"kind\\": \\"int8\\"', '\\"kind\\": \\"bf16\\"'),  # bytes where the layer has none
        ('\\"low\\": -', '\\"low\\": 1e999, \\"x\\": -'),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: str, to: str):
    model = shaken(mlpmixer.create("mixer_pico", layers=1, num_classes=3, image_size=12, token_hidden=16))
    model.metadata = ModelInfo(preprocessing=Preprocessing(resize=12, crop=(12, 12)))
    made = quantize(model, Preprocessing(resize=12, crop=(12, 12)), torch.randint(0, 256, (4, 3, 12, 12)).byte())
    path = mlpmixer.save(made.model, tmp_path / "small.safetensors")
    if change == '"shape":[9]':
        names = json.loads(path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]])
        assert names["blocks.0.token_mixing.fc2.weight.scale"]["shape"] == [9]
    rewrite(path, change, to)
    with pytest.raises(MixerError):
        mlpmixer.load(path)


def test_bytes_without_a_scale_are_no_weights(tmp_path: Path, says: Says):
    from safetensors.torch import save_file

    save_file({"blocks.0.norm1.weight": torch.zeros(3, dtype=torch.int8)}, tmp_path / "x.safetensors")
    with says(BrokenFile):
        mlpmixer.load(tmp_path / "x.safetensors")


def test_what_cannot_be_quantized_is_said(model: Classifier, says: Says):
    with says(UsageError):
        quantize(model, HOW, clothes(1)[:0])
    with says(UsageError):
        quantize(mlpmixer.create("vit_ti32", layers=1), HOW, clothes(1))


def test_a_plan_is_for_each_half(tmp_path: Path, says: Says):
    model = mlpmixer.load("mixer_cifar10")
    model.metadata = replace(model.metadata, layer_precisions=(LayerPrecision("bf16"),) * 3)
    with says(UsageError):
        mlpmixer.save(model, tmp_path / "odd.safetensors")
