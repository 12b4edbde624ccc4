"""Names that are in the output already: 16 bytes each, whatever their length."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

BYTES = 16  # so many that no two of a billion names are taken for one


class ResumeIndex:
    """`name in index`, for very many names."""

    def __init__(self, names: Iterable[str]):
        hashes = np.frombuffer(b"".join(map(_hash, names)), dtype=f"V{BYTES}").view([("a", "<u8"), ("b", "<u8")])
        self._hashes = np.sort(hashes, order=("a", "b"))
        self._firsts = self._hashes["a"].copy()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, name: str) -> bool:
        first, second = np.frombuffer(_hash(name), dtype="<u8")
        begin = int(np.searchsorted(self._firsts, first))
        while begin < len(self) and self._firsts[begin] == first:
            if self._hashes["b"][begin] == second:
                return True
            begin += 1
        return False


def _hash(name: str) -> bytes:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=BYTES).digest()
