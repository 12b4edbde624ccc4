"""What is compared: the bare Predictor, our service, and LitServe, each with the same model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlpmixer.bench.serving import requests
from mlpmixer.bench.serving.processes import Measured, answers, free_port, module
from mlpmixer.errors import RunError
from mlpmixer.machine.cores import cores

HERE = __package__
ROOMY = 60_000  # milliseconds that an image may wait where nothing is to be refused


@dataclass(frozen=True)
class Subject:
    """The model that all have.

    Attributes:
        model: What `mixer serve` takes.
        precision: Of the engine.
        folder: For logs and other files.
        litserve: A Python that has LitServe; empty: none.
    """

    model: str
    precision: str
    folder: Path
    litserve: str = ""

    def log(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.log"


class Server(Measured):
    """A server that answers at `port`."""

    def __init__(self, name: str, command: Sequence[str], port: int, log: Path, ready: str):
        super().__init__(name, command, log)
        self.port = port
        try:
            self.wait_until(lambda: answers(port, ready))
        except BaseException:
            self.close()
            raise


def ours(subject: Subject, max_latency_ms: int = ROOMY, *, leak: bool = False) -> Server:
    """`mixer serve`, or the one that leaks."""
    port = free_port()
    if leak:
        command = module(f"{HERE}.leaking", subject.model, subject.precision, port)
    else:
        options = ("--precision", subject.precision, "--port", port, "--max-latency-ms", max_latency_ms)
        command = module("mlpmixer", "serve", subject.model, *options)
    return Server("mixer serve", command, port, subject.log("serve"), "/readyz")


@dataclass(frozen=True)
class LitServe:
    """A setting of it. `batch`: images; `threads`: in each worker process."""

    workers: int
    batch: int
    threads: int

    @property
    def name(self) -> str:
        return f"litserve {self.workers} × {self.batch}"

    def start(self, subject: Subject) -> Server:
        port = free_port()
        numbers = (self.workers, self.batch, self.threads)
        arguments = (subject.model, subject.precision, port, *numbers)
        command = module(f"{HERE}.lit", *arguments, python=subject.litserve)
        return Server(self.name, command, port, subject.log(self.name), "/health")


def litserves() -> tuple[LitServe, ...]:
    """Its two best settings."""
    return LitServe(cores(), 1, 1), LitServe(1, 16, cores())


def litserve_of(python: str) -> tuple[str, str]:
    """A Python with LitServe, and its version, or why there is none.

    Args:
        python: That somebody named; empty: ours, if it has it.

    Raises:
        RunError: The one that was named has none.
    """
    if not python and find_spec("litserve") is None:
        return "", "litserve: it is not installed; --litserve PYTHON names a Python that has it, and torch"
    python = python or sys.executable
    code = "import litserve, torch; print(litserve.__version__)"
    try:
        ran = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        raise RunError(f"--litserve {python} cannot be run: {error.strerror}") from None
    if ran.returncode:
        raise RunError(f"--litserve {python} has not both litserve and torch")
    return python, ran.stdout.strip().splitlines()[-1]


class Bare(Measured):
    """The Predictor without a server."""

    def __init__(self, subject: Subject, images: Sequence[bytes]):
        folder = subject.folder / "images"
        folder.mkdir()
        for number, image in enumerate(images):
            (folder / f"{number:06}").write_bytes(image)
        command = module(f"{HERE}.bare", subject.model, subject.precision, folder)
        super().__init__("the bare Predictor", command, subject.log("bare"), pipe=True)
        try:
            self.about = self._heard()
        except BaseException:
            self.close()
            raise

    def run(self, seconds: float) -> tuple[int, float]:
        """Images, and the seconds that they took."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        found = self._heard()
        return found["images"], found["seconds"]

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.wait_until(lambda: False)  # raises, and says why
        return json.loads(line)


# Ways to ask our service: what a row is called, and the request for an image.
BODIES = {"raw": requests.raw, "form": lambda image: requests.form([image])}
