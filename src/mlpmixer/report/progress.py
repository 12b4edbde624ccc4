"""How far the interpret is, for whoever waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Watch = Callable[[str, int, int], None]  # what is looked at, how much of it of how much
Item = TypeVar("Item")


def nobody(*_: object) -> None:
    """Waits, and so nothing is said."""


def watched(what: str, items: Sequence[Item], watch: Watch) -> Iterator[Item]:
    for done, item in enumerate(items):
        watch(what, done, len(items))
        yield item
    watch(what, len(items), len(items))
