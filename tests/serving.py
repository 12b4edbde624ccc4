"""A service that listens on a port of this machine, in a thread of the tests' own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn

from mlpmixer.serve.app import app_of
from mlpmixer.serve.served import Models
from mlpmixer.serve.service import Service, Settings


@dataclass
class Running:
    service: Service
    address: str  # host:port
    client: httpx2.Client


@contextmanager
def running(models: Sequence[str], options: dict[str, Any] | None = None, **settings: Any) -> Iterator[Running]:
    """A ready service."""
    service = Service(Models(models, options or {}), Settings(**settings), workers=2, tell=lambda _: None)
    service.load()
    config = uvicorn.Config(app_of(service), port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    started = threading.Event()

    async def serve() -> None:
        service.start()
        server.config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        started.set()
        await server.main_loop()
        await server.shutdown()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(30)
        host, port = server.servers[0].sockets[0].getsockname()
        token = settings.get("token")
        headers = {b"Authorization": f"Bearer {token}".encode()} if token else {}
        with httpx2.Client(base_url=f"http://{host}:{port}", headers=headers, timeout=60) as client:
            yield Running(service, f"{host}:{port}", client)
    finally:
        server.should_exit = True
        thread.join(30)
        service.close()
