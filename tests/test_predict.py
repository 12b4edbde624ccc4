"""Pictures in, ranked labels out."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import shaken
from PIL import Image

from mlpmixer import Predictor, create, load, save
from mlpmixer.data.pictures import decode
from mlpmixer.data.preprocess import preprocess
from mlpmixer.errors import PictureError, UsageError
from mlpmixer.weights.shipped import PHOTO


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("mixer_cifar10", top=3, batch_size=4)


def test_the_shipped_model_knows_its_photo(predictor: Predictor):
    found = predictor(PHOTO)
    assert found.label == "cat"
    assert found.score == found.top[0][1]
    assert len(found.top) == 3
    assert found.top[0][1] >= found.top[1][1] >= found.top[2][1]


def test_the_model_of_clothing_is_better_than_chance_on_real_photos(photos: list[Path]):
    predictor = Predictor("mixer_clothing")
    right = sum(found.label == photo.stem for found, photo in zip(predictor(photos), photos, strict=True))
    assert right >= 5  # of ten kinds, one photograph each


def test_all_kinds_of_input_agree(predictor: Predictor):
    image = Image.open(PHOTO)
    image.load()
    pixels = predictor(image)
    assert predictor(np.asarray(image)) == pixels
    for found in (predictor(str(PHOTO)), predictor(PHOTO.read_bytes()), predictor([PHOTO])[0]):
        assert found.label == pixels.label
        assert abs(found.score - pixels.score) < 0.05  # a path may be decoded smaller


@pytest.mark.parametrize(("precision", "off"), [("fp32", 1e-5), ("bf16", 2e-3)])
def test_scores_are_the_models_own(precision: str, off: float):
    model = load("mixer_cifar10")
    assert model.passport is not None
    how = model.passport.preprocessing
    images = preprocess(decode(PHOTO, at_least=how.resize), how)[None]
    expected = model(images).softmax(1).max()
    found = Predictor("mixer_cifar10", precision=precision)(PHOTO)
    assert found.score == pytest.approx(float(expected.detach()), abs=off)


def test_batches_do_not_change_the_answer(predictor: Predictor, photos: list[Path]):
    together = predictor(photos)
    assert len(together) == 10
    for photo, found in zip(photos, together, strict=True):
        assert predictor(photo).label == found.label


def test_threads_may_share_one(predictor: Predictor, photos: list[Path]):
    expected = [predictor(photo) for photo in photos]
    found: list[object] = [None] * len(photos)

    def work(i: int) -> None:
        found[i] = predictor(photos[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(photos))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_names_where_there_are_none_and_few_classes(tmp_path: Path):
    model = create("mixer_pico", num_classes=3)
    shaken(model)
    file = save(model, tmp_path / "m.safetensors")
    found = Predictor(file)(PHOTO)
    assert len(found.top) == 3
    assert found.label.startswith("class ")


def test_what_cannot_predict_says_so(tmp_path: Path, predictor: Predictor):
    with pytest.raises(UsageError, match="has no passport"):
        Predictor(create("mixer_pico"))
    with pytest.raises(UsageError, match="has no head"):
        Predictor(save(create("mixer_pico", num_classes=0), tmp_path / "m.safetensors"))
    with pytest.raises(PictureError, match="there is no file"):
        predictor("nowhere.jpg")
