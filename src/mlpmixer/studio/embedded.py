"""Embeddings of the images of a folder, kept in the cache: each image is looked at once.

    embeddings.npy   a row for each image that could be read
    images.jsonl     a line for each image: its path, its stamp, and its row, or what is wrong with it

Rows are on the disk before the lines that speak of them. After a crash there may be rows too many, which are cut off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mlpmixer.errors import DataError
from mlpmixer.files import make_folder
from mlpmixer.predict.embeddings import Embeddings, rows_in
from mlpmixer.studio.photos import Photo

Found = int | str  # a row, or why there is none


class EmbeddingCache:
    """Of one folder and one model.

    Args:
        folder: Where it is kept.
        width: Numbers of an embedding.
    """

    def __init__(self, folder: Path, width: int):
        make_folder(folder)
        self.width = width
        self.path, self.list = folder / "embeddings.npy", folder / "images.jsonl"
        try:
            rows = rows_in(self.path, width)
            self.found = _read(self.list, rows)
        except (DataError, OSError):  # damaged, or of another width: everything is computed anew
            rows, self.found = 0, {}
        if not self.found:
            rows = 0
            self.list.write_bytes(b"")
        self._rows = Embeddings(self.path, width, rows if self.path.exists() else None)
        self._file = self.list.open("ab")
        self._values = np.load(self.path, mmap_mode=None)[:rows] if rows else np.empty((0, width), np.float32)
        self._new: list[Float32[np.ndarray, " D"]] = []
        self._lines: list[bytes] = []

    def __contains__(self, photo: Photo) -> bool:
        return self._entry(photo) is not None

    def problem(self, photo: Photo) -> str:
        """What is wrong with the image; nothing of those that could be read, or were not looked at."""
        found = self._entry(photo)
        return found if isinstance(found, str) else ""

    def add(self, photo: Photo, embedding: Float32[np.ndarray, " D"] | str) -> None:
        """The embedding of an image, or what is wrong with it."""
        found: Found = embedding if isinstance(embedding, str) else self._rows.rows
        if not isinstance(embedding, str):
            self._rows.write(embedding)
            self._new.append(embedding)
        self.found[photo.path] = photo.stamp, found
        self._lines.append(json.dumps([photo.path, *photo.stamp, found]).encode() + b"\n")

    def rename(self, before: str, now: str) -> None:
        """An image that was moved."""
        stamp, found = self.found.pop(before)
        self.found[now] = stamp, found
        self._lines.append(json.dumps([now, *stamp, found]).encode() + b"\n")

    def flush(self) -> None:
        self._rows.flush()
        self._file.write(b"".join(self._lines))
        self._file.flush()
        self._lines = []

    def close(self) -> None:
        self.flush()
        self._rows.close()
        self._file.close()

    def table(self, photos: Sequence[Photo]) -> tuple[Float32[np.ndarray, "N D"], np.ndarray]:
        """The embeddings of those that have one, and their positions among `photos`."""
        if self._new:
            self._values, self._new = np.concatenate([self._values, np.stack(self._new)]), []
        entries = [self._entry(photo) for photo in photos]
        positions = np.array([n for n, found in enumerate(entries) if isinstance(found, int)], dtype=np.int64)
        rows = np.array([found for found in entries if isinstance(found, int)], dtype=np.int64)
        return self._values[rows], positions

    def _entry(self, photo: Photo) -> Found | None:
        stamp, found = self.found.get(photo.path, (None, ""))
        return found if stamp == photo.stamp else None


def _read(path: Path, rows: int) -> dict[str, tuple[tuple[int, int], Found]]:
    found: dict[str, tuple[tuple[int, int], Found]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            name, changed, size, entry = _checked(json.loads(line))
        except ValueError:  # half a line
            continue
        if isinstance(entry, str) or entry < rows:
            found[name] = (changed, size), entry
    return found


def _checked(line: Any) -> tuple[str, int, int, Found]:
    match line:
        case [str(name), int(changed), int(size), int() | str() as entry]:
            return name, changed, size, entry
    raise ValueError(line)
