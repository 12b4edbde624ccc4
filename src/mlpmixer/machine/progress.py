"""Progress bar of work that is counted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from mlpmixer.text import printable


@contextlib.contextmanager
def progress_bar(shown: bool = True) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar on standard error, removed at the end; nothing where that is no terminal.

    Args:
        shown: False for no bar at all.

    Yields:
        A function of what is done now, how much of it is done, and how much there is (None: unknown).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    what = TextColumn("{task.description}", markup=False)
    columns = what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = shown and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        bar = progress.add_task("", total=None)

        def update(what: str, done: int, total: int | None) -> None:
            # Drawn ten times a second; what is over sooner is drawn once all the same.
            progress.update(bar, description=printable(what), completed=done, total=total, refresh=done in (0, total))

        yield update
