"""Timing several systems in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Times:
    """Seconds of each run, after warm-up, in the order they were taken."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of what lies between the quartiles, as a share of the median."""
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / 2 / self.median


Name = TypeVar("Name")


def in_turns(
    systems: Mapping[Name, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    before_round: Callable[[], object] = lambda: None,
) -> dict[Name, Times]:
    """Each system once a round. The order turns about from round to round: nobody always comes first."""
    for run in systems.values():
        for _ in range(warm_up):
            run()
    taken: dict[Name, list[float]] = {name: [] for name in systems}
    names = list(systems)
    for number in range(rounds):
        before_round()
        for name in names if number % 2 == 0 else reversed(names):
            taken[name].append(seconds_of(systems[name]))
    return {name: Times(tuple(seconds)) for name, seconds in taken.items()}


def seconds_of(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def ratio(ours: Times, theirs: Times) -> tuple[float, float, float]:
    """How many times faster we are: the median over rounds, and the quartiles."""
    each = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    first, middle, third = statistics.quantiles(each, n=4, method="inclusive")
    return middle, first, third
