"""Progress bar of a long job of unknown length: how much is done, how fast it goes, and what is left."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

QUIET = 1.0  # seconds before there is a bar at all


class Bar:
    """A bar on standard error, removed at the end; nothing where that is no terminal.

    Args:
        everything: Iterates over all the work, to count it in a thread; None: the total stays unknown.
        hidden: True for no bar at all.
    """

    def __init__(self, everything: Callable[[], Iterable[object]] | None, *, hidden: bool = False):
        self.done = 0
        self._total: int | None = None
        self._begun = time.monotonic()
        self._shown = None
        self._ended = threading.Event()
        self._at_terminal = sys.stderr.isatty() and not hidden
        if self._at_terminal and everything is not None:
            threading.Thread(target=self._count, args=(everything,), daemon=True).start()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def __enter__(self) -> Bar:
        self._begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._shown is not None:
            self._shown[0].stop()

    def advance(self, by: int = 1) -> None:
        self.done += by
        if self._shown is None:
            if not self._at_terminal or self.seconds < QUIET:
                return
            self._shown = _bar()
        bar, task = self._shown
        bar.update(task, completed=self.done, total=self._total)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is printed meanwhile does not run into the bar."""
        if self._shown is not None:
            self._shown[0].stop()
        yield
        if self._shown is not None:
            self._shown[0].start()

    def _count(self, everything: Callable[[], Iterable[object]]) -> None:
        number = 0
        with contextlib.suppress(Exception):  # whoever does the work meets it as well, and says so
            for _ in everything():
                number += 1
                if self._ended.is_set():
                    return
            self._total = number


def _bar():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Speed(TextColumn):
        def render(self, task):
            from rich.text import Text

            return Text(f"{task.speed:,.0f} a second" if task.speed else "")

    columns = (MofNCompleteColumn(), BarColumn(bar_width=None), Speed(""), TextColumn("left"), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    bar.start()
    return bar, bar.add_task("", total=None)
