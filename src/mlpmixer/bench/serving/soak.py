"""Soak: a service under mixed load for a long time, whose memory must not grow.

All kinds of requests, good and bad, at half of capacity. Memory is read once a second. Growth is the larger of two
figures over what comes after the warm-up: a line through all of it (Theil-Sen, which some outliers do not move), and
the median of the last part less that of the first.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mlpmixer.bench.serving import requests
from mlpmixer.bench.serving.bar import Bar
from mlpmixer.bench.serving.client import Connection, opened, rate
from mlpmixer.bench.serving.systems import Server, Subject, ours

SHARE = 0.5  # of capacity
CLIENTS = 16
GROWTH_MB = 20
WARM_UP = (0.2, 300.0)  # of the time, and seconds, whichever is less
PART = 0.1  # of what is measured: the first and the last part
SAMPLES = 200  # medians of which the line's pairs are made
FRESH = 0.05  # of requests come over a new connection


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        share: Of requests.
        cost: Images' worth of work.
        wanted: Statuses; none: the client hangs up instead.
        build: The request for some images.
    """

    share: float
    cost: float
    wanted: tuple[int, ...]
    build: Callable[[Sequence[bytes]], bytes]


def kinds(model: str) -> dict[str, Kind]:
    """All that is asked; `model`: its name in requests."""
    return {
        "raw": Kind(40, 1, (200,), lambda some: requests.raw(some[0])),
        "form": Kind(15, 1, (200,), lambda some: requests.form(some[:1])),
        "form of 4": Kind(5, 4, (200,), lambda some: requests.form(some[:4])),
        "base64": Kind(10, 1, (200,), lambda some: requests.in_json(some[:1])),
        "list of 8": Kind(3, 8, (200,), lambda some: requests.in_json(some)),
        "embed": Kind(5, 1, (200,), lambda some: requests.raw(some[0], "/v1/embed")),
        "explain": Kind(0.5, 100, (200,), lambda some: requests.raw(some[0], "/v1/explain")),
        "v2": Kind(8, 1, (200,), lambda some: requests.v2(some[0], model)),
        "cut image": Kind(3, 0.5, (415, 422), lambda some: requests.raw(some[0][: len(some[0]) // 2])),
        "no image": Kind(3, 0, (415,), lambda some: requests.raw(b"no image" + some[0][8:99])),
        "no JSON": Kind(1, 0, (400,), lambda _: requests.post("/v1/predict", "application/json", b"{")),
        "no route": Kind(1, 0, (404,), lambda _: requests.get("/nothing")),
        "metrics": Kind(1, 0, (200,), lambda _: requests.get("/metrics")),
        "page": Kind(0.5, 0, (200,), lambda _: requests.get("/")),
        "hung up": Kind(3, 1, (), lambda some: requests.raw(some[0])),
        "half a body": Kind(1, 0, (), lambda some: requests.raw(some[0])[: -len(some[0]) // 2]),
    }


@dataclass
class Soaked:
    """What happened: memory in bytes at each second, and requests by kind and by what went wrong."""

    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)


def measure_soak(
    subject: Subject,
    images: Sequence[bytes],
    minutes: float,
    tell: Callable[[str], object],
    *,
    leak: bool = False,
    period: float = 1.0,
) -> list[Bar]:
    """`leak`: of a service that keeps every image. `period`: seconds between looks at the memory."""
    with ours(subject, leak=leak) as server:
        tell(f"soak: {minutes:g} minutes")
        soaked = asyncio.run(_soaked(server, images, minutes * 60, period))
    return soak_bars(soaked)


async def _soaked(server: Server, images: Sequence[bytes], seconds: float, period: float) -> Soaked:
    found = Soaked()
    capacity = await rate(server.port, [requests.raw(image) for image in images], min(5.0, seconds / 10))
    model = await _model(server.port)
    table = kinds(model)
    total = sum(kind.share for kind in table.values())
    cost = sum(kind.share * kind.cost for kind in table.values()) / total
    pause = cost / (SHARE * max(capacity, 1.0))  # between requests
    started = time.monotonic()
    until = started + seconds
    turn = started
    chance = random.Random(0)

    async def client() -> None:
        nonlocal turn
        connection = None
        while time.monotonic() < until:
            turn = max(turn + pause, time.monotonic() - 1)
            await asyncio.sleep(turn - time.monotonic())
            [name] = chance.choices([*table], [kind.share for kind in table.values()])
            kind = table[name]
            request = kind.build(chance.choices(images, k=8))
            found.asked[name] += 1
            try:
                if chance.random() < FRESH and connection is not None:
                    connection.close()
                connection = await opened(connection, server.port)
                if not kind.wanted:
                    connection.send(request)
                    connection.close()
                    continue
                answer = await connection.ask(request)
                if answer.status not in kind.wanted:
                    found.wrong[f"{name}: {answer.status}"] += 1
            except (OSError, TimeoutError) as error:
                found.wrong[f"{name}: {type(error).__name__}"] += 1
                connection = None
        if connection is not None:
            connection.close()

    async def watch() -> None:
        while time.monotonic() < until:
            found.seconds.append(time.monotonic() - started)
            found.memory.append(server.usage().rss)
            await asyncio.sleep(period)

    await asyncio.gather(watch(), *(client() for _ in range(CLIENTS)))
    return found


async def _model(port: int) -> str:
    connection = await Connection.open(port)
    answer = await connection.ask(requests.get("/v1/models"))
    connection.close()
    return json.loads(answer.body)["models"][0]["name"]


def soak_bars(soaked: Soaked) -> list[Bar]:
    wrong = ", ".join(f"{name} × {count}" for name, count in soaked.wrong.most_common(5))
    asked = sum(soaked.asked.values())
    return [
        Bar("soak: requests", asked, "≥", 1),
        Bar(f"soak: wrong or missing answers{f' ({wrong})' if wrong else ''}", sum(soaked.wrong.values()), "≤", 0),
        Bar("soak: growth of memory", growth(soaked.seconds, soaked.memory) / 1e6, "≤", GROWTH_MB, "MB"),
    ]


def growth(seconds: Sequence[float], memory: Sequence[float]) -> float:
    """Of memory after the warm-up, in its unit; NaN where there is too little to tell."""
    if len(seconds) < 10:
        return float("nan")
    warm = min(WARM_UP[0] * seconds[-1], WARM_UP[1])
    pairs = [pair for pair in zip(seconds, memory, strict=True) if pair[0] >= warm]
    part = max(1, round(len(pairs) * PART))
    values = [value for _, value in pairs]
    ends = statistics.median(values[-part:]) - statistics.median(values[:part])
    step = max(1, len(pairs) // SAMPLES)
    some = pairs[::step]
    slopes = [
        (there[1] - here[1]) / (there[0] - here[0])
        for number, here in enumerate(some)
        for there in some[number + 1 :]
        if there[0] > here[0]
    ]
    return max(ends, statistics.median(slopes) * (pairs[-1][0] - pairs[0][0]))
