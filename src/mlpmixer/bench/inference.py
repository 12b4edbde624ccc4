"""Inference benchmark: our engines against other frameworks, and against the machine's peak.

All systems have the same weights, threads and images, which are other ones in each round; the others get them as
normalized floats, which costs them nothing. All logits are compared with float32's, so that no system is fast by
computing something else: who is further off than allowed is reported, and has no speedup.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mlpmixer.bench import baselines, roofline
from mlpmixer.bench.inputs import Images
from mlpmixer.bench.interleave import Times, interleaved, ratio, seconds_of
from mlpmixer.bench.roofline import FULL, Effort
from mlpmixer.bench.systems import Subject, System, ours
from mlpmixer.errors import MixerError
from mlpmixer.models.measured import measured
from mlpmixer.text import first_line

# How far logits may be from float32's: the root of the mean square, as a share of their spread.
ALLOWED = {"fp32": 0.001, "bf16": 0.03, "int8": 0.1}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
MOST = 64  # batches in a run
COPY = "copy_bytes_per_s"


@dataclass(frozen=True)
class InferenceRow:
    """`share`: of the matrix peak. `copy_share`: what reading the weights once a batch takes of the copy peak.
    `distance`: from float32's logits; `agrees`: no further than allowed. `times`: of runs of several batches."""

    system: str
    engine: str
    model: str
    precision: str
    batch: int
    images_per_s: float
    spread: float
    milliseconds: float
    flop_per_s: float
    share: float
    copy_share: float
    distance: float
    agrees: bool
    times: Times


@dataclass(frozen=True)
class Speedup:
    """Our best against the best of the others: how many times faster, and the quartiles over rounds."""

    model: str
    precision: str
    batch: int
    engine: str
    other: str
    ratio: float
    quartiles: tuple[float, float]


@dataclass
class InferenceResults:
    """`roofline`: operations, or bytes that are read and written, a second. `chosen`: what `auto` says. `skipped`: who
    is missing, and why."""

    rows: list[InferenceRow] = field(default_factory=list)
    roofline: dict[str, float] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def bench_inference(
    models: Sequence[tuple[str, int]],
    precisions: Sequence[str],
    names: Sequence[str],
    rounds: int,
    device: torch.device,
    *,
    quick: bool = False,
    tell: Callable[[str], object] = lambda _line: None,
    effort: Effort = FULL,
) -> InferenceResults:
    """Time all systems with each model, batch size and precision.

    Args:
        models: Names and batch sizes.
        precisions: Of the products: fp32, bf16, int8.
        names: Of baselines.
        rounds: How often each system is timed.
        device: Where to compute.
        quick: Without torch.compile, which begins with a minute for each model.
        tell: Gets a line when something begins.
        effort: How long each measurement takes.
    """
    baselines.check(names)
    subjects = {name: Subject(name) for name in dict.fromkeys(name for name, _ in models)}  # wrong names at once
    tell("peaks")
    bench = _Bench(precisions, names, rounds, device, quick, effort)
    for name, batch in models:
        for precision in precisions:
            tell(f"{name}, batch {batch}, {precision}")
            bench.compare(subjects[name], batch, precision)
            gc.collect()
    bench.found.roofline = {name: statistics.median(each) for name, each in bench.rates.items()}
    return bench.found


def speedups(rows: Sequence[InferenceRow]) -> list[Speedup]:
    """Where both sides have a system whose logits agree."""
    found = []
    for model, precision, batch in dict.fromkeys((row.model, row.precision, row.batch) for row in rows):
        fair = [
            row for row in rows if (row.model, row.precision, row.batch) == (model, precision, batch) and row.agrees
        ]
        mine = [row for row in fair if row.system == "mlpmixer"]
        theirs = [row for row in fair if row.system != "mlpmixer"]
        if mine and theirs:
            best, other = (max(side, key=lambda row: row.images_per_s) for side in (mine, theirs))
            middle, first, third = ratio(best.times, other.times)
            name = other.system if other.engine in (other.system, "onnxruntime") else f"{other.system} {other.engine}"
            found.append(Speedup(model, precision, batch, best.engine, name, middle, (first, third)))
    return found


class _Bench:
    def __init__(
        self,
        precisions: Sequence[str],
        names: Sequence[str],
        rounds: int,
        device: torch.device,
        quick: bool,
        effort: Effort,
    ):
        self.rounds, self.device, self.quick, self.effort = rounds, device, quick, effort
        self.found = InferenceResults()
        reasons = {name: baselines.why_not(name, device) for name in names}
        self.names = [name for name, reason in reasons.items() if reason is None]
        self.found.skipped += [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
        self.copies = roofline.copies(device, effort)
        self.products = {precision: roofline.products(precision, device, effort) for precision in precisions}
        # Peaks, round by round: at first by themselves, then interleaved with the systems.
        self.rates = {COPY: [roofline.measured(self.copies, rounds)]}
        for precision, ways in self.products.items():
            if ways:
                self.rates[matrix(precision)] = [roofline.measured(ways, rounds)]

    def compare(self, subject: Subject, batch: int, precision: str) -> None:
        """Everybody with one model, batch and precision."""
        where = f"{subject.name}, batch {batch}, {precision}"
        config = subject.model.config
        systems = self._systems(subject, batch, precision, where)
        images = Images((batch, config.in_channels, *config.image_size), subject.how, self.device)
        images.prepare({system.takes for system in systems}, 1)
        distances = self._distances(systems, images, subject.logits(images["bytes"][0]), where)
        runs = {system: _run(system, images) for system in distances}
        if not runs:
            return
        count = min(MOST, math.ceil(self.effort.run_seconds / min(map(seconds_of, runs.values()))))
        images.prepare({system.takes for system in runs}, count)
        ways = [*self.products[precision], *self.copies]
        both: dict[object, Callable[[], object]] = {**runs, **{way.name: way.run for way in ways}}
        times = interleaved(both, self.rounds, warm_up=1, before_round=images.renew)
        most, copied = self._peaks(precision, {way.name: times[way.name] for way in ways})
        [cost] = [model for model in measured() if model["name"] == subject.name]
        work = cost["gmacs"] * 2e9 * batch * count
        read = cost["params"] * BYTES[precision] * count
        for system, off in distances.items():
            each = times[system]
            self.found.rows.append(
                InferenceRow(
                    system=system.name,
                    engine=system.engine,
                    model=subject.name,
                    precision=precision,
                    batch=batch,
                    images_per_s=batch * count / each.median,
                    spread=each.spread,
                    milliseconds=1000 * each.median / count,
                    flop_per_s=work / each.median,
                    share=roofline.share(work, each, most),
                    copy_share=roofline.share(read, each, copied),
                    distance=off,
                    agrees=off <= ALLOWED[precision],
                    times=each,
                )
            )

    def _systems(self, subject: Subject, batch: int, precision: str, where: str) -> list[System]:
        systems: list[System] = []
        try:
            systems, choice = ours(subject, precision, batch, self.device)
            self.found.chosen.append(f"{where}: {choice}")
        except MixerError as error:
            self.found.skipped.append(f"mlpmixer, {where}: {error}")
        for name in self.names:
            if precision in baselines.BASELINES[name].precisions:
                try:
                    systems += baselines.start(name)(subject, precision, batch, self.device, self.quick)
                except Exception as error:  # whatever a runtime does to a model that it does not take
                    self.found.skipped.append(f"{name}, {where}: {first_line(error)}")
        return systems

    def _distances(self, systems: Sequence[System], images: Images, wanted: Tensor, where: str) -> dict[System, float]:
        """Of all that run at all. It warms them up, too."""
        distances = {}
        for system in systems:
            try:
                distances[system] = distance(system.run(images[system.takes][0]), wanted)
            except Exception as error:
                self.found.skipped.append(f"{system.name} {system.engine}, {where}: {first_line(error)}")
        return distances

    def _peaks(self, precision: str, times: dict[str, Times]) -> tuple[list[float], list[float]]:
        """Of products and of copies, in each round."""
        ways = self.products[precision]
        most = roofline.best_by_round(ways, times) if ways else [math.nan] * self.rounds
        copied = roofline.best_by_round(self.copies, times)
        if ways:
            self.rates[matrix(precision)] += most
        self.rates[COPY] += copied
        return most, copied


def _run(system: System, images: Images) -> Callable[[], None]:
    def run() -> None:
        for batch in images[system.takes]:
            system.run(batch)

    return run


def distance(found: object, wanted: Tensor) -> float:
    """Root of the mean square, as a share of the logits' spread; infinite for what is no logits at all."""
    logits = torch.from_numpy(np.array(found, np.float32)) if not isinstance(found, Tensor) else found.float().cpu()
    if logits.shape != wanted.shape or not logits.isfinite().all():
        return math.inf
    return ((logits - wanted).square().mean().sqrt() / wanted.std()).item()


def matrix(precision: str) -> str:
    return f"matrix_{precision}_flop_per_s"
