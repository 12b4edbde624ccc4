"""Which images of a data set a run gets to see."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import Says
from PIL import Image

from mlpmixer.data import sampling
from mlpmixer.data.dataset import Joined, Part, Pixels, Split
from mlpmixer.data.select import Selection, select, title
from mlpmixer.errors import DataError
from mlpmixer.recipe import Data

some_labels = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)
seeds = st.integers(0, 3)


def counts(labels: np.ndarray, picked: np.ndarray) -> dict[int, int]:
    return {int(label): int((labels[picked] == label).sum()) for label in np.unique(labels)}


class TestPicks:
    @given(some_labels, seeds)
    def test_shares_lie_within_larger_ones(self, labels: np.ndarray, seed: int):
        three, ten, thirty, whole = (sampling.share(labels, part, seed) for part in (0.03, 0.1, 0.3, 1.0))
        assert {*three} <= {*ten} <= {*thirty} <= {*whole} == {*range(len(labels))}
        assert [*ten] == sorted({*ten})

    @given(some_labels, st.floats(0.01, 1), seeds)
    def test_a_share_is_even_over_classes(self, labels: np.ndarray, part: float, seed: int):
        for label, count in counts(labels, sampling.share(labels, part, seed)).items():
            assert count == max(1, round(part * (labels == label).sum()))

    @given(some_labels, seeds)
    def test_shots_lie_within_more_shots(self, labels: np.ndarray, seed: int):
        labels = np.concatenate([labels, np.repeat(np.unique(labels), 5)])
        one, five = sampling.shots(labels, 1, seed), sampling.shots(labels, 5, seed)
        assert {*one} <= {*five}
        assert {*counts(labels, five).values()} == {5}

    @given(some_labels, st.floats(0.01, 0.99), seeds)
    def test_what_is_held_out_is_not_left(self, labels: np.ndarray, part: float, seed: int):
        left, held = sampling.held_out(labels, part, seed)
        assert sorted([*left, *held]) == [*range(len(labels))]
        for label, count in counts(labels, held).items():
            members = (labels == label).sum()
            assert count < members
            assert abs(count - part * members) <= 0.5 or count in (1, members - 1)

    def test_what_is_held_out_is_the_same_for_any_share_of_the_rest(self):
        labels = np.arange(1000) % 7
        left, held = sampling.held_out(labels, 0.02, seed=0)
        assert not {*left[sampling.share(labels[left], 0.03, 0)]} & {*held}

    def test_seeds_differ_and_nothing_else_does(self):
        labels = np.arange(1000) % 10
        np.random.default_rng().random()  # no hidden state
        assert [*sampling.share(labels, 0.1, 1)] == [*sampling.share(labels, 0.1, 1)]
        assert [*sampling.share(labels, 0.1, 1)] != [*sampling.share(labels, 0.1, 2)]
        assert [*sampling.share(labels, 0.1, 1)] != [*sampling.shots(labels, 10, 1)]

    def test_the_choice_is_pinned(self):
        """Another order would silently change what a recipe means."""
        labels = np.arange(100) % 10
        assert sampling.digest(sampling.share(labels, 0.3, 0)) == "a73973a9d5110179"
        assert sampling.digest(sampling.shots(labels, 3, 0)) == "8acac5532dadc7a7"
        assert sampling.digest(sampling.held_out(labels, 0.3, 0)[1]) == "84ba7394c4e5728c"

    def test_only(self):
        assert [*sampling.only(np.array([3, 1, 2, 1]), np.array([1, 3]))] == [0, 1, 3]

    def test_of_nothing_there_is_nothing(self):
        nothing = np.zeros(0, dtype=np.int64)
        assert len(sampling.share(nothing, 0.5, 0)) == len(sampling.shots(nothing, 1, 0)) == 0
        assert [len(part) for part in sampling.held_out(nothing, 0.5, 0)] == [0, 0]


Photos = Callable[..., Data]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """A folder with as many images of each class as are asked for, by split if any; each has a gray of its own."""

    def make(**counts: int) -> Data:
        for name, count in counts.items():
            folder = tmp_path / "photos" / name.replace("_", "/")
            folder.mkdir(parents=True)
            for n in range(count):
                Image.new("L", (2, 2), n).save(folder / f"{n:03}.png")
        return Data(source=str(tmp_path / "photos"))

    return make


def names(split: Split | None) -> list[str]:
    assert split is not None
    return ["/".join(split.where(i).split("/")[-2:]) for i in range(len(split))]


def refused(how: Data) -> str:
    with pytest.raises(DataError) as caught:
        select(how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestSelect:
    def test_without_other_splits_some_of_train_is_held_out(self, photos: Photos):
        found = select(photos(cat=100, dog=50))
        assert (len(found.train), found.test) == (147, None)
        assert sorted(name.split("/")[0] for name in names(found.val)) == ["cat", "cat", "dog"]
        assert not {*names(found.train)} & {*names(found.val)}

    def test_splits_that_are_there_are_taken(self, photos: Photos):
        found = select(photos(train_cat=4, train_dog=4, val_cat=1, val_dog=2, test_cat=3, test_dog=3))
        assert found.val is not None
        assert found.test is not None
        assert (len(found.train), len(found.val), len(found.test)) == (8, 3, 6)

    def test_splits_by_name(self, photos: Photos):
        how = photos(train_cat=10, train_dog=10, val_cat=1, val_dog=2, test_cat=3, test_dog=3)
        found = select(replace(how, train="val", val="", test="train"))
        assert (len(found.train), found.val) == (3, None)
        assert names(found.test)[-1] == "dog/009.png"
        found = select(replace(how, train="test"))  # which then is not looked at in the end
        assert (names(found.val)[0], found.test) == ("cat/000.png", None)
        assert len(names(select(replace(how, val="20%")).val)) == 4

    def test_val_where_there_is_one_or_else_a_part_of_train(self, photos: Photos):
        """What outsiders had: train/ and val/, and 153 labeled images that nobody looked at."""
        how = photos(train_cat=20, train_dog=20, validation_cat=1, validation_dog=2)
        found = select(replace(how, val="val or 10%"))
        assert names(found.val) == ["cat/000.png", "dog/000.png", "dog/001.png"]
        assert (len(found.train), found.left_over) == (40, {})
        assert found.in_words() == "train 40, val 3, test none"
        both = select(replace(how, train="train+val", val="val or 10%"))
        assert both.in_words() == "train 39 (train+val), val 4 (10% of train+val), test none"

    def test_only_photos_recipes_name_the_part_a_tenth(self, photos: Photos):
        how = photos(train_cat=20, train_dog=20, test_cat=2, test_dog=2)
        assert [len(select(replace(how, val=val)).train) for val in ("val or 10%", "auto")] == [36, 38]

    def test_splits_that_stand_by_are_named(self, photos: Photos):
        how = photos(train_cat=20, train_dog=20, val_cat=1, val_dog=2, test_cat=2, test_dog=2)
        found = select(replace(how, val="10%", test=""))
        assert found.in_words().endswith(", test none; not used: val 3, test 4")
        assert title(found.record, "val") == "val (10% of train)"
        assert title(select(how).record, "val") == "val"
        assert title({"val": {"from": "10%"}}, "val") == "val (10%)"  # as older runs have it

    def test_several_splits_are_one_after_the_other(self, photos: Photos, says: Says):
        how = photos(train_cat=4, train_dog=3, val_cat=2, val_dog=1, test_cat=3, test_dog=3)
        found = select(replace(how, train="train+val"))
        assert len(found.train) + len(found.val or ()) == 10  # and so val is no validation split
        whole = select(replace(how, train="train+val", val=""))
        assert names(whole.train)[6:] == ["dog/002.png", "cat/000.png", "cat/001.png", "dog/000.png"]
        assert whole.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 1]
        assert [Path(whole.train.where(n)).parent.parent.name for n in (6, 7)] == ["train", "val"]
        assert len(select(replace(how, train="train+val", val="", classes=("dog",))).train) == 4
        with says(DataError):
            select(replace(how, train="train+vla"))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"train": "train+val", "val": "val"},
                "data.val is 'val', and data.train, 'train+val', trains on 'val' too; "
                "set data.val to '', or to a part such as '2%', or take 'val' out of data.train",
            ),
            ({"train": "train + val", "val": "val"}, "trains on 'val' too"),
            ({"val": "val + train"}, "data.val is 'val + train', and data.train, 'train', trains on 'train' too"),
            (
                {"train": "train+test", "test": "test"},
                "data.test is 'test', and data.train, 'train+test', trains on 'test' too; "
                "set data.test to '', or take 'test' out of data.train",
            ),
            ({"train": "train+val+train"}, "data.train is 'train+val+train' and names 'train' twice; name it once"),
        ],
    )
    def test_what_is_learnt_from_is_not_measured_on(self, photos: Photos, changes: dict[str, Any], words: str):
        how = photos(train_cat=4, train_dog=3, val_cat=2, val_dog=1, test_cat=3, test_dog=3)
        assert words in refused(replace(how, **changes))

    @pytest.mark.parametrize("val", ["auto", "20%"])
    def test_a_part_of_all_that_is_learnt_from(self, photos: Photos, val: str):
        how = photos(train_cat=4, train_dog=3, val_cat=2, val_dog=1)
        found = select(replace(how, train="train + val", val=val))
        assert found.val is not None
        places = [{split.where(n) for n in range(len(split))} for split in (found.train, found.val)]
        assert len(places[0] | places[1]) == len(found.train) + len(found.val) == 10

    def test_few_images_still_leave_one_of_each_class_for_dev(self, photos: Photos):
        found = select(photos(cat=3, dog=2, fox=1))
        assert sorted(name.split("/")[0] for name in names(found.val)) == ["cat", "dog"]

    def test_classes_are_numbered_as_they_are_listed(self, photos: Photos):
        how = photos(train_cat=5, train_dog=5, train_fox=5, test_cat=2, test_dog=2, test_fox=2)
        found = select(replace(how, classes=("fox", "cat")))
        assert found.classes == ("fox", "cat")
        for split in (found.train, found.val, found.test):
            assert split is not None
            assert [found.classes[label] for label in split.labels] == [name.split("/")[0] for name in names(split)]
        assert len(names(found.test)) == 4

    def test_share_and_shots(self, photos: Photos):
        how = photos(cat=60, dog=30)
        assert len(select(replace(how, share=0.5)).train) == 44
        assert len(select(replace(how, shots=3)).train) == 6
        assert names(select(replace(how, shots=3)).val) == names(select(how).val)
        assert {*names(select(replace(how, share=0.1)).train)} < {*names(select(replace(how, share=0.5)).train)}
        assert names(select(replace(how, shots=3, seed=1)).train) != names(select(replace(how, shots=3)).train)

    def test_the_record(self, photos: Photos):
        how = photos(train_cat=50, train_dog=50, test_cat=3, test_dog=3)
        whole, part, again, other = (
            select(how).record,
            select(replace(how, shots=2)).record,
            select(replace(how, shots=2)).record,
            select(replace(how, shots=2, seed=1)).record,
        )
        assert json.loads(json.dumps(whole)) == whole
        assert whole["classes"] == ["cat", "dog"]
        assert whole["source"] == how.source
        assert (
            whole["test"]
            == part["test"]
            == {
                "from": "test",
                "count": 6,
                "digest": sampling.digest(np.arange(6)),
                "labels": sampling.digest(np.array([0, 0, 0, 1, 1, 1])),
                "images": whole["test"]["images"],
            }
        )
        assert part["train"]["from"] == "train but what val has of it (seed 0), 2 of each class (seed 0)"
        assert part == again
        assert len({record["train"]["digest"] for record in (whole, part, other)}) == 3
        dogs = select(replace(how, classes=("dog",))).record
        assert dogs["test"]["digest"] != whole["test"]["digest"]

    def test_the_fingerprint_tells_which_images_wherever_they_lie(self, photos: Photos, tmp_path: Path):
        how = photos(cat=4, dog=4)
        before = select(how).record["train"]["images"]
        moved = Path(shutil.copytree(how.source, tmp_path / "moved"))
        assert select(replace(how, source=str(moved))).record["train"]["images"] == before
        (moved / "cat").rename(moved / "cow")
        assert select(replace(how, source=str(moved))).record["train"]["images"] != before

    @pytest.mark.parametrize("pixels", [np.zeros((3, 8, 8), np.uint8), np.zeros((3, 64, 8, 3), np.uint8)])
    def test_the_fingerprint_of_arrays(self, pixels: np.ndarray):
        labels, other = np.arange(3), pixels.copy()
        other[2, 0] += 1
        same, changed = (sampling.fingerprint(Pixels(array, labels, "x")) for array in (pixels.copy(), other))
        assert same == sampling.fingerprint(Pixels(pixels, labels, "elsewhere"))
        assert changed != same
        assert sampling.fingerprint(Part(Pixels(other, labels, "x"), np.arange(2))) != same
        joined = Joined(
            [Part(Pixels(other, labels, "x"), np.array([0])), Part(Pixels(other, labels, "x"), np.array([1]))]
        )
        assert sampling.fingerprint(joined) == sampling.fingerprint(Part(Pixels(pixels, labels, "x"), np.arange(2)))

    def test_the_digest_tells_which_images_of_the_opened_split(self, photos: Photos):
        found: Selection = select(replace(photos(cat=30, dog=30), classes=("dog",), shots=2))
        positions = np.array([30 + int(re.findall(r"\d+", name)[0]) for name in names(found.train)])
        assert found.record["train"]["digest"] == sampling.digest(positions)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"train": "trian"}, "has no split 'trian'; did you mean 'train'?"),
            ({"val": "vall"}, "has no split 'vall'; did you mean 'val'?"),
            ({"test": "best"}, "has no split 'best'; did you mean 'test'?"),
            ({"val": "0%"}, "data.val is '0%'; a part of the training images is written such as '2%'"),
            ({"val": "100%"}, "data.val is '100%'"),
            ({"val": "1.2.3%"}, "data.val is '1.2.3%'"),
            ({"val": "-5%"}, "data.val is '-5%'"),
            ({"classes": ("cat", "dig")}, "has no class 'dig'; did you mean 'dog'?"),
            ({"classes": ("cat", "cat")}, "data.classes names 'cat' twice"),
            ({"shots": 6}, "has only 5 images of 'dog' to train on"),
            ({"classes": ("cat",), "train": "val", "val": ""}, "no images are left for data.train (val)"),
            ({"classes": ("cat",), "val": "auto"}, "no images are left for data.val (val)"),
            ({"source": "nowhere"}, "there is no data set 'nowhere'"),
        ],
    )
    def test_what_cannot_be(self, photos: Photos, changes: dict[str, object], words: str):
        how = photos(train_cat=9, train_dog=5, val_dog=1, test_cat=1, test_dog=1)
        assert words in refused(replace(how, **changes))

    def test_a_single_image_of_each_class(self, photos: Photos):
        how = photos(cat=1, dog=1)
        assert "has a single image of each class, and data.val wants some" in refused(how)
        assert len(select(replace(how, val="")).train) == 2
