"""Near duplicates: images that look the same, found by a perceptual hash of 256 bits of each image.

The bits are the signs of the 256 coarsest waves in a gray version of 32×32 pixels (its discrete cosine transform, the
mean left out). Brightness and contrast do not change signs; compression and scaling change a few. Two images are
alike when they differ in at most `COARSE` of the 64 coarsest bits and in at most `FINE` of all. An image's mirror
image has the same waves, with the sign of every odd horizontal one turned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

SIDE = 32  # pixels of the gray version
# Of 473 clothing photos, 99 in 100 copies at quality 10, at 64×64 pixels or 15% brighter differ in up to 19 bits, and
# with 2% cropped in up to 32; two different ones of 3,781 that agree in the coarsest differ in 42 or more.
COARSE = 7  # of 64 bits
FINE = 32  # of 256 bits

# A wave below this is no more than what rounding to whole gray levels leaves, and its sign means nothing.
_FAINT = 5.0
_BLOCK = 1 << 20  # pairs that are compared at once

_waves = sorted(itertools.product(range(SIDE), repeat=2), key=lambda wave: (wave[0] ** 2 + wave[1] ** 2, wave))[1:257]
_DOWN, _ACROSS = np.array(_waves).T
_COSINES = np.cos(np.pi * np.outer(np.arange(_DOWN.max() + 1), 2 * np.arange(SIDE) + 1) / (2 * SIDE))
_MIRROR = np.packbits(_ACROSS % 2).view(np.uint64)
_ONES = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)


def bits(gray: np.ndarray) -> tuple[np.ndarray, bool]:
    """Of an image (32, 32): its bits (4,) uint64, and whether it shows enough to be compared by them."""
    waves = (_COSINES @ gray.astype(np.float64) @ _COSINES.T)[_DOWN, _ACROSS]
    return np.packbits(waves > 0).view(np.uint64), bool(np.mean(np.abs(waves) > _FAINT) >= 0.75)


def groups_of(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The group of each image: the index of its first member.

    A group is a connected component of pairs that are alike; no such pair is missed.

    Args:
        images: Bits, (N, 4).

    Returns:
        Groups (N,), and (N,) with mirror images as well.
    """
    keys = np.ascontiguousarray(images).view("S32")[:, 0]
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    different = images[first]
    roots = np.arange(len(different))
    _join_alike(roots, different, np.zeros(4, np.uint64))
    plain = roots.copy()
    _join_alike(roots, different, _MIRROR)
    return first[plain[which]], first[roots[which]]


def _join_alike(roots: np.ndarray, images: np.ndarray, turned: np.ndarray) -> None:
    """Join all pairs that are alike once the `turned` bits of one are flipped."""
    # Bits that differ in 7 places at most differ in one place at most in one quarter of them: so only images with
    # nearly equal quarters need comparing.
    quarters = np.ascontiguousarray(images[:, :1]).view(np.uint16)
    for quarter, turn in zip(quarters.T, turned[:1].view(np.uint16), strict=True):
        for a, b in _one_apart(quarter, int(turn)):
            strange = roots[a] != roots[b]
            a, b = a[strange], b[strange]
            near = _distance(images[a, :1], images[b, :1] ^ turned[:1]) <= COARSE
            a, b = a[near], b[near]
            near = _distance(images[a], images[b] ^ turned) <= FINE
            _join(roots, a[near], b[near])


def _one_apart(keys: np.ndarray, turn: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of 16-bit keys that, but for the bits of `turn`, differ in one bit at most; in blocks."""
    order = np.argsort(keys, kind="stable")
    ends = np.bincount(keys, minlength=1 << 16).cumsum()
    starts = np.concatenate([[0], ends[:-1]])
    for flip in (0, *(1 << bit for bit in range(16))):
        apart = flip ^ turn
        if apart == 0:  # each with those behind it
            firsts, begin, end = order, np.arange(1, len(order) + 1), ends[keys[order]]
        else:  # each pair once: from the side that lacks the lowest bit in which they differ
            firsts = np.flatnonzero(keys & (apart & -apart) == 0)
            begin, end = starts[keys[firsts] ^ apart], ends[keys[firsts] ^ apart]
        counts = end - begin
        cuts = np.flatnonzero(np.diff(counts.cumsum() // _BLOCK)) + 1
        for low, high in itertools.pairwise([0, *cuts, len(firsts)]):
            count = counts[low:high]
            within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
            yield np.repeat(firsts[low:high], count), order[np.repeat(begin[low:high], count) + within]


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """In how many bits the rows differ."""
    return _ONES[(a ^ b).view(np.uint16)].sum(axis=1, dtype=np.int64)


def _join(roots: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Join the groups of each pair; the root of a group is its first member."""
    while (apart := roots[a] != roots[b]).any():
        a, b = a[apart], b[apart]
        np.minimum.at(roots, np.maximum(roots[a], roots[b]), np.minimum(roots[a], roots[b]))
        while (roots != roots[roots]).any():
            roots[:] = roots[roots]
