"""What a person sees of a run: one line that moves on a terminal, and a line for each measurement anywhere."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlpmixer.text import printable


def speaks_for_all() -> bool:
    """Whether this is the only process, or the first of those that torchrun started: the others say nothing twice."""
    return os.environ.get("RANK", "0") == "0"


class Bar:
    """Goes to standard error; without a terminal there is no bar, and with `quiet` only warnings remain, each once."""

    def __init__(self, steps: int, begun: int, quiet: bool):
        self.console = Console(stderr=True, highlight=False)
        self.quiet = quiet
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
        )
        shown = not quiet and sys.stderr.isatty()
        self.bar = Progress(*columns, console=self.console, disable=not shown, transient=True)
        self.task = self.bar.add_task("", total=steps, completed=begun, words="")

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def at(self, step: int, words: str | None = None) -> None:
        self.bar.update(self.task, completed=step)
        if words is not None:
            self.bar.update(self.task, words=words)

    def say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(printable(line), soft_wrap=True, markup=False)

    def warn(self, line: str) -> None:
        if speaks_for_all():
            self.console.print(f"warning: {printable(line)}", soft_wrap=True, markup=False, style="yellow")
