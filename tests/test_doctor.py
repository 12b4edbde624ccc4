"""`mixer doctor`: what it finds in a data set, and what it says."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import Says
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from mlpmixer import data
from mlpmixer.cli import main
from mlpmixer.data.dataset import DataSet, Pixels, Split
from mlpmixer.data.doctor import near_duplicates
from mlpmixer.data.doctor.examine import Examination, examine
from mlpmixer.data.doctor.image_stats import stats
from mlpmixer.data.doctor.issues import ISSUES
from mlpmixer.data.images import decode
from mlpmixer.errors import DataError, UsageError
from mlpmixer.machine.processes import each
from mlpmixer.recipe import Evaluation, Model


def places(found: Examination, kind: str) -> list[str]:
    """The names of the files of a finding, one after the other."""
    (finding,) = (finding for finding in found.findings if finding.kind == kind)
    positions = itertools.chain(finding.images, *finding.groups)
    return sorted(Path(found.sample.location(int(position)).where).name for position in positions)


def kinds(found: Examination) -> set[str]:
    return {finding.kind for finding in found.findings}


@pytest.fixture
def pets(tmp_path: Path, photos: list[Path]) -> Path:
    """Two classes in two splits, of different photographs; nothing is wrong with it."""
    root = tmp_path / "pets"
    where = ["train/cat"] * 3 + ["train/dog"] * 3 + ["test/cat"] * 2 + ["test/dog"] * 2
    for photo, folder in zip(photos, where, strict=True):
        (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, root / folder)
    return root


def test_a_healthy_set(pets: Path):
    found = examine(data.open(pets))
    assert found.healthy
    assert found.findings == ()
    assert found.usable == 10
    assert found.counts.tolist() == [[3, 3], [2, 2]]


def cut_short(photo: Path, to: Path) -> None:
    to.write_bytes(photo.read_bytes()[:-4000])


def no_image(_: Path, to: Path) -> None:
    to.write_text("<html>404</html>")


def huge(_: Path, to: Path) -> None:
    Image.new("1", (30_000, 20_000)).save(to, "PNG")


def a_pipe(_: Path, to: Path) -> None:
    os.mkfifo(to)


def resaved(mode: str = "RGB", orientation: int = 1) -> Callable[[Path, Path], None]:
    def save(photo: Path, to: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        decode(photo).convert(mode).save(to, exif=exif)

    return save


def in_16_bits(photo: Path, to: Path) -> None:
    Image.fromarray(np.asarray(decode(photo).convert("L")).astype(np.uint16) * 257).save(to)


def animated(photo: Path, to: Path) -> None:
    image = decode(photo)
    image.save(to, save_all=True, append_images=[image.rotate(90)])


def stretched(photo: Path, to: Path) -> None:
    decode(photo).resize((3000, 40)).save(to)


def thumbnail(photo: Path, to: Path) -> None:
    decode(photo).resize((20, 20)).save(to)


def white(_: Path, to: Path) -> None:
    Image.new("RGB", (300, 300), "white").save(to)


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [
        (cut_short, "new.jpg", "damaged"),
        (lambda _, to: to.touch(), "new.jpg", "empty"),
        (lambda _, to: to.symlink_to("nowhere"), "new.jpg", "missing"),
        (a_pipe, "new.jpg", "unreadable"),
        (no_image, "new.jpg", "not_an_image"),
        (huge, "new.png", "too_large"),
    ],
)
def test_what_cannot_be_used(pets: Path, photos: list[Path], make: Callable[..., None], name: str, kind: str):
    make(photos[0], pets / "train" / "cat" / name)
    found = examine(data.open(pets))
    assert not found.healthy
    assert kinds(found) == {kind}
    assert places(found, kind) == [name]
    assert found.usable == 10


@pytest.mark.parametrize(
    ("make", "name", "expected"),
    [
        (resaved(mode="CMYK"), "new.jpg", {"cmyk"}),
        (resaved(mode="P"), "new.png", {"palette"}),
        (resaved(mode="L"), "new.png", {"gray"}),
        (resaved(mode="RGBA"), "new.png", {"transparent"}),
        (resaved(orientation=1), "new.jpg", set()),
        (in_16_bits, "new.png", {"high_bit_depth", "gray"}),
        (animated, "new.png", {"animated"}),
    ],
)
def test_what_deserves_a_word(pets: Path, photos: list[Path], make: Callable[..., None], name: str, expected: set[str]):
    (pets / "train" / "dog" / photos[5].name).unlink()  # the new one stands for it
    make(photos[5], pets / "train" / "dog" / name)
    found = examine(data.open(pets))
    assert found.healthy
    assert kinds(found) == expected
    assert all(places(found, kind) == [name] for kind in expected)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(stretched, "elongated"), (thumbnail, "tiny"), (white, "blank"), (resaved(orientation=6), "rotated")],
)
def test_odd_shapes(pets: Path, photos: list[Path], make: Callable[..., None], kind: str):
    make(photos[5], pets / "train" / "dog" / "new.jpg")
    found = examine(data.open(pets))
    assert found.healthy
    assert places(found, kind) == ["new.jpg"]


def test_the_few_in_color_among_gray(pets: Path):
    images = sorted(pets.rglob("*.jpg"))
    for image in images[:-2]:
        decode(image).convert("L").save(image)
    found = examine(data.open(pets))
    assert places(found, "colored") == sorted(image.name for image in images[-2:])


def test_turned_photos_are_measured_upright(pets: Path):
    before = examine(data.open(pets)).appearance
    for image in pets.rglob("*.jpg"):
        resaved(orientation=6)(image, image)
    after = examine(data.open(pets)).appearance
    assert before is not None
    assert after is not None
    assert (after.smallest, after.largest) == (before.smallest[::-1], before.largest[::-1])
    assert before.largest[0] < before.largest[1]


class TestCopies:
    def test_the_same_within_a_split(self, pets: Path, photos: list[Path]):
        shutil.copy(photos[0], pets / "train" / "cat" / "again.jpg")
        found = examine(data.open(pets))
        assert found.healthy
        assert kinds(found) == {"duplicate"}
        assert places(found, "duplicate") == ["again.jpg", photos[0].name]

    def test_half_of_the_test_images_twice_is_a_problem(
        self, pets: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
    ):
        """As in groceries: 661 of 1,322 were copies of the others, and it was called healthy."""
        for photo in sorted((pets / "test").rglob("*.jpg")):
            shutil.copy(photo, photo.with_stem(f"{photo.stem} again"))
        shutil.copy(photos[0], pets / "train" / "cat" / "again.jpg")
        assert kinds(examine(data.open(pets))) == {"duplicate"}  # four are chance
        image = next((pets / "test").rglob("*again.jpg"))
        shutil.copy(image, image.with_stem("once more"))
        found = examine(data.open(pets))
        assert kinds(found) == {"duplicates"}
        assert not found.healthy
        doctor(str(pets))
        assert "(6 different ones of 7 in train, 4 different ones of 9 in test)" in capsys.readouterr().out
        shutil.rmtree(pets / "train")
        shutil.copytree(pets / "test", pets / "train")  # a leak, and that half of it is double still counts
        assert kinds(examine(data.open(pets))) == {"duplicates", "leak"}

    def test_a_leak(self, pets: Path, photos: list[Path]):
        shutil.copy(photos[0], pets / "test" / "cat" / "again.jpg")
        found = examine(data.open(pets))
        assert not found.healthy
        assert kinds(found) == {"leak"}
        assert found.findings[0].note == "1 of 5 in test"

    def test_two_labels(self, pets: Path, photos: list[Path]):
        shutil.copy(photos[0], pets / "train" / "dog" / "again.jpg")
        found = examine(data.open(pets))
        assert not found.healthy
        assert kinds(found) == {"label_conflict"}

    def test_a_leak_under_another_label_is_both(self, pets: Path, photos: list[Path]):
        shutil.copy(photos[0], pets / "test" / "dog" / "again.jpg")
        assert kinds(examine(data.open(pets))) == {"label_conflict", "leak"}

    def test_alike_is_a_warning(self, pets: Path, photos: list[Path]):
        image = decode(photos[0])
        image.resize((image.width // 2, image.height // 2)).save(pets / "test" / "cat" / "small.jpg")
        ImageOps.mirror(decode(photos[4])).save(pets / "test" / "cat" / "mirrored.jpg", quality=60)
        found = examine(data.open(pets))
        assert found.healthy
        assert kinds(found) == {"near_label_conflict", "near_leak"}
        assert places(found, "near_leak") == sorted([photos[0].name, "small.jpg", photos[4].name, "mirrored.jpg"])
        assert places(found, "near_label_conflict") == sorted([photos[4].name, "mirrored.jpg"])
        (leak,) = (finding for finding in found.findings if finding.kind == "near_leak")
        assert leak.note == "2 of 6 in test, 1 mirrored"

    def test_the_same_stands_once_among_the_alike(self, pets: Path, photos: list[Path]):
        shutil.copy(photos[0], pets / "test" / "cat" / "again.jpg")
        decode(photos[0]).save(pets / "train" / "cat" / "saved.jpg", quality=50)
        found = examine(data.open(pets))
        assert places(found, "leak") == ["again.jpg", photos[0].name]
        assert places(found, "near_duplicate") == sorted([photos[0].name, "saved.jpg"])

    def test_of_pixels(self, photos: list[Path]):
        small = np.stack([np.asarray(decode(photo).resize((32, 32))) for photo in photos])
        labels = np.arange(10) % 2
        splits = {"train": Pixels(small, labels, "set train"), "test": Pixels(small[3:4], labels[3:4], "set test")}
        found = examine(DataSet("set", ("even", "odd"), splits))
        assert places(found, "leak") == ["set test[0]", "set train[3]"]

    def test_broken_files_are_no_copies(self, pets: Path):
        for name in ("a.jpg", "b.jpg"):
            (pets / "train" / "cat" / name).write_text("same")
            (pets / "test" / "dog" / name).touch()
        assert kinds(examine(data.open(pets))) == {"not_an_image", "empty"}


class TestNearDuplicates:
    def bits(self, image: Image.Image) -> tuple[np.ndarray, bool]:
        row = stats(np.asarray(image.convert("RGB")))
        return row["bits"], bool(row["comparable"])

    @pytest.mark.parametrize(
        "change",
        [
            lambda image: image.resize((image.width // 2, image.height // 2)),
            lambda image: image.resize((64, 64)),
            lambda image: ImageEnhance.Brightness(image).enhance(1.15),
            lambda image: ImageEnhance.Brightness(image).enhance(0.8),
            lambda image: ImageEnhance.Contrast(image).enhance(1.2),
            lambda image: ImageEnhance.Color(image).enhance(0.5),
        ],
        ids=["half", "64 pixels", "brighter", "darker", "contrast", "pale"],
    )
    def test_survives(self, photos: list[Path], change: Callable[[Image.Image], Image.Image]):
        images = [decode(photo) for photo in photos]
        bits = np.stack([self.bits(image)[0] for image in [*images, *map(change, images)]])
        for roots in near_duplicates.groups_of(bits):
            assert (roots[:10] == roots[10:]).all()
            assert len({*roots.tolist()}) == 10  # and different photos stay apart

    def test_mirror_images_are_kept_apart_from_the_plainly_alike(self, photos: list[Path]):
        images = [decode(photo) for photo in photos]
        plain, mirrored = near_duplicates.groups_of(
            np.stack([self.bits(image)[0] for image in [*images, *map(ImageOps.mirror, images)]])
        )
        assert len({*plain.tolist()}) == 20
        assert (mirrored[:10] == mirrored[10:]).all()
        assert len({*mirrored.tolist()}) == 10

    def test_no_pair_is_missed_and_none_made_up(self):
        """Against a comparison of all with all, near the limits on both sides."""
        random = np.random.default_rng(0)
        images = random.integers(0, 2, (400, 256), dtype=np.uint8)
        mirror = np.unpackbits(near_duplicates._MIRROR.view(np.uint8))
        for i in range(1, 400, 2):  # every other one is a neighbor of the one before, or of its mirror image
            coarse, fine = random.integers(5, 10), random.integers(20, 30)
            changed = [*random.permutation(64)[:coarse], *(64 + random.permutation(192)[:fine])]
            images[i] = images[i - 1]
            images[i, changed] ^= 1
            images[i] ^= mirror * (i % 4 == 1)

        def all_with_all(turns: list[np.ndarray]) -> np.ndarray:
            roots = np.arange(400)
            for a, b in itertools.combinations(range(400), 2):
                for turn in turns:
                    differ = images[a] ^ images[b] ^ turn
                    if differ[:64].sum() <= 7 and differ.sum() <= 32:
                        roots[roots == roots[b]] = roots[a]
            return roots

        plain, mirrored = near_duplicates.groups_of(np.packbits(images, axis=1).view(np.uint64))
        for roots, expected in ((plain, all_with_all([mirror * 0])), (mirrored, all_with_all([mirror * 0, mirror]))):
            assert 210 < len({*expected.tolist()}) < 390  # some are within the limits, some beyond
            assert ((roots[:, None] == roots) == (expected[:, None] == expected)).all()

    def test_images_that_show_next_to_nothing_are_not_compared(self):
        ramp = np.linspace(0, 255, 100).astype(np.uint8)
        steps = (np.arange(100) // 13 * 30).astype(np.uint8)
        for line in (ramp, steps, ramp * 0 + 255):
            assert not self.bits(Image.fromarray(np.tile(line, (100, 1))))[1]
            assert not self.bits(Image.fromarray(np.tile(line[:, None], (1, 100))))[1]

    def test_drawings_on_white_differ(self):
        drawn = []
        for side in (20, 40, 60):
            for corner in (10, 25):
                image = Image.new("RGB", (100, 100), "white")
                ImageDraw.Draw(image).ellipse((corner, corner, corner + side, corner + side // 2), fill="navy")
                drawn.append(self.bits(image))
        assert all(comparable for _, comparable in drawn)
        assert len({*near_duplicates.groups_of(np.stack([bits for bits, _ in drawn]))[0].tolist()}) == 6


class TestClasses:
    def test_without_images_in_a_split_or_anywhere(self, pets: Path):
        (pets / "train" / "eel").mkdir()
        shutil.rmtree(pets / "test" / "dog")
        found = examine(data.open(pets))
        said = {finding.kind: (list(finding.classes), finding.note) for finding in found.findings}
        assert said == {"empty_class": (["eel"], ""), "not_in_split": (["dog"], "test")}
        assert not found.healthy

    def test_that_train_lacks(self, photos: list[Path]):
        small = np.stack([np.asarray(decode(photo).resize((32, 32))) for photo in photos])
        splits = {
            "train": Pixels(small[:6], np.zeros(6), "train"),
            "val": Pixels(small[6:], np.array([0, 0, 1, 1]), "val"),
        }
        (finding,) = examine(DataSet("set", ("cat", "dog"), splits)).findings
        assert (finding.kind, finding.classes, finding.note) == ("not_in_train", ["dog"], "train")

    def test_uneven(self, photos: list[Path]):
        small = np.stack([np.asarray(decode(photo).resize((32, 32))) for photo in photos])
        random = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
        labels = np.array([0] * 33 + [1] * 7)
        assert examine(
            DataSet("set", ("cat", "dog"), {"train": Pixels(np.concatenate([random, small]), labels, "")})
        ).healthy
        labels = np.array([0] * 37 + [1] * 3)
        found = examine(DataSet("set", ("cat", "dog"), {"train": Pixels(np.concatenate([random, small]), labels, "")}))
        (finding,) = found.findings
        assert (finding.kind, finding.note) == ("imbalanced", "cat has 37 images, dog 3")


class TestAppearance:
    def test_colors_are_those_of_all_training_pixels(self, pets: Path):
        appearance = examine(data.open(pets)).appearance
        assert appearance is not None
        images = [np.asarray(decode(path)) / 255 for path in sorted((pets / "train").rglob("*.jpg"))]
        mean = np.mean([image.mean(axis=(0, 1)) for image in images], axis=0)
        square = np.mean([(image**2).mean(axis=(0, 1)) for image in images], axis=0)
        assert appearance.mean == pytest.approx(mean, abs=1e-12)
        assert appearance.std == pytest.approx(np.sqrt(square - mean**2), abs=1e-12)

    def test_sizes(self, pets: Path, photos: list[Path]):
        appearance = examine(data.open(pets)).appearance
        assert appearance is not None
        sizes = sorted((decode(photo).size for photo in photos), key=lambda size: (min(size), max(size)))
        assert (appearance.smallest, appearance.largest) == (sizes[0], sizes[-1])
        assert sum(appearance.shorter_side.values()) == sum(appearance.ratio.values()) == 10
        assert appearance.formats == {"JPEG": 10}

    @pytest.mark.parametrize(
        ("size", "side", "resize", "shape"),
        [
            ((28, 28), 28, 28, "short_side"),
            ((32, 32), 32, 32, "short_side"),
            ((40, 50), 32, 37, "short_side"),
            ((300, 300), 224, 256, "short_side"),
            ((900, 300), 224, 256, "stretch"),
            ((9, 9), 28, 32, "short_side"),
        ],
    )
    def test_what_fits(self, size: tuple[int, int], side: int, resize: int, shape: str):
        pixels = np.random.default_rng(0).integers(0, 256, (2, *size[::-1], 3), dtype=np.uint8)
        appearance = examine(DataSet("set", ("a",), {"train": Pixels(pixels, np.zeros(2), "")})).appearance
        assert appearance is not None
        how = appearance.suggested
        assert (how.crop, how.resize, how.shape) == ((side, side), resize, shape)


def noise(count: int) -> DataSet:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return DataSet("noise", ("a", "b"), {"train": Pixels(pixels, np.arange(count) % 2, "noise")})


class TestProcesses:
    def test_find_the_same(self, photos: list[Path]):
        small = [decode(photo).resize((40, 40)) for photo in photos]
        pixels = np.stack([np.asarray(image.rotate(7 * i).resize((32, 32))) for i in range(30) for image in small])
        some = DataSet("photos", ("a",), {"train": Pixels(pixels, np.zeros(300), "photos")})
        seen: list[int] = []
        found = examine(some, workers=2, scanned=seen.append)
        assert sum(seen) == 300
        assert found.as_dict() == examine(some).as_dict()
        assert "near_duplicate" in kinds(found)

    def test_an_image_that_brings_its_process_down_is_named(self):
        class Deadly(np.ndarray):
            """It ends the process that receives it, as a fault in a decoder or a lack of memory would."""

            def __reduce__(self) -> Any:
                return os._exit, (1,)

        class Some(Split):
            def __init__(self, whole: Split):
                self.whole, self.labels = whole, whole.labels

            def read(self, index: int) -> Any:
                return np.zeros((8, 8), np.uint8).view(Deadly) if index == 77 else self.whole.read(index)

            def where(self, index: int) -> str:
                return self.whole.where(index)

        whole = noise(300)
        found = examine(DataSet("noise", ("a", "b"), {"train": Some(whole["train"])}), workers=2)
        assert kinds(found) == {"out_of_memory"}
        assert places(found, "out_of_memory") == ["noise[77]"]
        assert found.usable == 299

    def test_without_processes_to_start_there_is_one_line(self, says: Says):
        with says(DataError):
            list(each(Unreachable(), range(3), 1))

    def test_tasks_are_read_no_faster_than_they_are_done(self):
        read = []
        with_results = each(abs, (read.append(i) or -i for i in range(100)), 2)
        for done, (task, result) in enumerate(with_results, start=1):
            assert result == -task
            assert len(read) <= done + 2
        assert read == list(range(100))


class Unreachable:
    """A function that no other process can receive."""

    def __call__(self, task: int) -> int:
        return task

    def __reduce__(self) -> Any:
        return os._exit, (1,)


def test_a_sample(pets: Path, says: Says):
    found = examine(data.open(pets), limit=4)
    assert len(found.sample) == found.usable == 4
    assert found.counts.sum() == 10
    again = examine(data.open(pets), limit=4)
    assert found.as_dict() == again.as_dict()
    with says(UsageError):
        examine(data.open(pets), limit=0)


def test_nothing_that_can_be_used(tmp_path: Path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").touch()
    found = examine(data.open(tmp_path))
    assert found.appearance is None
    assert kinds(found) == {"empty"}
    assert found.as_dict()["appearance"] is None


def doctor(*arguments: str, code: int = 0) -> None:
    ended = 0
    try:
        main(["doctor", *arguments])
    except SystemExit as end:
        ended = end.code
    assert ended == code


class TestLeftOut:
    @pytest.fixture
    def phone(self, pets: Path) -> Path:
        """As it comes from a phone, by way of a Mac and Windows."""
        for name in ("cat/IMG_1.HEIC", "cat/deep/IMG_2.heic", "dog/IMG_3.HEIC", "dog/about.txt", "dog/LICENSE"):
            (pets / "train" / name).parent.mkdir(exist_ok=True)
            (pets / "train" / name).touch()
        for name in (".DS_Store", "Thumbs.db", "._IMG_1.HEIC"):
            (pets / "train" / "cat" / name).touch()
        (pets / "train" / "cat" / "again").symlink_to(pets / "train" / "cat" / "deep")
        return pets

    def test_is_counted_by_extension(self, phone: Path):
        found = examine(data.open(phone))
        assert found.healthy
        (finding,) = found.findings
        assert finding.kind == "ignored"
        assert finding.files == {".heic": 3, ".txt": 1, "": 1}
        assert found.usable == 10

    def test_on_the_page(self, phone: Path, capsys: pytest.CaptureFixture[str]):
        doctor(str(phone), "--strict")
        out = capsys.readouterr().out
        assert out.startswith(f"{phone}: healthy, 1 warning\n10 images of 2 classes; all can be used\n")
        assert "· Files skipped for their extension: 3 .heic, 1 .txt, 1 without extension\n" in out
        doctor(str(phone), "--json")
        (finding,) = json.loads(capsys.readouterr().out)["findings"]
        assert finding["files"] == {".heic": 3, ".txt": 1, "": 1}

    def test_beside_what_a_list_names_there_is_none(self, phone: Path):
        image = next((phone / "train" / "cat").glob("*.jpg"))
        (phone / "list.csv").write_text(f"path,label\n{image},cat\n")
        assert "ignored" not in kinds(examine(data.open(phone / "list.csv")))


class TestArrangement:
    def test_a_link_that_leads_back_is_listed_and_the_rest_is_looked_at(
        self, pets: Path, capsys: pytest.CaptureFixture[str]
    ):
        (pets / "train" / "cat" / "loop").symlink_to("..")
        doctor(str(pets))
        out = capsys.readouterr().out
        assert f"✗ Links to a folder that they lie in: 1 link\n    {pets}/train/cat/loop\n" in out
        assert "10 images of 2 classes; all can be used" in out
        doctor(str(pets), "--json")
        (finding,) = json.loads(capsys.readouterr().out)["findings"]
        assert finding["paths"] == [f"{pets}/train/cat/loop"]

    def test_folders_within_classes_get_one_warning(self, pets: Path, capsys: pytest.CaptureFixture[str]):
        for kind in ("siamese", "tabby"):
            image = next((pets / "train" / "cat").glob("*.jpg"))
            (pets / "train" / "cat" / kind).mkdir()
            image.rename(pets / "train" / "cat" / kind / image.name)
        doctor(str(pets))
        out = capsys.readouterr().out
        assert out.startswith(f"{pets}: healthy, 1 warning\n")
        assert "· Folders within class folders: cat (2 folders, such as cat/siamese)\n  Subfolders are not" in out


class TestPage:
    @pytest.fixture
    def ill(self, pets: Path, photos: list[Path]) -> Path:
        cut_short(photos[0], pets / "train" / "cat" / "cut.jpg")
        shutil.copy(photos[0], pets / "test" / "dog" / "leak.jpg")
        for i in range(7):
            (pets / "train" / "dog" / f"empty{i}.jpg").touch()
        return pets

    def test_of_a_healthy_set(self, pets: Path, capsys: pytest.CaptureFixture[str]):
        doctor(str(pets), "--strict")
        out = capsys.readouterr().out
        assert out.startswith(f"{pets}: healthy\n10 images of 2 classes; all can be used\n")
        assert re.search(r"cat +3 +2 *\n", out)

    def test_names_what_is_wrong_and_what_to_do(self, ill: Path, capsys: pytest.CaptureFixture[str]):
        doctor(str(ill))
        out = capsys.readouterr().out
        assert out.startswith(f"{ill}: 4 problems\n19 images of 2 classes; 11 can be used\n")
        assert "✗ Damaged or truncated images: 1 image\n    train/cat/cut.jpg\n" in out
        assert "✗ The same image in different splits: 1 group of 2 images (1 of 5 in test)\n" in out
        assert "    train/cat/dress.jpg  =  test/dog/leak.jpg\n" in out
        assert "    train/dog/empty4.jpg\n    and 2 more, which --json lists\n" in out
        assert all(ISSUES[kind].advice in out for kind in ("empty", "damaged", "leak", "label_conflict"))

    def test_its_lines_for_a_recipe_are_such(self, pets: Path, capsys: pytest.CaptureFixture[str]):
        doctor(str(pets))
        out = capsys.readouterr().out
        lines = [line.strip() for line in out.splitlines() if re.match(r" +(model|evaluation)\.", line)]
        said = tomllib.loads("\n".join(lines))
        assert said["model"].keys() == {"image_size"}
        assert Model(**said["model"]).image_size == [224, 224]
        assert Evaluation(**said["evaluation"]).resize == 256

    def test_strict(self, ill: Path, capsys: pytest.CaptureFixture[str]):
        doctor(str(ill), "--strict", code=1)
        assert capsys.readouterr().err == f"mixer: {ill} has 4 problems\n"

    def test_as_json_everything_is_there(self, ill: Path, capsys: pytest.CaptureFixture[str]):
        doctor(str(ill), "--json")
        said = json.loads(capsys.readouterr().out)
        assert said["healthy"] is False
        assert said["splits"] == {"train": {"cat": 4, "dog": 10}, "test": {"cat": 2, "dog": 3}}
        by_kind = {finding["kind"]: finding for finding in said["findings"]}
        assert len(by_kind["empty"]["images"]) == 7
        assert by_kind["leak"]["groups"] == [
            [
                {"split": "train", "where": str(ill / "train/cat/dress.jpg"), "label": "cat"},
                {"split": "test", "where": str(ill / "test/dog/leak.jpg"), "label": "dog"},
            ]
        ]
        assert said["appearance"]["formats"] == {"JPEG": 11}

    def test_names_that_are_no_words(self, pets: Path, capsys: pytest.CaptureFixture[str]):
        (pets / "train" / "cat").rename(pets / "train" / "[red]")
        (pets / "test" / "cat").rename(pets / "test" / "[red]")
        raw = os.fsencode(pets / "train" / "dog") + b"/\x1b[2J\xff\n.jpg"
        Path(os.fsdecode(raw)).touch()
        doctor(str(pets))
        out = capsys.readouterr().out
        assert "    train/dog/\\x1b[2J\\udcff\\n.jpg\n" in out
        assert re.search(r"\[red\] +3 +2 *\n", out)
        doctor(str(pets), "--json")
        (empty,) = json.loads(capsys.readouterr().out)["findings"]
        assert os.fsencode(empty["images"][0]["where"]) == raw

    def test_many_classes_in_short(self, tmp_path: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]):
        for i in range(30):
            (tmp_path / f"kind{i:02}").mkdir()
        shutil.copy(photos[0], tmp_path / "kind07")
        doctor(str(tmp_path))
        out = capsys.readouterr().out
        assert "✗ Classes without images: kind00, kind01, kind02, kind03, kind04 and 24 more\n" in out
        assert re.search(r"kind07 +1 *\n", out)
        assert "(10 between)" in out

    @pytest.mark.parametrize(
        ("arguments", "message", "code"),
        [
            (["nowhere"], "there is no data set 'nowhere'", 1),
            (["fashion_mnist_small", "--max", "0"], "at least 1 image must be scanned, not 0", 2),
            (["fashion_mnist_small", "--workers", "-1"], "images are scanned by 0 processes or more, not -1", 2),
            (["fashion_mnist_small", "--strickt"], "doctor has no option '--strickt'; did you mean '--strict'?", 2),
            ([], "doctor needs DATA: a folder of images, a list", 2),
        ],
    )
    def test_mistakes_get_one_line(
        self, arguments: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]
    ):
        doctor(*arguments, code=code)
        err = capsys.readouterr().err
        assert err.startswith(f"mixer: {message}")
        assert err.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_ctrl_c_stops_at_once_and_leaves_nobody_behind():
    command = [sys.executable, "-m", "mlpmixer", "doctor", "fashion_mnist_small", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not (workers := spawned_by(process.pid)):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"mixer: stopped\n")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def spawned_by(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found
