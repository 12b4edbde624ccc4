"""Which pictures are meant: files as they are named, and all that is below a folder, found little by little."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from mlpmixer.data.sources.folder import Places, entered, lies_in, look
from mlpmixer.data.sources.naming import EXTENSIONS
from mlpmixer.errors import DataError

Tell = Callable[[str], object]


def pictures(given: Iterable[str], tell: Tell) -> Iterator[str]:
    """Files, whether they are there or not, and of each folder the pictures below it: by name, then folder by folder.

    Only the names within one folder, and within those that it lies in, are held at a time. `tell` hears of folders that
    cannot be read.
    """
    for path in given:
        if not os.path.isdir(path):  # noqa: PTH112 (a Path complains of a name that is too long)
            yield path
            continue
        empty = True
        for picture in _below(path, frozenset(), tell):
            empty = False
            yield picture
        if empty:
            raise DataError(f"there are no pictures ({' '.join(EXTENSIONS)}) in {path}")


def lines(source: BinaryIO) -> Iterator[str]:
    """Paths, one a line."""
    for line in source:
        if name := line.rstrip(b"\r\n"):
            yield os.fsdecode(name)


def _below(folder: str, above: Places, tell: Tell) -> Iterator[str]:
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
