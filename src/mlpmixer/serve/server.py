"""A service on a port, in a process of its own: it answers until SIGTERM or Ctrl-C, ends what it is at, and exits.

    socket open → models load (not ready) → ready → signal: not ready, what is in work is answered → exit 0

A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import uvicorn

from mlpmixer.errors import UsageError
from mlpmixer.serve.app import app_of
from mlpmixer.serve.guard import ConnectionLimits, Guard
from mlpmixer.serve.log import Log, Logged, attach
from mlpmixer.serve.service import Service

GRACE = 20.0  # seconds for requests that are in work when the service stops
BACKLOG = 1024
SIGNALS = (signal.SIGTERM, signal.SIGINT)
OTHER_FILES = 256  # that may be open beside connections

# Why an address cannot be had → what to do.
WAYS_OUT = {
    errno.EADDRINUSE: "choose another port: --port",
    errno.EACCES: "choose a port above 1023: --port",
}


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
    if not 0 <= port <= 65535:
        raise UsageError(f"a port is between 0 and 65535; it is {port}")
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        number, why = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        way_out = WAYS_OUT.get(number or 0, "choose an address of this machine: --host")
        raise UsageError(f"cannot listen on {host}:{port}: {why}; {way_out}") from None
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    """Where a browser on this machine finds the service."""
    return f"http://{f'[{host}]' if ':' in host.strip('[]') and host[0] != '[' else host}:{listener.getsockname()[1]}/"


def run(
    service: Service,
    listener: socket.socket,
    *,
    log: Log | None = None,
    limits: ConnectionLimits | None = None,
    grace: float = GRACE,
    proxies: Sequence[str] = (),
) -> NoReturn:
    """Serves until a signal comes, and ends the process when the last request is answered.

    Args:
        service: Its models are not loaded yet.
        listener: From `listen`.
        log: Gets a line for each request; none: no requests are logged.
        limits: Of connections.
        grace: Seconds for requests in work, once a signal has come.
        proxies: Addresses or networks; what a request through them says of its client is believed.

    Raises:
        MixerError: A model cannot be loaded.
    """
    limits = limits or ConnectionLimits()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + OTHER_FILES
    if soft < wanted:  # usually 1,024
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    attach(service.tell)
    app: Any = app_of(service)
    guard = Guard(limits, service.refused, (lambda code: log.line("refused", code=code)) if log else None)
    config = uvicorn.Config(
        Logged(app, log) if log else app,
        http=guard.protocol,  # pyright: ignore[reportArgumentType] (it makes what a class would)
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=[*proxies],
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(service, Server(config), listener, guard, grace))
    raise AssertionError


async def _run(service: Service, server: Server, listener: socket.socket, guard: Guard, grace: float) -> None:
    loop = asyncio.get_running_loop()
    signaled = asyncio.Event()

    def stop() -> None:
        if service.draining:
            service.tell("stopped at once")
            leave()
        service.draining = guard.draining = True
        service.tell("stopping when what is in work is answered; a second signal stops at once")
        signaled.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    answering = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(signaled.wait())
    try:
        loading = asyncio.create_task(asyncio.to_thread(service.load))
        await asyncio.wait([loading, stopping, answering], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await loading
            service.start()
            for line in service.lines():
                service.tell(line)
            watching = asyncio.create_task(service.watch())
            await asyncio.wait([watching, stopping, answering], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching  # raises
            await _drain(service, server, grace)
    finally:
        server.should_exit = True
        await answering
        service.close()
    leave()


async def _drain(service: Service, server: Server, grace: float) -> None:
    """Waits until the requests that are in work are answered. New ones are told that the service stops."""
    for connection in [*server.server_state.connections]:
        connection.shutdown()
    tasks = {*server.server_state.tasks}
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=grace)
    if late:
        service.tell(f"requests that were cut off after {grace:.0f} s: {len(late)}")


def leave() -> NoReturn:
    """Ends the process with 0, whatever threads are at: a model that loads, or a worker that hangs."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)
