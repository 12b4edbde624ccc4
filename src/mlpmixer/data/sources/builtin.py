"""Data sets that have a name: one row of `BUILTIN` each.

What has to be downloaded is kept in `data` within the cache folder. It is compared with the published checksums, and
appears there complete or not at all.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.sources.cifar import CIFAR10, CIFAR100, Layout, open_cifar, store, unpack
from mlpmixer.data.sources.cifar_from_npm import batches_from_npm
from mlpmixer.data.sources.fashion_mnist import FILES, has_fashion_mnist, open_fashion_mnist
from mlpmixer.download import bring, disk_errors, say_waiting
from mlpmixer.errors import DataError, FetchError
from mlpmixer.files import cache_folder, whole_folder

BUNDLED = Path(__file__).with_name("bundled")


class BuiltinSet(Protocol):
    def open(self, name: str) -> DataSet:
        """The data set, which is called `name`; downloaded first if need be."""
        ...


@dataclass(frozen=True)
class Cifar:
    """CIFAR-10 or CIFAR-100 as one archive.

    Args:
        layout: The files in the archive.
        checksum: Of the archive.
        home: The address of the folder that has the archive.
        npm: Whether npm has the same images, for places from which the home is not reached.
    """

    layout: Layout
    checksum: str
    home: str = "https://www.cs.toronto.edu/~kriz/"
    npm: bool = False

    def open(self, name: str) -> DataSet:
        folder = _cached(name)
        with disk_errors(folder):
            if not folder.is_dir():
                whole_folder(folder, self._fill, partial(say_waiting, folder, sys.stderr.isatty()))
        try:
            return open_cifar(folder, name, (self.layout,))
        except DataError as error:
            raise DataError(f"{error}; or delete {folder}, and all of it is fetched anew") from error

    def _fill(self, folder: Path) -> None:
        archive = folder.with_name(self.layout.archive)
        try:
            bring(self.home + archive.name, archive, checksum=self.checksum)
        except FetchError as unreached:
            if not self.npm:
                raise
            self._fill_from_npm(folder, unreached)
        else:
            unpack(self.layout, archive, folder)
            archive.unlink()

    def _fill_from_npm(self, folder: Path, unreached: FetchError) -> None:
        workspace = folder / "npm"
        workspace.mkdir()
        try:
            store(batches_from_npm(self.layout, workspace), folder)
        except DataError as error:
            raise DataError(f"{unreached}; nor did npm bring it: {error}") from error
        shutil.rmtree(workspace)


@dataclass(frozen=True)
class FashionMnist:
    """Fashion-MNIST from its home, or from Debian's package `dataset-fashion-mnist`.

    Args:
        checksums: Of the packed files, in the order of `FILES`.
        home: The address of the folder that has them.
        debian: The folder of Debian's package.
    """

    checksums: tuple[str, ...]
    home: str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    debian: Path = Path("/usr/share/datasets/fashion-mnist")

    def open(self, name: str) -> DataSet:
        if has_fashion_mnist(self.debian):
            return open_fashion_mnist(self.debian, name)
        folder = _cached(name)
        try:
            for file, checksum in zip(sum(FILES.values(), ()), self.checksums, strict=True):
                bring(f"{self.home}{file}.gz", folder / f"{file}.gz", checksum=checksum)
        except FetchError as error:
            raise DataError(f"{error}; on Debian, install dataset-fashion-mnist instead") from error
        return open_fashion_mnist(folder, name)


@dataclass(frozen=True)
class Bundled:
    """Files in Fashion-MNIST's form that come with the package."""

    folder: Path

    def open(self, name: str) -> DataSet:
        return open_fashion_mnist(self.folder, name)


BUILTIN: dict[str, BuiltinSet] = {
    "cifar10": Cifar(CIFAR10, "md5:c32a1d4ab5d03f1284b67883e8d87530", npm=True),
    "cifar100": Cifar(CIFAR100, "md5:03b5dce01913d631647c71ecec9e9cb8"),
    "fashion_mnist": FashionMnist(
        (
            "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "md5:25c81989df183df01b3e8a0aad5dffbe",
            "md5:bef4ecab320f06d8554ea6380940ec79",
            "md5:bb300cfdad3c16e7a12a480ee83cd310",
        )
    ),
    "fashion_mnist_small": Bundled(BUNDLED),  # 16,000 of its training images and all 10,000 of the test
}


def _cached(name: str) -> Path:
    return (cache_folder() / "data" / name).absolute()
