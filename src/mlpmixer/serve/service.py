"""What a service does, without HTTP: models, lanes and limits, and the watch over them."""

from __future__ import annotations

import asyncio
import hmac
import io
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from mlpmixer.data.images import pixels
from mlpmixer.data.limits import Limits, usual_limits
from mlpmixer.data.preprocess import visible_region
from mlpmixer.errors import ImageError
from mlpmixer.predict.predictor import Prediction
from mlpmixer.serve.lanes import Job, LaneError, Lanes, Turn
from mlpmixer.serve.problems import Problem, busy, invalid, unreadable
from mlpmixer.serve.served import Models, Served

Kind = Literal["predict", "explain"]
Tell = Callable[[str], object]

HELD = 0.2  # seconds for which a refusal is held, so that an impatient client does not ask at once again
WATCH = 1.0  # seconds between looks at lanes and files
MAP_COST = 40  # a heat map takes as long as so many pictures


@dataclass(frozen=True)
class Settings:
    """What an operator decides.

    Attributes:
        max_latency: Seconds that a picture may have to wait; more is refused.
        max_body: Bytes of a request.
        token: Needed in each request, as `Authorization: Bearer TOKEN`; empty: none.
        hosts: Names under which the service may be asked; others are refused.
        limits: Of a picture.
        patience: Seconds after which a lane that does not answer is replaced.
    """

    max_latency: float = 2.0
    max_body: int = 64_000_000
    token: str = ""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    limits: Limits | None = None
    patience: float = 30.0

    def allows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())


class Service:
    """Models and the lanes that answer for them.

    Args:
        models: Not loaded yet.
        settings: Limits.
        lanes: How many; by default a lane for each thread of torch.
        tell: Where events go, a line each.
    """

    def __init__(self, models: Models, settings: Settings, lanes: int = 0, tell: Tell = print):
        self.models, self.settings, self.tell = models, settings, tell
        self.limits = settings.limits or usual_limits()
        self.count = lanes or torch.get_num_threads()
        self.draining = False
        self.in_flight = 0
        self.lanes: Lanes | None = None

    # Life.

    def load(self) -> None:
        """Loads and warms up the models; before that, the service is not ready."""
        self.models.load()

    def start(self) -> None:
        """Begins the lanes; called in a running event loop, which the results go to."""
        first = self.models.find(None)
        loop = asyncio.get_running_loop()
        self.lanes = Lanes(
            self.answer,
            count=self.count,
            piece=first.piece,
            patience=self.settings.patience,
            hand_over=loop.call_soon_threadsafe,
        )
        self.lanes.rate = PICTURE / first.seconds

    async def watch(self) -> None:
        """Looks after lanes and files, for as long as the service runs."""
        assert self.lanes is not None
        while True:
            await asyncio.sleep(WATCH)
            self.lanes.mend()
            for line in await asyncio.to_thread(self.models.reload):
                self.tell(line)

    @property
    def ready(self) -> bool:
        return self.lanes is not None and self.models.ready and not self.draining

    @property
    def alive(self) -> bool:
        return self.lanes is None or not self.lanes.hung()

    def close(self) -> None:
        if self.lanes is not None:
            self.lanes.close()

    # Requests.

    async def admit(self) -> None:
        """Before a body is read.

        Raises:
            Problem: 503 if it is not ready, 429 if a picture would have to wait too long.
        """
        if not self.ready or self.lanes is None:
            raise Problem(503, "not_ready", "the service is starting or stopping", {"Retry-After": "5"})
        wait = self.lanes.wait_for(PICTURE)
        if wait > self.settings.max_latency:
            await asyncio.sleep(HELD)
            raise busy(wait - self.settings.max_latency)

    async def ask(
        self, served: Served, pictures: Sequence[bytes], *, kind: Kind = "predict", gone: list[Job] | None = None
    ) -> list[Any]:
        """The answers of a model, in order: a `Prediction`, a heat map, or what is wrong with the picture.

        Args:
            served: The model.
            pictures: Files.
            kind: What is asked.
            gone: Where the jobs are put, for the connection to cancel them when it is lost.
        """
        assert self.lanes is not None
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Any]] = []
        jobs: list[Job] = []
        alone = {"predict": Turn.FIRST, "explain": Turn.ALONE}[kind]
        for picture in pictures:
            future: asyncio.Future[Any] = loop.create_future()
            futures.append(future)
            try:
                cost = self.cost(picture)
            except ImageError as error:
                future.set_result(error)
                continue
            turn = Turn.LATER if len(pictures) > 1 and kind == "predict" else alone
            cost = cost * MAP_COST if kind == "explain" else cost
            jobs.append(Job(picture, (served, kind), cost, future.set_result, turn))
        if gone is not None:
            gone.extend(jobs)
        self.lanes.submit(jobs)
        try:
            return list(await asyncio.gather(*futures))
        except asyncio.CancelledError:
            for job in jobs:
                job.cancelled = True
            raise

    def cost(self, picture: bytes) -> int:
        """Pixels that a picture is worth, by its bytes alone; nothing is decoded.

        Raises:
            ImageError: It is no picture, or one that costs too much.
        """
        self.limits.check_bytes(picture)
        try:
            with Image.open(io.BytesIO(picture), formats=self.limits.formats) as opened:
                width, height = opened.size
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise ImageError("is no image that can be read") from None
        self.limits.check_pixels(height, width)
        scans = self.limits.check_scans(picture, height, width) if picture.startswith(b"\xff\xd8") else 1
        return max(PICTURE, height * width * max(1, scans // 10))

    # In lanes.

    def answer(self, group: Hashable, pictures: list[Any]) -> Sequence[Any]:
        served, kind = cast("tuple[Served, Kind]", group)
        if kind == "explain":
            return [heat_map(served, picture) for picture in pictures]
        return served.predictor.predict_batch(pictures)


PICTURE = 400 * 533  # pixels of the picture by which the speed is measured; a smaller one is not much quicker


@dataclass(frozen=True)
class HeatMap:
    """What a prediction depends on: for each square of the prepared image, by how much the label's log probability
    falls when it and the squares around it are gray."""

    prediction: Prediction
    label: str
    drops: np.ndarray  # (rows, columns) float32
    region: list[float]  # of the upright image that the squares cover: left, top, right, bottom, as shares of its sides


GRID = 14  # squares each way
SPREAD = 1  # squares on each side that are gray as well: one alone changes little but noise


def heat_map(served: Served, picture: bytes) -> HeatMap | ImageError:
    """By occlusion: the model sees the image once for each square."""
    predictor = served.predictor
    try:
        whole = pixels(picture)  # (height, width, 3)
    except ImageError as error:
        return error
    [found] = predictor.predict_batch([whole])
    if isinstance(found, ImageError):
        return found
    image = predictor.prepared(whole)  # (3, H, W)
    rows, columns = (min(GRID, side) for side in image.shape[1:])
    gray = torch.tensor(predictor.preprocessing.mean).mul(255).round().to(torch.uint8)[:, None, None]
    views = image.repeat(1 + rows * columns, 1, 1, 1)
    height, width = image.shape[1:]
    for row in range(rows):
        for column in range(columns):
            down, along = _around(row, rows, height), _around(column, columns, width)
            views[1 + row * columns + column, :, down, along] = gray
    label = predictor.classes.index(found.label)
    scores = torch.cat([predictor.engine(part)[1].log_softmax(1)[:, label] for part in views.split(32)])
    drops = (scores[0] - scores[1:]).reshape(rows, columns)
    region = visible_region(whole.shape[0], whole.shape[1], predictor.preprocessing)
    return HeatMap(found, found.label, drops.float().numpy(), [round(share, 5) for share in region])


def _around(at: int, count: int, pixels: int) -> slice:
    """The pixels of one of `count` squares and of its neighbors, along a side."""
    first, last = max(0, at - SPREAD), min(count, at + SPREAD + 1)
    return slice(first * pixels // count, last * pixels // count)


def problem_of(error: object) -> Problem | None:
    """The refusal for one picture that could not be answered."""
    if isinstance(error, LaneError):
        return Problem(500, "failed", "the picture could not be answered; the service goes on")
    if isinstance(error, ImageError):
        text = str(error)
        return unreadable(text) if "no image" in text or "not an image" in text else invalid(text)
    return None
