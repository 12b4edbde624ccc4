"""Overload: ten times the clients of full capacity, each of which asks again as soon as it is answered.

Every request must be answered, with an answer or with 429 and a time; a newcomer that sends only its head must be told
before it sends its body; and what is accepted must be answered within the bound.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mlpmixer.bench.serving import requests
from mlpmixer.bench.serving.bar import Bar
from mlpmixer.bench.serving.client import Connection, opened, rate
from mlpmixer.bench.serving.systems import Server, Subject, ours

FULL = 64  # clients of full capacity
TIMES = 10
BOUND = 0.25  # seconds that an image may wait
HELD = 0.2  # seconds for which a refusal is held
NEWCOMER_SECONDS = 0.5  # within which a newcomer is refused
EVERY = 0.25  # seconds between newcomers
MEMORY_MB = 50
RESTING = 5.0  # seconds between the overload and the look at the memory
PIECE = 4  # images of a batch, about


@dataclass
class Fates:
    """What became of requests.

    Attributes:
        answers: By status; 0: no answer.
        untold: 429 without a time to ask again.
        accepted: Seconds until 200.
        refused: Seconds until newcomers were refused by their heads.
    """

    answers: Counter[int] = field(default_factory=Counter)
    untold: int = 0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)


def measure_overload(
    subject: Subject, images: Sequence[bytes], seconds: float, tell: Callable[[str], object], *, clients: int = FULL
) -> list[Bar]:
    """`clients`: of full capacity."""
    built = [requests.raw(image) for image in images]
    with ours(subject, max_latency_ms=round(BOUND * 1000)) as server:
        tell(f"overload: {TIMES * clients} clients for {seconds:g} seconds")
        return asyncio.run(_measured(server, images, built, seconds, clients))


async def _measured(
    server: Server, images: Sequence[bytes], built: list[bytes], seconds: float, clients: int
) -> list[Bar]:
    capacity = await rate(server.port, built, min(seconds, 5.0))
    before = server.usage().rss
    fates = Fates()
    until = time.monotonic() + seconds
    started = time.monotonic()
    await asyncio.gather(
        *(_impatient(server.port, built, number, until, fates) for number in range(TIMES * clients)),
        _newcomers(server.port, images, until, fates),
    )
    took = time.monotonic() - started
    await asyncio.sleep(min(RESTING, seconds))
    return overload_bars(fates, capacity, took, (server.usage().rss - before) / 1e6)


async def _impatient(port: int, built: Sequence[bytes], number: int, until: float, fates: Fates) -> None:
    connection = None
    while time.monotonic() < until:
        try:
            connection = await opened(connection, port)
            found = await connection.ask(built[number % len(built)])
        except (OSError, TimeoutError):
            fates.answers[0] += 1
            connection = None
            continue
        number += 1
        fates.answers[found.status] += 1
        if found.status == 200:
            fates.accepted.append(found.seconds)
        fates.untold += found.status == 429 and not found.headers.get("retry-after", "").isdecimal()
    if connection is not None:
        connection.close()


async def _newcomers(port: int, images: Sequence[bytes], until: float, fates: Fates) -> None:
    """New connections, one after the other, that send a head and wait; those without an answer send the body."""
    number = 0
    while time.monotonic() < until:
        number += 1
        image = images[number % len(images)]
        try:
            connection = await Connection.open(port)
            connection.send(requests.head("/v1/predict", "image/jpeg", len(image)))
            found = await connection.rest(1.0)
            if found is not None and found.status == 429:
                fates.refused.append(found.seconds)
            elif found is None:
                connection.send(image)
                found = await connection.rest(60.0)
            fates.answers[found.status if found else 0] += 1
            connection.close()
        except OSError:
            fates.answers[0] += 1
        await asyncio.sleep(EVERY)


def overload_bars(fates: Fates, capacity: float, seconds: float, grown_mb: float) -> list[Bar]:
    """Of the fates of all requests.

    Args:
        fates: All of them.
        capacity: Requests a second that are answered when nothing is refused.
        seconds: How long it took.
        grown_mb: Memory after it, less that before.
    """
    others = sum(count for status, count in fates.answers.items() if status not in (0, 200, 429))
    nan = float("nan")
    batch = PIECE / capacity if capacity else nan
    goodput = fates.answers[200] / seconds / capacity if capacity else nan
    return [
        Bar("overload: requests without an answer", fates.answers[0], "≤", 0),
        Bar("overload: answers other than 200 and 429 with a time", others + fates.untold, "≤", 0),
        Bar("overload: refused before the body", len(fates.refused), "≥", 1),
        Bar("overload: shortest wait for a refusal", min(fates.refused, default=nan), "≥", HELD, "s"),
        Bar("overload: p99 until a newcomer is refused", _p99(fates.refused), "≤", NEWCOMER_SECONDS, "s"),
        Bar("overload: p99 of what is accepted", _p99(fates.accepted), "≤", BOUND + batch, "s"),
        Bar("overload: accepted, of capacity", goodput, "≥", 0.5),
        Bar("overload: memory kept", grown_mb, "≤", MEMORY_MB, "MB"),
    ]


def _p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[-1] if len(seconds) > 1 else float("nan")
