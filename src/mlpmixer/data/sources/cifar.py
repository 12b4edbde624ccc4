"""CIFAR-10 and CIFAR-100 in their original binary files: color images of 32×32 pixels (Krizhevsky, 2009).

A record is a label byte (CIFAR-100: the coarse label, then the fine one), then 1,024 bytes each of red, green and blue,
row by row. A batch is nothing but records.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from mlpmixer.data.dataset import DataSet, Pixels
from mlpmixer.data.sources.tar_index import bounded_tar
from mlpmixer.errors import DataError
from mlpmixer.files import open_regular, read

SIDE = 32  # pixels
CHUNK = 1 << 20  # bytes
ROOM = 1 << 24  # bytes that an archive may have beside its batches


@dataclass(frozen=True)
class Batch:
    """One file: which images of which split it holds. `md5` where its publisher's bytes are known."""

    file: str
    split: str
    numbers: range
    md5: str | None = None


@dataclass(frozen=True)
class Layout:
    archive: str  # the published file that holds them all
    known_by: tuple[str, ...]  # files that tell a folder of this layout
    classes: tuple[str, ...]
    label_bytes: int  # the last of them is the class
    batches: tuple[Batch, ...]

    @property
    def record(self) -> int:
        """Bytes an image."""
        return self.label_bytes + 3 * SIDE**2

    def images(self, split: str) -> int:
        return sum(len(batch.numbers) for batch in self.batches if batch.split == split)


CIFAR10 = Layout(
    archive="cifar-10-binary.tar.gz",
    known_by=("data_batch_1.bin",),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    label_bytes=1,
    batches=(
        Batch("data_batch_1.bin", "train", range(0, 10_000), "5dd7e06a14cb22eb9f671a540d1b7c25"),
        Batch("data_batch_2.bin", "train", range(10_000, 20_000), "5ea93a67294ea407fff1d09f752e9692"),
        Batch("data_batch_3.bin", "train", range(20_000, 30_000), "942cd6a4bcdd0dd3c604fbe906cb4421"),
        Batch("data_batch_4.bin", "train", range(30_000, 40_000), "ae636b3ba5c66a11e91e8cb52e771fcb"),
        Batch("data_batch_5.bin", "train", range(40_000, 50_000), "53f37980c15c3d472c316c40844f3f0d"),
        Batch("test_batch.bin", "test", range(0, 10_000), "803d5f7f4d78ea53de84dbe85f74fb6d"),
    ),
)

FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

CIFAR100 = Layout(
    archive="cifar-100-binary.tar.gz",
    known_by=("train.bin", "test.bin"),
    classes=tuple(FINE.split()),
    label_bytes=2,
    batches=(
        Batch("train.bin", "train", range(0, 50_000)),
        Batch("test.bin", "test", range(0, 10_000)),
    ),
)

LAYOUTS = (CIFAR10, CIFAR100)


def is_cifar(path: Path, layouts: Sequence[Layout] = LAYOUTS) -> bool:
    """Whether this is a folder of batches, or a published archive of them."""
    return _layout(path, layouts) is not None


def open_cifar(path: Path, source: str = "", layouts: Sequence[Layout] = LAYOUTS) -> DataSet:
    """The data set in a folder of batches, or in a published archive; all images in memory."""
    layout = _layout(path, layouts)
    if layout is None:
        expected = ", or ".join(" and ".join(layout.known_by) for layout in layouts)
        raise DataError(f"{path} is no CIFAR folder: it lacks {expected}; unpack the published archive into it again")
    return _data_set(layout, source or str(path), _packed(layout, path) if path.is_file() else _loose(layout, path))


def unpack(layout: Layout, archive: Path, folder: Path) -> None:
    """Put the batches of a published archive into a folder."""
    store(_packed(layout, archive), folder)


def store(contents: Iterable[tuple[Batch, bytes]], folder: Path) -> None:
    """Write batches whose bytes are those that were published."""
    for batch, content in contents:
        actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if batch.md5 not in (None, actual):
            raise DataError(f"{batch.file} is not the published one: its MD5 is {actual}, expected {batch.md5}")
        with (folder / batch.file).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _layout(path: Path, layouts: Sequence[Layout]) -> Layout | None:
    for layout in layouts:
        if path.name == layout.archive and path.is_file():
            return layout
        if all((path / file).is_file() for file in layout.known_by):
            return layout
    return None


def _loose(layout: Layout, folder: Path) -> Iterator[tuple[Batch, bytes]]:
    for batch in layout.batches:
        path = folder / batch.file
        try:
            _require_size(layout, batch, path.stat().st_size, str(path))
            yield batch, read(path, len(batch.numbers) * layout.record)
        except FileNotFoundError:
            raise DataError(f"{folder} lacks {batch.file}; unpack {layout.archive} into it again") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _packed(layout: Layout, archive: Path) -> Iterator[tuple[Batch, bytes]]:
    missing = {batch.file: batch for batch in layout.batches}
    largest = max(len(batch.numbers) for batch in layout.batches) * layout.record
    end = sum(len(batch.numbers) for batch in layout.batches) * layout.record + ROOM
    try:
        with open_regular(archive) as file, gzip.open(file) as unpacked:
            with bounded_tar(cast(BinaryIO, unpacked), largest, end) as tar:
                for member in tar:
                    batch = missing.pop(member.name.rpartition("/")[2], None)
                    if batch is None:
                        continue
                    content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
                    if content is None:
                        raise tarfile.ReadError(f"{batch.file} is no plain file")
                    _require_size(layout, batch, member.size, f"{batch.file} in {archive}")
                    yield batch, content.read()
            while unpacked.read(CHUNK):  # gzip's own checksum stands at the end, and is compared when that is reached
                if unpacked.tell() > end:
                    raise tarfile.ReadError("it goes on for longer than it may")
    except DataError:
        raise
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{archive} is damaged ({error}); delete it or copy it again") from error
    if missing:
        raise DataError(f"{archive} lacks {', '.join(missing)}; delete it or copy it again")


def _require_size(layout: Layout, batch: Batch, size: int, where: str) -> None:
    expected = len(batch.numbers) * layout.record
    if size != expected:
        raise DataError(f"{where} should be {expected:,} bytes and is {size:,}; fetch or copy it again")


def _data_set(layout: Layout, source: str, contents: Iterable[tuple[Batch, bytes]]) -> DataSet:
    splits = tuple(dict.fromkeys(batch.split for batch in layout.batches))
    pixels = {split: np.empty((layout.images(split), SIDE**2, 3), np.uint8) for split in splits}
    labels = {split: np.empty(layout.images(split), np.uint8) for split in splits}
    for batch, content in contents:
        records = np.frombuffer(content, np.uint8).reshape(-1, layout.record)
        here = slice(batch.numbers.start, batch.numbers.stop)
        labels[batch.split][here] = records[:, layout.label_bytes - 1]
        for channel, plane in enumerate(np.split(records[:, layout.label_bytes :], 3, axis=1)):
            pixels[batch.split][here, :, channel] = plane
        highest = labels[batch.split][here].max()
        if highest >= len(layout.classes):
            raise DataError(f"{batch.file} of {source} has the label {highest}, of {len(layout.classes)} classes")
    return DataSet(
        source,
        layout.classes,
        {
            split: Pixels(pixels[split].reshape(-1, SIDE, SIDE, 3), labels[split], f"{source} {split}")
            for split in splits
        },
    )
