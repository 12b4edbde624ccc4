"""The parts of the benchmark of `mixer serve`, one after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mlpmixer.bench.serving.attacks import measure_attacks
from mlpmixer.bench.serving.bar import Bar
from mlpmixer.bench.serving.capacity import CapacityRow, measure_capacity
from mlpmixer.bench.serving.overload import measure_overload
from mlpmixer.bench.serving.requests import read_images
from mlpmixer.bench.serving.soak import measure_soak
from mlpmixer.bench.serving.systems import Subject, litserve_of
from mlpmixer.bench.serving.wrk import require_wrk, version
from mlpmixer.packages import require


@dataclass(frozen=True)
class Parts:
    """What is measured.

    Attributes:
        rounds: Of capacity; 0: none.
        seconds: Of each slice of it.
        overload: Seconds; 0: none.
        soak: Minutes; 0: none.
        leak: The soak is of a service that leaks.
        attacks: Whether they are made.
    """

    rounds: int = 7
    seconds: int = 2
    overload: float = 0
    soak: float = 0
    leak: bool = False
    attacks: bool = False


@dataclass
class ServingResults:
    """Rows of capacity, bars of all parts, versions of load and baseline, what is bare, and who is left out."""

    rows: list[CapacityRow] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    about: str = ""
    skipped: list[str] = field(default_factory=list)


def bench_serving(
    folder: Path | None,
    model: str,
    precision: str,
    images: int,
    parts: Parts,
    litserve: str = "",
    tell: Callable[[str], object] = lambda _line: None,
) -> ServingResults:
    """Each part with a service that is started for it.

    Args:
        folder: Of images; None: versions of the bundled one.
        model: What `mixer serve` takes.
        precision: Of the engine.
        images: Files at most.
        parts: What is measured.
        litserve: A Python that has LitServe; empty: ours, if it has it.
        tell: Gets a line when something begins.
    """
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(package, extra="serve", what="mixer bench serve")
    found = ServingResults()
    python = ""
    if parts.rounds:
        require_wrk()
        found.versions["wrk"] = version()
        python, said = litserve_of(litserve)
        if python:
            found.versions["litserve"] = said
        else:
            found.skipped.append(said)
    files = read_images(folder, images)
    with tempfile.TemporaryDirectory() as place:
        subject = Subject(model, precision, Path(place), python)
        if parts.rounds:
            capacity = measure_capacity(subject, files, parts.rounds, parts.seconds, tell)
            found.rows, found.bars, found.about = capacity.rows, capacity.bars, capacity.about
        if parts.overload:
            found.bars += measure_overload(subject, files, parts.overload, tell)
        if parts.attacks:
            found.bars += measure_attacks(subject, files, tell)
        if parts.soak:
            found.bars += measure_soak(subject, files, parts.soak, tell, leak=parts.leak)
    return found
