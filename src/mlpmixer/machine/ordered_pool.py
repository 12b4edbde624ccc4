"""Many pieces of work in several threads, and their results in order.

Each thread computes alone, on one core: nobody waits for another at the end of every product, as threads that share one
do, and what one does with a file costs the others nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # pieces a thread: one in work, one to go on with


def in_order(
    work: Callable[[list[Item]], list[Result]], items: Iterable[Item], *, threads: int, at_once: int
) -> Generator[list[tuple[Item, Result]]]:
    """`work` on pieces of `at_once` items. Items are asked for only as fast as results are taken, so that no more than
    `threads` · AHEAD pieces are ever held."""
    items = iter(items)
    waiting: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    pool = _started(threads)
    try:
        while piece := list(islice(items, at_once)):
            waiting.append((piece, pool.submit(work, piece)))
            while waiting and (len(waiting) == threads * AHEAD or waiting[0][1].done()):
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _first(waiting: deque[tuple[list[Item], Future[list[Result]]]]) -> list[tuple[Item, Result]]:
    piece, found = waiting.popleft()
    return list(zip(piece, found.result(), strict=True))


def _started(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
    there = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread would undo what comes before it
        torch.set_num_threads(1)  # of this thread; and of all that begin later, until it is set back
        there.wait()

    before = torch.get_num_threads()
    try:
        for _ in range(threads):
            pool.submit(begin)
        there.wait()
    except BaseException:  # Ctrl-C
        there.abort()
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(before)
    return pool
