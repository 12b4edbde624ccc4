"""Capacity: requests a second and what one costs, interleaved in rounds; and what an idle service costs.

Everyone but the one that is measured is stopped (SIGSTOP). Clients ask again as soon as they are answered (wrk). CPU is
that of the server's processes, and not of the clients. Shares and ratios are taken within rounds.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from mlpmixer.bench.interleave import Times, interleaved_times, ratio
from mlpmixer.bench.serving.bar import Bar
from mlpmixer.bench.serving.processes import Measured
from mlpmixer.bench.serving.systems import BODIES, Bare, Server, Subject, litserves, ours
from mlpmixer.bench.serving.wrk import Wrk

CLIENTS = (16, 64)
OURS, BARE = "mlpmixer", "Predictor"
ROUTE = {"mlpmixer": "/v1/predict", "litserve": "/predict"}
SETTLING = 0.3  # seconds after a slice, for what clients left behind
LABELS = 8  # images of which the labels are compared

# Bars of the service against the bare Predictor, by the body of its requests, with the fewer clients.
CPU = {"raw": 1.10, "form": 1.18}
SHARE = 0.90
TIMES_LITSERVE = 1.5
IDLE_CORES, IDLE_MB = 0.02, 300


@dataclass(frozen=True)
class Slice:
    """One system for some seconds."""

    seconds_a_request: float
    cpu_a_request: float
    p50: float
    p99: float
    errors: int


@dataclass(frozen=True)
class CapacityRow:
    """A system with so many clients.

    Attributes:
        system: mlpmixer, litserve, or the bare Predictor.
        body: Of requests: raw, form, or none.
        clients: 0: images are there without anyone asking.
        share: Of the bare Predictor's rate: the median of rounds, and its quartiles.
        cpu_ms: Of a request, over all processes of the server.
        cpu_ratio: To the bare Predictor's.
        p50_ms: Of the median round.
        rss_mb: Of all its processes, after the last round.
        errors: Requests that were refused or not answered, over all rounds.
        times: Seconds a request, and of CPU, of each round.
    """

    system: str
    body: str
    clients: int
    requests_per_s: float
    spread: float
    share: tuple[float, float, float] | None
    cpu_ms: float
    cpu_ratio: tuple[float, float, float] | None
    p50_ms: float
    p99_ms: float
    rss_mb: float
    errors: int
    times: tuple[Times, Times]


@dataclass
class Capacity:
    """What was measured; `about`: the bare Predictor's engine and threads."""

    rows: list[CapacityRow] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    about: str = ""


@dataclass(frozen=True)
class Turn:
    """Who is asked, and how."""

    system: str
    body: str
    server: Measured
    run: Callable[[int, int], Slice]  # clients, seconds


def measure_capacity(
    subject: Subject,
    images: Sequence[bytes],
    rounds: int,
    seconds: int,
    tell: Callable[[str], object],
    *,
    clients: Sequence[int] = CLIENTS,
    idle: float = 30,
) -> Capacity:
    """Rounds of slices, and then nothing at all.

    Args:
        subject: The model.
        images: That are asked for in turn.
        rounds: How often each is measured.
        seconds: Of a slice.
        tell: Gets a line when something begins.
        clients: How many; the bars are for the first number.
        idle: Seconds for which the idle service is watched.
    """
    found = Capacity()
    with ExitStack() as stack:
        tell("the bare Predictor starts")
        bare = stack.enter_context(Bare(subject, images))
        about = bare.about
        found.about = f"Predictor.stream, {about['engine']} {about['precision']}, {about['threads']} threads"
        bare.pause()
        turns = [Turn(BARE, "none", bare, partial(_bare, bare))]
        tell("mixer serve starts")
        service = stack.enter_context(ours(subject))
        for body, request in BODIES.items():
            built = [request(image) for image in images]
            turns.append(_turn(OURS, body, service, Wrk(built, subject.folder / f"requests-{body}")))
        _check_labels(service, OURS, images, about["labels"])
        service.pause()
        if subject.litserve:
            path = ROUTE["litserve"].encode()
            built = [BODIES["form"](image).replace(b"/v1/predict", path, 1) for image in images]
            load = Wrk(built, subject.folder / "requests-litserve")
            for setting in litserves():
                tell(f"{setting.name} starts")
                server = stack.enter_context(setting.start(subject))
                turns.append(_turn(setting.name, "form", server, load))
                _check_labels(server, "litserve", images, about["labels"])
                server.pause()
        for count in clients:
            tell(f"{rounds} rounds with {count} clients")
            found.rows += _rows(turns, count, rounds, seconds)
        found.bars = capacity_bars(found.rows, clients[0])
        tell(f"{idle:.0f} seconds of nothing")
        found.bars += watch_idle(service, idle)
    return found


def _turn(system: str, body: str, server: Server, load: Wrk) -> Turn:
    def run(clients: int, seconds: int) -> Slice:
        before = server.usage().cpu
        saw = load.run(server.port, clients, seconds)
        cpu = server.usage().cpu - before
        count = max(1, saw.requests)
        return Slice(saw.seconds / count, cpu / count, saw.p50, saw.p99, saw.errors)

    return Turn(system, body, server, run)


def _bare(bare: Bare, _clients: int, seconds: int) -> Slice:
    before = bare.usage().cpu
    images, took = bare.run(seconds)
    return Slice(took / images, (bare.usage().cpu - before) / images, 0.0, 0.0, 0)


def _rows(turns: Sequence[Turn], clients: int, rounds: int, seconds: int) -> list[CapacityRow]:
    slices: dict[tuple[str, str], list[Slice]] = {(turn.system, turn.body): [] for turn in turns}

    def measured(turn: Turn) -> float:
        turn.server.resume()
        try:
            found = turn.run(clients, seconds)
            time.sleep(SETTLING)
        finally:
            turn.server.pause()
        slices[turn.system, turn.body].append(found)
        return found.seconds_a_request

    for turn in turns:  # until its memory and its queues are what they will be
        measured(turn)
        slices[turn.system, turn.body].clear()
    interleaved_times({(turn.system, turn.body): partial(measured, turn) for turn in turns}, rounds)
    base = _times(slices[BARE, "none"])
    return [
        capacity_row(turn, 0 if turn.system == BARE else clients, slices[turn.system, turn.body], base)
        for turn in turns
    ]


def _times(slices: Sequence[Slice]) -> tuple[Times, Times]:
    return Times(tuple(each.seconds_a_request for each in slices)), Times(tuple(each.cpu_a_request for each in slices))


def capacity_row(turn: Turn, clients: int, slices: Sequence[Slice], base: tuple[Times, Times]) -> CapacityRow:
    wall, cpu = _times(slices)
    bare = turn.system == BARE
    return CapacityRow(
        system=turn.system,
        body=turn.body,
        clients=clients,
        requests_per_s=1 / wall.median,
        spread=wall.spread,
        share=None if bare else ratio(wall, base[0]),
        cpu_ms=1000 * cpu.median,
        cpu_ratio=None if bare else ratio(base[1], cpu),
        p50_ms=1000 * statistics.median(each.p50 for each in slices),
        p99_ms=1000 * statistics.median(each.p99 for each in slices),
        rss_mb=turn.server.usage().rss / 1e6,
        errors=sum(each.errors for each in slices),
        times=(wall, cpu),
    )


def capacity_bars(rows: Sequence[CapacityRow], few: int) -> list[Bar]:
    """Of what was measured with the fewer clients, and CPU of LitServe's with any number."""
    bars = [Bar("requests refused or not answered", sum(row.errors for row in rows), "≤", 0)]
    mine: Mapping[tuple[str, int], CapacityRow] = {(row.body, row.clients): row for row in rows if row.system == OURS}
    for body, bound in CPU.items():
        row = mine[body, few]
        assert row.cpu_ratio is not None
        assert row.share is not None
        bars.append(Bar(f"CPU a request, {body}, {few} clients, of bare's", row.cpu_ratio[0], "≤", bound))
        bars.append(Bar(f"requests a second, {body}, {few} clients, of bare's", row.share[0], "≥", SHARE))
    theirs = [row for row in rows if row.system.startswith("litserve")]
    for clients in dict.fromkeys(row.clients for row in theirs):
        own = mine["form", clients]
        others = [row for row in theirs if row.clients == clients]
        name = f"form, {clients} clients"
        less = min(ratio(own.times[1], row.times[1])[0] for row in others)
        bars.append(Bar(f"CPU a request, {name}, LitServe's best by ours", less, "≥", TIMES_LITSERVE))
        if clients == few:
            best = min(others, key=lambda row: row.times[0].median)
            more = min(ratio(own.times[0], row.times[0])[0] for row in others)
            bars.append(Bar(f"requests a second, {name}, ours by LitServe's best", more, "≥", TIMES_LITSERVE))
            bars.append(Bar(f"p99, {name}, ours by LitServe's best", own.p99_ms / best.p99_ms, "≤", 1.0))
    return bars


def watch_idle(service: Server, seconds: float) -> list[Bar]:
    """The service when nobody asks; it is stopped before and after."""
    service.resume()
    time.sleep(min(1.0, seconds))  # its timers have been late
    before, began = service.usage().cpu, time.monotonic()
    time.sleep(seconds)
    used = service.usage()
    cores = (used.cpu - before) / (time.monotonic() - began)
    service.pause()
    return [
        Bar("CPU when idle", cores, "≤", IDLE_CORES, "cores"),
        Bar("memory when idle", used.rss / 1e6, "≤", IDLE_MB, "MB"),
    ]


def _check_labels(server: Server, kind: str, images: Sequence[bytes], wanted: Sequence[str]) -> None:
    """Nobody is fast by computing something else."""
    for image, label in zip(images[:LABELS], wanted, strict=False):
        data = BODIES["form"](image)
        head, _, body = data.partition(b"\r\n\r\n")
        found = next(line for line in head.decode().split("\r\n") if line.startswith("Content-Type"))
        url = f"http://127.0.0.1:{server.port}{ROUTE[kind]}"
        request = urllib.request.Request(url, body, {"Content-Type": found.partition(": ")[2]})
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.load(answer)
        said = said["predictions"][0] if kind == OURS else said
        assert said["label"] == label, f"{kind} says {said['label']}, and the bare Predictor {label}"
