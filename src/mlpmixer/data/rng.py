"""Random numbers that depend on a key only: the same on every machine, in every process, in any order."""

from __future__ import annotations

import hashlib

import numpy as np


def random_uint64(*key: int | str) -> int:
    """A random number from 0 to 2⁶⁴ − 1."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def permutation(count: int, *key: int | str) -> np.ndarray:
    """A random permutation of the numbers from 0 to `count` − 1, int64."""
    # Only a bit generator's raw numbers are promised to stay the same over NumPy's versions.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    raw = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)).random_raw(count)
    return np.argsort(raw, kind="stable")
