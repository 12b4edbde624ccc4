"""Pictures in, ranked labels out."""

from __future__ import annotations

import dataclasses
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shaken
from PIL import Image, ImageOps

from mlpmixer import Predictor, create, evaluate, load, save
from mlpmixer.data.pictures import decode, pixels
from mlpmixer.data.preprocess import normalise, prepare, preprocess
from mlpmixer.engines import kernels
from mlpmixer.errors import PictureError, UsageError
from mlpmixer.export.pictures import each
from mlpmixer.export.pictures import find as find_to_check
from mlpmixer.passport import Preprocessing
from mlpmixer.predict.lanes import in_order
from mlpmixer.predict.views import Views, count, views_of
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
    for found in (predictor(np.asarray(image)), predictor(str(PHOTO)), predictor(PHOTO.read_bytes())):
        assert found == pixels
    assert predictor([PHOTO]) == [pixels]


@pytest.mark.parametrize("side", [32, 64])
def test_evaluate_and_export_see_what_predict_sees(side: int, photos: list[Path], tmp_path: Path):
    """Each photograph lies in the folder of the class that `predict` names: evaluate must find all of them right."""
    model = load("mixer_cifar10", image_size=side)
    predictor = Predictor(model, engine="eager", precision="fp32")
    variants = 6  # of each, so that another way to decode would change some labels
    saved = []
    for photo in photos:
        with Image.open(photo) as opened:
            for number in range(variants):
                part = opened.crop((5 * number, 7 * number, opened.width, opened.height)).resize((500, 600 + number))
                saved.append(tmp_path / f"{photo.stem}-{number}.jpg")
                part.save(saved[-1])
    for path, found in predictor.stream(saved):
        assert not isinstance(found, PictureError)
        folder = tmp_path / "data" / found.label
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    card = evaluate(model, tmp_path / "data", known=0, workers=0)
    assert card["top1"]["right"] == card["top1"]["count"] == variants * len(photos)
    found = find_to_check("", tmp_path / "data", model, 10_000)
    assert model.passport is not None
    how = model.passport.preprocessing
    for number, picture in each(found.asked):
        assert torch.equal(prepare(picture, how), prepare(pixels(found.asked.where(number)), how))


@pytest.mark.parametrize(
    ("name", "precision", "off"), [("mixer_cifar10", "fp32", 1e-5), ("mixer_clothing", "bf16", 2e-3)]
)
def test_scores_are_the_models_own(name: str, precision: str, off: float):
    model = load(name).float()
    assert model.passport is not None
    how = model.passport.preprocessing
    images = preprocess(decode(PHOTO), how)[None]
    expected = model(images).softmax(1).max()
    found = Predictor(name, precision=precision)(PHOTO)
    assert found.score == pytest.approx(float(expected.detach()), abs=off)


def test_kernels_in_bfloat16_are_no_further_off_than_torch(photos: list[Path]):
    """On pictures that a model has doubts about, a step of bfloat16 is more than that."""
    if (reason := kernels.why_not(load("mixer_cifar10"))) is not None:
        pytest.skip(f"no kernels here: {reason}")
    exact, ours, torchs = (
        np.array([found.score for found in Predictor("mixer_cifar10", engine=engine, precision=precision)(photos)])
        for engine, precision in (("eager", "fp32"), ("kernels", "bf16"), ("eager", "bf16"))
    )
    assert abs(ours - exact).mean() <= abs(torchs - exact).mean()


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


def test_a_stream_is_what_single_pictures_give(predictor: Predictor, photos: list[Path]):
    """In order, with what is wrong in its place, from a source that is asked little by little."""
    given = [*photos, b"no picture", *photos, "nowhere.jpg", *photos]
    found = list(predictor.stream(picture for picture in given))
    assert [picture for picture, _ in found] == given
    assert [str(one) for _, one in found if isinstance(one, PictureError)] == [
        "the picture is no picture, or a damaged one (UnidentifiedImageError)",
        "there is no file nowhere.jpg",
    ]
    alone = {photo: predictor(photo) for photo in photos}
    assert [one for _, one in found if not isinstance(one, PictureError)] == [alone[photo] for photo in photos] * 3


def test_a_list_with_a_bad_picture_is_an_error(predictor: Predictor, photos: list[Path]):
    assert predictor([]) == []
    with pytest.raises(PictureError, match="there is no file nowhere"):
        predictor([*photos, "nowhere.jpg"])


def test_threads_leave_warnings_as_they_were(photos: list[Path]):
    before, often = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for piece in in_order(lambda some: [pixels(photo) for photo in some], photos * 10, lanes=4, at_once=1):
            assert len(piece) == 1
    finally:
        sys.setswitchinterval(often)
    assert list(warnings.filters) == before


@pytest.mark.parametrize("engine", ["eager", "onnx", "openvino"])
def test_every_engine_predicts_alike(engine: str, photos: list[Path]):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine) if engine != "eager" else "torch")
    expected = Predictor("mixer_cifar10", engine="eager", precision="fp32")(photos)
    predictor = Predictor("mixer_cifar10", engine=engine, precision="fp32", batch_size=4)
    for found, wanted in zip(predictor(photos), expected, strict=True):
        assert found.label == wanted.label
        assert found.score == pytest.approx(wanted.score, abs=1e-4)
    assert predictor(photos[3]).score == pytest.approx(expected[3].score, abs=1e-4)
    assert str(predictor.choice) == f"{engine}, fp32 (as asked for)"


class TestViews:
    @pytest.mark.parametrize("views", ["none", "flip", "crops"])
    def test_probabilities_and_embeddings_are_averages(self, views: Views, photos: list[Path]):
        """Against views that Pillow cuts, and the model that is written to be read."""
        model = load("mixer_clothing").float()
        assert model.passport is not None
        how = model.passport.preprocessing
        rows, columns = how.crop
        predictor = Predictor(model, precision="fp32", views=views, embeddings=True, top=10)
        for photo, found in zip(photos[:3], predictor(photos[:3]), strict=True):
            square = dataclasses.replace(how, crop=(how.resize, how.resize))
            whole = Image.fromarray(prepare(decode(photo), square).permute(1, 2, 0).numpy())
            middle = ((how.resize - columns) // 2, (how.resize - rows) // 2)
            ends = (0, how.resize - columns)
            places = [middle, *((x, y) for x in ends for y in ends)] if views == "crops" else [middle]
            shown = [whole.crop((x, y, x + columns, y + rows)) for x, y in places]
            if views != "none":
                shown += [ImageOps.mirror(image) for image in shown]
            images = torch.stack([normalise(torch.from_numpy(np.array(one)).permute(2, 0, 1), how) for one in shown])
            with torch.no_grad():
                logits, seen = model(images, intermediates=True)
            wanted = dict(zip(predictor.classes, logits.softmax(1).mean(0).tolist(), strict=True))
            assert dict(found.top) == pytest.approx(wanted, abs=1e-4)
            assert found.embedding is not None
            np.testing.assert_allclose(found.embedding, seen["pre_logits"].mean(0), atol=2e-3)

    def test_where_there_is_no_room_there_are_fewer(self):
        how = Preprocessing(resize=32, crop=(32, 32))
        assert [count(views, how) for views in ("none", "flip", "crops")] == [1, 2, 2]
        assert [count("crops", Preprocessing(resize=40, crop=crop)) for crop in ((32, 32), (32, 40))] == [10, 6]
        picture = np.arange(50 * 40 * 3, dtype=np.uint8).reshape(50, 40, 3)
        for crop in ((32, 32), (32, 40), (48, 32)):
            how = Preprocessing(resize=40, crop=crop)
            shown = views_of(picture, how, "crops")
            assert len(shown) == count("crops", how)
            assert len({view.numpy().tobytes() for view in shown}) == len(shown)
            assert torch.equal(shown[0], prepare(picture, how))

    def test_without_being_asked_there_is_no_embedding(self, predictor: Predictor):
        assert predictor(PHOTO).embedding is None
