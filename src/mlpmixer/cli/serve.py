"""`mixer serve`: models over HTTP."""

from __future__ import annotations

import os
from typing import Annotated, Any

import tyro

from mlpmixer.cli.output import one_of, say, tell
from mlpmixer.engines.table import ENGINES, precisions
from mlpmixer.errors import UsageError
from mlpmixer.packages import require
from mlpmixer.weights.bundled import DEFAULT

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]RUN|FILE|NAME...")] = (),
    /,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    host_name: tuple[str, ...] = (),
    max_latency_ms: int = 2000,
    max_body: int = 64_000_000,
    top: int = 5,
    engine: Annotated[str, one_of(("auto", *ENGINES))] = "auto",
    precision: Annotated[str, one_of(("auto", *precisions()))] = "auto",
    device: str = "auto",
    lanes: int = 0,
) -> None:
    """Serve models over HTTP.

    A page for people at /, JSON for programs under /v1, the Open Inference Protocol under /v2.

    Args:
        models: Run folders, files of weights, or names from `mixer models --weights`; the first is the default of
            requests. By default the small model that comes with the package.
        host: Address to listen on. Others than this machine's own need a token.
        port: Port to listen on; 0: a free one.
        token: Required in each request, as `Authorization: Bearer TOKEN`; by default what MLPMIXER_TOKEN has.
        host_name: Names under which the service may be asked, besides the host.
        max_latency_ms: A picture that would have to wait longer is refused, with the time to try again.
        max_body: Bytes that a request may have.
        top: Labels for each picture, at most.
        engine: Inference backend. auto: the fastest here.
        precision: Numeric precision.
        device: auto, cpu or cuda.
        lanes: Threads that answer; 0: as many as there are cores.
    """
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(package, extra="serve", what="mixer serve")
    token = token or os.environ.get("MLPMIXER_TOKEN", "")
    if host not in LOOPBACK and not token:
        raise UsageError(f"a service on {host} can be reached by others, and needs a token: --token, or MLPMIXER_TOKEN")

    from mlpmixer.serve.served import Models
    from mlpmixer.serve.server import listen, run
    from mlpmixer.serve.service import Service, Settings

    options: dict[str, Any] = {"engine": engine, "precision": precision, "device": device, "top": top}
    service = Service(
        Models(models or (DEFAULT,), options),
        Settings(
            max_latency=max_latency_ms / 1000,
            max_body=max_body,
            token=token,
            hosts=(*Settings().hosts, host, *host_name),
        ),
        lanes=lanes,
        tell=tell,
    )
    listener = listen(host, port)
    say(f"http://{host}:{listener.getsockname()[1]}/")
    run(service, listener, tell)
