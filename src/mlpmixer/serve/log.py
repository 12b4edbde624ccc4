"""The log of a service as JSON lines, of events and of requests. Nothing of an image or an answer is in it.

{"time": "2026-12-01T12:00:00.000+00:00", "event": "request", "method": "POST", "route": "/v1/predict", "status": 200,
 "ms": 12.3, "client": "127.0.0.1"}
"""

from __future__ import annotations

import logging
import time
import traceback
from asyncio import CancelledError
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlpmixer.text import first_line, to_json

MOST_LETTERS = 200  # of a path that no route has


class Log:
    """Writes lines to standard output, for as long as someone reads them."""

    def __init__(self) -> None:
        self.broken = False

    def line(self, event: str, **facts: Any) -> None:
        """A line; the service goes on where it cannot be written."""
        if self.broken:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            print(to_json({"time": now, "event": event, **facts}), flush=True)
        except (OSError, ValueError):
            self.broken = True

    def tell(self, message: str) -> None:
        self.line("message", message=message)


class Logged:
    """Around an application: a line for each request, when it has been answered."""

    def __init__(self, app: ASGIApp, log: Log):
        self.app, self.log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status: int | None = None  # the client had gone

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            route = route_of(scope)
            self.log.line(
                "request",
                method=scope["method"],
                route=route,
                **({} if route else {"path": scope["path"][:MOST_LETTERS]}),
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 1),
                client=(scope.get("client") or ("",))[0],
            )


def route_of(scope: Scope) -> str | None:
    """The template of the route that answered, such as "/v2/models/{model}"; None: there was none."""
    if scope.get("endpoint") is None:
        return None
    template = getattr(scope.get("route"), "path", None)
    if template is None:
        names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
        template = "/".join(names.get(part, part) for part in str(scope["path"]).split("/"))
    return template


class Failures(logging.Handler):
    """Mistakes in the program, which uvicorn logs with whole tracebacks: a line each, with the place."""

    def __init__(self, tell: Callable[[str], object]):
        super().__init__(logging.ERROR)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or isinstance(error, CancelledError):  # it was cut off, as `run` tells
            return
        place = traceback.extract_tb(error.__traceback__)[-1:]
        where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in place)
        self.tell(f"a request failed: {type(error).__name__}: {first_line(error)}{where}")


def attach(tell: Callable[[str], object]) -> None:
    """Sends what uvicorn logs to `tell`."""
    logger = logging.getLogger("uvicorn.error")
    logger.handlers = [Failures(tell)]
    logger.propagate = False
    logger.setLevel(logging.ERROR)
