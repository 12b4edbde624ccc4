"""The service as a deployment of Ray Serve: replicas on the machines of a cluster, behind Ray's proxy.

    from ray import serve
    from mlpmixer.serve.ray import Mixer

    serve.run(Mixer.options(ray_actor_options={"num_cpus": 4}).bind("runs/mine"))

or `serve run mlpmixer.serve.ray:application models=runs/mine`.

Each replica is what `mixer serve` is without its socket: models, workers (as many as it has CPUs), and all routes.
Ray's proxy reads the requests, so the limits on connections are its own, and a request is refused once it is there: by
Ray when its queue is full, by the replica when an image would have to wait too long.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from starlette.types import ASGIApp

from mlpmixer.packages import require
from mlpmixer.serve.app import app_of
from mlpmixer.serve.served import Models
from mlpmixer.serve.service import Service, Settings

ray_serve: Any = require("ray.serve", extra="ray-serve", what="mlpmixer.serve.ray")


class Replica:
    """A service in a process of Ray's.

    Args:
        models: As `mixer serve` takes them; each machine must have the files.
        settings: By default those of `mixer serve`, under whatever name the proxy is asked, with the token that
            MLPMIXER_TOKEN has.
        options: Of each `Predictor`.
    """

    async def __init__(self, *models: str, settings: Settings | None = None, **options: Any):
        settings = settings or Settings(hosts=("*",), token=os.environ.get("MLPMIXER_TOKEN", ""))
        self.service = Service(Models(models, options), settings, tell=logging.getLogger("ray.serve").info)
        await asyncio.to_thread(self.service.load)
        self.service.start()
        self.watching = asyncio.create_task(self.service.watch())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return app_of(self.service)

    def check_health(self) -> None:
        """Ray replaces the replica where this raises."""
        if not self.service.alive or self.watching.done():
            raise RuntimeError("a worker hangs, or the watch over them has ended")


Mixer: Any = ray_serve.deployment(
    name="mixer",
    max_ongoing_requests=32,
    max_queued_requests=64,
    backpressure_config={"status_code": 429, "retry_after_s": 1},
    autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 8},
    health_check_period_s=10,
    graceful_shutdown_timeout_s=20,
)(ray_serve.ingress()(Replica))


def application(arguments: dict[str, str]) -> Any:
    """For `serve run mlpmixer.serve.ray:application models=A,B`."""
    return Mixer.bind(*arguments["models"].split(","))
