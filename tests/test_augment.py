"""Training images: what is done to them, and that it follows from torch's seed alone."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from messages import Says
from PIL import Image, ImageEnhance
from torch import Tensor

from mlpmixer.data import augment
from mlpmixer.data import rand_augment as ra
from mlpmixer.data.augment import Augmentation
from mlpmixer.data.images import decode, pixels
from mlpmixer.data.preprocess import prepare
from mlpmixer.errors import DataError, ImageError
from mlpmixer.metadata import Preprocessing
from mlpmixer.recipe import Augment, Evaluation
from mlpmixer.train.plan import preprocessing_of

POLICIES = get_args(get_type_hints(Augment)["policy"])
CROPS = get_args(get_type_hints(Augment)["crop"])

# Red tells the column and green the row, so that a pixel says where it came from.
ROWS, COLUMNS = np.mgrid[0:256, 0:256].astype(np.uint8)
PLACES = np.stack([COLUMNS, ROWS, np.full_like(ROWS, 77)], axis=2)


@pytest.fixture
def photo(photos: list[Path]) -> np.ndarray:
    return pixels(photos[0])


def augmentation(size: int | tuple[int, int] = 32, evaluation: Preprocessing | None = None, **how: Any) -> Augmentation:
    size = (size, size) if isinstance(size, int) else size
    return Augmentation(Augment(**{"flip": False, **how}), evaluation or Preprocessing.usual(size))


def seeded(augment: Augmentation, image: Any, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return augment(image)


@pytest.mark.parametrize(("crop", "policy"), list(product(CROPS, POLICIES)))
def test_all_of_it_follows_from_the_seed(crop: Any, policy: Any, photo: np.ndarray):
    small = np.asarray(Image.fromarray(photo).resize((32, 28)))
    augment = augmentation((28, 32), crop=crop, policy=policy, flip=True, erase=0.5)
    results = []
    for again in (1, 2):
        random.seed(again)
        np.random.seed(again)
        results.append([seeded(augment, small if crop == "none" else photo, seed) for seed in range(8)])
    for one, other in zip(*results, strict=True):
        assert one.shape == (3, 28, 32)
        assert one.dtype == torch.uint8
        assert one.is_contiguous()
        assert torch.equal(one, other)
    assert len({result.numpy().tobytes() for result in results[0]}) > 1


@pytest.mark.parametrize("policy", POLICIES)
def test_an_image_of_a_data_set_is_never_written_to(policy: Any, photo: np.ndarray):
    ours = np.asarray(Image.fromarray(photo).resize((32, 32))).copy()
    before = ours.copy()
    augment = augmentation(crop="none", policy=policy, erase=1.0)
    for seed in range(40):
        seeded(augment, ours, seed)
    assert np.array_equal(ours, before)


def test_a_copy_in_another_process_does_the_same(photo: np.ndarray):
    for policy in POLICIES:
        augment = augmentation(policy=policy, flip=True, erase=0.5)
        copied = pickle.loads(pickle.dumps(augment))
        assert torch.equal(seeded(augment, photo, 5), seeded(copied, photo, 5))


def test_images_and_arrays_are_the_same(photos: list[Path]):
    augment = augmentation(64, policy="rand_augment")
    assert torch.equal(seeded(augment, decode(photos[1]), 3), seeded(augment, pixels(photos[1]), 3))


class TestCrops:
    def test_inception_takes_its_share_in_its_proportions(self):
        """Which part was taken can be read from the corners; scaling blurs them by a few pixels."""
        augment = augmentation(64, area=(0.2, 0.5), ratio=(0.75, 4 / 3))
        shares, ratios = [], []
        for seed in range(300):
            out = seeded(augment, PLACES, seed).int()
            (left, top), (right, bottom) = out[:2, 0, 0].tolist(), out[:2, -1, -1].tolist()
            shares.append((right - left + 2) * (bottom - top + 2) / 256**2)
            ratios.append((right - left + 2) / (bottom - top + 2))
        assert 0.18 < min(shares) < 0.23
        assert 0.47 < max(shares) < 0.53
        assert 0.70 < min(ratios) < 0.80
        assert 1.25 < max(ratios) < 1.42

    def test_all_of_a_square_is_the_whole_image_scaled(self, photo: np.ndarray):
        square = photo[:400, :400]
        whole = augmentation(50, area=(1.0, 1.0), ratio=(1.0, 1.0))(square)
        assert torch.equal(whole, prepare(square, Preprocessing(shape="stretch", resize=50, crop=(50, 50))))

    def test_a_window_is_a_square_part_of_the_image_made_square(self):
        """Of long images, too; and it lies everywhere. PLACES has in each pixel where that is."""
        long = np.ascontiguousarray(PLACES[:64])
        tops, lefts = set(), set()
        for seed in range(200):
            out = seeded(augmentation(32, crop="window", area=(0.25, 0.25)), long, seed).int()
            (left, top), (right, bottom) = out[:2, 0, 0].tolist(), out[:2, -1, -1].tolist()
            assert right - left + 4 == pytest.approx(128, abs=3)  # half the width, blurred by scaling
            assert bottom - top + 1 == pytest.approx(32, abs=2)  # half the height
            tops.add(top)
            lefts.add(left // 8)
        assert {min(tops), max(tops)} == {0, 32}
        assert lefts == {*range(17)}

    @pytest.mark.parametrize("crop", ["window", "pad", "resize"])
    @pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 1, 3)])
    def test_an_image_of_absurd_proportions_is_refused(self, crop: str, shape: tuple[int, int, int], says: Says):
        with says(ImageError):
            augmentation(32, crop=crop, area=(0.5, 1.0))(np.zeros(shape, np.uint8))

    def test_a_window_of_any_size_between(self):
        widths = []
        for seed in range(300):
            out = seeded(augmentation(64, crop="window", area=(0.25, 1.0)), PLACES, seed).int()
            widths.append(int(out[0, 0, -1] - out[0, 0, 0] + 2))
        assert 126 < min(widths) < 135
        assert 250 < max(widths) <= 257

    def test_pad_moves_by_up_to_so_many_pixels(self):
        image = np.zeros((32, 32, 3), np.uint8)
        image[10, 20] = 255
        augment = augmentation(crop="pad", padding=4)
        found = {tuple(torch.nonzero(seeded(augment, image, seed)[0])[0].tolist()) for seed in range(600)}
        assert found == set(product(range(6, 15), range(16, 25)))

    def test_pad_brings_other_images_to_size_first(self, photo: np.ndarray):
        still = augmentation(32, crop="pad", padding=0)(photo)
        assert torch.equal(still, prepare(photo, Preprocessing(resize=32, crop=(32, 32))))

    @pytest.mark.parametrize(
        "settings",
        [
            Evaluation(),
            Evaluation(shape="stretch"),
            Evaluation(resize=56),
            Evaluation(interpolation="bicubic"),
            Evaluation(shape="stretch", resize=60, interpolation="bicubic"),
        ],
    )
    def test_resize_is_what_evaluation_does(self, settings: Evaluation, photo: np.ndarray):
        how = preprocessing_of(settings, (56, 56))
        out = augmentation(56, how, crop="resize")(photo)
        assert torch.equal(out, prepare(photo, how))
        usual = prepare(photo, Preprocessing.usual((56, 56)))
        assert torch.equal(out, usual) == (settings == Evaluation())

    def test_none_wants_the_size(self, photo: np.ndarray, says: Says):
        augment = augmentation((40, 30), crop="none")
        assert torch.equal(augment(photo[:40, :30]), torch.from_numpy(photo[:40, :30].copy()).permute(2, 0, 1))
        with says(DataError):
            augment(photo[:30, :40])

    def test_tiny_and_thin_images(self):
        for height, width in ((1, 1), (1, 300), (300, 1), (5, 7)):
            image = np.full((height, width, 3), 200, np.uint8)
            for crop in ("inception", "window", "pad", "resize"):
                assert augmentation(24, crop=crop, policy="rand_augment")(image).shape == (3, 24, 24)


def test_every_other_image_is_mirrored(photo: np.ndarray):
    image = photo[:32, :32]
    plain = torch.from_numpy(image.copy()).permute(2, 0, 1)
    augment = augmentation(crop="none", flip=True)
    results = [seeded(augment, image, seed) for seed in range(400)]
    mirrored = sum(torch.equal(result, plain.flip(2)) for result in results)
    assert mirrored + sum(torch.equal(result, plain) for result in results) == 400
    assert 160 < mirrored < 240


def test_erasing_paints_a_gray_rectangle():
    image = np.zeros((32, 32, 3), np.uint8)
    augment = augmentation(crop="none", erase=0.5)
    results = [seeded(augment, image, seed) for seed in range(200)]
    erased = [result for result in results if result.any()]
    assert 70 < len(erased) < 130
    for result in erased:
        rows, columns = (torch.nonzero(result[0].any(dim=side)).flatten() for side in (1, 0))
        inside = result[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (inside == 127).all()
        assert result.count_nonzero() == inside.numel()


def test_three_augment_makes_a_third_gray():
    image = np.ascontiguousarray(PLACES[100:132, 40:72])
    augment = augmentation(crop="none", policy="three_augment")
    results = [seeded(augment, image, seed).int() for seed in range(150)]
    gray = sum(bool((result[0] == result[1]).all() and (result[1] == result[2]).all()) for result in results)
    assert 35 < gray < 65


def done(operation: Any, image: np.ndarray, m: int) -> np.ndarray:
    """The operation on the image as a tensor, held against the same on an image."""
    results = []
    for form in (torch.from_numpy(image.copy()).permute(2, 0, 1), Image.fromarray(image)):
        torch.manual_seed(1)
        results.append(ra.as_tensor(operation(form, m)).permute(1, 2, 0).numpy())
    assert np.abs(results[0].astype(int) - results[1]).max() <= 2
    return results[0]


class TestRandAugment:
    """The authors' operations at the authors' strengths."""

    @pytest.mark.parametrize("operation", ra.OPERATIONS)
    @pytest.mark.parametrize("side", [32, 100])
    def test_operations_do_the_same_on_both_forms(self, operation: Any, side: int, photo: np.ndarray):
        image = np.asarray(Image.fromarray(photo).resize((side, side)))
        for m in (1, 6, 10, 15, 30):
            assert done(operation, image, m).shape == (side, side, 3)

    def test_turns_by_three_degrees_for_each_m(self):
        assert np.array_equal(done(ra.rotate, PLACES, 30), np.rot90(PLACES))
        assert np.array_equal(done(ra.rotate, PLACES, -30), np.rot90(PLACES, -1))
        corner = done(ra.rotate, PLACES, 15)[0, 0]
        assert (corner == 128).all()

    def test_moves_by_ten_pixels_of_224_for_each_m(self):
        image = PLACES[:224, :224]
        for m, shift in ((1, 10), (10, 100), (15, 150)):
            assert np.array_equal(done(ra.translate_x, image, m)[:, :-shift], image[:, shift:])
            assert (done(ra.translate_x, image, m)[:, -shift:] == 128).all()
            assert np.array_equal(done(ra.translate_y, image, -m)[shift:], image[:-shift])
        assert np.array_equal(done(ra.translate_x, PLACES[:112, :112], 10)[:, :-50], PLACES[:112, 50:112])

    def test_shears_by_three_hundredths_for_each_m(self):
        down = done(ra.shear_x, PLACES, 10)[:, 0, 0].astype(int)
        assert np.abs(down - 0.3 * np.arange(256)).max() <= 1
        along = done(ra.shear_y, PLACES, 20)[0, :200, 1].astype(int)
        assert np.abs(along[:199] - 0.6 * np.arange(199)).max() <= 1

    @pytest.mark.parametrize("operation", [ra.color, ra.contrast, ra.brightness, ra.sharpness])
    def test_enhancing_turns_from_less_to_more_at_five(self, operation: Any, photo: np.ndarray):
        assert np.array_equal(done(operation, photo, 5), photo)
        assert not np.array_equal(done(operation, photo, 4), photo)

    def test_enhancing_is_almost_twofold_at_ten(self, photo: np.ndarray):
        image = Image.fromarray(photo)
        for operation, pillows in ((ra.sharpness, ImageEnhance.Sharpness), (ra.color, ImageEnhance.Color)):
            theirs = np.asarray(pillows(image).enhance(1.9)).astype(int)
            assert np.abs(done(operation, photo, 10) - theirs).max() <= 1
        assert np.abs(done(ra.brightness, photo, 10) - np.clip(1.9 * photo, 0, 255)).max() <= 1
        assert done(ra.contrast, photo, 10).std() > 1.3 * photo.std()  # less than 1.9, for black and white have an end

    def test_keeps_two_fifths_of_m_bits(self):
        for m, values in ((5, 4), (10, 16), (15, 64), (20, 256), (30, 256)):
            assert len(np.unique(done(ra.posterize, PLACES, m)[..., 0])) == values

    def test_solarizes_from_the_authors_threshold(self):
        bright = PLACES[..., 0] >= 128
        inverted = done(ra.solarize, PLACES, 5)[..., 0]
        assert np.array_equal(inverted, np.where(bright, 255 - PLACES[..., 0], PLACES[..., 0]))
        for m in (10, 15):
            assert np.array_equal(done(ra.solarize, PLACES, m), PLACES)
        added = done(ra.solarize_add, PLACES, 15)[..., 0]
        assert np.array_equal(
            added, np.where(bright, PLACES[..., 0], np.minimum(PLACES[..., 0].astype(int) + 165, 255))
        )

    def test_cuts_out_a_square_of_eight_pixels_of_224_for_each_m(self):
        black, areas = torch.zeros(3, 224, 224, dtype=torch.uint8), set()
        for seed in range(40):
            torch.manual_seed(seed)
            cut = ra.as_tensor(ra.cutout(black, 10)).numpy()
            assert cut.sum(dtype=int) == 128 * np.count_nonzero(cut)
            areas.add(np.count_nonzero(cut[0]))
        assert max(areas) == 80 * 80
        assert min(areas) < 80 * 80

    def test_draws_each_operation_as_often_and_in_both_directions(self, photo: np.ndarray):
        m, image = 6, torch.from_numpy(photo[::13, ::13].copy()).permute(2, 0, 1)
        known = {}
        for operation, sign in product(ra.OPERATIONS, (1, -1)):
            if operation is not ra.cutout and (sign == 1 or operation in ra.EITHER_WAY):
                known[ra.as_tensor(operation(image, sign * m)).numpy().tobytes()] = (operation, sign)
        assert len(known) == 20  # at this strength no two look alike
        policy, seen = ra.RandAugment(layers=1, m=m), Counter()
        for seed in range(960):
            torch.manual_seed(seed)
            seen[known.get(policy(image).numpy().tobytes(), (ra.cutout, 1))] += 1
        for operation in ra.OPERATIONS:
            assert 35 < seen[operation, 1] + seen[operation, -1] < 90
            assert (seen[operation, -1] > 10) == (operation in ra.EITHER_WAY)

    def test_does_as_many_as_it_is_told(self, monkeypatch: pytest.MonkeyPatch):
        done_at = []
        monkeypatch.setattr(ra, "OPERATIONS", (lambda image, m: done_at.append(m) or image,))
        ra.RandAugment(layers=3, m=15)(torch.zeros(3, 4, 4, dtype=torch.uint8))
        assert done_at == [15, 15, 15]


SLOW = pytest.param("auto_augment_imagenet", marks=pytest.mark.slow)


@pytest.mark.parametrize("policy", ["auto_augment_cifar10", SLOW, "trivial"])
def test_small_images_are_changed_as_torchvision_changes_them(policy: Any, photo: np.ndarray):
    theirs = {
        "auto_augment_cifar10": augment.v2.AutoAugment(augment.v2.AutoAugmentPolicy.CIFAR10, fill=ra.GRAY),
        "auto_augment_imagenet": augment.v2.AutoAugment(augment.v2.AutoAugmentPolicy.IMAGENET, fill=ra.GRAY),
        "trivial": augment.v2.TrivialAugmentWide(fill=ra.GRAY),
    }[policy]
    ours = augment.policy(Augment(policy=policy))
    assert ours is not None
    noise = np.random.default_rng(0).integers(0, 256, (32, 28, 3), dtype=np.uint8)
    flat = np.full((5, 7, 3), 9, dtype=np.uint8)
    two = np.where(noise < 30, np.uint8(3), np.uint8(250))
    photos = [np.asarray(Image.fromarray(photo).resize(size)) for size in ((32, 32), (65, 65), (17, 64), (400, 10))]
    for image in (*photos, noise // 3 + 40, flat, two, noise[:1, :1], noise[:2, :9]):
        for seed in range(80):
            torch.manual_seed(seed)
            wanted = ra.as_tensor(theirs(Image.fromarray(image)))
            torch.manual_seed(seed)
            assert torch.equal(ours(torch.tensor(image).permute(2, 0, 1)), wanted), (image.shape, seed)
