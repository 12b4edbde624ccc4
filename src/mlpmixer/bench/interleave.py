"""Interleaved timing of several systems, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
Clock = Callable[[], float]


def interleaved(
    systems: Mapping[Name, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    before_round: Callable[[], object] = lambda: None,
    clock: Clock = time.perf_counter,
) -> dict[Name, Times]:
    """Seconds of each system, which runs once a round.

    Args:
        systems: What to time, by name.
        rounds: How often each runs and is timed.
        warm_up: How often each runs before.
        before_round: Called before each round, in nobody's time.
        clock: Seconds, to time with.
    """
    for run in systems.values():
        for _ in range(warm_up):
            run()
    timed = {name: partial(seconds_of, run, clock) for name, run in systems.items()}
    return interleaved_times(timed, rounds, before_round)


def interleaved_times(
    systems: Mapping[Name, Callable[[], float]], rounds: int, before_round: Callable[[], object] = lambda: None
) -> dict[Name, Times]:
    """Of what takes its own time. The order is reversed from round to round: nobody always comes first."""
    taken: dict[Name, list[float]] = {name: [] for name in systems}
    names = list(systems)
    for number in range(rounds):
        before_round()
        for name in names if number % 2 == 0 else reversed(names):
            taken[name].append(systems[name]())
    return {name: Times(tuple(seconds)) for name, seconds in taken.items()}


def seconds_of(run: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    began = clock()
    run()
    return clock() - began


def ratio(ours: Times, theirs: Times) -> tuple[float, float, float]:
    """Speedup, theirs divided by ours in each round: the median, and the quartiles."""
    each = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    first, middle, third = statistics.quantiles(each, n=4, method="inclusive")
    return middle, first, third
