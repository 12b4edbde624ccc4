"""A folder of images under a person's hands: what is in it, what was said of it, and what a model makes of it.

    scan → look at each image once (embeddings) → fit the head to what was said → doubt, predictions → say more

Everything here is without HTTP. Any thread may call it; `wait` tells of changes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlpmixer.errors import ImageError, UsageError
from mlpmixer.files import cache_folder, locked
from mlpmixer.predict.predictor import Predictor
from mlpmixer.studio import moves
from mlpmixer.studio.corrections import Corrections
from mlpmixer.studio.embedded import EmbeddingCache
from mlpmixer.studio.enough import LearningCurve, learning_curve
from mlpmixer.studio.head import Head, fit_head
from mlpmixer.studio.photos import UNSORTED, Photo, scan

OWN = ".mixer-studio"  # the folder within the folder; what begins with a dot is no class
BATCH = 64  # images that are looked at between two looks at the rest
FORBIDDEN = '/\\:*?"<>|'  # in names of classes, which become folders


@dataclass(frozen=True)
class Row:
    """An image as a person sees it.

    Attributes:
        path: Within the folder.
        split: "train", "val", "test" or "".
        label: What was said of it, or else what its folder says.
        said: Whether it was said here, and is not true of the folder yet.
        predicted: The likeliest class; None: nothing was learned, or the image was not looked at yet.
        chance: Its probability.
        doubt: From 0 to 1: how much there is to gain by looking at it.
        problem: Why it cannot be read.
    """

    path: str
    split: str
    label: str | None
    said: bool
    predicted: str | None
    chance: float
    doubt: float
    problem: str


class Studio:
    """Opens a folder; `look` and `learn` do the work.

    Args:
        root: The folder; it is made if it is not there.
        predictor: Whose embeddings are used.
        version: Of its weights: embeddings are kept for each.

    Attributes:
        unmoved: What could not be moved when it was opened, after a crash, a line each.

    Raises:
        UsageError: The folder cannot be written to.
        DataError: It cannot be read, or holds corrections that are damaged.
    """

    def __init__(self, root: Path, predictor: Predictor, version: str):
        self.root, self.predictor = root.absolute(), predictor
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 0  # of what is shown: one more with each change
        self.head: Head | None = None
        self.positions = np.empty(0, np.int64)  # of the images that the head knows
        with ExitStack() as opened:  # what fails here leaves nothing locked
            self._hold(opened)
            self.unmoved = self._finish_moves()
            self.corrections = Corrections(self.root / OWN / "corrections.jsonl")
            digest = hashlib.blake2b(f"{self.root}\n{version}".encode("utf-8", "surrogateescape"), digest_size=8)
            self.embedded = EmbeddingCache(cache_folder() / "studio" / digest.hexdigest(), predictor.width)
            opened.callback(self.embedded.close)
            self.scan()
            self._opened = opened.pop_all()

    def close(self) -> None:
        with self.lock:
            self._opened.close()

    # What there is.

    def scan(self) -> None:
        """Looks at the folder anew, not at the images."""
        with self.lock:
            found = scan(self.root)
            self.photos, self.folders = found.images, found.classes
            self.index = {photo.path: n for n, photo in enumerate(self.photos)}
            self.learn()

    @property
    def classes(self) -> list[str]:
        """Those of folders, then those that were added here, then any other that was said."""
        said = [label for label in self.corrections.labels.values() if label is not None]
        return list(dict.fromkeys([*self.folders, *self.corrections.classes, *said]))

    def label(self, photo: Photo) -> str | None:
        return self.corrections.labels.get(photo.path, photo.label)

    def unseen(self) -> list[Photo]:
        """Images that were not looked at yet."""
        return [photo for photo in self.photos if photo not in self.embedded]

    def look(self, stop: Callable[[], bool] = lambda: False, fresh: Callable[[], object] = lambda: None) -> None:
        """Looks at all images that were not looked at, and learns from time to time; in a thread of its own.

        Args:
            stop: Whether to end now.
            fresh: Called after each batch.
        """
        with self.lock:
            waiting = self.unseen()
        learned = 0
        for start in range(0, len(waiting), BATCH):
            if stop():
                return
            batch = waiting[start : start + BATCH]
            found = [one for _, one in self.predictor.stream([self.root / photo.path for photo in batch])]
            with self.lock:
                for photo, one in zip(batch, found, strict=True):
                    if isinstance(one, ImageError):
                        self.embedded.add(photo, str(one))
                    else:
                        assert one.embedding is not None
                        self.embedded.add(photo, one.embedding)
                self.embedded.flush()
                if start + BATCH >= 2 * learned or start + BATCH >= len(waiting):
                    learned = start + BATCH
                    self.learn()
                else:
                    self._tell()
            fresh()

    def learn(self) -> None:
        """Fits the head to what is said now; images of val and test are predicted, and not learned from."""
        with self.lock:
            table, self.positions = self.embedded.table(self.photos)
            names = {name: n for n, name in enumerate(self.classes)}
            labels = [self.label(photo) for photo in self.photos]
            self.labels = np.array([-1 if label is None else names[label] for label in labels], dtype=np.int64)
            held_out = np.array([photo.split in ("val", "test") for photo in self.photos], dtype=bool)
            shown = np.where(held_out, -1, self.labels)[self.positions]
            self.head = fit_head(table, shown, len(names)) if len(table) else None
            self._tell()

    def curve(self) -> LearningCurve | None:
        """Whether more labels would help."""
        with self.lock:
            table, positions = self.embedded.table(self.photos)
            labels, classes = self.labels[positions], len(self.classes)
        return learning_curve(table, labels, classes)

    def rows(self) -> list[Row]:
        """All images, in the order of the folder."""
        with self.lock:
            names = self.classes
            chance = np.zeros(len(self.photos))
            doubt, predicted = np.full(len(self.photos), 0.5), np.full(len(self.photos), -1)
            if self.head is not None:
                own = self.labels[self.positions]
                chance[self.positions] = self.head.chances.max(1)
                predicted[self.positions] = self.head.predicted
                doubt[self.positions] = self.head.doubt(own)
            return [
                Row(
                    path=photo.path,
                    split=photo.split,
                    label=self.label(photo),
                    said=self.label(photo) != photo.label,
                    predicted=names[predicted[n]] if predicted[n] >= 0 else None,
                    chance=float(chance[n]),
                    doubt=float(doubt[n]),
                    problem=self.embedded.problem(photo),
                )
                for n, photo in enumerate(self.photos)
            ]

    # What is said.

    def say(self, paths: Sequence[str], label: str | None) -> None:
        """These images are of this class; None: of none.

        Raises:
            UsageError: There is no such image, or it is no name for a class.
        """
        with self.lock:
            unknown = next((path for path in paths if path not in self.index), None)
            if unknown is not None or not paths:
                raise UsageError(f"there is no image {unknown}" if paths else "say it of an image")
            self.corrections.say(paths, None if label is None else class_name(label))
            self.learn()

    def add_class(self, name: str) -> None:
        """A class that no image has yet.

        Raises:
            UsageError: It is there, or it is no name for a class.
        """
        with self.lock:
            name = class_name(name)
            if name.lower() in (one.lower() for one in self.classes):
                raise UsageError(f"there is a class {name} already")
            self.corrections.add_class(name)
            self.learn()

    def undo(self) -> Sequence[str] | None:
        """Takes back what was said last; returns the images, None if there is nothing."""
        with self.lock:
            change = self.corrections.undo()
            self.learn()
            return None if change is None else change.images

    def redo(self) -> Sequence[str] | None:
        """Says it again."""
        with self.lock:
            change = self.corrections.redo()
            self.learn()
            return None if change is None else change.images

    def apply(self) -> list[str]:
        """Moves images into the folders of their classes. What was said begins anew; the lists are kept.

        Returns:
            What could not be moved, a line each.
        """
        with self.lock:
            planned = moves.plan(self.root, self.photos, self.corrections.labels)
            for name in self.classes:
                self._class_folder(name).mkdir(parents=True, exist_ok=True)
            if planned:
                moves.write(self.root / OWN / "moves.jsonl", planned)
            failed = self._finish_moves()
            self._keep("corrections.jsonl")
            self.corrections = Corrections(self.root / OWN / "corrections.jsonl")
            self._moved(planned)
            self.scan()
            return failed

    def wait(self, version: int, timeout: float) -> int:
        """Returns the version of what is shown, as soon as it is another than `version`, or after `timeout` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != version, timeout)
            return self.version

    # Within.

    def _hold(self, opened: ExitStack) -> None:
        """Makes the folder, if need be, and keeps every other studio from it."""
        try:
            (self.root / OWN).mkdir(parents=True, exist_ok=True)
            opened.enter_context(locked(self.root / OWN / ".lock"))
        except BlockingIOError:
            raise UsageError(f"{self.root} is open in another studio; close that first") from None
        except OSError as error:
            raise UsageError(f"{self.root} cannot be written to: {error.strerror}") from None

    def _tell(self) -> None:
        self.version += 1
        self.changed.notify_all()

    def _class_folder(self, name: str) -> Path:
        split = next((photo.path.split("/")[0] for photo in self.photos if photo.split == "train"), "")
        return self.root / split / name

    def _finish_moves(self) -> list[str]:
        """Moves what a list says, also after a crash."""
        path = self.root / OWN / "moves.jsonl"
        if not path.exists():
            return []
        failed = moves.perform(self.root, moves.read(path))
        self._keep("moves.jsonl")
        return failed

    def _keep(self, name: str) -> None:
        """Under the next free number."""
        path = self.root / OWN / name
        if path.exists():
            number = 1 + len([*path.parent.glob(f"{path.stem}-*{path.suffix}")])
            path.rename(path.with_stem(f"{path.stem}-{number}"))

    def _moved(self, planned: Iterable[moves.Move]) -> None:
        """Moved images need not be looked at again."""
        for move in planned:
            known: Any = self.embedded.found.get(move.source)
            if known is not None and (self.root / move.target).exists():
                self.embedded.rename(move.source, move.target)


def class_name(text: str) -> str:
    """A name that can be a folder everywhere.

    Raises:
        UsageError: It cannot.
    """
    name = " ".join(text.split())
    if not name or name[0] == "." or name.lower() == UNSORTED or len(name) > 100 or {*name} & {*FORBIDDEN}:
        raise UsageError(f"'{name}' cannot be the name of a class, which becomes a folder")
    if not name.isprintable():
        raise UsageError("a class needs a name that can be read")
    return name
