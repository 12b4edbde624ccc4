"""Data sets of the Hugging Face library `datasets`: `hf:NAME`, `hf:NAME:CONFIG`, or a folder that it saved.

NAME is a data set on the hub, or a local folder that the library can read, such as one of .parquet files with the
images themselves. The whole data set is brought here and read as Arrow, which is in order and takes any position.
"""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from mlpmixer.data.dataset import DataSet, Split
from mlpmixer.data.images import ImageInput
from mlpmixer.data.sources.naming import SPLIT_WORDS, in_order, number
from mlpmixer.errors import DataError, ImageError
from mlpmixer.packages import require
from mlpmixer.text import first_line

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

PATIENCE = 2.0  # seconds in which the hub must answer
LABELS = ("label", "labels", "class", "target", "fine_label", "cls")


class Arrow(Split):
    """Images in a column of an Arrow table, as the bytes or the path of a file."""

    def __init__(self, table: Dataset, column: str, labels: np.ndarray, name: str):
        self.table, self.column, self.labels, self.name = table, column, labels, name

    def read(self, index: int) -> ImageInput:
        image = self.table[index][self.column]
        if image is None:
            raise ImageError(f"{self.where(index)} has no image")
        return image["path"] if image["bytes"] is None else image["bytes"]

    def where(self, index: int) -> str:
        return f"{self.name}[{index}]"


def open_hub(spec: str) -> DataSet:
    """`hf:NAME` or `hf:NAME:CONFIG`."""
    name, _, config = spec.removeprefix("hf:").partition(":")
    if not name:
        raise DataError("hf: needs the name of a data set, such as hf:food101")
    datasets, silent = _library(spec), ""
    try:
        if (folder := Path(name).expanduser()).is_dir():
            name = str(folder.absolute())
            spec = f"hf:{name}:{config}" if config else f"hf:{name}"
        elif not folder.exists():
            silent = why_silent()
        with _offline() if silent else nullcontext():
            # Whatever the environment allows: code that comes with a data set is not run.
            found = datasets.load_dataset(name, config or None, trust_remote_code=False)
    except Exception as error:  # it fails in many ways: no network, no such name, no such config, no access
        if silent:
            raise DataError(f"cannot open {spec}: {silent}, and it is not in the cache; try again later") from error
        raise DataError(f"cannot open {spec}: {first_line(error)}") from error
    return _data_set(spec, found)


def why_silent() -> str:
    """Why the hub cannot be reached; empty: it can, or nobody wants it to be asked.

    The library itself asks six times, for half a minute in all, and what is in its cache would be there at once.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return ""
    host = urlsplit(constants.ENDPOINT).hostname
    found = [f"no answer from {host} in {PATIENCE:g} seconds"]

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
        except urllib.error.HTTPError:  # an answer
            pass
        except TimeoutError:
            return
        except OSError as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return
            if not isinstance(reason, ssl.SSLError):  # which the library may see otherwise
                found[0] = f"no connection to {host} ({getattr(reason, 'strerror', None) or reason})"
                return
        found[0] = ""

    # In a thread, since the time limit does not hold for looking up a name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0]


@contextmanager
def _offline() -> Iterator[None]:
    """The library takes what is in its cache, and asks nobody."""
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def is_saved(path: Path) -> bool:
    """Whether it is a folder that `save_to_disk` made."""
    return (path / "dataset_dict.json").is_file() or all(
        (path / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def open_saved(path: Path) -> DataSet:
    datasets = _library(str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"cannot open {path}: {first_line(error)}") from error
    return _data_set(str(path), found)


def _library(source: str) -> Any:
    return require("datasets", extra="datasets", what=f"opening {source}")


def _data_set(source: str, found: DatasetDict | Dataset) -> DataSet:
    by_split = found if isinstance(found, dict) else {found.split or "train": found}
    tables = {SPLIT_WORDS.get(str(split).lower(), str(split)): table for split, table in by_split.items()}
    labels: dict[str, list[str]] = {}
    column, label, names = _columns(source, next(iter(tables.values())))
    for split in in_order(tables):
        table = tables[split]
        if not {column, label} <= {*table.column_names}:
            raise DataError(f"{source} has other columns in {split} than in its other splits")
        values = table.select_columns([label]).with_format("arrow")[:][label].to_pylist()
        if any(value not in (None, -1) for value in values):  # otherwise they are not published
            labels[split] = ["-1" if value is None else str(value) for value in values]
    if not labels:
        raise DataError(f"no image of {source} has a label")
    classes, numbers = number(labels, source, names)
    return DataSet(
        source,
        classes,
        {split: Arrow(_images(tables[split], column), column, numbers[split], f"{source} {split}") for split in labels},
    )


def _columns(source: str, table: Dataset) -> tuple[str, str, tuple[str, ...] | None]:
    """The column of images, that of labels, and the names of the classes where the latter knows them."""
    from datasets import ClassLabel, Image

    images = [name for name, feature in table.features.items() if isinstance(feature, Image)]
    named = [name for name, feature in table.features.items() if isinstance(feature, ClassLabel)]
    label = next((name for name in LABELS if name in table.features), named[0] if len(named) == 1 else None)
    if not images or label is None:
        lacks = "labels, such as 'label'" if images else "images"
        raise DataError(f"{source} has no column of {lacks}; its columns are {', '.join(table.column_names)}")
    feature = table.features[label]
    names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
    return "image" if "image" in images else images[0], label, names


def _images(table: Dataset, column: str) -> Dataset:
    from datasets import Image

    return table.select_columns([column]).cast_column(column, Image(decode=False))
