"""An HTTP client of a few lines: it sends ready bytes and times the answers, at little cost to the machine."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Self

TIMEOUT = 60.0


@dataclass(frozen=True)
class Answer:
    """`seconds`: from when the request was handed over to the last byte of the answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.answer: asyncio.Future[tuple[int, dict[str, str], bytes]] | None = None
        self.lost = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, port: int) -> Self:
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0 or self.answer is None or self.answer.done():
            return
        first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        whole = end + 4 + int(headers.get("content-length", 0))
        if len(self.buffer) >= whole:
            self.answer.set_result((int(first.split()[1]), headers, bytes(self.buffer[end + 4 : whole])))
            del self.buffer[:whole]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's)
        if not self.lost.done():
            self.lost.set_result(None)
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError("the server closed the connection without an answer"))

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def ask(self, request: bytes, timeout: float = TIMEOUT) -> Answer:
        """Sends it and awaits its answer.

        Raises:
            ConnectionError: There will be none.
            TimeoutError: There is none yet.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        started = time.perf_counter()
        self.answer = asyncio.get_running_loop().create_future()
        self.send(request)
        async with asyncio.timeout(timeout):
            status, headers, body = await asyncio.shield(self.answer)
        return Answer(status, headers, body, time.perf_counter() - started)

    async def rest(self, timeout: float) -> Answer | None:
        """The answer to what was sent by `send`, if it comes in time; it can be awaited again."""
        started = time.perf_counter()
        if self.answer is None or self.answer.done():
            self.answer = asyncio.get_running_loop().create_future()
            self.data_received(b"")  # it may have come before
        done, _ = await asyncio.wait([self.answer], timeout=timeout)
        if not done:
            return None
        status, headers, body = self.answer.result()
        return Answer(status, headers, body, time.perf_counter() - started)

    def close(self) -> None:
        self.transport.close()


async def opened(connection: Connection | None, port: int) -> Connection:
    """The same one as long as it lasts."""
    if connection is None or connection.transport.is_closing():
        return await Connection.open(port)
    return connection


async def rate(port: int, requests: list[bytes], seconds: float, clients: int = 16) -> float:
    """Answers a second to clients that ask again as soon as they are answered."""
    until = time.monotonic() + seconds
    count = 0

    async def client(first: int) -> None:
        nonlocal count
        connection = await Connection.open(port)
        number = first
        while time.monotonic() < until:
            found = await connection.ask(requests[number % len(requests)])
            count += found.status == 200
            number += clients
        connection.close()

    started = time.monotonic()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return count / (time.monotonic() - started)
