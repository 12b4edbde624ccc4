"""Figures for Prometheus; a registry for each service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

if TYPE_CHECKING:
    from mlpmixer.serve.service import Service

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Requests as they end, and the state of the service whenever it is asked for."""

    def __init__(self, service: Service):
        self.service = service
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mixer_requests", "Requests, by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "mixer_request_seconds",
            "From a request's head to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter("mixer_images", "Images that were answered.", ["model"], registry=self.registry)
        self.registry.register(self)  # pyright: ignore[reportArgumentType] (it has `collect`)

    def request(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """What is read off the service."""
        workers = self.service.workers
        yield GaugeMetricFamily("mixer_ready", "1 if requests are taken.", value=float(self.service.ready))
        yield GaugeMetricFamily("mixer_in_flight", "Requests in work.", value=self.service.in_flight)
        refused = CounterMetricFamily("mixer_connections_refused", "Connections, by the reason.", labels=["reason"])
        for reason, count in [*self.service.refused.items()]:  # of which there may be more meanwhile
            refused.add_metric([reason], count)
        yield refused
        if workers is not None:
            yield GaugeMetricFamily("mixer_workers", "Workers.", value=len(workers.workers))
            yield CounterMetricFamily("mixer_workers_replaced", "Workers that died or hung.", value=workers.replaced)
            yield CounterMetricFamily("mixer_batches", "Batches that workers took.", value=workers.batches)
            yield GaugeMetricFamily(
                "mixer_wait_seconds", "How long a new image would wait; scale on this.", value=workers.wait_for(0)
            )
        reloads = CounterMetricFamily("mixer_reloads", "Replaced models that were loaded.", labels=["model"])
        failed = GaugeMetricFamily(
            "mixer_reload_failed", "1 if a replaced model could not be loaded.", labels=["model"]
        )
        for name, slot in self.service.models.slots.items():
            reloads.add_metric([name], slot.reloads)
            failed.add_metric([name], float(bool(slot.error)))
        yield reloads
        yield failed
        yield GaugeMetricFamily("mixer_held_bytes", "Bodies of requests in memory.", value=self.service.held)
