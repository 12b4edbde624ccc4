"""What a PyTorch user does with a model library, from the first line to a DataLoader of one's own: a tutorial."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import Says
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import mlpmixer
from mlpmixer.errors import UsageError
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.weights.fetch import path_of

PHOTOS = sorted((Path(__file__).parent / "photos").glob("*.jpg"))


# Find a model.


def test_models_and_weights_are_listed_by_pattern():
    assert mlpmixer.list_models("mixer_?16") == ["mixer_s16", "mixer_b16", "mixer_l16"]
    assert "vit_b16" in mlpmixer.list_models()
    weights = mlpmixer.list_models("mixer_*", pretrained=True)
    assert weights[0] == "mixer_cifar10"  # comes with the package
    assert "mixer_b16.imagenet21k" in weights
    assert not any(name.startswith("vit") for name in weights)


# Create one.


def test_a_new_model_is_a_module_in_training_mode():
    model = mlpmixer.create("mixer_pico", num_classes=10, image_size=32, dropout=0.1)
    assert isinstance(model, nn.Module)
    assert model.training
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_pretrained_weights_by_name_from_a_file_and_for_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says
):
    named = mlpmixer.create("mixer_cifar10", pretrained=True)
    assert named.training
    assert named.metadata.classes is not None
    same = mlpmixer.create("mixer_nano", pretrained="mixer_cifar10")
    file = mlpmixer.save(same, tmp_path / "mine.safetensors")
    of_file = mlpmixer.create("mixer_nano", pretrained=file)
    for other in (same, of_file):
        assert all(torch.equal(a, b) for a, b in zip(named.parameters(), other.parameters(), strict=True))

    # `True` takes the first that is listed for the model; here it is in the cache already, so nothing is fetched.
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path))
    first = mlpmixer.list_models("vit_ti16.*", pretrained=True)[0]
    mlpmixer.save(mlpmixer.create("vit_ti16", num_classes=3), path_of(first), layout="older")
    assert mlpmixer.create("vit_ti16", pretrained=True).metadata.provenance["layout"] == "older"

    with says(UsageError):
        mlpmixer.create("mixer_h14", pretrained=True)
    with says(UsageError):
        mlpmixer.create("mixer_b16", pretrained="mixer_cifar10")


def test_pretrained_weights_with_a_new_head():
    model = mlpmixer.create("mixer_nano", pretrained="mixer_cifar10", num_classes=3)
    assert model.head.get_parameter("weight").shape == (3, model.num_features)
    assert model.metadata.classes is None
    whole = mlpmixer.create("mixer_nano", pretrained="mixer_cifar10")
    assert torch.equal(model.get_parameter("norm.weight"), whole.get_parameter("norm.weight"))


# Use it as a backbone.


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("mixer_pico", {"image_size": 28}, (2, 49, 64)),
        ("vit_ti32", {"image_size": 64, "layers": 1, "representation": 24}, (2, 5, 192)),
        ("bit_r50x1", {"image_size": 64, "units": (1, 1)}, (2, 512, 8, 8)),
        ("halonet_h3", {"image_size": 64, "units": (1, 1)}, (2, 1024, 8, 8)),
    ],
)
def test_features_and_head_are_the_two_halves_of_a_model(name: str, options: dict[str, Any], shape: tuple[int, ...]):
    model = mlpmixer.create(name, num_classes=7, **options).eval()
    nn.init.normal_(model.get_parameter("head.weight"))
    images = torch.randn(2, 3, *model.config.image_size)
    features = model.forward_features(images)
    assert features.shape == shape
    assert torch.equal(model.forward_head(features), model(images))

    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    logits, intermediates = model(images, intermediates=True)
    assert torch.equal(intermediates["pre_logits"], pooled)
    assert torch.equal(intermediates["logits"], logits)

    model.reset_classifier(0)  # no head at all
    assert torch.equal(model(images), pooled)
    model.reset_classifier(4)
    assert model(images).shape == (2, 4)
    assert model.config.num_classes == 4


def test_a_new_head_is_as_the_rest_of_the_model():
    model = mlpmixer.load("mixer_cifar10", dtype=torch.bfloat16)
    model.reset_classifier(3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.head.training
    assert model.metadata.classes is None


# Prepare images.


def test_metadata_is_always_there():
    model = mlpmixer.create("mixer_pico")
    assert model.metadata == ModelInfo(preprocessing=Preprocessing.usual((28, 28)))
    assert mlpmixer.load("mixer_cifar10").metadata.classes[0] == "airplane"  # pyright: ignore[reportOptionalSubscript]


class Photos(Dataset[torch.Tensor]):
    def __init__(self, model: Classifier):
        self.transform = mlpmixer.transform(model)

    def __len__(self) -> int:
        return len(PHOTOS)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(PHOTOS[index]))


def test_the_transform_for_a_data_loader_of_ones_own():
    model = mlpmixer.load("mixer_cifar10")
    (images,) = DataLoader(Photos(model), batch_size=len(PHOTOS), num_workers=0)
    with torch.inference_mode():
        probabilities = model(images).softmax(1)
    predictions = mlpmixer.Predictor(model, engine="eager", precision="fp32", top=1)(PHOTOS)
    classes = model.metadata.classes or ()
    for row, predicted in zip(probabilities, predictions, strict=True):
        assert classes[int(row.argmax())] == predicted.label
        assert float(row.max()) == pytest.approx(predicted.score, abs=1e-5)


def test_the_transform_takes_arrays_and_travels():
    transform = pickle.loads(pickle.dumps(mlpmixer.transform(mlpmixer.load("mixer_cifar10"))))
    image = Image.open(PHOTOS[0]).convert("RGB")
    assert torch.equal(transform(np.asarray(image)), transform(image))
    assert transform(image).shape == (3, 32, 32)
    assert transform(image).dtype == torch.float32
    assert repr(transform).startswith("Transform(Preprocessing(resize=32")


# Predict.


def test_a_model_predicts_without_a_file():
    model = mlpmixer.create("mixer_pico", num_classes=3)
    found = mlpmixer.Predictor(model, classes=["ant", "bee", "fly"])(PHOTOS[0])
    assert sorted(label for label, _ in found.top) == ["ant", "bee", "fly"]


def test_images_come_as_files_tensors_or_from_a_generator():
    predictor = mlpmixer.Predictor("mixer_cifar10")
    image = np.asarray(Image.open(PHOTOS[0]).convert("RGB"))
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    one = predictor(image)
    assert predictor(tensor) == one
    assert predictor(iter([tensor, image])) == [one, one]


def test_a_predictor_travels_into_a_spawned_process():
    predictor = mlpmixer.Predictor("mixer_cifar10", engine="eager", precision="fp32")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(predictor, PHOTOS[0]).result().label == predictor(PHOTOS[0]).label
