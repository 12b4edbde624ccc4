"""Attacks: many tiny images, a body in single bytes, and slow connections; the service must not mind."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from mlpmixer.bench.serving import requests
from mlpmixer.bench.serving.bar import Bar
from mlpmixer.bench.serving.client import Connection
from mlpmixer.bench.serving.systems import Server, Subject, ours

MEMORY_MB = 50
CHUNKED_SECONDS = 1.0
SHED_SECONDS = 10.0  # within which slow connections are gone; heads may take 5
OTHERS_SECONDS = 1.0  # for a good request meanwhile


@dataclass(frozen=True)
class Numbers:
    """How much of each."""

    tiny: int = 10_000
    in_a_list: int = 1_000
    clients: int = 16
    chunks: int = 65_536
    slow: int = 400


FULL = Numbers()


def measure_attacks(
    subject: Subject, images: Sequence[bytes], tell: Callable[[str], object], numbers: Numbers = FULL
) -> list[Bar]:
    """`images`: what others ask meanwhile."""
    found: list[Bar] = []
    with ours(subject) as server:
        for attack in (_tiny, _chunked, _slow):
            tell(f"attack: {attack.__name__.strip('_')}")
            found += asyncio.run(attack(server, images, numbers))
    return found


async def _tiny(server: Server, _images: Sequence[bytes], numbers: Numbers) -> list[Bar]:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(file, "PNG")
    image = file.getvalue()
    before = server.usage().rss
    connection = await Connection.open(server.port)
    listed = 0
    for _ in range(numbers.tiny // numbers.in_a_list):
        answer = await connection.ask(requests.form([image] * numbers.in_a_list))
        listed += answer.body.count(b'"top"') if answer.status == 200 else 0
    connection.close()
    alone = 0

    async def client() -> None:
        nonlocal alone
        connection = await Connection.open(server.port)
        for _ in range(numbers.tiny // numbers.clients):
            answer = await connection.ask(requests.raw(image))
            alone += answer.status == 200
        connection.close()

    await asyncio.gather(*(client() for _ in range(numbers.clients)))
    grown = (server.usage().rss - before) / 1e6
    return [
        Bar(f"tiny images answered, {numbers.in_a_list:,} a request", listed, "≥", numbers.tiny),
        Bar("tiny images answered, one by one", alone, "≥", numbers.tiny // numbers.clients * numbers.clients),
        Bar("memory kept after tiny images", grown, "≤", MEMORY_MB, "MB"),
    ]


async def _chunked(server: Server, images: Sequence[bytes], numbers: Numbers) -> list[Bar]:
    body = images[0].ljust(numbers.chunks, b"\0")[: numbers.chunks]  # what follows an image is not looked at
    head = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    connection = await Connection.open(server.port)
    answer = await connection.ask(head + parts + b"0\r\n\r\n")
    connection.close()
    name = f"{numbers.chunks:,} chunks of a byte"
    return [
        Bar(f"{name}: status", answer.status, "≤", 200 if len(images[0]) <= numbers.chunks else 422),
        Bar(f"{name}: time", answer.seconds, "≤", CHUNKED_SECONDS, "s"),
    ]


async def _slow(server: Server, images: Sequence[bytes], numbers: Numbers) -> list[Bar]:
    """A third each says nothing, sends its head slowly, or its body."""
    begun = [
        b"",
        b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        requests.head("/v1/predict", "image/jpeg", 50_000),
    ]
    connections = [await Connection.open(server.port) for _ in range(numbers.slow)]
    for number, connection in enumerate(connections):
        connection.send(begun[number % 3])
    started = time.monotonic()
    longest = 0.0
    while any(not one.lost.done() for one in connections) and time.monotonic() - started < SHED_SECONDS:
        good = await Connection.open(server.port)
        answer = await good.ask(requests.raw(images[0]))
        good.close()
        longest = max(longest, answer.seconds if answer.status == 200 else float("inf"))
        await asyncio.sleep(0.5)
        for number, connection in enumerate(connections):
            if not connection.lost.done() and number % 3:
                connection.send(b"x: y\r\n" if number % 3 == 1 else b"x")
    shed = sum(one.lost.done() for one in connections)
    for connection in connections:
        connection.close()
    return [
        Bar(f"slow connections shed within {SHED_SECONDS:.0f} s", shed, "≥", numbers.slow),
        Bar("longest answer to others meanwhile", longest, "≤", OTHERS_SECONDS, "s"),
    ]
