"""What a service does, without HTTP: models, workers and limits, and the watch over them."""

from __future__ import annotations

import asyncio
import hmac
import math
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from starlette.requests import ClientDisconnect

from mlpmixer.data.headers import header_of
from mlpmixer.data.limits import Limits, usual_limits
from mlpmixer.errors import ImageError
from mlpmixer.machine.ordered_pool import compute_alone
from mlpmixer.serve.bodies import Hold
from mlpmixer.serve.heat_map import GRID, heat_map
from mlpmixer.serve.problems import Problem, busy, invalid, not_found, unreadable
from mlpmixer.serve.served import Models, Served
from mlpmixer.serve.workers import Job, Turn, WorkerError, Workers

Kind = Literal["predict", "scores", "prepared", "explain"]
Tell = Callable[[str], object]
Gone = list[Callable[[], object]]  # what to call when the client has gone

HELD = 0.2  # seconds for which a refusal is held, so that an impatient client does not ask at once again
SWIFT = 0.25  # seconds within which bodies usually arrive
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SLACK = 3  # times as long as it should take
OTHERS = 0.6  # of the limit of pixels, for formats other than JPEG: decoding takes four times the memory
MAP_COST = 40  # a heat map takes as long as so many images


@dataclass(frozen=True)
class Settings:
    """What an operator decides.

    Attributes:
        max_latency: Seconds that an image may have to wait; more is refused.
        max_body: Bytes of a request.
        max_held: Bytes of all requests together that are being read or answered.
        token: Needed in each request, as `Authorization: Bearer TOKEN`; empty: none.
        hosts: Names under which the service may be asked; others are refused.
        limits: Of an image; None: those of `usual_limits`, and only the formats that people send.
        patience: Seconds after which a worker that does not answer is replaced; more where a heat map takes longer.
        deadline: Seconds after which a request is given up.
        watch: Seconds between looks at workers and files.
    """

    max_latency: float = 2.0
    max_body: int = 64_000_000
    max_held: int = 512_000_000
    token: str = ""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    limits: Limits | None = None
    patience: float = 30.0
    deadline: float = 60.0
    watch: float = 1.0

    def allows(self, token: bytes) -> bool:
        return hmac.compare_digest(token, os.fsencode(self.token))


class Service:
    """Models and the workers that answer for them.

    Args:
        models: Not loaded yet.
        settings: Limits.
        workers: How many; by default a worker for each thread of torch.
        tell: Where events go, a line each.
    """

    def __init__(self, models: Models, settings: Settings, workers: int = 0, tell: Tell = print):
        self.models, self.settings, self.tell = models, settings, tell
        self.limits = settings.limits or replace(usual_limits(), formats=FORMATS)
        self.count = workers or torch.get_num_threads()
        self.draining = False
        self.in_flight = self.held = 0
        self.coming: dict[object, float] = {}  # requests whose bodies are being read: since when, the oldest first
        self.refused: Counter[str] = Counter()  # connections, by the reason
        self.workers: Workers | None = None
        self.counts: dict[str, Count] = {}
        self.counting = threading.Lock()

    # Life.

    def load(self) -> None:
        """Loads and warms up the models; before that, the service is not ready."""
        self.models.load()

    def start(self) -> None:
        """Begins the workers; called in a running event loop, which the results go to."""
        first = self.models.find(None)
        slowest = max(slot.served.seconds for slot in self.models.slots.values() if slot.served is not None)
        loop = asyncio.get_running_loop()
        self.workers = Workers(
            self.answer,
            count=self.count,
            piece=first.piece,
            patience=max(self.settings.patience, SLACK * slowest * (1 + GRID**2)),
            hand_over=partial(_handed_over, loop),
            begin=compute_alone,
        )
        self.workers.rate = PICTURE / first.seconds

    def lines(self) -> Iterator[str]:
        """What there is when it is ready, for the operator."""
        for slot in self.models.slots.values():
            assert slot.served is not None
            facts = slot.served.facts()
            yield (
                f"model {slot.served.name}: {facts['architecture']}, {len(facts['classes']):,} classes, "
                f"{facts['engine']} {facts['precision']}, {slot.served.seconds * 1000:.2g} ms an image, "
                f"up to {slot.served.piece} at once"
            )
        yield f"ready: {self.count} {'worker' if self.count == 1 else 'workers'}"

    async def watch(self) -> None:
        """Looks after workers and files, for as long as the service runs."""
        await asyncio.gather(self._watch_workers(), self._watch_files())

    async def _watch_workers(self) -> None:
        assert self.workers is not None
        while True:
            await asyncio.sleep(self.settings.watch)
            self.workers.mend()

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(self.settings.watch)
            for line in await asyncio.to_thread(self.models.reload):  # which may take long
                self.tell(line)

    @property
    def ready(self) -> bool:
        return self.workers is not None and self.models.ready and not self.draining

    @property
    def alive(self) -> bool:
        return self.workers is None or not self.workers.hung()

    def close(self) -> None:
        if self.workers is not None:
            self.workers.close()

    # Requests.

    @asynccontextmanager
    async def admitted(self, kind: Kind = "predict") -> AsyncIterator[None]:
        """Around the reading of a body, of which nobody knows yet whether it has one image or many.

        Raises:
            Problem: 503 if it is not ready, 429 if an image would have to wait too long.
        """
        if not self.ready or self.workers is None:
            raise Problem(503, "not_ready", "the service is starting or stopping", {"Retry-After": "5"})
        turn, cost = (Turn.ALONE, 0) if kind == "explain" else (Turn.FIRST, PICTURE * (1 + self._coming()))
        wait = self.workers.wait_for(cost, turn)
        if wait > self.settings.max_latency:
            await asyncio.sleep(HELD)
            raise busy(wait - self.settings.max_latency)
        request = object()
        self.coming[request] = time.monotonic()
        try:
            yield
        finally:
            self.coming.pop(request, None)

    def _coming(self) -> int:
        """Requests that were let in just now, whose images are on their way. Those that take long do not count, or slow
        clients could keep others out."""
        late = time.monotonic() - SWIFT
        while self.coming and self.coming[oldest := next(iter(self.coming))] < late:
            del self.coming[oldest]
        return len(self.coming)

    async def ask(
        self, served: Served, images: Sequence[bytes], *, kind: Kind = "predict", gone: Gone | None = None
    ) -> list[Any]:
        """The answers of a model, in order: a `Prediction`, a heat map, or what is wrong with the image.

        Args:
            served: The model.
            images: Files.
            kind: What is asked.
            gone: Gets a function that cancels the jobs, to be called when the connection is lost.

        Raises:
            ClientDisconnect: It was called.
            Problem: 429, since so much came meanwhile that the images would have to wait too long.
        """
        assert self.workers is not None
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Any]] = []
        jobs: list[Job] = []
        alone = Turn.ALONE if kind == "explain" else Turn.FIRST
        for image in images:
            future: asyncio.Future[Any] = loop.create_future()
            futures.append(future)
            try:
                cost = self.cost(image)
            except ImageError as error:
                future.set_result(error)
                continue
            turn = Turn.LATER if len(images) > 1 and kind != "explain" else alone
            cost = cost * MAP_COST if kind == "explain" else cost
            jobs.append(Job(image, (served, kind), cost, partial(_answered, future), turn))
        if jobs and (wait := self.workers.wait_for(0, jobs[0].turn)) > self.settings.max_latency:
            await asyncio.sleep(HELD)
            raise busy(wait - self.settings.max_latency)
        answers = asyncio.gather(*futures)

        def cancel() -> None:
            for job in jobs:
                job.cancelled = True
            answers.cancel()

        if gone is not None:
            gone.append(cancel)
        self.workers.submit(jobs)
        try:
            return list(await answers)
        except asyncio.CancelledError:
            cancel()
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # by the server, not by `gone`
                raise
            raise ClientDisconnect from None

    @contextmanager
    def holding(self) -> Iterator[Hold]:
        """A function to be told of the bytes of a request, which count until the block ends.

        Raises:
            Problem: 429 if all requests together have too many.
        """
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self.held + count > max(self.settings.max_held, self.settings.max_body):
                raise busy(0)
            self.held += count
            held += count

        try:
            yield hold
        finally:
            self.held -= held

    def model(self, name: str | None) -> Served:
        """The model of a request, by its name; None: the default.

        Raises:
            Problem: 404.
        """
        try:
            return self.models.find(name)
        except KeyError as error:
            raise not_found(str(error.args[0])) from None

    @asynccontextmanager
    async def deadline(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Gives up what is asked in the block after so many seconds, or those of the settings.

        Raises:
            Problem: 504.
        """
        most = self.settings.deadline
        try:
            async with asyncio.timeout(most if seconds is None else min(seconds, most)):
                yield
        except TimeoutError:
            raise Problem(504, "timeout", "the answer took too long, and was given up") from None

    def cost(self, image: bytes | np.ndarray) -> int:
        """Pixels that an image is worth, by its bytes alone; nothing is decoded.

        Raises:
            ImageError: It is no image, or one that costs too much.
        """
        limits = self.limits
        if isinstance(image, np.ndarray):
            return max(PICTURE, image.size // 3)
        header = header_of(image)
        if header is None or header.format not in limits.formats:
            raise NoImage(f"is not an image of a known format ({', '.join(limits.formats)})")
        if header.format != "JPEG":
            limits = replace(limits, pixels=int(limits.pixels * OTHERS))
        limits.check_bytes(image)
        if header.size is None:  # damaged, or odd: decoding tells
            return limits.pixels
        limits.check_pixels(*header.size)
        size = math.prod(header.size)
        scans = limits.check_scans(image, *header.size) if header.format == "JPEG" else 1
        return max(PICTURE, size * max(1, scans // 10))

    # In workers.

    def answer(self, group: Hashable, images: list[Any]) -> Sequence[Any]:
        served, kind = cast("tuple[Served, Kind]", group)
        started = time.perf_counter()
        answers = ANSWERERS[kind](served, images)
        good = sum(not isinstance(answer, ImageError) for answer in answers)
        with self.counting:
            count = self.counts.setdefault(served.name, Count())
            count.batches += 1
            count.answered += good
            count.failed += len(answers) - good
            count.seconds += time.perf_counter() - started
            count.last = time.time()
        return answers


def _answered(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():  # it may have been cancelled in this very moment
        future.set_result(answer)


def _handed_over(loop: asyncio.AbstractEventLoop, finish: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended, and nobody waits for the answer
        loop.call_soon_threadsafe(finish)


@dataclass
class Count:
    """What workers did for a model.

    Attributes:
        batches: Calls of the model.
        answered: Images.
        failed: Images that could not be decoded.
        seconds: Over all workers, decoding included.
        last: When, in seconds since 1970.
    """

    batches: int = 0
    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    last: float = 0.0


class NoImage(ImageError):
    """Something else than an image, or in a format that is not read here."""


PICTURE = 400 * 533  # pixels of the image by which the speed is measured; a smaller one is not much quicker


# How a worker answers: the model, images → an answer or an `ImageError` for each.
ANSWERERS: dict[Kind, Callable[[Served, list[Any]], Sequence[Any]]] = {
    "predict": lambda served, images: served.predictor.predict_batch(images),
    "scores": lambda served, images: served.predictor.scores(images),
    "prepared": lambda served, images: served.predictor.scores(images, prepared=True),
    "explain": lambda served, images: [heat_map(served.predictor, image) for image in images],
}


def problem_of(error: object) -> Problem | None:
    """The refusal for one image that could not be answered."""
    if isinstance(error, WorkerError):
        return Problem(500, "failed", "the image could not be answered; the service goes on")
    if isinstance(error, ImageError):
        text = f"the image {str(error).removeprefix('the image ')}"
        return unreadable(text) if isinstance(error, NoImage) else invalid(text)
    return None
