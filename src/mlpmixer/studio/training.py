"""Runs of `mixer train` on what was said so far, each in a process of its own.

A run reads a list of the images and their labels, so that nothing has to be moved for it. To stop it is Ctrl-C: the
checkpoint stays, and the same run goes on from there. The studio may end or crash meanwhile; the folder of the run has
all that there is to know.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlpmixer.errors import UsageError
from mlpmixer.files import whole
from mlpmixer.run.folder import RunFolder
from mlpmixer.studio.photos import Photo
from mlpmixer.text import printable

RECIPE = "photos"
NICE = 10  # so that the page and its predictions go first
LEAST = 2  # images of a class
LINES = 400  # of metrics that are shown

State = Literal["running", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class RunState:
    """A run as of now.

    Attributes:
        name: Of its folder.
        state: What it does.
        metrics: Lines of training and validation.
        result: Accuracies at the end, by split.
        why: It failed.
    """

    name: str
    state: State
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None = None
    why: str = ""


@dataclass
class Trainings:
    """The runs of one folder; one at a time is at work.

    Args:
        folder: Where they are.
        recipe: Changes to the recipe, as of `mixer train`.
    """

    folder: Path
    recipe: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default="", init=False)  # of the run at work
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self, root: Path, labeled: Sequence[tuple[Photo, str]]) -> str:
        """Begins a run on these images; returns its name.

        Raises:
            UsageError: One is running, or there are too few images.
        """
        self._require_none()
        counts: dict[str, int] = {}
        for photo, label in labeled:
            counts[label] = counts.get(label, 0) + (photo.split in ("", "train"))
        small = [name for name, count in counts.items() if count < LEAST]
        if len(counts) < 2 or small:
            few = f"{small[0]} has {counts[small[0]]}" if small else f"there are {len(counts)} classes"
            raise UsageError(f"a run needs two classes with {LEAST} images each to learn from; {few}")
        number = 1 + max((int(name) for name in self._names()), default=0)
        (self.folder / str(number)).mkdir(parents=True)
        with whole(self._list(str(number))) as part, part.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["path", "label", "split"])
            for photo, label in labeled:
                lines.writerow([os.path.relpath(root / photo.path, self.folder), label, photo.split or "train"])
        self._run(str(number))
        return str(number)

    def resume(self, name: str) -> None:
        """Goes on with a run that was stopped.

        Raises:
            UsageError: One is running, or there is none of this name.
        """
        self._require_none()
        if name not in self._names():
            raise UsageError(f"there is no run {printable(name, 40)}")
        self._run(name)

    def stop(self, seconds: float = 30.0) -> None:
        """Stops the run that is at work, and waits until its checkpoint is written."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()  # of what it learned since its last checkpoint nothing is left
            self.process.wait()

    def state(self, name: str) -> RunState:
        run = RunFolder(self.folder / name)
        metrics = run.metrics()
        thinned = metrics[:: max(1, len(metrics) // LINES)] if len(metrics) > LINES else metrics
        shown = [line for line in metrics if line["kind"] != "train" or line in thinned]
        if (result := run.result()) is not None:
            return RunState(name, "finished", shown, {split: result[split] for split in ("val", "test")})
        if self.running == name:
            return RunState(name, "running", shown)
        why = self._last_words(name) if name == self.name and self.process and self.process.returncode else ""
        return RunState(name, "failed" if why else "stopped", shown, why=why)

    def states(self) -> list[RunState]:
        """All of them, the newest first."""
        return [self.state(name) for name in sorted(self._names(), key=int, reverse=True)]

    @property
    def running(self) -> str:
        """The name of the run at work, or nothing."""
        return self.name if self.process is not None and self.process.poll() is None else ""

    def _run(self, name: str) -> None:
        recipe = {"data.source": str(self._list(name)), **self.recipe}
        changes = [word for key, value in recipe.items() for word in (f"--{key}", value)]
        command = [sys.executable, "-m", "mlpmixer", "train", RECIPE, "--folder", str(self.folder / name), *changes]
        with (self.folder / name / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.name = name
        with suppress(OSError, AttributeError):  # it has ended, or Windows
            os.setpriority(os.PRIO_PROCESS, self.process.pid, NICE)

    def _require_none(self) -> None:
        if self.running:
            raise UsageError(f"run {self.running} is at work; stop it first")

    def _names(self) -> list[str]:
        try:
            return [one.name for one in self.folder.iterdir() if re.fullmatch(r"[1-9]\d*", one.name) and one.is_dir()]
        except FileNotFoundError:
            return []

    def _list(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def _last_words(self, name: str) -> str:
        """What the process said at the end: an error is its last line."""
        assert self.process is not None
        if self.process.returncode in (-signal.SIGINT, 130):
            return ""
        text = (self.folder / name / "log.txt").read_text("utf-8", "replace")
        lines = [line.removeprefix("mixer: ") for line in text.splitlines() if line.strip()]
        return printable(lines[-1], 300) if lines else f"it ended with status {self.process.returncode}"
