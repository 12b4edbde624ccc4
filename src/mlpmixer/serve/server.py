"""A service on a port, in a process of its own: it answers until SIGTERM or Ctrl-C, ends what it is at, and exits.

A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from mlpmixer.errors import UsageError
from mlpmixer.serve.app import app_of
from mlpmixer.serve.service import Service

GRACE = 20  # seconds for requests that are in work when the service stops
BACKLOG = 1024
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Server(uvicorn.Server):
    """uvicorn's, without its signals, which it raises again when it has ended: the exit code would be theirs."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from here on.

    Raises:
        UsageError: The address is not this machine's, or another process has the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {why}; choose another port: --port") from None
    listener.set_inheritable(True)
    return listener


def run(service: Service, listener: socket.socket, tell: Callable[[str], object]) -> None:
    """Serves until a signal comes; returns when the last request is answered."""
    asyncio.run(_run(service, listener, tell))


async def _run(service: Service, listener: socket.socket, tell: Callable[[str], object]) -> None:
    config = uvicorn.Config(
        app_of(service),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    server = Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if service.draining:
            os._exit(0)  # whatever is in work
        service.draining = True
        tell("stopping; once more to stop at once")
        server.should_exit = True

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    answering = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.to_thread(service.load)
        service.start()
        tell("ready")
        watching = asyncio.create_task(service.watch())
        await asyncio.wait([answering, watching], return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        await answering
    finally:
        service.close()
