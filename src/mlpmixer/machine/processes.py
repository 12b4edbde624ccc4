"""Process pool in which a process that dies costs its task only."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from mlpmixer.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")


def each(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[tuple[Task, Result | None]]:
    """Apply a function to tasks in several processes.

    Args:
        function: Must be importable, as its tasks and results must be picklable.
        tasks: Read only as fast as they are done.
        workers: How many processes; 0: this one.

    Yields:
        Each task with its result, in the order in which they are done; None where its process died.

    Raises:
        DataError: Processes cannot be started here.
    """
    if workers == 0:
        for task in tasks:
            yield task, function(task)
        return
    todo = iter(tasks)
    processes: list[BaseProcess] = []
    starting: set[Connection] = set()
    busy: dict[Connection, Task] = {}
    try:
        for _ in range(workers):
            starting.add(_start(function, processes))
        while starting or busy:
            for worker in wait([*starting, *busy]):
                assert isinstance(worker, Connection)
                died, result = False, None
                try:
                    result = worker.recv()
                except (EOFError, ConnectionResetError):
                    died = True
                if worker in starting:
                    if died:
                        raise DataError("processes cannot be started here; with 0 workers, none are")
                    starting.remove(worker)
                else:
                    yield busy.pop(worker), result
                if died:
                    starting.add(_start(function, processes))
                else:
                    for task in todo:
                        busy[worker] = task
                        with contextlib.suppress(BrokenPipeError):  # it just died, as waiting for it will show
                            worker.send(task)
                        break
    finally:
        for process in processes:
            process.kill()
            process.join()


def _start(function: Callable[[Task], Result], processes: list[BaseProcess]) -> Connection:
    # A fresh interpreter: a forked one would inherit the locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    with _without_ctrl_c():
        process.start()
        processes.append(process)
    theirs.close()
    return ours


def _work(function: Callable[[Task], Result], connection: Connection) -> None:
    connection.send("ready")
    with contextlib.suppress(EOFError):  # there is nobody left to work for
        while True:
            connection.send(function(connection.recv()))


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that are started in the block ignore Ctrl-C, which goes to all processes of a terminal: we end them.

    Ctrl-C meanwhile is handled here once they are started, so that none is left half started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing starts it beside the first process, and unblocks SIGINT after
    received: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number)) if is_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by what is started
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_main:
            signal.signal(signal.SIGINT, handler)
            if received:
                signal.raise_signal(signal.SIGINT)
