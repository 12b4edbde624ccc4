"""What a person says of images: a file with a line for each change, which only ever grows.

    {"at": 1764547200.0, "images": ["hat/a.jpg", "hat/b.jpg"], "label": "cap"}
    {"at": 1764547203.1, "images": ["c.jpg"], "label": null}
    {"at": 1764547204.5, "class": "scarf"}
    {"at": 1764547207.9, "undo": true}
    {"at": 1764547209.2, "redo": true}

Images are paths within the folder. What holds is found by reading it from the start, so that closing the page, a crash
or an undo loses nothing: a line is on the disk before it counts, and one that was cut off in the middle is dropped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlpmixer.errors import DataError
from mlpmixer.files import read


@dataclass(frozen=True)
class Change:
    """One thing that was said. `before`: the labels until then of the images; None: what their folders say."""

    images: tuple[str, ...] = ()
    label: str | None = None
    added: str | None = None  # a class
    before: tuple[Any, ...] = ()


NOTHING = object()  # was said of an image so far


@dataclass
class Corrections:
    """All changes, and what follows of them.

    Args:
        path: The file; it need not be there yet.
        now: The time.

    Attributes:
        labels: Of the images of which something was said; None: none of the classes.
        classes: That were added, in order.
        done: Changes that hold.
        undone: Changes that can be made again.

    Raises:
        DataError: The file is not one of these.
    """

    path: Path
    now: Callable[[], float] = time.time
    labels: dict[str, str | None] = field(default_factory=dict, init=False)
    classes: list[str] = field(default_factory=list, init=False)
    done: list[Change] = field(default_factory=list, init=False)
    undone: list[Change] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        content = read(self.path) if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError):
                raise DataError(f"{self.path}, line {number}, is not a correction; move the file away") from None
        if len(whole) < len(content):  # cut off by a crash
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def say(self, images: Iterable[str], label: str | None) -> None:
        """The images are of this class; None: of none."""
        self._write({"images": [*images], "label": label})

    def add_class(self, name: str) -> None:
        self._write({"class": name})

    def undo(self) -> Change | None:
        """Takes the last change back that holds; returns it."""
        return self._again(self.done, "undo")

    def redo(self) -> Change | None:
        """Makes the last change again that was taken back, if there was none since; returns it."""
        return self._again(self.undone, "redo")

    def _again(self, changes: list[Change], word: str) -> Change | None:
        if not changes:
            return None
        change = changes[-1]
        self._write({word: True})
        return change

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"at": round(self.now(), 3), **entry}, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        if "undo" in entry:
            change = self.done.pop()
            for image, before in zip(change.images, change.before, strict=True):
                self._put(image, before)
            if change.added is not None:
                self.classes.pop()
            self.undone.append(change)
        elif "redo" in entry:
            self._apply(self.undone.pop())
        elif "class" in entry:
            self._apply(Change(added=str(entry["class"])))
            self.undone.clear()
        else:
            images, label = tuple(map(str, entry["images"])), entry["label"]
            if not (label is None or isinstance(label, str)):
                raise TypeError(label)
            self._apply(Change(images, label, before=tuple(self.labels.get(image, NOTHING) for image in images)))
            self.undone.clear()

    def _apply(self, change: Change) -> None:
        for image in change.images:
            self.labels[image] = change.label
        if change.added is not None:
            self.classes.append(change.added)
        self.done.append(change)

    def _put(self, image: str, before: Any) -> None:
        if before is NOTHING:
            self.labels.pop(image, None)
        else:
            self.labels[image] = before
