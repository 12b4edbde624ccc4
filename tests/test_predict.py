"""Images in, ranked labels out."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shaken
from in_processes import SERVER
from messages import Says
from PIL import Image, ImageOps

from mlpmixer import Predictor, create, evaluate, load, save
from mlpmixer.data.images import decode, pixels
from mlpmixer.data.jpeg import ORIENTATION
from mlpmixer.data.preprocess import normalize, prepare, preprocess
from mlpmixer.data.tta import TTA, count, views_of
from mlpmixer.engines import kernels
from mlpmixer.errors import ImageError, RunError, UsageError
from mlpmixer.export.check_images import each
from mlpmixer.export.check_images import find as find_to_check
from mlpmixer.machine.ordered_pool import in_order
from mlpmixer.metadata import Preprocessing
from mlpmixer.predict.inputs import TAKEN, image_of
from mlpmixer.weights.bundled import PHOTO


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


@pytest.mark.parametrize("name", ["mixer_clothing", "mixer_cifar10"])
def test_every_way_to_hand_over_an_image_gives_the_same_answer(name: str, photos: list[Path]):
    """Whole predictions, to the last bit."""
    predictor = Predictor(name)
    expected = predictor(photos)
    arrays = [np.asarray(Image.open(photo)) for photo in photos]
    rows = [torch.from_numpy(array.copy()) for array in arrays]
    data = [photo.read_bytes() for photo in photos]
    assert predictor(map(str, photos)) == expected
    assert predictor(data) == expected
    assert predictor(map(bytearray, data)) == predictor(map(memoryview, data)) == expected
    assert predictor(map(io.BytesIO, data)) == expected
    with contextlib.ExitStack() as stack:
        assert predictor([stack.enter_context(photo.open("rb")) for photo in photos]) == expected
        assert predictor(stack.enter_context(photos[0].open("rb"))) == expected[0]
    assert predictor(Image.open(photo) for photo in photos) == expected
    assert predictor(arrays) == expected
    assert predictor([array[:, ::-1].copy()[:, ::-1] for array in arrays]) == expected
    assert predictor(rows) == predictor([row.movedim(2, 0) for row in rows]) == expected
    assert predictor(photo for photo in photos) == predictor(tuple(photos)) == expected
    assert [found for _, found in predictor.stream(iter(photos))] == expected
    assert predictor(arrays[0][None]) == predictor(rows[0].movedim(2, 0)[None]) == expected[:1]
    for one in (photos[0], str(photos[0]), data[0], io.BytesIO(data[0]), arrays[0], rows[0], rows[0].movedim(2, 0)):
        assert predictor(one) == expected[0]


def test_images_of_one_channel_and_of_four(predictor: Predictor):
    gray = np.asarray(Image.open(PHOTO).convert("L"))
    expected = predictor(np.stack([gray] * 3, axis=2))
    flat = torch.from_numpy(gray.copy())
    assert predictor(gray) == predictor(flat) == predictor(flat[None]) == predictor(flat[:, :, None]) == expected
    clear = np.dstack([np.asarray(Image.open(PHOTO)), np.full_like(gray, 255)])
    assert predictor(clear) == predictor(torch.from_numpy(clear)) == predictor(clear[:, :, :3])


def test_of_two_ways_to_see_a_tensor_torchs_own_is_taken():
    for shape, seen in (((3, 5, 3), (5, 3, 3)), ((5, 7, 3), (5, 7, 3))):
        found = image_of(torch.zeros(shape, dtype=torch.uint8))
        assert isinstance(found, np.ndarray)
        assert found.shape == seen


def test_a_photograph_on_its_side_is_turned_however_it_comes(predictor: Predictor, tmp_path: Path, photos: list[Path]):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.open(photos[0]).save(tmp_path / "side.png", exif=exif)
    found = predictor(tmp_path / "side.png")
    assert found == predictor(Image.open(tmp_path / "side.png"))
    assert found != predictor(photos[0])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, f"an image is {TAKEN}, not None"),
        (5, "array or tensor, not an int"),
        (np.zeros((8, 8, 3), np.float32), "must be a uint8 array .*, not float32"),
        (np.zeros((8, 8, 2), np.uint8), r"must be a uint8 array \(height, width\[, 3 or 4\]\), not uint8 \(8, 8, 2\)"),
        (np.array(["photo.jpg"]), "must be a uint8 array"),
        (np.zeros((0, 0, 3), np.uint8), "has no pixels"),
        (torch.zeros(3, 8, 8), "a tensor must be uint8 .*, not torch.float32"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), "must have 3 channels"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), "has no pixels"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8, device="meta"), "cannot be prepared"),
        (Image.new("RGB", (0, 3)), "has no pixels"),
        (io.BytesIO(), "is at its end; seek"),
        (io.StringIO("text"), "must give bytes, and this one gives a str"),
        (io.BytesIO(b"no image"), "is not a readable image"),
        (bytearray(b""), "is not a readable image"),
        (np.broadcast_to(np.zeros(3, np.uint8), (10**6, 10**6, 3)), "cannot be prepared: there is not enough memory"),
    ],
)
def test_what_is_no_image_gets_a_line_and_loses_no_other(predictor: Predictor, given: Any, says: str):
    with pytest.raises(ImageError, match=says) as error:
        predictor(given)
    assert "\n" not in str(error.value)
    before, wrong, after = (found for _, found in predictor.stream([PHOTO, given, PHOTO]))
    assert isinstance(wrong, ImageError)
    assert before == after == predictor(PHOTO)


def test_an_image_of_absurd_proportions_is_named_and_loses_no_other(predictor: Predictor, tmp_path: Path):
    Image.new("1", (1, 1_000_000)).save(tmp_path / "thin.png")
    first, wrong, last = (found for _, found in predictor.stream([PHOTO, tmp_path / "thin.png", PHOTO]))
    assert str(wrong).startswith(f"{tmp_path / 'thin.png'}: an image of 1×1,000,000 pixels is too narrow")
    assert first == last == predictor(PHOTO)


def test_files_that_cannot_be_read_get_a_line(predictor: Predictor, tmp_path: Path, says: Says):
    with PHOTO.open("rb") as closed:
        pass
    with (tmp_path / "x.jpg").open("wb") as written:
        for file in (closed, written):
            with says(ImageError):
                predictor(file)
    cut = Image.open(io.BytesIO(PHOTO.read_bytes()[:2000]))
    with says(ImageError):
        predictor(cut)


def test_a_stream_of_one_image_says_what_it_takes(predictor: Predictor, says: Says):
    with says(UsageError):
        next(predictor.stream(str(PHOTO)))


@pytest.mark.parametrize("side", [32, 64])
def test_evaluate_and_export_see_what_predict_sees(side: int, photos: list[Path], tmp_path: Path):
    """Each photograph lies in the folder of the class that `predict` names: evaluate must find all of them right."""
    model = load("mixer_cifar10", image_size=side)
    predictor = Predictor(model, engine="eager", precision="fp32")
    variants = 3  # of each, so that another way to decode would change some labels
    saved = []
    for photo in photos:
        with Image.open(photo) as opened:
            for number in range(variants):
                part = opened.crop((5 * number, 7 * number, opened.width, opened.height)).resize((150, 180 + number))
                saved.append(tmp_path / f"{photo.stem}-{number}.jpg")
                part.save(saved[-1])
    for path, found in predictor.stream(saved):
        assert not isinstance(found, ImageError)
        folder = tmp_path / "data" / found.label
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    card = evaluate(model, tmp_path / "data", train_images=0, workers=0)
    assert card["top1"].correct == card["top1"].count == variants * len(photos)
    found = find_to_check("", tmp_path / "data", model, 10_000)
    how = model.metadata.preprocessing
    for number, image in each(found.test, how):
        assert torch.equal(prepare(image, how), prepare(pixels(found.test.where(number)), how))


@pytest.mark.parametrize(
    ("name", "precision", "off"), [("mixer_cifar10", "fp32", 1e-5), ("mixer_clothing", "bf16", 2e-3)]
)
def test_scores_are_the_models_own(name: str, precision: str, off: float):
    model = load(name).float()
    how = model.metadata.preprocessing
    images = preprocess(decode(PHOTO), how)[None]
    expected = model(images).softmax(1).max()
    found = Predictor(name, precision=precision)(PHOTO)
    assert found.score == pytest.approx(float(expected.detach()), abs=off)


def test_kernels_in_bfloat16_are_no_further_off_than_torch(photos: list[Path]):
    """On images that a model has doubts about, a step of bfloat16 is more than that."""
    if (reason := kernels.unsupported(load("mixer_cifar10"))) is not None:
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


def test_what_cannot_predict_says_so(tmp_path: Path, predictor: Predictor, says: Says):
    with says(UsageError):
        Predictor(save(create("mixer_pico", num_classes=0), tmp_path / "m.safetensors"))
    with says(ImageError):
        predictor("nowhere.jpg")


class TestAModelWithoutAFile:
    def test_it_is_taken_as_it_would_be_saved(self, tmp_path: Path):
        model = shaken(create("mixer_pico", num_classes=3))
        found = Predictor(model, embeddings=True)(PHOTO)
        assert found == Predictor(save(model, tmp_path / "m.safetensors"))(PHOTO)
        assert [label for label, _ in sorted(found.top)] == ["class 0", "class 1", "class 2"]
        assert model.metadata.classes is None
        assert repr(found).endswith(f"embedding=<{model.config.channels} numbers>)")

    def test_it_may_be_told_its_classes_and_its_preprocessing(self, tmp_path: Path):
        model = shaken(create("mixer_pico", num_classes=3))
        how = Preprocessing(resize=40, crop=model.config.image_size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
        said: dict[str, Any] = {"classes": ["ant", "bee", "fly"], "preprocessing": how}
        file = save(model, tmp_path / "m.safetensors", **said)
        found = Predictor(model, **said)(PHOTO)
        assert found == Predictor(file)(PHOTO) != Predictor(model)(PHOTO)
        assert Predictor(file, classes=["x", "y", "z"])(PHOTO).label in "xyz"
        assert {label for label, _ in found.top} == {"ant", "bee", "fly"}

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"classes": ["ant"]}, "1 class names for 3 classes"),
            ({"classes": "ant"}, "classes must be a list of names, not 'ant'"),
            ({"classes": [1, 2, 3]}, "classes must be a list of names"),
            ({"preprocessing": Preprocessing(crop=(8, 8))}, "cropped to 8×8 pixels for a model that takes 28×28"),
            ({"preprocessing": "usual"}, "must be an mlpmixer.metadata.Preprocessing, not 'usual'"),
        ],
    )
    def test_what_does_not_fit_is_one_line(self, said: dict[str, Any], message: str, tmp_path: Path):
        model = create("mixer_pico", num_classes=3)
        for use in (Predictor, lambda model, **said: save(model, tmp_path / "m.safetensors", **said)):
            with pytest.raises(UsageError, match=message):
                use(model, **said)

    def test_means_of_other_channels_and_impossible_numbers(self, says: Says):
        model = create("mixer_pico", num_classes=3)
        usual = Preprocessing.usual(model.config.image_size)
        for change in ({"mean": (0.5,)}, {"std": (0.0, 1.0, 1.0)}, {"resize": "large"}):
            with says(UsageError):
                Predictor(model, preprocessing=dataclasses.replace(usual, **change))  # pyright: ignore[reportArgumentType]
        with says(UsageError):
            Predictor(create("mixer_pico", num_classes=3, in_channels=1))

    @pytest.mark.parametrize("spoilt", ["head.weight", "norm.bias"])
    def test_answers_that_are_no_numbers_are_errors(self, spoilt: str, says: Says):
        model = shaken(create("mixer_pico", num_classes=3))
        with torch.no_grad():
            model.get_parameter(spoilt).view(-1)[0] = torch.nan
        for engine in ("kernels", "eager"):
            with says(ImageError):
                Predictor(model, engine=engine, precision="fp32")(PHOTO)


class TestInOtherProcesses:
    def test_it_travels_to_a_process_that_was_spawned(self, photos: list[Path]):
        pytest.importorskip("onnxruntime")
        model = shaken(create("mixer_pico", num_classes=3))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            for engine in ("kernels", "eager", "onnx"):
                sent = Predictor(model, engine=engine, precision="fp32", classes=["a", "b", "c"], tta="flip", top=2)
                expected = sent(photos)
                assert pool.submit(sent, photos).result() == expected, engine
                copied = copy.deepcopy(sent)
                assert copied(photos) == expected, engine
                assert copied.choice == sent.choice, engine

    def test_it_keeps_the_engine_and_the_numbers_that_were_chosen(self):
        sent = Predictor("mixer_cifar10", embeddings=True, batch_size=4)
        came = pickle.loads(pickle.dumps(sent))
        assert (came.engine.name, came.engine.precision, came.choice) == (
            *(sent.engine.name, sent.engine.precision),
            sent.choice,
        )
        assert came.batch_size == 4
        there, here = came(PHOTO), sent(PHOTO)
        assert there == here
        assert there.embedding is not None
        assert here.embedding is not None
        assert np.array_equal(there.embedding, here.embedding)

    @pytest.mark.slow
    def test_a_forked_process_answers(self):
        """torch has threads by then, which a child does not have."""
        for model, images in (
            (("mixer_cifar10", "kernels"), 9),
            (("mixer_cifar10", "eager"), 9),
            ((create("mixer_s32", layers=1), "kernels"), 0),  # its weights were laid out by many threads
        ):
            assert answered_in_a_child(*model, images, all_ways) == "(1, 12)", model

    def test_a_forked_process_says_at_once_that_an_engine_is_not_there(self, says: Says):
        model = create("mixer_pico", num_classes=2)
        for engine, package in (("onnx", "onnxruntime"), ("openvino", "openvino")):
            pytest.importorskip(package)
            for line in answered_in_a_child(model, engine, 1, refusals).splitlines():
                says.check(line)

    def test_before_its_first_answer_any_engine_may_be_forked(self):
        pytest.importorskip("onnxruntime")
        assert answered_in_a_child("mixer_cifar10", "onnx", 0, label_and_count) == "('cat', 40)"


def all_ways(predictor: Predictor) -> tuple[int, int]:
    found = [predictor(PHOTO), *predictor([PHOTO] * 9), pickle.loads(pickle.dumps(predictor))(PHOTO)]
    with ThreadPoolExecutor(1) as pool:
        found.append(pool.submit(predictor, PHOTO).result())
    return len({one.label for one in found}), len(found)


def refusals(predictor: Predictor) -> str:
    said = []
    for images in (PHOTO, [PHOTO]):
        with pytest.raises(RunError) as error:
            predictor(images)
        said.append(str(error.value))
    return "\n".join(said)


def label_and_count(predictor: Predictor) -> tuple[str, int]:
    return predictor(PHOTO).label, len(predictor([PHOTO] * 40))


def answered_in_a_child(model: Any, engine: str, images: int, child: Callable[[Predictor], object]) -> str:
    """What `child` returns in a process that is forked after its parent, with threads, has answered for some images."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    parent = SERVER.Process(target=fork_after, args=(model, engine, images, child, theirs))
    parent.start()
    try:
        theirs.close()
        assert ours.poll(100), "it hangs"
        return ours.recv()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid or 0, signal.SIGKILL)
        parent.join()


def fork_after(model: Any, engine: str, images: int, child: Callable[[Predictor], object], answer: Connection) -> None:
    os.setsid()
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    predictor = Predictor(model, engine=engine, precision="fp32", batch_size=4)
    predictor([PHOTO] * images)
    if (process := os.fork()) == 0:
        answer.send(str(child(predictor)))
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
    signal.pause()  # until it is killed, with all that it has started


def test_a_stream_is_what_single_images_give(predictor: Predictor, photos: list[Path]):
    """In order, with what is wrong in its place, from a source that is asked little by little."""
    given = [*photos, b"no image", *photos, "nowhere.jpg", *photos]
    found = list(predictor.stream(image for image in given))
    assert [image for image, _ in found] == given
    assert [str(one) for _, one in found if isinstance(one, ImageError)] == [
        "the image is not a readable image (UnidentifiedImageError)",
        "there is no file nowhere.jpg",
    ]
    alone = {photo: predictor(photo) for photo in photos}
    assert [one for _, one in found if not isinstance(one, ImageError)] == [alone[photo] for photo in photos] * 3


def test_a_list_with_a_bad_image_is_an_error(predictor: Predictor, photos: list[Path], says: Says):
    assert predictor([]) == []
    with says(ImageError):
        predictor([*photos, "nowhere.jpg"])


def test_threads_leave_warnings_as_they_were(photos: list[Path]):
    before, often = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for piece in in_order(lambda some: [pixels(photo) for photo in some], photos * 10, threads=4, batch_size=1):
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


class TestTTA:
    @pytest.mark.parametrize("tta", ["none", "flip", "shifts", "crops"])
    def test_probabilities_and_embeddings_are_averages(self, tta: TTA, photos: list[Path]):
        """Against views that Pillow cuts, and the model that is written to be read."""
        model = load("mixer_clothing").float()
        how = model.metadata.preprocessing
        rows, columns = how.crop
        predictor = Predictor(model, precision="fp32", tta=tta, embeddings=True, top=10)
        for photo, found in zip(photos[:3], predictor(photos[:3]), strict=True):
            square = dataclasses.replace(how, crop=(how.resize, how.resize))
            whole = Image.fromarray(prepare(decode(photo), square).permute(1, 2, 0).numpy())
            middle = ((how.resize - columns) // 2, (how.resize - rows) // 2)
            ends = (0, how.resize - columns)
            places = [middle, *((x, y) for x in ends for y in ends)] if tta == "crops" else [middle]
            shown = [whole.crop((x, y, x + columns, y + rows)) for x, y in places]
            if tta == "shifts":
                far = model.config.patch_size // 2  # pyright: ignore[reportAttributeAccessIssue]
                edges = np.pad(np.asarray(shown[0]), ((far, far), (far, far), (0, 0)), mode="edge")
                wide = Image.fromarray(edges)
                shown += [wide.crop((x, x, x + columns, x + rows)) for x in (2 * far, 0)]
            if tta != "none":
                shown += [ImageOps.mirror(image) for image in shown]
            images = torch.stack([normalize(torch.from_numpy(np.array(one)).permute(2, 0, 1), how) for one in shown])
            with torch.no_grad():
                logits, seen = model(images, intermediates=True)
            wanted = dict(zip(predictor.classes, logits.softmax(1).mean(0).tolist(), strict=True))
            assert dict(found.top) == pytest.approx(wanted, abs=1e-4)
            assert found.embedding is not None
            np.testing.assert_allclose(found.embedding, seen["pre_logits"].mean(0), atol=2e-3)

    def test_where_there_is_no_room_there_are_fewer(self):
        how = Preprocessing(resize=32, crop=(32, 32))
        assert [count(views, how) for views in ("none", "flip", "shifts", "crops")] == [1, 2, 6, 2]
        assert [count("crops", Preprocessing(resize=40, crop=crop)) for crop in ((32, 32), (32, 40))] == [10, 6]
        image = np.arange(50 * 40 * 3, dtype=np.uint8).reshape(50, 40, 3)
        for crop in ((32, 32), (32, 40), (48, 32)):
            how = Preprocessing(resize=40, crop=crop)
            shown = views_of(image, how, "crops")
            assert len(shown) == count("crops", how)
            assert len({view.numpy().tobytes() for view in shown}) == len(shown)
            assert torch.equal(shown[0], prepare(image, how))

    def test_without_being_asked_there_is_no_embedding(self, predictor: Predictor):
        assert predictor(PHOTO).embedding is None
