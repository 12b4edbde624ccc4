"""Processes that are measured, each with its children in a session of its own, by which they are told from others."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mlpmixer
from mlpmixer.errors import RunError
from mlpmixer.text import first_line

TICKS = os.sysconf("SC_CLK_TCK")  # a second
PAGE = os.sysconf("SC_PAGE_SIZE")
STARTING = 180.0  # seconds: kernels may have to be compiled first
ENDING = 10.0


@dataclass(frozen=True)
class Usage:
    """What processes have used.

    Attributes:
        cpu: Seconds, of user and system, since they began; of those that live.
        rss: Bytes in memory; pages that several share count for each.
        processes: How many there are.
    """

    cpu: float
    rss: int
    processes: int


def usage_of(session: int, proc: Path = Path("/proc")) -> Usage:
    """Of all processes of a session, whoever their parent is by now."""
    ticks = pages = count = 0
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text()
        except OSError:  # it has just ended
            continue
        # The name in parentheses may have spaces and parentheses. See man proc: session is the 6th field.
        fields = text.rpartition(")")[2].split()
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
            pages += int(fields[21])
            count += 1
    return Usage(ticks / TICKS, pages * PAGE, count)


class Measured:
    """A command that runs, and what it and its children use.

    Args:
        name: For messages.
        command: Its words.
        log: Where its output goes.
        environment: Variables besides ours.
        pipe: It is talked to by its standard input and output, and only its errors go to `log`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        pipe: bool = False,
    ):
        self.name, self.log = name, log
        # The children import this mlpmixer, whichever Python they run on.
        ours = os.pathsep.join(filter(None, [str(Path(mlpmixer.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else file,
                stderr=file,
                env={**os.environ, "PYTHONPATH": ours, **(environment or {})},
                start_new_session=True,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def session(self) -> int:
        return self.process.pid

    def usage(self) -> Usage:
        return usage_of(self.session)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it, and whatever of its children does not end by itself."""
        self.resume()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(ENDING)
        self._signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def wait_until(self, holds: Callable[[], bool], seconds: float = STARTING) -> None:
        """Waits until it is ready.

        Raises:
            RunError: It ended, or took too long.
        """
        until = time.monotonic() + seconds
        while not holds():
            if self.process.poll() is not None or time.monotonic() > until:
                why = "did not become ready" if self.process.poll() is None else "ended"
                said = self.log.read_text(errors="replace").strip().splitlines()[-1:]
                raise RunError(f"{self.name} {why}: {first_line(said[0] if said else 'it said nothing')}")
            time.sleep(0.05)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.session, number)


def answers(port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def module(name: str, *arguments: object, python: str = sys.executable) -> list[str]:
    """The command that runs a module of this package."""
    return [python, "-m", name, *map(str, arguments)]
