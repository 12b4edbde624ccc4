"""The studio's heart, without a page: what a person says is kept, and what is learned from it is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlpmixer import Predictor, data
from mlpmixer.errors import DataError, UsageError
from mlpmixer.studio import head, moves
from mlpmixer.studio.corrections import Corrections
from mlpmixer.studio.enough import SHARES, learning_curve
from mlpmixer.studio.head import fit_head, softmax
from mlpmixer.studio.photos import Photo, scan
from mlpmixer.studio.studio import Row, Studio
from mlpmixer.studio.training import Trainings

IMAGES, CLASSES = ("a.jpg", "hat/b.jpg", "c.jpg"), ("hat", "cap", None)
CHANGES = st.one_of(
    st.tuples(st.just("say"), st.lists(st.sampled_from(IMAGES), min_size=1, unique=True), st.sampled_from(CLASSES)),
    st.tuples(st.just("add_class"), st.sampled_from(("scarf", "Ärmel", "a\nb"))),
    st.tuples(st.sampled_from(("undo", "redo"))),
)


def state(corrections: Corrections) -> tuple[Any, ...]:
    return dict(corrections.labels), list(corrections.classes), len(corrections.done), len(corrections.undone)


class TestCorrections:
    @given(changes=st.lists(CHANGES, max_size=12), cut=st.floats(0, 1))
    def test_whatever_happens_the_file_has_all_of_it(
        self, tmp_path_factory: pytest.TempPathFactory, changes: list[Any], cut: float
    ):
        """Undo and redo are those of a list of states; read again, and cut off anywhere, the file tells the same."""
        path = tmp_path_factory.mktemp("studio") / "corrections.jsonl"
        corrections = Corrections(path, now=lambda: 0.0)
        past: list[tuple[Any, Any]] = [({}, [])]
        future: list[tuple[Any, Any]] = []
        states = [state(corrections)]
        for what, *how in changes:
            getattr(corrections, what)(*how)
            labels, classes = dict(past[-1][0]), list(past[-1][1])
            if what == "say":
                labels |= dict.fromkeys(how[0], how[1])
                past.append((labels, classes))
                future.clear()
            elif what == "add_class":
                past.append((labels, [*classes, how[0]]))
                future.clear()
            elif what == "undo" and len(past) > 1:
                future.append(past.pop())
            elif what == "redo" and future:
                past.append(future.pop())
            assert (corrections.labels, corrections.classes) == past[-1]
            if state(corrections) != states[-1]:
                states.append(state(corrections))
        if not path.exists():
            return
        assert state(Corrections(path)) == states[-1]
        content = path.read_bytes()
        path.write_bytes(content[: round(cut * len(content))])
        again = Corrections(path)
        assert state(again) in states
        again.say(["new.jpg"], "hat")
        assert Corrections(path).labels == again.labels

    def test_another_file_is_not_written_to(self, tmp_path: Path):
        path = tmp_path / "corrections.jsonl"
        for content in ('{"images": 3}\n', "[]\n", "no JSON\n", '{"undo": true}\n', '{"images": ["a"], "label": 3}\n'):
            path.write_text(content)
            with pytest.raises(DataError, match="line 1, is not a correction"):
                Corrections(path)
            assert path.read_text() == content


NAMES = st.lists(
    st.tuples(
        st.sampled_from(("", "hat", "cap", "unsorted", "hat/deep")), st.sampled_from(("a.jpg", "b.png", "A.jpg"))
    ),
    unique=True,
)


class TestPhotos:
    def test_what_folders_say(self, tmp_path: Path):
        for name in (
            "train/hat/a.jpg",
            "train/hat/deep/b.jpg",
            "test/cap/c.png",
            "val/d.jpg",
            "unsorted/e.jpg",
            "f.jpg",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        (tmp_path / "train/hat/notes.txt").write_text("")
        (tmp_path / "train" / "scarf").mkdir()
        (tmp_path / "train" / "loop").symlink_to("..")
        found = scan(tmp_path)
        assert {photo.path: (photo.split, photo.label) for photo in found.images} == {
            "train/hat/a.jpg": ("train", "hat"),
            "train/hat/deep/b.jpg": ("train", "hat"),
            "test/cap/c.png": ("test", "cap"),
            "val/d.jpg": ("", "val"),  # without folders of classes it is one
            "unsorted/e.jpg": ("", None),
            "f.jpg": ("", None),
        }
        assert found.classes == ["cap", "hat", "loop", "scarf", "val"]

    def test_an_empty_folder_is_a_beginning(self, tmp_path: Path):
        assert (scan(tmp_path).images, scan(tmp_path).classes) == ([], [])


class TestMoves:
    @given(
        names=NAMES, said=st.lists(st.sampled_from(("hat", "cap", "scarf", None)), min_size=15), cut=st.integers(0, 15)
    )
    def test_nothing_is_lost_whenever_it_stops(
        self, tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]], said: list[str | None], cut: int
    ):
        root = tmp_path_factory.mktemp("photos")
        for folder, name in names:
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_text(f"{folder}/{name}")
        photos = scan(root).images
        before = {photo.path: (root / photo.path).read_text() for photo in photos}
        labels = {photo.path: label for photo, label in zip(photos, said, strict=False)}
        planned = moves.plan(root, photos, labels)
        moves.write(root / "moves", planned)
        assert moves.read(root / "moves") == planned
        assert moves.perform(root, planned[:cut]) == []
        if cut < len(planned):  # it stopped between giving the next its new name and taking the old
            (root / planned[cut].target).parent.mkdir(parents=True, exist_ok=True)
            (root / planned[cut].target).hardlink_to(root / planned[cut].source)
        assert moves.perform(root, moves.read(root / "moves")) == []
        after = scan(root)
        assert sorted((root / photo.path).read_text() for photo in after.images) == sorted(before.values())
        by_content = {(root / photo.path).read_text(): photo for photo in after.images}
        for path, content in before.items():
            folders = {photo.path: photo.label for photo in photos}
            assert by_content[content].label == labels.get(path, folders[path])
        assert moves.perform(root, moves.back(planned)) == []
        assert {photo.path: (root / photo.path).read_text() for photo in scan(root).images} == before

    def test_another_file_of_the_name_stays(self, tmp_path: Path):
        (tmp_path / "a.jpg").write_text("first")
        planned = moves.plan(tmp_path, scan(tmp_path).images, {"a.jpg": "hat"})
        (tmp_path / "hat").mkdir()
        (tmp_path / "hat/a.jpg").write_text("second")
        assert moves.perform(tmp_path, planned) == ["a.jpg: there is another hat/a.jpg now"]
        assert (tmp_path / "a.jpg").read_text() == "first"
        assert (tmp_path / "hat/a.jpg").read_text() == "second"

    def test_another_file_is_no_list_of_moves(self, tmp_path: Path):
        for content in ("no JSON\n", "3\n", '["a"]\n'):
            (tmp_path / "moves").write_text(content)
            with pytest.raises(DataError, match="has no moves"):
                moves.read(tmp_path / "moves")


def some(count: int = 60, width: int = 7, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    centers = 2 * rng.normal(size=(classes, width))
    return (centers[labels] + rng.normal(size=(count, width))).astype(np.float32), labels


class TestHead:
    def test_leaving_one_out_is_what_it_says(self, monkeypatch: pytest.MonkeyPatch):
        """Against heads that are fitted without the image, by torch's least squares."""
        monkeypatch.setattr(head, "PENALTIES", (10.0,))
        embeddings, labels = some()
        found = fit_head(embeddings, labels, 3)
        assert found is not None
        x = embeddings.astype(np.float64)
        x = np.concatenate([(x - x.mean(0)) / (x.std(0) + 1e-5), np.full((len(x), 1), head.CONSTANT)], 1)
        targets = np.where(np.arange(3) == labels[:, None], 1.0, -1.0)
        for image in range(0, 60, 7):
            others = np.arange(60) != image
            gram = x[others].T @ x[others] + 10 * np.eye(x.shape[1])
            scores = x[image] @ np.linalg.solve(gram, x[others].T @ targets[others])
            wanted = softmax(scores[None] * found.temperature)[0]
            np.testing.assert_allclose(found.chances[image], wanted, rtol=1e-6)

    def test_images_without_a_label_are_predicted(self):
        embeddings, labels = some(count=200)
        shown = labels.copy()
        shown[50:] = -1
        found = fit_head(embeddings, shown, 3)
        assert found is not None
        assert (found.predicted[50:] == labels[50:]).mean() > 0.9
        np.testing.assert_allclose(found.chances.sum(1), 1)
        np.testing.assert_allclose(found.score(embeddings[50:]), found.chances[50:])

    def test_wrong_labels_are_the_doubtful_ones(self):
        embeddings, labels = some(count=300)
        said = labels.copy()
        said[:15] = (said[:15] + 1) % 3
        found = fit_head(embeddings, said, 3)
        assert found is not None
        assert len({*np.argsort(-found.doubt(said))[:15].tolist()} & {*range(15)}) >= 11

    def test_one_class_is_nothing_to_learn(self):
        embeddings, labels = some()
        assert fit_head(embeddings, np.zeros_like(labels), 3) is None
        assert fit_head(embeddings, np.full_like(labels, -1), 3) is None

    @given(count=st.integers(2, 12), width=st.integers(1, 40), seed=st.integers(0, 2**16))
    def test_very_few_images_are_enough(self, count: int, width: int, seed: int):
        """Fewer than numbers in an embedding, and classes with a single image, or with none."""
        embeddings, labels = some(count, width, 4, seed)
        found = fit_head(embeddings, labels, 5)
        if found is not None:
            assert np.isfinite(found.chances).all()
            assert found.chances.shape == (count, 5)
            assert ((found.doubt(labels) >= 0) & (found.doubt(labels) <= 1)).all()


class TestEnough:
    def test_more_images_help_as_far_as_they_do(self):
        """What is said of twice as many holds: the accuracy with twice as many lies in the interval, or near it."""
        embeddings, labels = some(count=1600, width=30, classes=6)
        embeddings += np.random.default_rng(1).normal(size=embeddings.shape) * 3
        for count in (100, 200, 400):
            shown = labels.copy()
            shown[count:] = -1
            curve = learning_curve(embeddings, shown, 6)
            assert curve is not None
            assert [point.count for point in curve.points] == [round(count * share) for share in SHARES]
            assert curve.now.count == count
            assert curve.twice.low - 0.03 <= curve.twice.accuracy <= curve.twice.high + 0.03
            shown[: 2 * count] = labels[: 2 * count]
            head_of_twice = fit_head(embeddings, shown, 6)
            assert head_of_twice is not None
            truth = (head_of_twice.predicted[2 * count :] == labels[2 * count :]).mean()
            assert abs(truth - curve.twice.accuracy) < 0.06

    def test_too_few_tell_nothing(self):
        embeddings, labels = some(count=19)
        assert learning_curve(embeddings, labels, 3) is None


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("mixer_cifar10", embeddings=True)


@pytest.fixture
def garments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 small photos of trousers and boots: 8 are not sorted yet, and one of the trousers lies among the boots."""
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path / "cache"))
    images = data.open("fashion_mnist_small")["train"]
    for label, name in ((1, "trouser"), (9, "boot")):
        for number, index in enumerate(np.flatnonzero(images.labels == label)[:20].tolist()):
            folder = tmp_path / "photos" / ("unsorted" if number >= 16 else "boot" if number == 3 else name)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(images.read(index))).save(folder / f"{name}{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def opened(predictor: Predictor) -> Iterator[Callable[..., Studio]]:
    """A function that opens a folder."""
    with ExitStack() as stack:
        yield lambda folder, version="1": stack.enter_context(closing(Studio(folder, predictor, version)))


def row(studio: Studio, path: str) -> Row:
    return next(one for one in studio.rows() if one.path == path)


class TestStudio:
    def test_from_photos_to_sorted_folders(self, garments: Path, opened: Callable[..., Studio]):
        studio = opened(garments)
        assert len(studio.unseen()) == 40
        assert {one.predicted for one in studio.rows()} == {None}
        studio.look()
        assert studio.unseen() == []
        found = {one.path: one for one in studio.rows()}
        wrong = [one.path for one in found.values() if one.predicted != one.path.split("/")[1][:-4].strip("0123456789")]
        assert len(wrong) <= 1
        # What lies in the wrong folder is the most doubtful of all that has a label.
        assert max((one for one in found.values() if one.label), key=lambda one: one.doubt).path == "boot/trouser3.png"

        version = studio.version
        studio.say(["boot/trouser3.png"], "trouser")
        studio.say(["unsorted/boot17.png", "unsorted/boot18.png"], "boot")
        studio.say(["unsorted/boot17.png"], "wellington")
        assert studio.version > version
        assert studio.classes == ["boot", "trouser", "wellington"]
        assert studio.undo() == ("unsorted/boot17.png",)
        assert (row(studio, "unsorted/boot17.png").label, studio.classes) == ("boot", ["boot", "trouser"])
        assert studio.redo() == ("unsorted/boot17.png",)
        assert studio.undo() is not None
        assert sorted(garments.rglob("*.png")) == sorted(garments / path for path in found)  # nothing was moved yet

        assert studio.apply() == []
        assert (garments / "trouser/trouser3.png").exists()
        assert not (garments / "boot/trouser3.png").exists()
        assert studio.unseen() == []  # although paths have changed
        assert {one.said for one in studio.rows()} == {False}
        assert row(studio, "boot/boot17.png").label == "boot"

    def test_opened_again_it_has_everything(self, garments: Path, opened: Callable[..., Studio]):
        studio = opened(garments)
        studio.look()
        studio.say(["boot/trouser3.png"], "trouser")
        studio.add_class("scarf")
        before = studio.rows()
        with pytest.raises(UsageError, match="is open in another"):
            opened(garments)
        studio.close()
        again = opened(garments)
        assert again.unseen() == []
        assert again.rows() == before
        assert again.classes == ["boot", "trouser", "scarf"]
        again.close()
        assert len(opened(garments, "another version of the weights").unseen()) == 40

    def test_images_that_change_break_or_go(self, garments: Path, opened: Callable[..., Studio]):
        studio = opened(garments)
        studio.look()
        (garments / "boot/boot1.png").write_bytes(b"no image")
        (garments / "boot/boot2.png").unlink()
        (garments / "boot/new.png").write_bytes((garments / "trouser/trouser1.png").read_bytes())
        studio.scan()
        assert [photo.path for photo in studio.unseen()] == ["boot/boot1.png", "boot/new.png"]
        studio.look()
        assert "boot/boot2.png" not in {one.path for one in studio.rows()}
        assert row(studio, "boot/boot1.png").predicted is None
        assert row(studio, "boot/boot1.png").problem
        assert row(studio, "boot/new.png").predicted == "trouser"

    def test_test_images_are_not_learned_from(self, garments: Path, opened: Callable[..., Studio]):
        (garments / "train").mkdir()
        for name in ("trouser", "boot", "unsorted"):
            (garments / name).rename(garments / "train" / name)
        (garments / "test" / "boot").mkdir(parents=True)
        (garments / "train/boot/trouser3.png").rename(garments / "test/boot/trouser3.png")
        studio = opened(garments)
        studio.look()
        before = [one.chance for one in studio.rows() if one.split == "train"]
        studio.say(["test/boot/trouser3.png"], "trouser")
        assert [one.chance for one in studio.rows() if one.split == "train"] == before
        assert studio.apply() == []
        assert (garments / "test/trouser/trouser3.png").exists()

    def test_an_empty_folder(self, tmp_path: Path, opened: Callable[..., Studio], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path / "cache"))
        studio = opened(tmp_path / "new")
        studio.look()
        studio.add_class("cat")
        assert (studio.rows(), studio.classes, studio.curve()) == ([], ["cat"], None)
        assert studio.apply() == []
        assert (tmp_path / "new/cat").is_dir()

    def test_what_cannot_be_said(self, garments: Path, opened: Callable[..., Studio]):
        studio = opened(garments)
        for wrong in ("", "..", ".hidden", "a/b", "unsorted", "x" * 101, "a\0b", "Boot"):
            with pytest.raises(UsageError):
                studio.add_class(wrong)
        for paths in ([], ["../secret.jpg"], ["boot/none.png"]):
            with pytest.raises(UsageError):
                studio.say(paths, "boot")
        assert not (garments / ".mixer-studio/corrections.jsonl").exists()

    def test_a_crash_while_images_are_moved(self, garments: Path, opened: Callable[..., Studio]):
        studio = opened(garments)
        studio.say(["boot/trouser3.png"], "trouser")
        planned = moves.plan(garments, studio.photos, studio.corrections.labels)
        moves.write(garments / ".mixer-studio/moves.jsonl", planned)  # and then the power failed
        studio.close()
        again = opened(garments)
        assert again.unmoved == []
        assert (garments / "trouser/trouser3.png").exists()
        assert len(again.photos) == 40

    def test_what_cannot_be_opened_is_not_locked(self, garments: Path, opened: Callable[..., Studio]):
        corrections = garments / ".mixer-studio" / "corrections.jsonl"
        corrections.parent.mkdir()
        corrections.write_text("no JSON\n")
        with pytest.raises(DataError, match="line 1, is not a correction"):
            opened(garments)
        corrections.unlink()
        assert len(opened(garments).photos) == 40

    def test_whoever_waits_is_told(self, garments: Path, opened: Callable[..., Studio]):
        studio = opened(garments)
        version = studio.version
        assert studio.wait(version, timeout=0) == version
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(studio.wait, version, 60)
            studio.say(["boot/boot1.png"], "trouser")
            assert waiting.result() == studio.version > version


SHORT = {
    "train.steps": "60",
    "train.batch_size": "8",
    "machine.workers": "0",
    "machine.save_every": "5",
    "evaluation.every_epochs": "1",
    "machine.log_every": "1",
}


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that another process does."""
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.slow
class TestTrainings:
    def test_start_stop_go_on_finish(self, garments: Path, opened: Callable[..., Studio]):
        studio = opened(garments)
        labeled = [(photo, photo.label) for photo in studio.photos if photo.label is not None]
        trainings = Trainings(garments / ".mixer-studio" / "runs", SHORT)
        name = trainings.start(garments, labeled)
        with pytest.raises(UsageError, match="is at work"):
            trainings.start(garments, labeled)
        until(lambda: any(line["kind"] == "train" for line in trainings.state(name).metrics) or not trainings.running)
        assert trainings.state(name).state == "running", trainings.state(name)
        trainings.stop()
        stopped = trainings.state(name)
        assert stopped.state == "stopped"
        again = Trainings(garments / ".mixer-studio" / "runs", SHORT)  # of a new studio
        assert [one.name for one in again.states()] == ["1"]
        again.resume("1")
        until(lambda: not again.running)
        finished = again.state("1")
        assert finished.state == "finished", finished.why
        assert finished.result is not None
        assert finished.result["val"]["top1"] > 0.5

    def test_a_run_that_fails_says_why(self, garments: Path, opened: Callable[..., Studio]):
        studio = opened(garments)
        labeled = [(photo, photo.label) for photo in studio.photos if photo.label is not None]
        trainings = Trainings(garments / ".mixer-studio" / "runs", {"optim.lr": "-1"})
        name = trainings.start(garments, labeled)
        until(lambda: not trainings.running)
        assert trainings.state(name).state == "failed"
        assert "optim.lr" in trainings.state(name).why


def test_too_few_images_are_not_trained_on(tmp_path: Path):
    photos = [Photo(f"{n}.jpg", "", None, (0, 0)) for n in range(3)]
    for labels in (["a", "a", "a"], ["a", "a", "b"], []):
        with pytest.raises(UsageError, match="needs two classes with 2 images each"):
            Trainings(tmp_path).start(tmp_path, [*zip(photos, labels, strict=False)])
    with pytest.raises(UsageError, match="there is no run 7"):
        Trainings(tmp_path).resume("7")
