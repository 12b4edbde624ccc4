"""Packed data sets: the same images, read quickly; written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PHOTOS
from messages import Says
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mlpmixer import data
from mlpmixer.cli import main
from mlpmixer.data.dataset import DataSet, Part, Pixels, Split
from mlpmixer.data.images import ImageInput, pixels
from mlpmixer.data.preprocess import prepare
from mlpmixer.data.sources.packed import MANIFEST, Packed, is_packed, open_packed, read_manifest
from mlpmixer.data.sources.packing import CHUNK, pack
from mlpmixer.errors import DataError, UsageError
from mlpmixer.metadata import Preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs of different sizes, in two classes; and more of them than fit into one hand-over. Tests that
    change it take a copy."""
    photos = sorted(PHOTOS.glob("*.jpg"))
    root = tmp_path_factory.mktemp("folder") / "photos"
    for split, repeats in (("train", 1 + CHUNK // 10), ("test", 1)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
        for again in range(repeats):
            for number, photo in enumerate(photos):
                shutil.copy(photo, root / split / "ab"[number % 2] / f"{again} {photo.name}")
    return root


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(data.open(folder), tmp_path_factory.mktemp("packed") / "packed", workers=0)


@pytest.fixture
def own(packed: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(packed, tmp_path / "own"))


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Listed(Split):
    """Images in a list; what is no image is called, and may take its time or raise."""

    def __init__(self, images: list[Any], places: list[str] | None = None):
        self.images, self.labels = images, np.zeros(len(images), np.int64)
        self.places = places or [f"shelf {index}" for index in range(len(images))]

    def read(self, index: int) -> ImageInput:
        image: Any = self.images[index]
        return image() if isinstance(image, FunctionType) else image

    def where(self, index: int) -> str:
        return self.places[index]


def data_set(*images: Any, places: list[str] | None = None) -> DataSet:
    return DataSet("a list", ("only",), {"train": Listed(list(images), places)})


def slow() -> ImageInput:
    time.sleep(0.2)
    return GRAY


def deadly() -> ImageInput:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


GRAY = np.full((8, 12, 3), 77, np.uint8)


class TestTheSameImages:
    def test_pixels_labels_classes_and_places(self, folder: Path, packed: Path):
        before, after = data.open(folder), data.open(packed)
        assert after.classes == before.classes == ("a", "b")
        assert list(after.splits) == list(before.splits) == ["train", "test"]
        for name, split in before.splits.items():
            assert isinstance(after[name], Packed)
            assert np.array_equal(after[name].labels, split.labels)
            for index in range(len(split)):
                image = after[name].read(index)
                assert isinstance(image, np.ndarray)
                assert np.array_equal(image, pixels(split.read(index)))
                assert after[name].where(index) == split.where(index)

    def test_the_shorter_side_is_reduced(self, folder: Path, tmp_path: Path):
        before = data.open(folder)["test"]
        after = open_packed(pack(data.open(folder), tmp_path / "packed", size=100, workers=0))["test"]
        for index in range(len(before)):
            height, width, _ = pixels(before.read(index)).shape
            small = pixels(after.read(index))
            assert min(small.shape[:2]) == 100
            assert abs(max(small.shape[:2]) - 100 * max(height, width) / min(height, width)) <= 1
            how = Preprocessing(resize=100, crop=(100, 100))
            assert torch.equal(prepare(small, how), prepare(pixels(before.read(index)), how))

    def test_small_images_are_not_enlarged(self, tmp_path: Path):
        after = open_packed(pack(data_set(GRAY), tmp_path / "packed", size=20, workers=0))["train"]
        assert np.array_equal(pixels(after.read(0)), GRAY)

    def test_stretching_makes_all_of_one_size(self, folder: Path, tmp_path: Path):
        after = open_packed(pack(data.open(folder), tmp_path / "packed", size=48, shape="stretch", workers=0))["test"]
        assert {pixels(after.read(index)).shape for index in range(len(after))} == {(48, 48, 3)}
        gray = open_packed(pack(data_set(GRAY), tmp_path / "gray", size=20, shape="stretch", workers=0))["train"]
        assert np.array_equal(pixels(gray.read(0)), np.full((20, 20, 3), 77))

    def test_gray_images_have_three_channels_like_any(self, tmp_path: Path):
        digits = Pixels(
            np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28), np.array([1, 0]), "x"
        )
        after = open_packed(pack(DataSet("x", ("0", "1"), {"test": digits}), tmp_path / "packed", workers=0))["test"]
        assert np.array_equal(pixels(after.read(1)), np.repeat(digits.pixels[1][..., None], 3, axis=2))
        assert after.labels.tolist() == [1, 0]

    def test_any_name_finds_its_way_back(self, tmp_path: Path):
        places = ["plain", "Grüße/ß.jpg", "two\nlines", "separator\u2028and \x85", "broken \udcff"]
        after = open_packed(pack(data_set(*[GRAY] * 5, places=places), tmp_path / "packed", workers=0))["train"]
        assert [after.where(index) for index in range(5)] == places

    def test_a_split_may_be_empty(self, tmp_path: Path):
        after = open_packed(pack(data_set(), tmp_path / "packed", workers=0))
        assert len(after["train"]) == 0


class TestManifest:
    def test_says_what_is_here(self, folder: Path, packed: Path):
        manifest = read_manifest(packed)
        assert manifest["source"] == str(folder)
        assert manifest["made_by"].startswith("mlpmixer ")
        assert manifest["classes"] == ["a", "b"]
        assert manifest["splits"] == {"train": 40, "test": 10}
        assert manifest["size"] is None
        assert manifest["skipped"] == []
        assert set(manifest["files"]) == left_in(packed) - {MANIFEST}
        for name, file in manifest["files"].items():
            content = (packed / name).read_bytes()
            assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())

    @pytest.mark.slow
    def test_the_same_images_give_the_same_bytes_whoever_decodes_them(self, folder: Path, packed: Path, tmp_path: Path):
        again = pack(data.open(folder), tmp_path / "again", workers=2)
        assert left_in(again) == left_in(packed)
        for name in left_in(again):
            assert (again / name).read_bytes() == (packed / name).read_bytes()


class Sums(Dataset[int]):
    def __init__(self, split: Split):
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> int:
        return int(pixels(self.split.read(index)).sum())


class TestOtherProcesses:
    def test_a_copy_is_small_and_reads_the_same(self, packed: Path):
        split = open_packed(packed)["train"]
        split.read(0)
        copied = pickle.dumps(split)
        assert len(copied) < 1000
        assert np.array_equal(pixels(pickle.loads(copied).read(7)), pixels(split.read(7)))

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers_read_it(self, packed: Path, method: str):
        split = Part(open_packed(packed)["train"], np.array([3, 30, 7, 7]))
        loader = DataLoader(Sums(split), batch_size=None, num_workers=1, multiprocessing_context=method)
        assert list(loader) == [int(pixels(split.read(index)).sum()) for index in range(4)]

    def test_nobody_writes_to_it(self, packed: Path, says: Says):
        with says(ValueError):
            pixels(open_packed(packed)["train"].read(0))[0, 0, 0] = 1


class TestBrokenImages:
    @pytest.fixture
    def broken(self, folder: Path, tmp_path: Path) -> Path:
        """An image of a folder that is otherwise as the others."""
        (tmp_path / "photos").mkdir()
        shutil.copytree(folder / "train", tmp_path / "photos" / "train")
        path = tmp_path / "photos" / "train" / "b" / "00 broken.jpg"
        path.write_bytes(next((folder / "train" / "b").iterdir()).read_bytes()[:400])
        return path

    @pytest.mark.parametrize("workers", [0, 1])
    def test_strict_stops_and_leaves_nothing(self, broken: Path, tmp_path: Path, workers: int):
        with pytest.raises(DataError) as caught:
            pack(data.open(tmp_path / "photos"), tmp_path / "packed", workers=workers)
        message = str(caught.value)
        assert message.startswith(f"{broken} is not a readable image")
        assert message.endswith('; mend or remove it, or set on_bad_image to "skip"')
        assert "\n" not in message
        assert left_in(tmp_path) == {"photos"}

    def test_skip_leaves_it_out_and_says_so(self, broken: Path, tmp_path: Path):
        folder = tmp_path / "photos"
        before = data.open(folder)["train"]
        packed = pack(data.open(folder), tmp_path / "packed", on_bad_image="skip", workers=0)
        after = open_packed(packed)["train"]
        (why,) = read_manifest(packed)["skipped"]
        assert why.startswith(f"{broken} is not a readable image")
        kept = [index for index in range(len(before)) if before.where(index) != str(broken)]
        assert len(after) == len(kept) == len(before) - 1
        assert np.array_equal(after.labels, before.labels[kept])
        assert [after.where(index) for index in range(len(after))] == [before.where(index) for index in kept]
        assert np.array_equal(pixels(after.read(39)), pixels(before.read(kept[39])))

    def test_the_place_is_named_where_the_image_has_no_name(self, tmp_path: Path, says: Says):
        with says(DataError):
            pack(data_set(GRAY, b"broken"), tmp_path / "packed", workers=0)

    def test_one_that_kills_its_reader_is_an_error(self, tmp_path: Path, says: Says):
        with says(DataError):
            pack(data_set(*[GRAY] * 40, deadly), tmp_path / "packed", workers=1)
        assert left_in(tmp_path) == set()

    def test_all_may_be_broken(self, tmp_path: Path):
        packed = pack(data_set(b"", b"x"), tmp_path / "packed", on_bad_image="skip", workers=0)
        assert len(open_packed(packed)["train"]) == 0
        assert len(read_manifest(packed)["skipped"]) == 2


class TestWholeOrNotAtAll:
    def test_ctrl_c_leaves_nothing(self, tmp_path: Path):
        def stop() -> ImageInput:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pack(data_set(*[GRAY] * CHUNK, stop), tmp_path / "packed", workers=0)
        assert left_in(tmp_path) == set()

    @pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
    def test_a_killed_process_leaves_nothing_that_opens(self, tmp_path: Path, workers: int):
        """It dies in the second split, when the first is written; the next one clears up after it."""
        code = (
            "import sys, time; sys.path.insert(0, sys.argv[2])\n"
            "from test_packed import *\n"
            "done, now = Listed([GRAY] * 40), Listed([GRAY] * 40 + [slow] * 1000)\n"
            "pack(DataSet('x', ('only',), {'train': done, 'test': now}), sys.argv[1], workers=int(sys.argv[3]))\n"
        )
        here, target = str(Path(__file__).parent), tmp_path / "packed"
        with subprocess.Popen([sys.executable, "-c", code, str(target), here, str(workers)]) as process:
            end = time.monotonic() + 60
            while not any(path.name == "test.pixels" for path in tmp_path.rglob("*")):
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not target.exists()
        for path in tmp_path.iterdir():
            assert not is_packed(path)
        assert len(open_packed(pack(data_set(GRAY), target, workers=0))["train"]) == 1
        assert left_in(tmp_path) == {"packed"}

    def test_a_full_disk_is_one_line_and_leaves_nothing(self, folder: Path, tmp_path: Path, says: Says):
        place = tmp_path / "place"
        place.mkdir()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            with says(DataError):
                pack(data.open(folder), place / "packed", workers=0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert left_in(place) == set()

    def test_a_place_that_is_no_folder(self, tmp_path: Path, says: Says):
        (tmp_path / "file").touch()
        with says(DataError):
            pack(data_set(GRAY), tmp_path / "file" / "packed", workers=0)

    def test_what_is_there_is_not_overwritten(self, packed: Path, says: Says):
        before = {name: (packed / name).stat() for name in left_in(packed)}
        with says(DataError):
            pack(data_set(GRAY), packed, workers=0)
        assert {name: (packed / name).stat() for name in left_in(packed)} == before

    def test_a_size_of_nothing(self, tmp_path: Path, says: Says):
        with says(UsageError):
            pack(data_set(GRAY), tmp_path / "packed", size=0)


class TestDamage:
    """A packed folder to which something happened is refused in one line that names the folder."""

    @pytest.mark.parametrize(
        ("name", "change", "words"),
        [
            ("train.pixels", lambda content: content[:-1], r"train\.pixels has [\d,]+ bytes, not [\d,]+"),
            (MANIFEST, lambda content: content[:100], "Unterminated string"),
            (MANIFEST, lambda _: b"[]", "list indices"),
            (MANIFEST, lambda _: b"\xff\xfe", "codec can't decode"),
            (
                MANIFEST,
                lambda content: content.replace(b'"version": 2', b'"version": "x"'),
                "and this mlpmixer reads 2",
            ),
            (MANIFEST, lambda content: content.replace(b'"classes"', b'"other"'), "no 'classes'"),
            (MANIFEST, lambda content: content.replace(b'  "b"\n', b"").replace(b'"a",', b'"a"'), "train: labels"),
            ("test.labels.npy", lambda content: content[:-8] + b"\xff" * 8, "test: labels that do not fit"),
            ("test.sizes.npy", lambda content: content[:-4] + bytes(4), "test: sizes that do not fit"),
            ("test.sizes.npy", lambda content: content[:-4] + b"\xff" * 4, "test: sizes that do not fit"),
            (
                "test.sizes.npy",
                lambda content: content.replace(b"(10, 2), }           ", b"(9999999999999, 2), }"),
                "an array that claims more numbers than there are",
            ),
            ("test.labels.npy", lambda content: bytes(len(content)), "no array of NumPy's"),
        ],
    )
    def test_is_found_when_it_is_opened(self, own: Path, name: str, change: Any, words: str):
        (own / name).write_bytes(change((own / name).read_bytes()))
        with pytest.raises(DataError, match=words) as caught:
            data.open(own)
        assert str(caught.value).startswith(f"{own} is a damaged packed data set (")
        assert str(caught.value).endswith("); copy it or pack it again")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("version", [1, 9])
    def test_another_version_is_not_called_damaged(self, version: int, own: Path, says: Says):
        manifest = (own / MANIFEST).read_text()
        (own / MANIFEST).write_text(manifest.replace('"version": 2', f'"version": {version}'))
        with says(DataError):
            data.open(own)

    def test_a_missing_file(self, own: Path, says: Says):
        (own / "test.sizes.npy").unlink()
        with says(DataError):
            data.open(own)


class TestCommand:
    def mixer(self, *arguments: object, code: int = 0) -> None:
        ended = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            ended = end.code
        assert ended == code

    def test_packs(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        target = tmp_path / "packed"
        self.mixer("pack", folder, target, "--size", 64, "--workers", 0)
        out, err = capsys.readouterr()
        assert out.startswith(f"{target}: train 40, test 10; ")
        assert " MB in " in out
        assert err == ""
        assert {min(pixels(data.open(target)["test"].read(i)).shape[:2]) for i in range(10)} == {64}

    def test_tells_machines(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        own = Path(shutil.copytree(folder, tmp_path / "photos"))
        (own / "test" / "a" / "0.png").write_bytes(b"")
        self.mixer("pack", own, tmp_path / "packed", "--on-bad-image", "skip", "--workers", 0, "--json")
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert told["splits"] == {"train": 40, "test": 10}
        assert told["bytes"] == sum(
            path.stat().st_size for path in (tmp_path / "packed").iterdir() if path.name != MANIFEST
        )
        assert told["seconds"] > 0
        assert err == f"mixer: skipped: {told['skipped'][0]}\n"

    def test_mistakes_get_one_line(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], says: Says):
        for arguments, code in (
            ((folder.parent / "photoz", tmp_path / "new"), 1),
            ((folder, folder), 1),
            ((folder, tmp_path / "new", "--size", "0"), 2),
            ((folder, tmp_path / "new", "--on-bad-imge", "skip"), 2),
        ):
            self.mixer("pack", *arguments, code=code)
            err = capsys.readouterr().err
            says.check(err)
            assert err.count("\n") == 1

    def test_a_terminal_shows_how_far_it_is(self, folder: Path, tmp_path: Path):
        ours, theirs = os.openpty()
        command = [sys.executable, "-m", "mlpmixer", "pack", str(folder), str(tmp_path / "packed"), "--workers", "0"]
        subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, check=True)
        os.close(theirs)
        shown = os.read(ours, 100_000).decode()
        os.close(ours)
        assert "train" in shown
        assert "40/40" in shown


def test_images_of_pillow_are_packed_too(tmp_path: Path):
    after = open_packed(pack(data_set(Image.fromarray(GRAY)), tmp_path / "packed", workers=0))["train"]
    assert np.array_equal(pixels(after.read(0)), GRAY)
