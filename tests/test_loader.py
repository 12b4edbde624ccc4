"""The order of the images, and what is done to them, follow from (seed, position) alone."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Says
from PIL import Image
from torch import Tensor

from mlpmixer import data
from mlpmixer.data.augment import Augmentation
from mlpmixer.data.dataset import Pixels, Split
from mlpmixer.data.loader import Batch, Share, Stream, all_batches, train_batches, usual_workers
from mlpmixer.data.mix import Mix, mix_of, mixes
from mlpmixer.data.preprocess import prepare
from mlpmixer.errors import DataError
from mlpmixer.machine.distributed import Group
from mlpmixer.metadata import Preprocessing
from mlpmixer.recipe import Augment
from mlpmixer.train.errors import explain_errors
from mlpmixer.train.loss import as_targets

unhurried = settings(max_examples=40)

NUMBER = 0  # of an image that comes twice
COUNT, BATCH, STEPS = 21, 8, 5  # 40 positions: almost two epochs, and a batch that straddles them

NOISE = Pixels(
    np.random.default_rng(0).integers(0, 256, (COUNT, 10, 10, 3), dtype=np.uint8), np.arange(COUNT) % 4, "noise"
)
AUGMENTATION = Augmentation(Augment(policy="rand_augment", erase=0.5), Preprocessing.usual((8, 8)))
TO_8 = Preprocessing(resize=9, crop=(8, 8))


@pytest.fixture(autouse=True)
def _nothing_stays_behind():
    """Neither a process nor a piece of shared memory."""
    before = shared_memory()
    yield
    assert multiprocessing.active_children() == []
    assert shared_memory() <= before


def shared_memory() -> set[str]:
    """torch_PROCESS_…: what this process made, and what others left when they ended. (Others may be at work.)"""
    names = {path.name: int(path.name.split("_")[1]) for path in Path("/dev/shm").glob("torch_*")}
    ended = {name for name, process in names.items() if process == os.getpid() or not Path(f"/proc/{process}").exists()}
    return {name for name in ended if Path("/dev/shm", name).exists()}


def stream(**how: Any) -> list[list[Batch]]:
    return [*train_batches(NOISE, AUGMENTATION, **{"steps": range(STEPS), "batch_size": BATCH, "seed": 3, **how})]


def joined(parts: Iterable[Batch], ahead: int = 0) -> dict[str, Tensor]:
    parts = [*parts]
    names = ("images", "labels", "indices")
    return {name: torch.cat([getattr(part, name)[ahead:] for part in parts]) for name in names}


def exhaust(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def same(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) for name in a
    )


@pytest.fixture(scope="module")
def whole() -> list[dict[str, Tensor]]:
    return [joined(parts) for parts in stream()]


class TestOrder:
    @unhurried
    @given(st.integers(1, 30), st.integers(0, 5), st.data())
    def test_each_epoch_has_every_image_once(self, count: int, seed: int, choice: st.DataObject):
        order = Stream(count, seed)
        epochs = [[order[e * count + place] for place in range(count)] for e in range(4)]
        assert all(sorted(epoch) == [*range(count)] for epoch in epochs)
        assert count < 8 or len({*map(tuple, epochs)}) > 1
        again = Stream(count, seed)
        for position in choice.draw(st.lists(st.integers(0, 4 * count - 1), max_size=20)):
            assert again[position] == epochs[position // count][position % count]

    def test_the_order_is_pinned(self):
        """Another one would mean that a checkpoint is no longer resumed bit for bit."""
        assert [Stream(10, 0)[i] for i in range(12)] == [1, 4, 9, 5, 0, 2, 6, 3, 7, 8, 5, 6]

    def test_a_batch_may_straddle_two_epochs(self, whole: list[dict[str, Tensor]]):
        seen = torch.cat([batch["indices"] for batch in whole]).tolist()
        assert sorted(seen[:COUNT]) == [*range(COUNT)]
        assert len({*seen[COUNT:]}) == len(seen) - COUNT
        assert all(len(batch["indices"]) == BATCH for batch in whole)
        for batch in whole:
            assert torch.equal(batch["labels"], batch["indices"] % 4)

    def test_a_batch_may_be_larger_than_the_data_set(self):
        (parts,) = stream(steps=range(1), batch_size=50)
        assert {*torch.bincount(parts[0].indices, minlength=COUNT).tolist()} == {2, 3}

    @pytest.mark.parametrize("workers", [0, 1, 3])
    @pytest.mark.parametrize("micro_batch", [0, 3])
    def test_neither_processes_nor_parts_change_a_bit(
        self, workers: int, micro_batch: int, whole: list[dict[str, Tensor]]
    ):
        found = stream(workers=workers, micro_batch=micro_batch)
        assert [[len(part.labels) for part in parts] for parts in found] == [[3, 3, 2] if micro_batch else [8]] * STEPS
        assert same([joined(parts) for parts in found], whole)

    @pytest.mark.parametrize("ranks", [2, 4])
    @pytest.mark.parametrize("micro_batch", [0, 1])
    def test_shares_joined_are_the_whole(self, ranks: int, micro_batch: int, whole: list[dict[str, Tensor]]):
        shares = [stream(share=Share(rank, ranks), micro_batch=micro_batch) for rank in range(ranks)]
        together = [joined(part for share in shares for part in share[step]) for step in range(STEPS)]
        assert same(together, whole)

    @pytest.mark.parametrize("begun", range(STEPS + 1))
    def test_it_may_begin_anywhere(self, begun: int, whole: list[dict[str, Tensor]]):
        assert same([joined(parts) for parts in stream(steps=range(begun, STEPS))], whole[begun:])

    def test_chance_elsewhere_changes_nothing(self, whole: list[dict[str, Tensor]]):
        torch.manual_seed(99)
        found = []
        for parts in train_batches(NOISE, AUGMENTATION, steps=range(STEPS), batch_size=BATCH, seed=3):
            torch.rand(7)
            found.append(joined(parts))
        assert same(found, whole)

    def test_seeds_differ(self, whole: list[dict[str, Tensor]]):
        other = [joined(parts) for parts in stream(seed=4)]
        assert not torch.equal(other[0]["indices"], whole[0]["indices"])

    def test_an_image_looks_different_each_time(self, whole: list[dict[str, Tensor]]):
        looks = [batch["images"][batch["indices"] == NUMBER] for batch in whole]
        assert len(torch.cat(looks).unique(dim=0)) == len(torch.cat(looks)) == 2


class TestMix:
    """One image more in front of each part is what lets any cut of a batch be mixed as the whole."""

    @pytest.mark.parametrize("how", [Augment(mixup=0.5), Augment(cutmix=1.0)], ids=["mixup", "cutmix"])
    @pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 0), (1, 3), (2, 0), (2, 3), (4, 1), (8, 1)])
    def test_any_cut_of_a_batch_is_mixed_as_the_authors_mix_the_whole(
        self, how: Augment, ranks: int, micro_batch: int, whole: list[dict[str, Tensor]]
    ):
        shares = [stream(one_before=True, share=Share(rank, ranks), micro_batch=micro_batch) for rank in range(ranks)]
        for step in range(STEPS):
            mix = mix_of(how, 7, step)
            assert mix is not None
            mixed = [mix(part.images.float(), as_targets(part.labels, 4)) for share in shares for part in share[step]]
            images, targets = whole[step]["images"].float(), as_targets(whole[step]["labels"], 4)
            before = images.roll(1, dims=0)
            if how.mixup:
                wanted = images * mix.lam + before * (1 - mix.lam)
                kept = mix.lam
            else:
                inside = boxed(mix, 8)
                wanted = torch.where(inside, before, images)
                kept = 1 - float(inside.float().mean())
            assert torch.equal(torch.cat([part for part, _ in mixed]), wanted)
            torch.testing.assert_close(
                torch.cat([part for _, part in mixed]), targets * kept + targets.roll(1, dims=0) * (1 - kept)
            )

    def test_parts_without_mixing_are_the_batch(self, whole: list[dict[str, Tensor]]):
        """Where chance leaves a batch unmixed, what is in front is dropped."""
        found = stream(one_before=True, micro_batch=3)
        assert same([joined(parts, ahead=1) for parts in found], whole)

    @unhurried
    @given(st.integers(0, 2**31), st.floats(0.05, 4))
    def test_an_image_is_never_the_smaller_share_of_itself(self, step: int, p: float):
        mix = mix_of(Augment(mixup=p), 0, step)
        assert mix is not None
        assert mix.box is None
        assert 0.5 <= mix.lam <= 1

    @unhurried
    @given(st.integers(0, 2**31), st.floats(0.05, 4), st.integers(1, 40), st.integers(1, 40))
    def test_the_labels_of_cutmix_follow_the_area(self, step: int, p: float, rows: int, columns: int):
        mix = mix_of(Augment(cutmix=p), 0, step)
        assert mix is not None
        black_and_white = torch.tensor([1.0, 0.0])[:, None, None, None].expand(2, 3, rows, columns)
        images, targets = mix(black_and_white, torch.eye(2))
        assert float(images.mean()) == pytest.approx(float(targets[0, 0]), abs=1e-6)
        assert float(targets.sum()) == pytest.approx(1)

    def test_how_often(self):
        steps = range(2000)
        both = [mix_of(Augment(mixup=0.2, cutmix=1.0, mix_chance=0.5), 0, step) for step in steps]
        assert sum(mix is None for mix in both) / len(both) == pytest.approx(0.5, abs=0.05)
        assert sum(mix is not None and mix.box is None for mix in both) / len(both) == pytest.approx(0.25, abs=0.05)
        assert not any(mix_of(Augment(), 0, step) for step in steps)
        assert all(mix_of(Augment(mixup=0.2), 0, step) for step in steps)
        # Of Beta(p, p) and 1 − Beta(p, p), the larger: for p = 1 its mean is 3/4.
        keeps = [mix.lam for step in steps if (mix := mix_of(Augment(mixup=1.0), 0, step))]
        assert np.mean(keeps) == pytest.approx(0.75, abs=0.02)

    def test_only_recipes_that_mix_need_the_one_before(self):
        assert [mixes(Augment(mixup=x, cutmix=y)) for x, y in ((0, 0), (1, 0), (0, 1))] == [False, True, True]


def boxed(mix: Mix, side: int) -> Tensor:
    """Which pixels lie in the box."""
    assert mix.box is not None
    top, bottom, left, right = (round(edge * side) for edge in mix.box)
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    return inside


@pytest.fixture
def damaged(tmp_path: Path) -> Split:
    """Twelve images of which numbers 3 and 7 cannot be read."""
    for n in range(12):
        folder = tmp_path / ("cat" if n < 6 else "dog")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (n * 20, 0, 0)).save(folder / f"{n:02}.png")
    for broken in ("cat/03.png", "dog/07.png"):
        (tmp_path / broken).write_bytes((tmp_path / broken).read_bytes()[:40])
    return data.open(tmp_path)["train"]


class TestBroken:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_strict_names_the_image(self, damaged: Split, workers: int):
        with pytest.raises(DataError) as caught:
            exhaust(train_batches(damaged, AUGMENTATION, steps=range(9), batch_size=4, workers=workers))
        said = str(caught.value)
        assert "\n" not in said
        assert "is not a readable image" in said
        assert any(path in said for path in ("cat/03.png", "dog/07.png"))
        assert 'mend or remove it (`mixer doctor` lists all), or set data.on_bad_image to "skip"' in said

    def test_skip_takes_the_same_others_whoever_loads(self, damaged: Split):
        def found(**how: Any) -> list[list[Batch]]:
            steps = train_batches(damaged, AUGMENTATION, steps=range(6), batch_size=4, skip_broken=True, **how)
            return [*steps]

        alone = found()
        wanted = [joined(parts) for parts in alone]
        assert same([joined(parts) for parts in found(workers=2, micro_batch=3)], wanted)
        shares = [found(share=Share(rank, 2)) for rank in range(2)]
        assert same([joined(p for share in shares for p in share[step]) for step in range(6)], wanted)
        seen = torch.cat([batch["indices"] for batch in wanted])
        assert not {3, 7} & {*seen.tolist()}
        assert torch.equal(torch.cat([batch["labels"] for batch in wanted]), (seen >= 6).long())
        # Each of the two epochs has a replacement for each; all else is as it would be.
        listed = [Path(where).name for parts in alone for part in parts for where, _ in part.broken]
        assert {*listed} == {"03.png", "07.png"}
        assert all("not a readable image" in why for parts in alone for part in parts for _, why in part.broken)
        order = Stream(12, 0)
        assert sum(order[position] != index for position, index in enumerate(seen.tolist())) == 4

    def test_an_image_is_not_listed_again_for_its_neighbor_that_is_mixed_with_it(self, damaged: Split):
        def listed(**how: Any) -> list[tuple[str, str]]:
            steps = train_batches(damaged, AUGMENTATION, steps=range(3), batch_size=4, skip_broken=True, **how)
            return [pair for parts in steps for part in parts for pair in part.broken]

        assert listed(micro_batch=1, one_before=True) == listed() != []

    def test_when_nothing_can_be_read(self, tmp_path: Path, says: Says):
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "1.png").write_bytes(b"no image")
        split = data.open(tmp_path)["train"]
        with says(DataError):
            exhaust(train_batches(split, AUGMENTATION, steps=range(1), batch_size=1, skip_broken=True))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_what_augmentation_refuses_comes_without_a_traceback(self, workers: int, says: Says):
        never = Augmentation(Augment(crop="none"), Preprocessing.usual((8, 8)))
        with says(DataError) as caught:
            exhaust(train_batches(NOISE, never, steps=range(1), batch_size=4, workers=workers))
        assert "\n" not in str(caught.value)

    def test_when_they_are_measured_they_are_left_out(self, damaged: Split, says: Says):
        def found(**how: Any) -> list[Batch]:
            return [*all_batches(damaged, partial(prepare, how=TO_8), batch_size=4, skip_broken=True, **how)]

        assert joined(found())["indices"].tolist() == [n for n in range(12) if n not in (3, 7)]
        assert [Path(where).name for batch in found(workers=2) for where, _ in batch.broken] == ["03.png", "07.png"]
        with says(DataError):
            exhaust(all_batches(damaged, partial(prepare, how=TO_8), batch_size=4))


class TestMeasuring:
    @unhurried
    @given(st.integers(1, COUNT), st.integers(1, 5), st.integers(1, 9))
    def test_shares_are_all_images_once_in_as_many_batches_each(self, count: int, ranks: int, batch_size: int):
        split = Pixels(NOISE.pixels[:count], NOISE.labels[:count], "noise")
        to_8 = partial(prepare, how=TO_8)
        shares = [[*all_batches(split, to_8, batch_size=batch_size, share=Share(rank, ranks))] for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        assert all(batch.images.shape[1:] == (3, 8, 8) for share in shares for batch in share)
        assert all(len(batch.labels) <= batch_size for share in shares for batch in share)
        for rank, share in enumerate(shares):
            assert joined(share)["indices"].tolist() == [*range(count)][rank::ranks]

    def test_nothing_is_left_to_chance(self):
        to_8 = partial(prepare, how=TO_8)
        alone = joined(all_batches(NOISE, to_8, batch_size=5))
        assert same([joined(all_batches(NOISE, to_8, batch_size=4, workers=2))], [alone])
        assert torch.equal(alone["labels"], torch.from_numpy(NOISE.labels))


class TestProcesses:
    def test_they_end_with_the_last_batch_or_before(self):
        batches = train_batches(NOISE, AUGMENTATION, steps=range(99), batch_size=4, workers=2)
        next(batches)
        assert len(multiprocessing.active_children()) == 2
        batches.close()
        assert multiprocessing.active_children() == []
        assert len(stream(workers=2)) == STEPS
        assert multiprocessing.active_children() == []

    def test_more_than_cores_are_no_reason_to_complain(self):
        workers = (os.cpu_count() or 1) + 1
        assert len(stream(workers=workers, steps=range(1))) == 1  # where warnings are errors

    def test_one_that_is_killed_is_told_in_one_line(self, says: Says):
        batches = train_batches(NOISE, AUGMENTATION, steps=range(10_000), batch_size=4, workers=1)
        next(batches)

        def go_on() -> None:
            with explain_errors(Group(torch.device("cpu"))):  # torch may raise it anywhere, not only in the loader
                os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
                exhaust(batches)

        with says(DataError) as caught:
            go_on()
        assert "\n" not in str(caught.value)

    def test_their_usual_number(self):
        assert 1 <= usual_workers() <= 8


LITTLE = """
import numpy as np
from mlpmixer.data.dataset import Pixels
from mlpmixer.data.loader import all_batches
from mlpmixer.data.preprocess import prepare
from mlpmixer.errors import DataError
from mlpmixer.metadata import Preprocessing
from functools import partial

some = Pixels(np.zeros((8, 99, 99, 3), np.uint8), np.zeros(8, np.int64), "some")
ready = partial(prepare, how=Preprocessing.usual((96, 96)))
for workers in (0, 1):
    try:
        print(sum(len(batch.labels) for batch in all_batches(some, ready, batch_size=4, workers=workers)))
    except DataError as error:
        print(error)
"""


def test_with_too_little_shared_memory_there_is_a_way_out():
    """As in a container, where it is 64 MB unless more is asked for. Here it is 64 kB."""
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    disk = "mount -t tmpfs -o size=64k none /dev/shm && "
    if shutil.which("unshare") is None or subprocess.run([*inside, disk + "true"], capture_output=True).returncode:
        pytest.skip("no disk can be made here")
    command = [*inside, disk + '"$0" -c "$1"', sys.executable, LITTLE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    read, why = told.stdout.splitlines()
    assert read == "8"
    assert why == (
        "no shared memory for 432 kB of images (in a container, raise --shm-size); use fewer "
        "data-loader workers with --machine.workers, or none with 0"
    )
