"""Sampling of splits: pure functions of labels and a seed that return indices in ascending order.

Each class has one shuffled order for a seed, and every sample takes its first images: 3 % lie within 10 %, 1 shot
within 5, and what is held out is the same for any share of the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from mlpmixer.data.dataset import Split
from mlpmixer.data.rng import permutation
from mlpmixer.errors import MixerError

TRACED = 1000  # images


def share(labels: np.ndarray, part: float, seed: int) -> np.ndarray:
    """`part` (0 to 1] of each class, to the nearest image and at least one."""
    return _first_of_each(labels, lambda count: max(1, round(part * count)), "share", seed)


def shots(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """`k` images of each class; every class has as many."""
    return _first_of_each(labels, lambda _: k, "shots", seed)


def held_out(labels: np.ndarray, part: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What is left, and what is held out: `part` of each class, to the nearest image and at least one, but not all.

    Of a single image, none is held out.
    """
    held = _first_of_each(labels, lambda count: min(max(1, round(part * count)), count - 1), "held out", seed)
    return np.setdiff1d(np.arange(len(labels)), held), held


def only(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The images of these classes."""
    return np.flatnonzero(np.isin(labels, classes))


def digest(indices: np.ndarray) -> str:
    """A digest of indices in 16 letters, for the records of a run."""
    return hashlib.blake2b(indices.astype("<i8").tobytes(), digest_size=8).hexdigest()


def fingerprint(split: Split) -> str:
    """A digest of a split's images in 16 letters, the same wherever they are stored: of at most TRACED of them, evenly
    over the split, so that a million files cost no more."""
    found = hashlib.blake2b(digest_size=8)
    for index in np.unique(np.linspace(0, len(split) - 1, min(TRACED, len(split))).astype(np.int64)):
        try:
            trace = split.trace(int(index))
        except (OSError, MixerError):  # a broken image is one wherever it lies
            trace = b""
        found.update(b"%d:%s" % (len(trace), trace))
    return found.hexdigest()


def _first_of_each(labels: np.ndarray, how_many: Callable[[int], int], kind: str, seed: int) -> np.ndarray:
    found, counts = np.unique(labels, return_counts=True)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    picked = [np.arange(0)]
    for label, members in zip(found.tolist(), by_class, strict=False):  # without labels there is one empty part
        order = permutation(len(members), kind, seed, label)
        picked.append(members[order[: how_many(len(members))]])
    return np.sort(np.concatenate(picked))
