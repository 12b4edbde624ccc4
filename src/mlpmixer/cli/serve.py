"""`mixer serve`: models over HTTP."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import sys
from typing import Annotated, Any

import tyro

from mlpmixer.cli.output import one_of, say, tell
from mlpmixer.engines.table import ENGINES, precisions
from mlpmixer.errors import UsageError
from mlpmixer.packages import require
from mlpmixer.weights.bundled import DEFAULT

VARIABLE = "MLPMIXER_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


def serve(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]RUN|FILE|NAME...")] = (),
    /,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    host_name: tuple[str, ...] = (),
    trusted_proxy: tuple[str, ...] = (),
    max_latency_ms: int = 2000,
    max_body: int = 64_000_000,
    top: int = 5,
    engine: Annotated[str, one_of(("auto", *ENGINES))] = "auto",
    precision: Annotated[str, one_of(("auto", *precisions()))] = "auto",
    device: str = "auto",
    workers: int = 0,
    json_log: bool = False,
) -> None:
    """Serve models over HTTP.

    A page for people at /, JSON for programs under /v1, the Open Inference Protocol under /v2.

    Args:
        models: Run folders, files of weights, or names from `mixer models --weights`; the first is the default of
            requests. By default the small model that comes with the package.
        host: Address to listen on. Others than 127.0.0.1 and ::1, which only this machine reaches, need a token.
        port: Port to listen on; 0: a free one.
        token: Required in each request, as `Authorization: Bearer TOKEN`; by default what MLPMIXER_TOKEN has.
        host_name: Names under which the service may be asked, besides its address and localhost; '*': any.
        trusted_proxy: Addresses or networks of proxies in front, whose X-Forwarded-For says who the client is.
        max_latency_ms: An image that would have to wait longer is refused, with the time to try again.
        max_body: Bytes that a request may have.
        top: Labels for each image, at most.
        engine: Inference backend. auto: the fastest here.
        precision: Numeric precision.
        device: auto, cpu or cuda.
        workers: Threads that answer; 0: as many as there are cores.
        json_log: Write a line of JSON for each request and event to standard output.
    """
    # While it starts. Without a handler, the signal would be lost on the first process of a container.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    least = {"max_latency_ms": (max_latency_ms, 1), "max_body": (max_body, 1), "top": (top, 1), "workers": (workers, 0)}
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {smallest}; it is {value}")
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(package, extra="serve", what="mixer serve")
    token = token or os.environ.get(VARIABLE, "")
    if host not in LOOPBACK and not token:
        raise UsageError(f"a service on {host} can be reached by others, and needs a token: --token, or {VARIABLE}")
    if token and not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        raise UsageError("a token has letters of ASCII, digits and any of - . _ ~ + / = only")

    for proxy in trusted_proxy:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise UsageError(f"--trusted-proxy is an address, or a network such as 10.0.0.0/8, not '{proxy}'") from None

    from mlpmixer.serve.log import Log
    from mlpmixer.serve.served import Models
    from mlpmixer.serve.server import address_of, listen, run
    from mlpmixer.serve.service import Service, Settings

    options: dict[str, Any] = {"engine": engine, "precision": precision, "device": device, "top": top}
    log = Log() if json_log else None
    service = Service(
        Models(models or (DEFAULT,), options),
        Settings(
            max_latency=max_latency_ms / 1000,
            max_body=max_body,
            token=token,
            hosts=(*Settings().hosts, host.lower(), *(name.lower() for name in host_name)),
        ),
        workers=workers,
        tell=log.tell if log else tell,
    )
    listener = listen(host, port)
    address = address_of(host, listener)
    if log:
        log.line("listening", address=address)
    else:
        say(address)
        sys.stdout.flush()
    run(service, listener, log=log, proxies=trusted_proxy)
