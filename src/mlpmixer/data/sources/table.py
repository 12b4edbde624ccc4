"""Data sources: `SOURCES` has a row for each kind of data set that can be opened.

A new kind is one file beside this one and one row here; docs/extending/data-source.md shows how.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.sources import (
    cifar,
    fashion_mnist,
    folder,
    hub,
    lists,
    packed,
    parquet,
    shards,
    tfds,
    vtab,
    vtab_lists,
)
from mlpmixer.data.sources.builtin import BUILTIN
from mlpmixer.errors import DataError, nearest

COLUMNS = ("image", "label", "split")  # that may be named behind a path, as in photos.parquet?image=foto&label=kind


@dataclass(frozen=True)
class Spec:
    """What a user writes to name a data set, `text`, with ~ expanded."""

    text: str

    @cached_property
    def _parts(self) -> tuple[str, dict[str, str]]:
        found = re.fullmatch(r"(.+)\?(\w+=.*)", self.text)
        if found is None or os.path.exists(self.text):  # noqa: PTH110 (that of Path fails on a name that is too long)
            return self.text, {}
        columns = dict(parse_qsl(found[2]))
        for name in columns:
            if name not in COLUMNS:
                hint = nearest(name, COLUMNS)
                raise DataError(f"'{self.text}' has a column for '{name}'{hint} ({', '.join(COLUMNS)})")
        return found[1], columns

    @property
    def path(self) -> Path:
        """The absolute path, without the names of columns behind it."""
        return Path(self._parts[0]).absolute()

    @property
    def columns(self) -> dict[str, str]:
        """The names of columns, by what they hold: "image", "label" or "split"."""
        return self._parts[1]

    @property
    def source(self) -> str:
        """The spec as it can be written in any folder."""
        return str(self.path) + ("?" + urlencode(self.columns) if self.columns else "")


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    Args:
        recognizes: Whether a spec is of this kind.
        open: Its classes and splits. What is wrong with it is a `DataError` of one line.
    """

    recognizes: Callable[[Spec], bool]
    open: Callable[[Spec], DataSet]


def by_path(recognizes: Callable[[Path], bool], opens: Callable[[Path], DataSet]) -> Source:
    """A kind of file or folder that knows no names of columns."""

    def open_path(spec: Spec) -> DataSet:
        if spec.columns:
            raise DataError(f"{spec.path} has no columns; only lists and .parquet files have")
        return opens(spec.path)

    return Source(lambda spec: recognizes(spec.path), open_path)


def with_columns(
    recognizes: Callable[[Path], bool], opens: Callable[[Path, Mapping[str, str], str], DataSet]
) -> Source:
    """A kind of file or folder of which columns may be named."""
    return Source(lambda spec: recognizes(spec.path), lambda spec: opens(spec.path, spec.columns, spec.source))


def by_prefix(prefix: str, opens: Callable[[str], DataSet]) -> Source:
    """A kind of data set that a prefix names; `opens` takes the whole text."""
    return Source(lambda spec: spec.text.startswith(prefix), lambda spec: opens(spec.text))


# The first that recognizes a spec opens it.
SOURCES: dict[str, Source] = {
    "builtin": Source(lambda spec: spec.text in BUILTIN, lambda spec: BUILTIN[spec.text].open(spec.text)),
    "hub": by_prefix("hf:", hub.open_hub),
    "vtab": by_prefix("vtab:", lambda text: vtab.open_task(text, lambda folder: open_spec(Spec(str(folder))))),
    "addresses": Source(lambda spec: "://" in spec.text, lambda spec: shards.open_addresses(spec.text)),
    "packed": by_path(packed.is_packed, packed.open_packed),
    "cifar": by_path(cifar.is_cifar, cifar.open_cifar),
    "fashion_mnist": by_path(fashion_mnist.has_fashion_mnist, fashion_mnist.open_fashion_mnist),
    "saved": by_path(hub.is_saved, hub.open_saved),
    "shards": by_path(shards.is_shards, shards.open_shards),
    "list": with_columns(lists.is_list, lists.open_list),
    "parquet": with_columns(parquet.is_parquet, parquet.open_parquet),
    "vtab_lists": by_path(vtab_lists.is_vtab, vtab_lists.open_vtab),
    "tfds": by_path(tfds.is_tfds, tfds.open_tfds),
    "folder": by_path(Path.is_dir, folder.open_folder),
}


def source_of(spec: Spec) -> Source | None:
    """The first that recognizes it."""
    return next((source for source in SOURCES.values() if spec.text and source.recognizes(spec)), None)


def open_spec(spec: Spec) -> DataSet | None:
    source = source_of(spec)
    return source and source.open(spec)
