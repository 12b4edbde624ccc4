"""Data sets: `open(spec)` finds out of which kind `spec` is, and returns its classes and splits.

A spec is the name of a built-in data set, `hf:NAME`, a folder of images (`root/class/*.jpg`, or that within train/,
val/ and test/), a folder made by `mixer pack` or by `save_to_disk` of the library datasets, a list in a .csv, .tsv or
.parquet file, .parquet files with the images themselves, or WebDataset shards (`shards-{000..011}.tar`, here or behind
http). Names of columns may stand behind a list or .parquet: `photos.parquet?image=foto&label=kind`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlpmixer.errors import DataError, MixerError, nearest

if TYPE_CHECKING:
    from mlpmixer.data.dataset import DataSet
    from mlpmixer.data.sources.table import Source, Spec


def open(spec: str | os.PathLike[str], *, strict: bool = True) -> DataSet:
    """Open a data set.

    Args:
        spec: A name or a path, as in docs/data.md. Of two kinds that it could be, the first of `SOURCES` counts;
            `./NAME` is always a path.
        strict: Refuse a folder with a link to a folder that it lies in; otherwise such links are left out.

    Returns:
        The classes and the splits. No image has been read yet.

    Raises:
        DataError: There is no such data set, or it is damaged; the message says what to do.
        FetchError: It cannot be downloaded.
        MissingPackage: It needs an optional package.
    """
    from mlpmixer.data.sources.folder import refuse_loops

    source, asked = require_source(spec)
    with _explained(asked.text):
        opened = source.open(asked)
        if strict:
            refuse_loops(opened)
        return opened


def require_source(spec: str | os.PathLike[str]) -> tuple[Source, Spec]:
    """Which kind of data set `spec` is; nothing is opened, and torch not imported.

    Raises:
        DataError: There is no such data set.
    """
    from mlpmixer.data.sources.table import SOURCES, Spec  # not above: they import this package

    text = os.path.expanduser(os.fspath(spec))  # noqa: PTH111 (that of Path fails on a ~person who does not exist)
    asked = Spec(text)
    with _explained(text):
        for source in SOURCES.values():
            if text and source.recognizes(asked):
                return source, asked
        raise _unknown(asked)


@contextmanager
def _explained(text: str) -> Iterator[None]:
    try:
        yield
    except MixerError:
        raise
    except OSError as error:  # no permission, or a name that is too long
        raise DataError(f"cannot open {text!r}: {error.strerror or error}") from error


def _unknown(spec: Spec) -> DataError:
    from mlpmixer.data.sources.builtin import BUILTIN

    text, path = spec.text, spec.path
    what = f"{text!r} is a file, but no data set"
    if not text or not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        known_here = [*BUILTIN, *beside] if path.name == text else beside
        what = f"there is no data set {text!r}{nearest(path.name, known_here)}"
    return DataError(
        f"{what} (give {', '.join(BUILTIN)}, hf:NAME, a folder with a folder of images for each class, a .csv, .tsv or "
        ".parquet list, or .tar shards)"
    )
