"""Chance that follows from a key: the same key gives the same draw on every machine, in every process, in any order."""

from __future__ import annotations

import hashlib

import numpy as np


def draw(*key: int | str) -> int:
    """A number from 0 to 2⁶⁴ − 1."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def shuffled(count: int, *key: int | str) -> np.ndarray:
    """The numbers from 0 to `count` − 1 in an order of their own, int64."""
    # Only a bit generator's raw numbers are promised to stay the same over NumPy's versions.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    raw = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)).random_raw(count)
    return np.argsort(raw, kind="stable")
