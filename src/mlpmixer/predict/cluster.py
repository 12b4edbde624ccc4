"""Prediction on a Ray cluster: every image is predicted once, even if processes are killed meanwhile.

Weights travel through Ray; images are read where they are answered, so they must lie under the same paths there.
mlpmixer must be installed on all machines.
"""

from __future__ import annotations

import os
import re
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mlpmixer import packages
from mlpmixer.errors import ImageError, MixerError, RunError, UsageError
from mlpmixer.models.classifier import Classifier
from mlpmixer.predict.predictor import Piece, Prediction, Predictor
from mlpmixer.text import first_line

CORES = 8  # of a process, at most
AHEAD = 2  # pieces a process: one in work, one to go on with
DEATHS = 2  # of processes that had one image and nothing else to do: it is the cause
IN_A_ROW = 12  # deaths without a result between them


class Member:
    """One process of the cluster. Ray tells it how many cores it has, which torch goes by."""

    def __init__(self, model: Classifier, settings: dict[str, Any]):
        self.model, self.settings = model, settings

    def begin(self) -> str:
        """Which engine it is. (An error in `__init__` would look like a death.)"""
        self.predictor = Predictor(self.model, **self.settings)
        return str(self.predictor.choice)

    def answer(self, paths: list[str]) -> list[Prediction | ImageError]:
        return [found for _, found in self.predictor.stream(paths)]


@dataclass(eq=False)
class _Work:
    """`suspect`: a process died that had it in hand, or some of it; so it is handed out with nothing beside it."""

    paths: list[str]
    suspect: bool = False
    deaths: int = 0
    found: list[Prediction | ImageError] | None = None


def pieces(
    paths: Iterable[str],
    model: Classifier,
    settings: dict[str, Any],
    *,
    address: str,
    cores: int = CORES,
    tell: Callable[[str], object] = lambda _line: None,
) -> Generator[Piece[str]]:
    """Like `Predictor(model, **settings).pieces(paths)`. cores: of each process, at most."""
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _require_there(address)
        try:
            # One that is started here needs no pages about itself.
            pages = {"include_dashboard": False} if address == "local" else {}
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **pages)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster answers at {address} ({first_line(error)})") from None
    try:
        yield from _Workers(ray, model, settings, cores, tell).pieces(paths)
    finally:
        if ours:
            ray.shutdown()


class _Workers:
    def __init__(
        self, ray: Any, model: Classifier, settings: dict[str, Any], cores: int, tell: Callable[[str], object]
    ):
        self.ray, self.tell = ray, tell
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        nodes = [cpus for cpus in nodes if cpus]
        if not nodes:
            raise UsageError("the Ray cluster has no cores")
        each = min(cores, *nodes)
        self.size = sum(cpus // each for cpus in nodes)
        self.at_once = settings.get("batch_size", 32) * each
        self.model, self.settings = ray.put(model), settings
        self.member = ray.remote(num_cpus=each, max_restarts=0)(Member)
        self.starting: dict[Any, Any] = {}  # answer to come → process
        self.busy: dict[Any, list[Any]] = {}  # process → answers to come
        self.running: dict[Any, tuple[Any, _Work]] = {}  # answer to come → process, work
        self.deaths = 0  # in a row
        self.announced = False
        for _ in range(self.size):
            self._start()

    def pieces(self, paths: Iterable[str]) -> Generator[Piece[str]]:
        paths = iter(paths)
        waiting: deque[_Work] = deque()  # in order
        todo: deque[_Work] = deque()  # of these, what nobody has in hand
        most = (self.size + 1) * AHEAD
        try:
            while True:
                while len(waiting) < most and (some := list(islice(paths, self.at_once))):
                    waiting.append(_Work(some))
                    todo.append(waiting[-1])
                if not waiting:
                    return
                self._hand_out(todo)
                found = waiting[0].found
                if found is None:
                    self._listen(waiting, todo)
                else:
                    yield list(zip(waiting.popleft().paths, found, strict=True))
        finally:
            for process in (*self.busy, *self.starting.values()):
                self.ray.kill(process)

    def _start(self) -> None:
        process = self.member.remote(self.model, self.settings)
        self.starting[process.begin.remote()] = process

    def _hand_out(self, todo: deque[_Work]) -> None:
        while todo:
            free = [process for process in self.busy if self._may_take(process, todo[0])]
            if not free:
                return
            process, work = min(free, key=lambda one: len(self.busy[one])), todo.popleft()
            answer = process.answer.remote(work.paths)
            self.busy[process].append(answer)
            self.running[answer] = process, work

    def _may_take(self, process: Any, work: _Work) -> bool:
        in_hand = [self.running[answer][1] for answer in self.busy[process]]
        return not in_hand or (len(in_hand) < AHEAD and not work.suspect and not in_hand[0].suspect)

    def _listen(self, waiting: deque[_Work], todo: deque[_Work]) -> None:
        (answer,), _ = self.ray.wait([*self.running, *self.starting], num_returns=1)
        process = self.starting.get(answer) or self.running[answer][0]
        try:
            found = self.ray.get(answer)
        except self.ray.exceptions.RayActorError as error:
            self._lost(process, waiting, todo, error)
            return
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, MixerError) else RunError(f"on the cluster: {cause!r}") from None
        if answer in self.starting:
            self.busy[self.starting.pop(answer)] = []
            if not self.announced:
                self.tell(f"{self.size} on the cluster: {found}")
                self.announced = True
            return
        self.deaths = 0
        _, work = self.running.pop(answer)
        self.busy[process].remove(answer)
        work.found = found

    def _lost(self, process: Any, waiting: deque[_Work], todo: deque[_Work], error: Exception) -> None:
        self.deaths += 1
        if self.deaths > IN_A_ROW:
            raise RunError(f"the processes on the cluster end before they return anything ({first_line(error)})")
        self.starting = {answer: one for answer, one in self.starting.items() if one is not process}
        lost = []
        for answer in self.busy.pop(process, []):
            _, work = self.running.pop(answer)
            try:
                work.found = self.ray.get(answer)  # which it may have given before
            except self.ray.exceptions.RayActorError:
                lost.append(work)
        for work in reversed(lost):
            if not work.suspect:
                work.suspect = True
                todo.appendleft(work)
            elif len(work.paths) > 1:
                self._take_apart(work, waiting, todo)
            else:
                work.deaths += 1
                if work.deaths == DEATHS:
                    work.found = [ImageError(f"{work.paths[0]} ends the process that reads it")]
                else:
                    todo.appendleft(work)
        self._start()

    def _take_apart(self, work: _Work, waiting: deque[_Work], todo: deque[_Work]) -> None:
        alone = [_Work([path], suspect=True) for path in work.paths]
        place = waiting.index(work)
        waiting.remove(work)
        for number, one in enumerate(alone):
            waiting.insert(place + number, one)
        todo.extendleft(reversed(alone))


def _require_there(address: str) -> None:
    """Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster answers at {address} ({error.strerror or error})") from None


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it tells its makers over the network
    return packages.require("ray", extra="ray", what="a cluster")
