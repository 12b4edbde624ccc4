"""How fast a Mixer answers, ours beside what else one could use, and beside what the machine can do at most.

All systems have the same weights, threads and pictures, which are other ones in each round; the peers get them as
normalised floats, which costs them nothing. All logits are held against float32's, so that nobody is fast by computing
something else: who is further off than allowed is reported, and left out of the ratios.
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

from mlpmixer.bench import ceilings, peers
from mlpmixer.bench.pictures import Pictures
from mlpmixer.bench.systems import Subject, System, ours
from mlpmixer.bench.turns import Times, in_turns, ratio, seconds_of
from mlpmixer.errors import MixerError
from mlpmixer.models.measured import measured

# How far logits may be from float32's: the root of the mean square, as a share of their spread.
ALLOWED = {"fp32": 0.001, "bf16": 0.03, "int8": 0.1}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
TURN = 0.1  # seconds that a turn takes, at least; so many batches follow each other in it
MOST = 64  # batches in a turn


@dataclass(frozen=True)
class Row:
    """`share`: of the matrix ceiling. `copy_share`: what reading the weights once a batch takes of the copy ceiling.
    `distance`: from float32's logits; `agrees`: no further than allowed. `times`: of turns of several batches."""

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
class Ahead:
    """Our best against the best of the peers: how many times faster, and the quartiles over rounds."""

    model: str
    precision: str
    batch: int
    engine: str
    peer: str
    ratio: float
    quartiles: tuple[float, float]


@dataclass
class Found:
    """`ceilings`: operations, or bytes that are read and written, a second. `chosen`: what `auto` says. `left_out`: who
    is missing, and why."""

    rows: list[Row] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def bench_inference(
    models: Sequence[tuple[str, int]],
    precisions: Sequence[str],
    names: Sequence[str],
    rounds: int,
    device: torch.device,
    *,
    quick: bool = False,
    tell: Callable[[str], object] = lambda _line: None,
) -> Found:
    """models: names and batch sizes. names: of peers. quick: without torch.compile, which begins with a minute for each
    model. tell: gets a line when something begins."""
    peers.check(names)
    subjects = {name: Subject(name) for name in dict.fromkeys(name for name, _ in models)}  # wrong names at once
    found = Found()
    there = []
    for name in names:
        if (reason := peers.why_not(name, device)) is None:
            there.append(name)
        else:
            found.left_out.append(f"{name}: {reason}")
    tell("ceilings")
    copies = ceilings.copies(device)
    rates = {"copy_bytes_per_s": [ceilings.measured(copies, rounds)]}
    ways = {precision: ceilings.products(precision, device) for precision in precisions}
    for precision in precisions:
        if ways[precision]:
            rates[_matrix(precision)] = [ceilings.measured(ways[precision], rounds)]
    for name, batch in models:
        for precision in precisions:
            tell(f"{name}, batch {batch}, {precision}")
            systems = _systems(subjects[name], precision, batch, device, there, quick, found)
            _compare(
                subjects[name], precision, batch, device, systems, [*ways[precision]], copies, rounds, rates, found
            )
            del systems
            gc.collect()
    found.ceilings = {name: statistics.median(each) for name, each in rates.items()}
    return found


def ahead(rows: Sequence[Row]) -> list[Ahead]:
    """Where both sides have somebody whose answers are right."""
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
            peer = other.system if other.engine in (other.system, "onnxruntime") else f"{other.system} {other.engine}"
            found.append(Ahead(model, precision, batch, best.engine, peer, middle, (first, third)))
    return found


def _systems(
    subject: Subject, precision: str, batch: int, device: torch.device, names: list[str], quick: bool, found: Found
) -> list[System]:
    where = f"{subject.name}, batch {batch}, {precision}"
    systems: list[System] = []
    try:
        systems, said = ours(subject, precision, batch, device)
        found.chosen.append(f"{where}: {said}")
    except MixerError as error:
        found.left_out.append(f"mlpmixer, {where}: {error}")
    for name in names:
        if precision not in peers.PEERS[name].precisions:
            continue
        try:
            systems += peers.start(name)(subject, precision, batch, device, quick)
        except Exception as error:  # whatever a runtime does to a model that it does not take
            found.left_out.append(f"{name}, {where}: {_first_line(error)}")
    return systems


def _compare(
    subject: Subject,
    precision: str,
    batch: int,
    device: torch.device,
    systems: list[System],
    ways: list[ceilings.Way],
    copies: list[ceilings.Way],
    rounds: int,
    rates: dict[str, list[float]],
    found: Found,
) -> None:
    config = subject.model.config
    pictures = Pictures((batch, config.in_channels, *config.image_size), subject.how, device)
    pictures.prepare({system.takes for system in systems}, 1)
    distances, able, quickest = {}, [], math.inf
    wanted = subject.answers(pictures["bytes"][0])
    for system in systems:
        turn = _turn(system, pictures)
        try:
            distances[system] = distance(system.run(pictures[system.takes][0]), wanted)
            quickest = min(quickest, seconds_of(turn))
            able.append(system)
        except Exception as error:
            where = f"{subject.name}, batch {batch}, {precision}"
            found.left_out.append(f"{system.name} {system.engine}, {where}: {_first_line(error)}")
    if not able:
        return
    count = min(MOST, math.ceil(TURN / quickest))
    pictures.prepare({system.takes for system in able}, count)
    turns: dict[object, Callable[[], object]] = {system: _turn(system, pictures) for system in able}
    turns |= {way.name: way.run for way in (*ways, *copies)}
    times = in_turns(turns, rounds, warm_up=1, before_round=pictures.renew)
    named = {way.name: times[way.name] for way in (*ways, *copies)}
    matrix = ceilings.best_by_round(ways, named) if ways else [math.nan] * rounds
    copy = ceilings.best_by_round(copies, named)
    rates["copy_bytes_per_s"] += copy
    if ways:
        rates[_matrix(precision)] += matrix
    [cost] = [model for model in measured() if model["name"] == subject.name]
    work = cost["gmacs"] * 2e9 * batch * count
    read = cost["params"] * BYTES[precision] * count
    for system in able:
        each = times[system]
        speed = batch * count / each.median
        found.rows.append(
            Row(
                system=system.name,
                engine=system.engine,
                model=subject.name,
                precision=precision,
                batch=batch,
                images_per_s=speed,
                spread=each.spread,
                milliseconds=1000 * each.median / count,
                flop_per_s=work / each.median,
                share=statistics.median(work / taken / most for taken, most in zip(each.seconds, matrix, strict=True)),
                copy_share=statistics.median(
                    read / taken / most for taken, most in zip(each.seconds, copy, strict=True)
                ),
                distance=distances[system],
                agrees=distances[system] <= ALLOWED[precision],
                times=each,
            )
        )


def _turn(system: System, pictures: Pictures) -> Callable[[], None]:
    def run() -> None:
        for batch in pictures[system.takes]:
            system.run(batch)

    return run


def distance(found: object, wanted: Tensor) -> float:
    """Root of the mean square, as a share of the logits' spread; infinite for what is no logits at all."""
    logits = torch.from_numpy(np.array(found, np.float32)) if not isinstance(found, Tensor) else found.float().cpu()
    if logits.shape != wanted.shape or not logits.isfinite().all():
        return math.inf
    return ((logits - wanted).square().mean().sqrt() / wanted.std()).item()


def _matrix(precision: str) -> str:
    return f"matrix_{precision}_flop_per_s"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
