"""What a run shows: a progress bar on a terminal, and a line for each validation pass anywhere."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlpmixer.text import printable


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started: the others print nothing."""
    return os.environ.get("RANK", "0") == "0"


class ProgressBar:
    """Goes to standard error; without a terminal there is no bar, and with `quiet` only warnings remain, each once."""

    def __init__(self, steps: int, begun: int, quiet: bool):
        self.console = Console(stderr=True, highlight=False)
        self.quiet, self.steps = quiet, steps
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

    def __enter__(self) -> ProgressBar:
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
        if is_main_process():
            self.console.print(f"warning: {printable(line)}", soft_wrap=True, markup=False, style="yellow")
