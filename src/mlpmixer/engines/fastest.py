"""The fastest engine for a model on this machine: measured once, and remembered."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mlpmixer import files
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.table import ENGINES, Setup, precisions, why_not
from mlpmixer.errors import UsageError, nearest
from mlpmixer.files import cache_folder, make_folder
from mlpmixer.kernels.library import library
from mlpmixer.machine import processor
from mlpmixer.metadata import LayerPrecision, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.version import __version__

Pair = tuple[str, str]  # engine, precision
Clock = Callable[[], float]

ROUNDS = 2
FURTHEST = 0.1  # from float32's logits, as a share of their spread; what is further off has a fault
MOST = 1 << 16  # bytes of a file of rates


@dataclass(frozen=True)
class Choice:
    engine: str
    precision: str
    why: str

    def __str__(self) -> str:
        return f"{self.engine}, {self.precision} ({self.why})"


def start(
    model: Classifier,
    how: Preprocessing,
    *,
    engine: str = "auto",
    precision: str = "auto",
    batch: int = 32,
    device: torch.device | str = "cpu",
    layer_precisions: tuple[LayerPrecision, ...] = (),
    measure: bool = True,
    clock: Clock = time.perf_counter,
) -> tuple[Engine, Choice]:
    """The engine that was asked for, or the fastest, and why it is that one.

    Args:
        model: Any classifier.
        how: How images are prepared.
        engine: One of `ENGINES`, or "auto".
        precision: One of `precisions()`, or "auto".
        batch: Images at a time.
        device: Where to compute.
        layer_precisions: Of a quantized Mixer.
        measure: Try what was never tried on this machine; otherwise take what is usually the fastest.
        clock: Seconds, to measure with.

    Raises:
        UsageError: There is no such engine or precision, or none that was asked for can run this model here.
    """
    for what, given, known in (("engine", engine, [*ENGINES]), ("precision", precision, precisions())):
        if given not in ("auto", *known):
            raise UsageError(f"there is no {what} '{given}'{nearest(given, known)} (auto, {', '.join(known)})")
    setup = Setup(model, how, precision, batch, torch.device(device), layer_precisions)
    choice = _choose(setup, engine, measure, clock)
    return _engine(setup, choice.engine, choice.precision), choice


def _choose(setup: Setup, engine: str, measure: bool, clock: Clock) -> Choice:
    precision, kind = setup.precision, setup.device.type
    if engine != "auto" and precision != "auto":
        return Choice(engine, precision, "as asked for")
    asked = [
        (name, numbers)
        for name, row in ENGINES.items()
        if name == engine or (engine == "auto" and row.auto)
        for numbers in row.precisions.get(kind, ())
        if precision in ("auto", numbers)
    ]
    reasons = {pair: why_not(pair[0], replace(setup, precision=pair[1])) for pair in asked}
    able = [pair for pair, reason in reasons.items() if reason is None]
    if not able:
        raise UsageError(_refusal(setup, engine, reasons))
    if able[0][1] == "int8":
        return Choice(*able[0], "the model is quantized")
    if len(able) == 1:
        return Choice(*able[0], "the only one here")
    rates = _remembered(key := _key(setup, able), able)
    if rates is None and not measure:
        return Choice(*able[0], f"usually the fastest on a {kind}; not measured")
    if rates is None:
        rates = _measure(setup, _worth_trying(able), clock)
        _remember(key, rates)
    best, *others = sorted(rates, key=lambda pair: -rates[pair])
    compared = "".join(f"; {name} {numbers} {rates[name, numbers]:,.0f}" for name, numbers in others)
    return Choice(*best, f"{rates[best]:,.0f} images/s here{compared}")


def _refusal(setup: Setup, engine: str, reasons: Mapping[Pair, str | None]) -> str:
    """By what was asked for: an engine, or a precision."""
    if engine != "auto":
        reason = next(iter(reasons.values()), None) or why_not(engine, setup)
        return f"the engine {engine} cannot run this model here: {reason}"
    listed = "; ".join(f"{name}: {reason}" for (name, _), reason in reasons.items())
    kind = setup.device.type
    return f"no engine can run this model in {setup.precision} here: {listed or f'none computes in it on a {kind}'}"


def _engine(setup: Setup, name: str, precision: str) -> Engine:
    return Engine(
        *(setup.model, setup.how, name, precision),
        batch=setup.batch,
        device=setup.device,
        layer_precisions=setup.layer_precisions,
    )


def _worth_trying(able: list[Pair]) -> list[Pair]:
    """Of each engine the quickest numbers that the hardware knows, so that it takes seconds."""
    bfloat16 = {"avx512_bf16", "amx_bf16"} & processor.abilities() or torch.cuda.is_available()
    known = [(name, numbers) for name, numbers in able if numbers != "bf16" or bfloat16]
    first = {name: (name, numbers) for name, numbers in reversed(known)}
    return [pair for pair in able if pair in first.values()]


def _measure(setup: Setup, pairs: list[Pair], clock: Clock) -> dict[Pair, float]:
    """Images a second, the median of some interleaved rounds; without engines that fail, or have other outputs."""
    config = setup.model.config
    pixels = torch.randint(0, 256, (setup.batch, config.in_channels, *config.image_size), dtype=torch.uint8)
    setup = replace(setup, layer_precisions=())
    wanted = _engine(setup, "eager", "fp32")(pixels[:2])
    able: dict[Pair, Engine] = {}
    for pair in pairs:
        try:
            made = _engine(setup, *pair)
            found = made(pixels)
        except Exception:  # whatever a runtime does to a model that it does not take
            continue
        off = (found.features[:2] - wanted.features).abs().max()
        if off <= FURTHEST * wanted.features.std():
            able[pair] = made
    seconds: dict[Pair, list[float]] = {pair: [] for pair in able}
    for _ in range(ROUNDS):
        for pair, made in able.items():
            began = clock()
            made(pixels)
            seconds[pair].append(clock() - began)
    return {pair: setup.batch / statistics.median(each) for pair, each in seconds.items()}


def _key(setup: Setup, pairs: list[Pair]) -> str:
    """All that the result may depend on."""
    device = setup.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor.name()
    used = dict.fromkeys(package for row in ENGINES.values() for package in row.packages)
    versions = [__version__, *map(_version, ("torch", *used))]
    ours = library("forward")
    kernels = ours if isinstance(ours, str) else Path(ours._name).name  # named by what they were compiled from
    about = [where, torch.get_num_threads(), versions, kernels, repr(setup.model.config), setup.batch, pairs]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _remembered(key: str, able: Sequence[Pair]) -> dict[Pair, float] | None:
    """None as well for what we would not have written."""
    path = cache_folder() / "engines" / f"{key}.json"
    try:
        files.require_ours(path.parent.resolve())
        files.require_ours(path)
        rates = {(name, numbers): rate for name, numbers, rate in json.loads(files.read_text(path, MOST, follow=False))}
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    known = all(pair in able and isinstance(rate, float) and 0 < rate < math.inf for pair, rate in rates.items())
    return rates if rates and known else None


def _remember(key: str, rates: Mapping[Pair, float]) -> None:
    folder = cache_folder() / "engines"
    try:
        make_folder(folder)
        with files.whole(folder / f"{key}.json") as part:
            part.write_text(json.dumps([[*pair, rate] for pair, rate in rates.items()]))
    except OSError:  # then it is measured again next time
        pass
