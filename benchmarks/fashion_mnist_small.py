"""How the Fashion-MNIST that comes with the package was picked from the whole one; it writes the same images again.

python benchmarks/fashion_mnist_small.py FOLDER_OF_THE_FOUR_FILES
"""

from __future__ import annotations

import lzma
import struct
import sys
from pathlib import Path

import numpy as np

from mlpmixer.data.sources.builtin import BUNDLED
from mlpmixer.data.sources.fashion_mnist import FILES, open_fashion_mnist

TRAIN_PER_CLASS = 1600  # the most, in hundreds, that fit into 10 MB beside the whole test split
PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4}]  # the smallest of those tried


def main(folder: Path) -> None:
    whole = open_fashion_mnist(folder, str(folder))
    for split, (images, kinds) in FILES.items():
        pixels, labels = whole[split].pixels, whole[split].labels.astype(np.uint8)  # pyright: ignore
        chosen = pick(labels) if split == "train" else np.arange(len(labels))
        write(BUNDLED / f"{images}.xz", pixels[chosen])
        write(BUNDLED / f"{kinds}.xz", labels[chosen])


def pick(labels: np.ndarray) -> np.ndarray:
    """Numbers of as many images of each class, chosen by chance, in the order of the whole."""
    chance = np.random.RandomState(0)  # its numbers are the same in every version of NumPy
    of_each = [chance.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    return np.sort(np.concatenate([numbers[:TRAIN_PER_CLASS] for numbers in of_each]))


def write(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    packed = lzma.compress(header + array.tobytes(), filters=PACKING)
    path.write_bytes(packed)
    print(f"{path.name}: {array.shape}, {len(packed):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
