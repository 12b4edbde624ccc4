"""Data sets: `open(spec)` finds out what `spec` is and returns its classes and splits.

A spec is the name of a known data set (`KNOWN`), `hf:NAME`, a folder of images (`root/class/*.jpg`, or that within
train/, val/ and test/), a folder made by `mixer pack` or by `save_to_disk` of the library datasets, a list in a .csv,
.tsv or .parquet file, .parquet files with the images themselves, or WebDataset shards (`shards-{000..011}.tar`, here
or behind http). Behind a list or .parquet stands what its columns are called: `photos.parquet?image=foto&label=kind`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from mlpmixer.errors import DataError, MixerError, nearest

if TYPE_CHECKING:
    from mlpmixer.data.dataset import DataSet


COLUMNS = ("image", "label", "split")


def open(spec: str | os.PathLike[str], *, strict: bool = True) -> DataSet:
    """The data set that `spec` names; of two that it could name, the first in this order. `./NAME` is always a path.

    strict: refuse a folder with a link to a folder that it lies in; otherwise such links are left out.
    """
    from mlpmixer.data.sources import cifar, folder, hub, lists, packed, parquet, shards, tfds
    from mlpmixer.data.sources.builtin import KNOWN
    from mlpmixer.data.sources.fashion_mnist import has_fashion_mnist, open_fashion_mnist
    from mlpmixer.data.sources.vtab import open_task
    from mlpmixer.data.sources.vtab_lists import is_vtab, open_vtab

    text = os.path.expanduser(os.fspath(spec))  # noqa: PTH111 (that of Path fails on a ~person who does not exist)
    if text in KNOWN:
        return KNOWN[text]()
    if text.startswith("hf:"):
        return hub.open_hub(text)
    if text.startswith("vtab:"):
        return open_task(text.removeprefix("vtab:"), open)
    if "://" in text:
        return shards.open_addresses(text)
    text, columns = _columns(text)
    source = str(Path(text).absolute()) + ("?" + urlencode(columns) if columns else "")
    kinds = (
        (packed.is_packed, packed.open_packed),
        (cifar.is_cifar, cifar.open_cifar),
        (has_fashion_mnist, lambda folder: open_fashion_mnist(folder, str(folder))),
        (hub.is_saved, hub.open_saved),
        (shards.is_shards, shards.open_shards),
        (lists.is_list, partial(lists.open_list, columns=columns, source=source)),
        (parquet.is_parquet, partial(parquet.open_parquet, columns=columns, source=source)),
        (is_vtab, open_vtab),
        (tfds.is_tfds, tfds.open_tfds),
        (Path.is_dir, folder.open_folder),
    )
    try:
        path = Path(text).absolute()
        opens = next((opens for recognizes, opens in kinds if text and recognizes(path)), None)
        if opens is None:
            raise _unknown(text, path, KNOWN)
        if columns and not isinstance(opens, partial):
            raise DataError(f"{text} has no columns; only lists and .parquet files have")
        opened = opens(path)
        if strict:
            folder.refuse_loops(opened)
        return opened
    except MixerError:
        raise
    except OSError as error:  # no permission, or a name that is too long
        raise DataError(f"cannot open {text!r}: {error.strerror or error}") from error


def _columns(text: str) -> tuple[str, dict[str, str]]:
    """A path and the columns that are named behind it, as in photos.parquet?image=foto&label=kind."""
    found = re.fullmatch(r"(.+)\?(\w+=.*)", text)
    if found is None or Path(text).exists():
        return text, {}
    columns = dict(parse_qsl(found[2]))
    for name in columns:
        if name not in COLUMNS:
            raise DataError(f"'{text}' has a column for '{name}'{nearest(name, COLUMNS)} ({', '.join(COLUMNS)})")
    return found[1], columns


def _unknown(text: str, path: Path, known: Collection[str]) -> DataError:
    what = f"{text!r} is a file, but no data set"
    if not text or not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        known_here = [*known, *beside] if path.name == text else beside
        what = f"there is no data set {text!r}{nearest(path.name, known_here)}"
    return DataError(
        f"{what} (give {', '.join(known)}, hf:NAME, a folder with a folder of images for each class, a .csv, .tsv or "
        ".parquet list, or .tar shards)"
    )
