"""Mutations: the bytes of a file or the values of a document, changed at random."""

from __future__ import annotations

import json
import random
from typing import Any

WORDS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 5, 1 << 31, 1 << 63, -(1 << 63), 10**30, 0.5, -1.5, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "x", "../x", "/etc/passwd", "a\nb", "\x1b[2J", "\ud800", "[/b]", "<script>"),
    *([], {}, [1, 2], [[]], {"a": 1}, ["a", None], "9" * 5_000, "n" * 100_000),
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut, doubled or moved; most of it is as it was, so that readers get far."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(9):
            case 0:
                del changed[at:]
            case 1:
                changed[at:at] = rng.randbytes(rng.randrange(1, 64))
            case 2:
                del changed[at : at + rng.randrange(1, 64)]
            case 3:
                changed[at:at] = changed[at : at + rng.randrange(1, 4096)] * rng.choice((1, 2, 50))
            case 4 if changed:
                changed[at % len(changed)] = rng.randrange(256)
            case 5 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 6:  # a size, an offset or a count
                width = rng.choice((1, 2, 4, 8))
                word = rng.choice(WORDS) & ((1 << 8 * width) - 1)
                changed[at : at + width] = word.to_bytes(width, rng.choice(("little", "big")))
            case 7:  # among the first bytes, where headers are
                at = rng.randrange(min(len(changed), 256) + 1)
                changed[at : at + 4] = rng.choice(WORDS).to_bytes(8, "little")[:4]
            case _:
                other = rng.randrange(len(changed) + 1)
                changed[at:at] = changed[other : other + rng.randrange(1, 256)]
    return bytes(changed[: 1 << 22])


def document(text: str, rng: random.Random) -> str:
    """JSON with some of its values replaced, removed, renamed or buried; or only its letters damaged."""
    if rng.random() < 0.3:
        return damaged(text.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "replace")
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _changed(value, rng)
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 100_000


def _changed(value: Any, rng: random.Random) -> Any:
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or rng.random() < 0.1:
        return _buried(value) if rng.random() < 0.1 else rng.choice(VALUES)
    at: Any = rng.choice(inner)
    copied: Any = value.copy()
    match rng.randrange(8):
        case 0:
            del copied[at]
        case 1 if isinstance(value, dict):
            copied[str(rng.choice(VALUES))[:200]] = copied.pop(at)
        case 2 if isinstance(value, list):
            copied[at:at] = [copied[at]] * (1 if isinstance(copied[at], list | dict) else rng.choice((2, 1_000)))
        case _:
            copied[at] = _changed(copied[at], rng)
    return copied


def _buried(value: Any) -> Any:
    for _ in range(500):
        value = [value]
    return value
