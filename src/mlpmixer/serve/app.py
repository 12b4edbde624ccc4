"""The routes of the service, as an ASGI application.

Predictions go through endpoints without a framework around them, since an image is answered in about two milliseconds;
everything else, and the description of it all in OpenAPI, is FastAPI's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlpmixer.predict.predictor import Prediction
from mlpmixer.serve.bodies import Asked, Hold, asked, require_few_numbers
from mlpmixer.serve.heat_map import GRID, HeatMap
from mlpmixer.serve.metrics import Metrics
from mlpmixer.serve.openapi import described
from mlpmixer.serve.page import page_route
from mlpmixer.serve.problems import Problem, invalid, malformed
from mlpmixer.serve.served import Served
from mlpmixer.serve.service import Kind, Service, problem_of
from mlpmixer.serve.v2 import V2
from mlpmixer.version import __version__

# What a route gives of an answer, as JSON.
Shown = Callable[[Any, int], dict[str, Any]]


def ranked(found: Prediction, top: int) -> dict[str, Any]:
    return {
        "label": found.label,
        "score": found.score,
        "top": [{"label": label, "score": score} for label, score in found.top[:top]],
    }


def embedding(found: Prediction, _top: int) -> dict[str, Any]:
    assert found.embedding is not None
    return {"embedding": found.embedding.tolist()}


def explained(found: HeatMap, top: int) -> dict[str, Any]:
    return {
        **ranked(found.prediction, top),
        "explained": found.label,
        "region": found.region,
        "drops": found.drops.astype(float).round(5).tolist(),
    }


# Route → what workers are asked, what is shown of it, and how many numbers that has.
ANSWERS: dict[str, tuple[Kind, Shown, Callable[[Served, int], int]]] = {
    "predict": ("predict", ranked, lambda _, top: top),
    "embed": ("predict", embedding, lambda served, _: served.predictor.width),
    "explain": ("explain", explained, lambda _, top: top + GRID**2),
}


FAILED = Problem(500, "failed", "the request could not be answered; the service goes on")


class Answers:
    """POST /v1/predict, /v1/embed or /v1/explain."""

    def __init__(self, service: Service, metrics: Metrics, name: str):
        self.service, self.metrics, self.name = service, metrics, name
        self.kind: Kind
        self.kind, self.shown, self.numbers = ANSWERS[name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request = Request(scope, receive)
        try:
            with self.service.holding() as hold:
                response: Response = await self.answered(request, hold)
        except Problem as problem:
            response = problem.response()
        except ClientDisconnect:
            return
        except Exception:
            await FAILED.response()(scope, receive, send)
            raise  # for the log
        self.metrics.request(self.name, response.status_code, time.perf_counter() - started)
        await response(scope, receive, send)

    async def answered(self, request: Request, hold: Hold) -> Response:
        async with self.service.admitted(self.kind):
            found = await asked(request, self.service.settings.max_body, hold)
        served = self.service.model(found.options.get("model"))
        top = self.top(served, found)
        require_few_numbers(len(found.images), self.numbers(served, top))
        gone = request.scope.get("mlpmixer.jobs")
        async with self.service.deadline():
            answers = await self.service.ask(served, found.images, kind=self.kind, gone=gone)
        shown = [self.one(answer, top) for answer in answers]
        self.metrics.images.labels(served.name).inc(sum("error" not in one for one in shown))
        if found.one or all("error" in one for one in shown):
            problem = problem_of(answers[0])
            if problem is not None:
                raise problem
        answer = {"model": served.name, "version": served.version, "predictions": shown}
        return JSONResponse(answer)

    def one(self, answer: Any, top: int) -> dict[str, Any]:
        problem = problem_of(answer)
        return self.shown(answer, top) if problem is None else problem.body()

    @staticmethod
    def top(served: Served, found: Asked) -> int:
        most = served.predictor.top
        text = found.options.get("top", str(most))
        if not text.isdecimal() or not 1 <= int(text[:9]) <= most:
            raise invalid(f"top must be between 1 and {most}")
        return int(text)


class Checks:
    """Around the application: who may ask, under which name, and from which page.

    Any page in a browser can send requests to a service on the same machine, and a name that leads to it can be made
    to look like its own. So the Host header must be a known one, and where a browser says which page asks, it must be
    ours.

    Behind the checks, what is posted to the routes of `straight` goes there without the layers of FastAPI, which would
    take as long as all else that is done for a request.
    """

    def __init__(self, app: ASGIApp, straight: Mapping[str, ASGIApp], service: Service, metrics: Metrics):
        self.app, self.straight, self.service, self.metrics = app, straight, service, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = self.problem(scope)
        if problem is not None:
            self.metrics.request("refused", problem.status, 0.0)
            await problem.response(scope["path"])(scope, receive, _with_headers(send))
            return
        self.service.in_flight += 1
        try:
            app = self.straight.get(scope["path"]) if scope["method"] == "POST" else None
            scope["endpoint"] = app  # for the log
            await (app or self.app)(scope, receive, _with_headers(send))
        finally:
            self.service.in_flight -= 1

    def problem(self, scope: Scope) -> Problem | None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        once = [name for name, _ in scope["headers"] if name in ONCE]
        if len(once) != len(set(once)):
            return malformed("the request has a header twice")
        settings = self.service.settings
        host = headers.get(b"host", b"").decode("latin-1").lower()
        own = (scope.get("server") or ("",))[0]  # its address is no name that anyone could have made lead here
        if not {_name(host), "*"} & {*settings.hosts} and _name(host).strip("[]") != own:
            return Problem(421, "host", "the service is not known under this name; --host-name adds it")
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin.partition("://")[2] != host:
            return Problem(403, "origin", "pages of other servers may not ask this one")
        if settings.token and scope["path"] not in OPEN:
            kind, _, token = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not settings.allows(token.strip()):
                return Problem(401, "token", "a token is needed", {"WWW-Authenticate": "Bearer"})
        return None


# Without a token: the page, which asks for it, and what those ask who watch over the service.
OPEN = ("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")

ONCE = (b"host", b"origin", b"authorization", b"content-type", b"content-length", b"inference-header-content-length")


def _name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
        await send(message)

    return sent


def _unknown(request: Request, error: Exception) -> Response:
    """Where there is no such route, or not with this method."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    codes = {404: ("not_found", "there is nothing here"), 405: ("method", "this is asked with another method")}
    code, message = codes.get(status, ("refused", "the request cannot be answered"))
    headers = error.headers if isinstance(error, HTTPException) else None
    return Problem(status, code, message, headers).response(request.url.path)


def _failed(request: Request, _error: Exception) -> Response:
    return FAILED.response(request.url.path)


def app_of(service: Service) -> ASGIApp:
    """The application of a service."""
    metrics = Metrics(service)
    app = FastAPI(title="mlpmixer", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(Exception, _failed)
    app.openapi = lambda: described([*service.models.slots], service.settings)

    @app.get("/v1/models", summary="The models, and what they are")
    def models() -> dict[str, Any]:
        found = []
        for slot in service.models.slots.values():
            if slot.served is not None:
                found.append({**slot.served.facts(), "reloads": slot.reloads, "reload_error": slot.error or None})
        return {"models": found}

    @app.get("/healthz", summary="Whether the service works; if not, restart it")
    def healthz() -> Response:
        return PlainTextResponse("ok\n" if service.alive else "a worker hangs\n", 200 if service.alive else 503)

    @app.get("/readyz", summary="Whether the service takes requests")
    def readyz() -> Response:
        return PlainTextResponse("ready\n" if service.ready else "not ready\n", 200 if service.ready else 503)

    @app.get("/metrics", summary="For Prometheus")
    def read_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    straight = {f"/v1/{name}": Answers(service, metrics, name) for name in ANSWERS}
    for path, answers in straight.items():
        app.router.routes.insert(0, Route(path, answers, methods=["POST"]))
    app.router.routes[:0] = V2(service, metrics).routes()
    app.router.routes.append(page_route(service.settings))
    return Checks(app, straight, service, metrics)
