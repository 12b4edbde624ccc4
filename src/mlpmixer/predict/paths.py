"""Paths of images: files as they are named, and all that is below a folder, found little by little."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mlpmixer.data.sources.folder import FolderImages, Folders, entered, lies_in, look
from mlpmixer.data.sources.naming import EXTENSIONS
from mlpmixer.errors import DataError, ImageError, UsageError, nearest_path
from mlpmixer.predict.addresses import is_address

Tell = Callable[[str], object]

CHUNK = 1 << 16  # bytes; no path is as long


def images(given: Iterable[str], tell: Tell) -> Iterator[str]:
    """Files, whether they are there or not, and of each folder the images below it: by name, then folder by folder.

    Only the names within one folder, and within those that it lies in, are held at a time. `tell` is called with
    folders that cannot be read.
    """
    for path in given:
        if not os.path.isdir(path):  # noqa: PTH112 (a Path complains of a name that is too long)
            yield path
            continue
        empty = True
        for image in _below(path, frozenset(), tell):
            empty = False
            yield image
        if empty:
            raise DataError(f"there are no images ({' '.join(EXTENSIONS)}) in {path}{_others(path)}")


def names(source: BinaryIO, *, null: bool) -> Iterator[str]:
    """Paths, one a line; `null`: each ended by a NUL instead, so that there may be ends of lines in them. No more is
    waited for while there are some."""
    end, rest = b"\0" if null else b"\n", b""
    while piece := source.read1(CHUNK):  # pyright: ignore[reportAttributeAccessIssue] (all that have a buffer do)
        if not null and b"\0" in piece:
            raise UsageError("the names on standard input are ended by NULs, not by ends of lines; say so with -0")
        *whole, rest = (rest + piece).split(end)
        if len(rest) > CHUNK:
            raise UsageError(f"a name on standard input goes on after {CHUNK:,} bytes; are these names of images?")
        yield from _decoded(whole, null)
    yield from _decoded([rest], null)


def _decoded(found: list[bytes], null: bool) -> Iterator[str]:
    for name in found:
        if name := name if null else name.rstrip(b"\r"):
            yield os.fsdecode(name)


def _others(folder: str) -> str:
    """What is there instead: iPhones' HEIC, raw files."""
    found = FolderImages(Path(folder), (), np.empty(0, np.int64)).ignored()
    listed = [f"{count:,} {extension}" for extension, count in found.most_common(4) if extension]
    if not listed:
        return ""
    return f", but {', '.join(listed)}, which are not read; convert them, to JPEG for instance, if they are images"


def _below(folder: str, above: Folders, tell: Tell) -> Iterator[str]:
    try:
        inside = entered(Path(folder), above) if above else lies_in(Path(folder))
        if inside is None:
            tell(f"{folder} is a link to a folder that it lies in")
            return
        folders, files = look(Path(folder))
    except DataError as error:
        tell(str(error))
        return
    except OSError as error:
        tell(f"{folder} cannot be read: {error.strerror}")
        return
    files.reverse()
    while files:  # which lets go of the names
        yield os.path.join(folder, files.pop())  # noqa: PTH118 (a million Paths are slow)
    for name in folders:
        yield from _below(os.path.join(folder, name), inside, tell)  # noqa: PTH118


def require_some(given: Sequence[str]) -> None:
    """Refuse names of images none of which is there; paths on standard input, and addresses, are not known yet.

    Raises:
        ImageError: There is no such file.
    """
    missing = [name for name in given if name != "-" and not is_address(name) and not os.path.exists(name)]  # noqa: PTH110
    if missing and len(missing) == len(given):
        others = f", nor any of the other {len(missing) - 1:,}" if len(missing) > 1 else ""
        raise ImageError(f"there is no file {missing[0]}{others}{nearest_path(missing[0])}")
