"""Packing of data sets: every image is decoded once and written as `packed` reads it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from mlpmixer.data.dataset import DataSet, Split
from mlpmixer.data.images import pixels
from mlpmixer.data.preprocess import resize, short_side
from mlpmixer.data.sources.packed import MANIFEST, VERSION
from mlpmixer.download import say_waiting
from mlpmixer.errors import DataError, MixerError, UsageError
from mlpmixer.files import whole_folder
from mlpmixer.machine.cores import cores
from mlpmixer.machine.processes import each
from mlpmixer.machine.progress import progress_bar
from mlpmixer.version import __version__

Shape = Literal["short_side", "stretch"]
OnBadImage = Literal["strict", "skip"]

CHUNK = 32  # images that a process hands over at once


def pack(
    dataset: DataSet,
    folder: str | os.PathLike[str],
    *,
    size: int | None = None,
    shape: Shape = "short_side",
    on_bad_image: OnBadImage = "strict",
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a packed data set, complete or not at all.

    Args:
        dataset: What to pack.
        folder: The new folder.
        size: Pixels; None keeps all sizes.
        shape: "short_side" reduces the shorter side to `size`, in proportion, and leaves smaller images as they are;
            "stretch" brings both sides to `size`.
        on_bad_image: "strict" stops at an image that cannot be read, "skip" lists it in the manifest.
        workers: Processes that decode; None: one a core; 0: this one.
        progress: Show a bar on a terminal.

    Returns:
        The absolute path of `folder`.

    Raises:
        DataError: The folder exists already or cannot be written, or an image cannot be read.
    """
    if size is not None and size < 1:
        raise UsageError(f"size is {size}: must be 1 pixel or more")
    folder = Path(folder).expanduser().absolute()
    shown = progress and sys.stderr.isatty()
    workers = cores() if workers is None else workers
    write = partial(
        _write, dataset=dataset, size=size, shape=shape, on_bad_image=on_bad_image, workers=workers, shown=shown
    )
    try:
        if not whole_folder(folder, write, partial(say_waiting, folder, shown)):
            raise DataError(f"{folder} is there already; choose another name, or delete it")
    except MixerError:
        raise
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror}; choose a place with enough room") from error
    return folder


def _write(
    folder: Path, dataset: DataSet, size: int | None, shape: Shape, on_bad_image: OnBadImage, workers: int, shown: bool
) -> None:
    files, counts, skipped = {}, {}, []
    with progress_bar(shown) as show:
        for name, split in dataset.splits.items():
            done, kept, sizes = 0, [np.empty(0, np.int64)], [np.empty((0, 2), np.int32)]
            with (
                _new(folder / f"{name}.pixels", files) as file,
                _new(folder / f"{name}.where.txt", files) as places,
                closing(_chunks(split, size, shape, workers)) as chunks,
            ):
                for chunk in chunks:
                    if chunk.broken and on_bad_image == "strict":
                        raise DataError(f'{chunk.broken[0]}; mend or remove it, or set on_bad_image to "skip"')
                    file.write(chunk.values.data)
                    for index in chunk.kept:
                        line = json.dumps(split.where(index), ensure_ascii=False) + "\n"
                        places.write(line.encode("utf-8", "surrogateescape"))
                    kept.append(np.array(chunk.kept, np.int64))
                    sizes.append(np.array(chunk.sizes, np.int32).reshape(-1, 2))
                    skipped += chunk.broken
                    done += len(chunk.kept) + len(chunk.broken)
                    show(name, done, len(split))
            labels = split.labels[np.concatenate(kept)].astype(np.int64)
            _save(folder / f"{name}.labels.npy", labels, files)
            _save(folder / f"{name}.sizes.npy", np.concatenate(sizes), files)
            counts[name] = len(labels)
    manifest = {
        "version": VERSION,
        "made_by": f"mlpmixer {__version__}",
        "source": dataset.source,
        "size": size,
        "shape": shape if size else None,
        "classes": dataset.classes,
        "splits": counts,
        "skipped": skipped,
        "files": files,
    }
    with _new(folder / MANIFEST, {}) as file:
        file.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape"))


class _File:
    """A file that is written, with its length and checksum so far."""

    def __init__(self, file: io.BufferedIOBase):
        self.file, self.bytes, self.digest = file, 0, hashlib.sha256()

    def write(self, content: bytes | memoryview) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.bytes += len(content)


@contextmanager
def _new(path: Path, files: dict[str, dict[str, int | str]]) -> Iterator[_File]:
    """Write a file; once it is on the disk, its length and checksum are added to `files`."""
    with path.open("wb") as raw:
        file = _File(raw)
        yield file
        raw.flush()
        os.fsync(raw.fileno())
    files[path.name] = {"bytes": file.bytes, "sha256": file.digest.hexdigest()}


def _save(path: Path, array: np.ndarray, files: dict[str, dict[str, int | str]]) -> None:
    content = io.BytesIO()
    np.save(content, array)
    with _new(path, files) as file:
        file.write(content.getvalue())


@dataclass
class _Chunk:
    """Decoded images: their values one after another, heights and widths, and indices; and why others are missing."""

    values: np.ndarray
    sizes: list[tuple[int, int]]
    kept: list[int]
    broken: list[str]


def _chunks(split: Split, size: int | None, shape: Shape, workers: int) -> Generator[_Chunk]:
    """In order, whichever is done first."""
    wanted = (range(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK))
    early, due = {}, 0
    with closing(each(partial(_read, split, size, shape), wanted, workers)) as done:
        for indices, chunk in done:
            if chunk is None:
                first, last = split.where(indices[0]), split.where(indices[-1])
                raise DataError(
                    f"an image between {first} and {last} kills the process that reads it; `mixer doctor` finds it"
                )
            early[indices.start] = chunk
            while due in early:
                yield early.pop(due)
                due += CHUNK


def _read(split: Split, size: int | None, shape: Shape, indices: range) -> _Chunk:
    images, kept, broken = [], [], []
    for index in indices:
        try:
            images.append(_sized(pixels(split.read(index)), size, shape))
            kept.append(index)
        except MixerError as error:
            where = split.where(index)
            broken.append(str(error) if where in str(error) else f"{where}: {error}")
    values = np.concatenate([np.empty(0, np.uint8), *(image.ravel() for image in images)])
    return _Chunk(values, [image.shape[:2] for image in images], kept, broken)


def _sized(image: np.ndarray, size: int | None, shape: Shape) -> np.ndarray:
    height, width = image.shape[:2]
    if size is None or (shape == "short_side" and min(height, width) <= size):
        return image
    wanted = (size, size) if shape == "stretch" else short_side(height, width, size)
    return resize(image, wanted).permute(1, 2, 0).numpy()
