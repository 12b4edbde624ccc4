"""Thread pool that yields results in order.

Each thread computes alone, on one core: none waits for another at the end of every matrix product, as threads that
share one do, and none waits for a file that another reads.
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

AHEAD = 2  # batches a thread: one in work, one waiting


def in_order(
    work: Callable[[list[Item]], list[Result]], items: Iterable[Item], *, threads: int, batch_size: int
) -> Generator[list[tuple[Item, Result]]]:
    """Apply `work` to batches of items in several threads.

    Args:
        work: The results of a batch, one for each item.
        items: Read only as fast as results are taken: no more than `threads` · AHEAD batches are held at once.
        threads: How many.
        batch_size: Items in a batch.

    Yields:
        The items of each batch with their results, in the order of `items`.
    """
    items = iter(items)
    waiting: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    pool = _started(threads)
    try:
        while batch := list(islice(items, batch_size)):
            waiting.append((batch, pool.submit(work, batch)))
            while waiting and (len(waiting) == threads * AHEAD or waiting[0][1].done()):
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


_changing = threading.Lock()


def compute_alone() -> None:
    """Has torch compute in this thread without the help of others, and in those that begin later as before.

    Where several threads compute at the same time, helpers would be more threads than cores, which wait for each other.
    """
    with _changing:
        before = torch.get_num_threads()  # the first call in a thread would undo what comes before it
        torch.set_num_threads(1)  # of this thread; and of all that begin later, until it is set back
        restoring = threading.Thread(target=torch.set_num_threads, args=(before,))
        restoring.start()
        restoring.join()


def _first(waiting: deque[tuple[list[Item], Future[list[Result]]]]) -> list[tuple[Item, Result]]:
    batch, found = waiting.popleft()
    return list(zip(batch, found.result(), strict=True))


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
