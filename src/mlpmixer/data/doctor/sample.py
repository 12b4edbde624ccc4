"""The sample of a data set that is scanned, across its splits."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.images import ImageInput
from mlpmixer.data.rng import permutation
from mlpmixer.errors import MixerError, UsageError


@dataclass(frozen=True)
class Location:
    """Where an image is: its split, its path or its place in a larger file, and the name of its class."""

    split: str
    where: str
    label: str


class Sample:
    """The images of all splits one after another, or `limit` of them, chosen evenly.

    Attributes:
        split: (N,), the number of each image's split.
        index: (N,), its index there.
        labels: (N,), the number of its class.
    """

    def __init__(self, data: DataSet, limit: int | None = None):
        if limit is not None and limit < 1:
            raise UsageError(f"at least 1 image must be scanned, not {limit}")
        self.data = data
        counts = [len(split) for split in data.splits.values()]
        chosen = np.arange(sum(counts))
        if limit is not None and limit < len(chosen):
            chosen = np.sort(permutation(len(chosen), "doctor")[:limit])
        ends = np.cumsum(counts)
        self.split = np.searchsorted(ends, chosen, side="right")
        self.index = chosen - (ends - counts)[self.split]
        self.labels = np.concatenate([split.labels for split in data.splits.values()])[chosen]
        self._splits = tuple(data.splits.items())

    def __len__(self) -> int:
        return len(self.index)

    def read(self, position: int) -> ImageInput | None:
        try:
            image = self._splits[self.split[position]][1].read(int(self.index[position]))
        except (MixerError, OSError):
            return None
        return os.fspath(image) if isinstance(image, os.PathLike) else image

    def location(self, position: int) -> Location:
        name, split = self._splits[self.split[position]]
        return Location(name, split.where(int(self.index[position])), self.data.classes[self.labels[position]])
