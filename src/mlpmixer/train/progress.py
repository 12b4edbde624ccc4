"""What a run shows: a header, a progress bar on a terminal, and a line for each validation pass anywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from rich.progress_bar import ProgressBar as Track
from rich.table import Table
from rich.text import Text

from mlpmixer.text import printable

# What the bar shows, from left to right, with ranks: where a terminal is too narrow, the highest ones are left out.
FIELDS = {
    "epoch": 0,
    "step": 6,
    "track": 5,
    "loss": 1,
    "lr": 8,
    "val": 3,
    "speed": 4,
    "mfu": 9,
    "unreadable": 7,
    "eta": 2,
}
GAP = 2  # columns between two fields
TRACK = 8  # columns of the track at least


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started: the others print nothing."""
    return os.environ.get("RANK", "0") == "0"


def fitting(fields: Mapping[str, str], width: int) -> dict[str, str]:
    """The fields that fit into `width` columns, and a track as wide as the room they leave.

    Args:
        fields: The text of each field that has one; those of `FIELDS` but "track".
        width: Columns of the terminal.
    """
    texts = {**{name: text for name, text in fields.items() if text}, "track": " " * TRACK}
    chosen: dict[str, str] = {}
    room = width + GAP
    for name in sorted(texts, key=FIELDS.__getitem__):
        room -= len(texts[name]) + GAP
        if room < 0 and chosen:
            room += len(texts[name]) + GAP
            break
        chosen[name] = texts[name]
    if "track" in chosen:
        chosen["track"] += " " * room
    return {name: chosen[name] for name in FIELDS if name in chosen}


class ProgressBar:
    """Goes to standard error; without a terminal there is no bar, and with `quiet` only warnings remain, each once.

    Args:
        steps: Of the whole run.
        begun: Those that are done already.
        quiet: Show nothing but warnings.
    """

    def __init__(self, steps: int, begun: int, quiet: bool):
        self.console = Console(stderr=True, highlight=False)
        self.quiet, self.steps, self.begun = quiet, steps, begun
        self.terminal = sys.stderr.isatty()
        self.fields: dict[str, str] = {}
        self.bar = _Line(self.fields, self.console, disable=quiet or not self.terminal)
        self.task = self.bar.add_task("", total=steps, completed=begun)

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def at(self, step: int, **fields: str) -> None:
        """So many steps are done; `fields`: new texts for those of `FIELDS` that have changed."""
        self.fields |= {"step": f"step {step:,}/{self.steps:,}", **fields}
        self.bar.update(self.task, completed=step)

    def header(self, lines: Iterable[tuple[str, str]]) -> None:
        """What is run: a line for each (title, text), on a terminal wrapped between words."""
        if self.quiet:
            return
        lines = [(title, printable(text)) for title, text in lines]
        widest = max(len(title) for title, _ in lines) + GAP
        if not self.terminal:
            for title, text in lines:
                self.say(f"{title:{widest}}{text}")
            return
        table = Table.grid(padding=0)
        table.add_column(min_width=widest, style="bold")
        table.add_column(overflow="fold")
        for title, text in lines:
            table.add_row(title, Text(text))
        self.console.print(table)

    def say(self, line: str) -> None:
        if not self.quiet:
            self._print(printable(line))

    def warn(self, line: str) -> None:
        if is_main_process():
            self._print(f"warning: {printable(line)}", style="yellow")

    def _print(self, line: str, style: str | None = None) -> None:
        """On a terminal wrapped between words."""
        self.console.print(line, soft_wrap=not self.terminal, markup=False, style=style)


class _Line(Progress):
    """One line of fields."""

    def __init__(self, texts: Mapping[str, str], console: Console, disable: bool):
        self.texts, self.remaining = texts, TimeRemainingColumn(compact=True)
        super().__init__(console=console, disable=disable, transient=True)

    def get_renderables(self) -> Iterable[Table]:
        for task in self.tasks:  # the one, or none yet
            eta = f"ETA {self.remaining.render(task).plain}"
            fields = fitting({**self.texts, "eta": eta}, self.console.width)
            line = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
            for text in fields.values():
                line.add_column(no_wrap=True, width=len(text))
            track = Track(total=task.total, completed=task.completed)
            line.add_row(*(track if name == "track" else Text(text) for name, text in fields.items()))
            yield line
