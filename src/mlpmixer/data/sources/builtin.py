"""Data sets that have a name here, and how they come when they are not here yet.

They are kept in `data` within the cache folder. What comes is held against the checksums of what was published, and
takes its place only when it is whole.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.sources.cifar import CIFAR10, CIFAR100, Layout, open_cifar, store, unpack
from mlpmixer.data.sources.cifar_from_npm import batches_from_npm
from mlpmixer.data.sources.fashion_mnist import has_fashion_mnist, open_fashion_mnist
from mlpmixer.download import alone, bring, cache_folder
from mlpmixer.errors import DataError, FetchError

BUNDLED = Path(__file__).with_name("bundled")

CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/"
CIFAR_ARCHIVES = {
    "cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "md5:03b5dce01913d631647c71ecec9e9cb8",
}

FASHION_MNIST_HOME = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
}
FASHION_MNIST_OF_DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist


def cifar10() -> DataSet:
    """50,000 and 10,000 images of ten things; from its home, or by npm where that is not reached."""
    return _open_cifar("cifar10", _bring_cifar10)


def cifar100() -> DataSet:
    """50,000 and 10,000 images of a hundred things; from its home."""
    return _open_cifar("cifar100", partial(_bring_archive, CIFAR100))


def fashion_mnist() -> DataSet:
    """60,000 and 10,000 images of ten kinds of clothing; from Debian's package, or 31 MB from its home."""
    folder = _place("fashion_mnist")
    if has_fashion_mnist(FASHION_MNIST_OF_DEBIAN):
        folder = FASHION_MNIST_OF_DEBIAN
    elif not has_fashion_mnist(folder):
        try:
            for name, checksum in FASHION_MNIST_FILES.items():
                bring(FASHION_MNIST_HOME + name, folder / name, checksum=checksum)
        except FetchError as error:
            raise DataError(f"{error}; on Debian, install dataset-fashion-mnist instead") from error
    return open_fashion_mnist(folder, "fashion_mnist")


def fashion_mnist_small() -> DataSet:
    """Fashion-MNIST with 16,000 of its training images and all 10,000 of the test; it comes with the package."""
    return open_fashion_mnist(BUNDLED, "fashion_mnist_small")


KNOWN: dict[str, Callable[[], DataSet]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fashion_mnist": fashion_mnist,
    "fashion_mnist_small": fashion_mnist_small,
}


def _place(name: str) -> Path:
    return (cache_folder() / "data" / name).absolute()


def _open_cifar(name: str, fill: Callable[[Path], None]) -> DataSet:
    folder = _place(name)
    _make(folder, fill)
    try:
        return open_cifar(folder, name)
    except DataError as error:
        raise DataError(f"{error}; or delete {folder}, and all of it is fetched anew") from error


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    """A folder that is there is left alone; otherwise it appears when `fill` has filled it, whole or not at all."""
    if folder.is_dir():
        return
    with alone(folder, sys.stderr.isatty()) as growing:
        if folder.is_dir():  # another process made it while we waited
            return
        shutil.rmtree(growing, ignore_errors=True)  # of a process that was killed
        growing.mkdir()
        try:
            fill(growing)
            growing.rename(folder)
        finally:
            shutil.rmtree(growing, ignore_errors=True)


def _bring_cifar10(folder: Path) -> None:
    try:
        _bring_archive(CIFAR10, folder)
    except FetchError as unreached:
        workspace = folder / "npm"
        workspace.mkdir()
        try:
            store(batches_from_npm(CIFAR10, workspace), folder)
        except DataError as error:
            raise DataError(f"{unreached}; nor did npm bring it: {error}") from error
        shutil.rmtree(workspace)


def _bring_archive(layout: Layout, folder: Path) -> None:
    archive = folder.with_name(layout.archive)
    bring(CIFAR_HOME + layout.archive, archive, checksum=CIFAR_ARCHIVES[layout.archive])
    unpack(layout, archive, folder)
    archive.unlink()
