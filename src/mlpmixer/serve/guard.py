"""Limits on connections: how large a head may be, how slow a client, and how many there may be.

uvicorn has none of these: a head may be of any size and take any time, and silent connections stay. Here uvicorn's own
protocol (httptools parses) is given them, and is strict about what proxies and servers are known to read differently,
so that no request can be smuggled within another:

    IDLE → HEAD → BODY → WHOLE → (answered) → IDLE
           5 s    1 KB/s, 30 s

A client that takes too long or sends something else than HTTP gets one JSON error, where nothing else is being
answered, and the connection ends. Where there are too many connections, the one that has been idle for the longest
gives way.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mlpmixer.serve.problems import Problem, malformed

DROPPED = 1 << 26  # bytes that are read after an error, at most
PIPELINED = 100  # requests that a client may send before the first is answered


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may take.

    Attributes:
        head: Bytes of a request's head.
        fields: Header fields.
        head_seconds: From the first byte of a head, or from the connection, to the head's end.
        body_seconds: From the head's end to the body's.
        body_rate: Bytes a second of a body, on average, after as many seconds as a head may take; and of an answer.
        answer_seconds: Over which the rate of an answer is looked at.
        idle_seconds: Between an answer and the next request. More than what proxies have, so that they close first.
        linger_seconds: For the client to read an error while it still sends; what it sends is dropped.
        connections: At the same time.
    """

    head: int = 32_768
    fields: int = 100
    head_seconds: float = 5.0
    body_seconds: float = 30.0
    body_rate: int = 1_000
    answer_seconds: float = 30.0
    idle_seconds: float = 75.0
    linger_seconds: float = 2.0
    connections: int = 1_000


class Reading(Enum):
    """What of a request has come.

    Attributes:
        IDLE: Nothing.
        HEAD: A part of its head.
        BODY: Its head.
        WHOLE: All of it.
    """

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    WHOLE = "whole"


class Guard:
    """The connections of a server.

    Args:
        limits: Of each.
        refused: Counts of what was refused or ended, by the code of the error.
        tell: Gets the code of each.
    """

    def __init__(
        self,
        limits: ConnectionLimits | None = None,
        refused: Counter[str] | None = None,
        tell: Callable[[str], object] | None = None,
    ):
        self.limits = limits or ConnectionLimits()
        self.refused: Counter[str] = Counter() if refused is None else refused
        self.tell = tell
        self.idle: dict[Guarded, None] = {}  # those without a request in work, the longest idle first
        self.draining = False  # an answer is the last of its connection

    def protocol(self, **options: Any) -> Guarded:
        """A connection; for `uvicorn.Config(http=…)`."""
        return Guarded(self, **options)

    def count(self, code: str) -> None:
        self.refused[code] += 1
        if self.tell is not None:
            self.tell(code)

    def make_room(self) -> bool:
        """Ends the connection that has been idle for the longest; whether there was one."""
        oldest = next(iter(self.idle), None)
        if oldest is None:
            return False
        self.count("idle")
        oldest.leave()
        oldest.connections.discard(oldest)
        return True


class Guarded(HttpToolsProtocol):
    """A connection within limits.

    Each request's scope has "mlpmixer.jobs", a list of functions to call if the connection is lost before the answer.
    """

    def __init__(self, guard: Guard, **options: Any):
        super().__init__(**options)
        self.guard, self.limits = guard, guard.limits
        self.reading = Reading.IDLE
        self.since = 0.0  # when this part of the request began
        self.size = self.fields = 0  # of the head, or of what follows a chunked body
        self.raw = 0  # bytes of a head that is not whole yet
        self.heads = 0  # that began
        self.dropped = 0  # bytes
        self.received = 0  # bytes of the body
        self.running: RequestResponseCycle | None = None
        self.jobs: list[Callable[[], object]] = []
        self.deadline: asyncio.TimerHandle | None = None
        self.stalled: asyncio.TimerHandle | None = None
        self.problem: Problem | None = None  # why what comes is not parsed any more
        self.ended = False  # no more is read

    # Connections.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.rest()
        self.since = self.loop.time()
        self.await_client()
        if len(self.connections) > self.limits.connections:
            del self.guard.idle[self]  # not the newcomer
            if self.guard.make_room():
                self.guard.idle[self] = None
            else:
                self.refuse(Problem(503, "connections", "there are too many connections", {"Retry-After": "5"}))

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_reading()
        self.stop_awaiting_reader()
        self._unset_keepalive_if_required()
        self.disconnect()
        super().connection_lost(exc)

    def disconnect(self) -> None:
        """Tells the request in work that nobody awaits its answer."""
        running = self.running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.waiting_for_100_continue = False
            running.message_event.set()
            for cancel in self.jobs:
                cancel()
        self.jobs.clear()

    def leave(self) -> None:
        """Closes the connection when what was written has gone out, or nobody takes it."""
        self.stop_reading()
        self.transport.close()
        if self.stalled is None and (size := self.transport.get_write_buffer_size()):
            self.await_reader(size)

    def stop_reading(self) -> None:
        self.ended = True
        self.guard.idle.pop(self, None)
        self.pipeline.clear()
        self.set_deadline(None)

    def rest(self) -> None:
        self.reading = Reading.IDLE
        self.guard.idle[self] = None

    # What the client sends.

    def data_received(self, data: bytes) -> None:
        if self.ended:  # until the client has read the error that it was told
            self.dropped += len(data)
            if self.dropped > DROPPED:
                self.transport.abort()
            return
        if self.reading is Reading.IDLE:
            self.begin_head()
        heads = self.heads
        super().data_received(data)
        if self.ended:
            return
        if self.reading is Reading.HEAD and self.heads == heads:
            self.raw += len(data)
            if self.raw > self.limits.head:
                self.refuse(self.head_too_large())
                return
        self.await_client()

    def begin_head(self) -> None:
        self.reading, self.since = Reading.HEAD, self.loop.time()
        self.size = self.fields = self.raw = self.received = 0
        self.heads += 1

    def on_message_begin(self) -> None:
        if self.reading is not Reading.HEAD:  # a request that follows another one in the same packet
            self.begin_head()
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self.size += len(url)
        if self.size > self.limits.head:
            raise self.fails(self.head_too_large())
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields += 1
        self.size += len(name) + len(value) + 4
        if self.size > self.limits.head or self.fields > self.limits.fields:
            raise self.fails(self.head_too_large())
        if self.reading is Reading.HEAD:  # and not what follows a chunked body
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        upgrade = self.parser.should_upgrade()
        if why := self.wrong_head(self.parser.get_http_version(), upgrade):
            raise self.fails(malformed(why))
        super().on_headers_complete()
        self.reading, self.since = Reading.BODY, self.loop.time()
        self.size = self.fields = 0
        self.guard.idle.pop(self, None)
        self.scope["mlpmixer.jobs"] = self.jobs  # pyright: ignore[reportGeneralTypeIssues] (one more than ASGI has)
        if self.guard.draining or upgrade:
            self.cycle.keep_alive = False

    def wrong_head(self, version: str, upgrade: bool) -> str:
        """What is wrong with a head that the parser lets pass; empty: nothing."""
        names = [name for name, _ in self.headers]
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if version not in ("1.0", "1.1"):
            return "only HTTP/1.1 and 1.0 are spoken here"
        if names.count(b"host") != 1:
            return "a request has one Host"
        if codings and (version == "1.0" or codings != [b"chunked"]):
            return "Transfer-Encoding can only be chunked"
        if codings and b"content-length" in names:
            return "Content-Length and Transfer-Encoding exclude each other"
        if upgrade and (codings or b"content-length" in names):
            return "a request with a body cannot be upgraded to another protocol"
        if len(self.pipeline) >= PIPELINED:
            return "too many requests are sent before the first is answered"
        return ""

    def on_body(self, body: bytes) -> None:
        self.received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.reading = Reading.WHOLE
        super().on_message_complete()
        if self.cycle.response_complete and not self.ended:  # it was answered before it had come
            self.keep_alive()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's)
        self.refuse(self.problem or malformed("this is no HTTP, or broken"))

    # Time.

    def await_client(self) -> None:
        """Sets the time by which more must have come."""
        if self.reading is Reading.WHOLE or (self.reading is Reading.IDLE and self.cycle is not None):
            self.set_deadline(None)
        elif self.deadline is None:
            self.set_deadline(self.until())

    def set_deadline(self, time: float | None) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = None if time is None else self.loop.call_at(time, self.look)

    def until(self) -> float:
        """The time by which the part of the request that is awaited must be there."""
        if self.reading is not Reading.BODY:
            return self.since + self.limits.head_seconds
        if self.cycle.response_complete:
            return self.since + self.limits.linger_seconds
        allowed = self.limits.head_seconds + self.received / self.limits.body_rate
        return self.since + min(self.limits.body_seconds, allowed)

    def look(self) -> None:
        """Ends the connection if it is late. The deadline may have moved since it was set, but only to later."""
        self.deadline = None
        if self.pipeline:  # nothing is read until earlier requests are answered
            self.since = self.loop.time()
        if self.loop.time() < self.until():
            self.await_client()
        elif self.reading is Reading.IDLE or (self.reading is Reading.BODY and self.cycle.response_complete):
            self.guard.count("silent")
            self.leave()
        else:
            self.refuse(Problem(408, "slow", "the request took too long"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self.await_reader(self.transport.get_write_buffer_size())

    def await_reader(self, size: int) -> None:
        """An answer of which so many bytes wait to go out: the client must take enough of it in time."""
        allowed = size - self.limits.body_rate * self.limits.answer_seconds

        def look() -> None:
            now = self.transport.get_write_buffer_size()
            if now <= max(0, allowed):
                self.await_reader(now)
            else:
                self.guard.count("unread")
                self.transport.abort()

        self.stalled = self.loop.call_later(self.limits.answer_seconds, look)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self.stop_awaiting_reader()

    def stop_awaiting_reader(self) -> None:
        if self.stalled is not None:
            self.stalled.cancel()
            self.stalled = None

    # Answers.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.jobs.clear()
        super().on_response_complete()
        if self.transport.is_closing():
            self.leave()
        elif self.running is not self.cycle or not self.cycle.response_complete:
            self.since = self.loop.time()  # another one, which is read from now on
        elif self.reading is Reading.WHOLE:
            self.keep_alive()
        elif self.reading is Reading.BODY:  # it was answered by its head; the rest is dropped
            self._unset_keepalive_if_required()
            self.since = self.loop.time()
            self.set_deadline(self.until())

    def keep_alive(self) -> None:
        self.rest()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.limits.idle_seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.leave()

    def fails(self, problem: Problem) -> Problem:
        """The problem, to be raised in a function that the parser calls."""
        self.problem = problem
        return problem

    def head_too_large(self) -> Problem:
        return Problem(
            431, "head", f"a head may have {self.limits.head:,} bytes and {self.limits.fields:,} fields, and no more"
        )

    def refuse(self, problem: Problem) -> None:
        """Tells the client, if nothing else is being told, and ends the connection."""
        self.guard.count(problem.code)
        running = self.running
        if running is not None and not running.response_complete:
            if running is not self.cycle or self.reading is not Reading.BODY:
                # An earlier request is in work: it is answered, and no more is read.
                self.stop_reading()
                running.keep_alive = False
                return
            self.disconnect()
            if running.response_started:
                self.leave()
                return
        body = json.dumps(problem.body()).encode()
        headers = {
            "content-type": "application/json",
            "content-length": len(body),
            "connection": "close",
            "x-content-type-options": "nosniff",
            **problem.headers,
        }
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        # A connection that is closed while the client still sends is reset, and the client may not see the answer. So
        # it is closed on one side first.
        self.stop_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self.limits.linger_seconds, self.leave)
