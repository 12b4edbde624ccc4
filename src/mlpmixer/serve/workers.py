"""Workers: one thread a core, each taking as many waiting jobs as pay and answering them together.

    submit → a queue for each (turn, group) → a free worker takes a batch → answer → `done` of each job

Nothing waits for a batch to fill: a worker that is free takes what is there, so a lone image is answered at once, and a
batch grows only while all workers are busy. Jobs of one batch have the same group, such as a model. Single images go
first; every fourth batch is of those that can wait, such as lists of images and heat maps.

The unit of work is a pixel: `cost` says how many pixels a job is worth. The rate at which workers get through them
tells how long a new job would wait.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

PATIENT = 4  # every so many batches, jobs that can wait go first
SMOOTHING = 0.1  # share of a new batch in the measured rate
LATEST_RATE = 1e7  # pixels a second and worker, until the first batch is measured


class Turn(Enum):
    """When a job is taken.

    Attributes:
        FIRST: Before all others: a person waits for one image.
        LATER: When there is none of the first kind, or every fourth time: an image of a list.
        ALONE: As LATER, one at a time over all workers: a heat map.
    """

    FIRST = "first"
    LATER = "later"
    ALONE = "alone"


class WorkerError(Exception):
    """A job that could not be answered: the function that answers raised, or its worker died or hung."""


@dataclass(eq=False)
class Job:
    """Something to be answered.

    Attributes:
        payload: What `answer` is given.
        group: Jobs with the same one may be answered together.
        cost: In pixels.
        done: Called once with the result or a `WorkerError`; not if the job was cancelled before.
        turn: When it is taken.
        cancelled: Whoever asked has gone; a worker skips it.
        single: It is answered in a batch of its own, since a batch with it failed.
    """

    payload: Any
    group: Hashable
    cost: int
    done: Callable[[Any], None]
    turn: Turn = Turn.FIRST
    cancelled: bool = False
    single: bool = False
    number: int = field(default=0, init=False)


def _finish(jobs: Sequence[Job], results: Sequence[Any]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if not job.cancelled:
            job.done(result)


@dataclass(eq=False)
class Worker:
    """A thread, and what it works on."""

    thread: threading.Thread | None = None
    batch: list[Job] = field(default_factory=list)
    since: float = 0.0  # when the batch was taken
    retired: bool = False  # replaced: what it may still answer is not wanted


class Workers:
    """A fixed number of workers over one queue.

    Args:
        answer: (group, payloads) → their results, in order; called in workers. An exception fails the batch.
        count: Workers.
        piece: Jobs that are answered together, at most.
        budget: Pixels that are answered together; one job may have more.
        patience: Seconds after which a worker that has not answered counts as hung.
        hand_over: Runs a function that finishes the jobs of a batch, once a batch, where `done` is to be called; by
            default in the worker.
        begin: Called first in the thread of each worker.
    """

    def __init__(
        self,
        answer: Callable[[Hashable, list[Any]], Sequence[Any]],
        *,
        count: int,
        piece: int = 4,
        budget: int = 40_000_000,
        patience: float = 30.0,
        hand_over: Callable[[Callable[[], None]], object] = lambda finish: finish(),
        begin: Callable[[], object] = lambda: None,
    ):
        self.answer, self.piece, self.budget, self.patience = answer, piece, budget, patience
        self.hand_over, self.begin = hand_over, begin
        self.changed = threading.Condition()
        self.queues: dict[tuple[Turn, Hashable], deque[Job]] = {}
        self.pixels = dict.fromkeys(Turn, 0)  # that wait
        self.rate = LATEST_RATE  # pixels a second of one worker
        self.replaced = 0  # workers that died or hung
        self.batches = self.numbers = self.idle = 0
        self.alone = False  # whether a job of the kind ALONE is in work
        self.closing = False
        self.workers = [self._begun(Worker()) for _ in range(count)]

    def _begun(self, worker: Worker) -> Worker:
        worker.thread = threading.Thread(target=self._work, args=(worker,), name="worker", daemon=True)
        worker.thread.start()
        return worker

    def submit(self, jobs: Sequence[Job]) -> None:
        """Jobs to be answered. They keep their order within their turn and group."""
        with self.changed:
            if self.closing:
                raise WorkerError("the service is shutting down")
            for job in jobs:
                job.number = self.numbers = self.numbers + 1
                self.queues.setdefault((job.turn, job.group), deque()).append(job)
                self.pixels[job.turn] += job.cost
            self.changed.notify(len(jobs))

    @property
    def waiting(self) -> int:
        """Pixels."""
        return sum(self.pixels.values())

    def wait_for(self, cost: int, turn: Turn = Turn.FIRST) -> float:
        """Seconds until a job of this cost and turn, submitted now, would be answered; an estimate."""
        if turn is Turn.ALONE:
            return (self.pixels[turn] + cost) / self.rate
        working = sum(job.cost for worker in self.workers for job in worker.batch)
        before = self.waiting
        if turn is Turn.FIRST:  # the others have one batch in four
            before = min(before, self.pixels[turn] * PATIENT / (PATIENT - 1))
        return (before + working / 2 + cost) / (self.rate * len(self.workers))

    def busy(self) -> bool:
        """Whether anything waits or is in work."""
        with self.changed:
            return any(self.queues.values()) or any(worker.batch for worker in self.workers)

    def hung(self) -> bool:
        """Whether a worker has worked on one batch for longer than `patience`."""
        now = time.monotonic()
        return any(worker.batch and now - worker.since > self.patience for worker in self.workers)

    def mend(self) -> None:
        """Replaces workers that died or hang. What they worked on is asked again, each job by itself; once only."""
        now = time.monotonic()
        failed: list[Job] = []
        with self.changed:
            for place, worker in enumerate(self.workers):
                assert worker.thread is not None
                dead = not worker.thread.is_alive()
                if self.closing or not (dead or (worker.batch and now - worker.since > self.patience)):
                    continue
                worker.retired = True
                self.replaced += 1
                self._released(worker)
                for job in reversed(worker.batch):
                    if job.single:
                        failed.append(job)
                    else:
                        self._again(job)
                self.workers[place] = self._begun(Worker())
            self.changed.notify_all()
        if failed:
            self.hand_over(
                partial(_finish, failed, [WorkerError("the worker that answered died or hung")] * len(failed))
            )

    def close(self) -> None:
        """Ends the workers when they have answered what they are at; what waits is not answered."""
        with self.changed:
            self.closing = True
            waiting = [job for queue in self.queues.values() for job in queue]
            self.queues.clear()
            self.pixels = dict.fromkeys(Turn, 0)
            self.changed.notify_all()
        if waiting:
            self.hand_over(partial(_finish, waiting, [WorkerError("the service is shutting down")] * len(waiting)))

    # In workers.

    def _work(self, worker: Worker) -> None:
        self.begin()
        while batch := self._taken(worker):
            started = time.monotonic()
            results = self._answered(batch)
            with self.changed:
                if worker.retired:
                    return
                self._released(worker)
                worker.batch = []
                rate = sum(job.cost for job in batch) / max(time.monotonic() - started, 1e-6)
                self.rate += (rate - self.rate) * (SMOOTHING if self.batches > len(self.workers) else 1.0)
                self.changed.notify()
            self.hand_over(partial(_finish, batch, results))

    def _taken(self, worker: Worker) -> list[Job]:
        """The next batch, when there is one; none: the workers are closing."""
        with self.changed:
            self.idle += 1
            try:
                while not self.closing:
                    if batch := self._next():
                        worker.batch, worker.since = batch, time.monotonic()
                        self.batches += 1
                        return batch
                    self.changed.wait()
            finally:
                self.idle -= 1
        return []

    def _next(self) -> list[Job]:
        turns = (Turn.FIRST, Turn.LATER, Turn.ALONE)
        if self.batches % PATIENT == PATIENT - 1:  # neither lists nor heat maps keep the other waiting
            patient = (Turn.LATER, Turn.ALONE)
            turns = (*(patient if self.batches // PATIENT % 2 else patient[::-1]), Turn.FIRST)
        if self.alone:
            turns = tuple(turn for turn in turns if turn is not Turn.ALONE)
        for turn in turns:
            oldest = [self._oldest(key) for key in [*self.queues] if key[0] is turn]
            found = min((job for job in oldest if job is not None), key=lambda job: job.number, default=None)
            if found is not None:
                self.alone |= turn is Turn.ALONE
                return self._batch((turn, found.group))
        return []

    def _oldest(self, key: tuple[Turn, Hashable]) -> Job | None:
        """Of a queue, the first job that is still wanted; cancelled ones before it are dropped."""
        queue = self.queues[key]
        while queue and queue[0].cancelled:
            self.pixels[key[0]] -= queue.popleft().cost
        if not queue:
            del self.queues[key]
            return None
        return queue[0]

    def _batch(self, key: tuple[Turn, Hashable]) -> list[Job]:
        queue = self.queues[key]
        share = 1 if key[0] is Turn.ALONE else min(self.piece, math.ceil(len(queue) / self.idle))
        batch: list[Job] = []
        cost = 0
        while len(batch) < share and (job := self._oldest(key)) is not None:
            if batch and (cost + job.cost > self.budget or job.single or batch[0].single):
                break
            batch.append(queue.popleft())
            cost += job.cost
        self.pixels[key[0]] -= cost
        if not queue:
            self.queues.pop(key, None)
        return batch

    def _answered(self, batch: list[Job]) -> Sequence[Any]:
        """Results, one for each job. Where a batch fails, each of its jobs is tried by itself."""
        group = batch[0].group
        try:
            results = self.answer(group, [job.payload for job in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} jobs")
            return results
        except Exception as error:
            if len(batch) == 1:
                failed = WorkerError(f"{type(error).__name__}: {error}")
                failed.__cause__ = error
                return [failed]
        return [self._answered([job])[0] for job in batch]

    def _again(self, job: Job) -> None:
        job.single = True
        self.queues.setdefault((job.turn, job.group), deque()).appendleft(job)
        self.pixels[job.turn] += job.cost

    def _released(self, worker: Worker) -> None:
        if worker.batch and worker.batch[0].turn is Turn.ALONE:
            self.alone = False
