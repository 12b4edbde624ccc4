"""Which engine is the fastest for a model on this machine: measured once, and remembered."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import torch

from mlpmixer import files
from mlpmixer.engines import availability
from mlpmixer.engines.engine import Engine, Name, Precision
from mlpmixer.errors import UsageError
from mlpmixer.files import cache_folder, make_folder
from mlpmixer.kernels.library import library
from mlpmixer.machine import processor
from mlpmixer.metadata import LayerPrecision, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.version import __version__

Pair = tuple[str, str]  # engine, precision

ROUNDS = 2
FURTHEST = 0.1  # from float32's logits, as a share of their spread; what is further off has a fault
MOST = 1 << 16  # bytes of a file of rates
PACKAGES = ("torch", "openvino", "onnxruntime", "triton")  # whose versions matter


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
) -> tuple[Engine, Choice]:
    """The engine that was asked for, or the fastest. `measure` False: without trying what was never tried here."""
    for given, known in ((engine, get_args(Name)), (precision, get_args(Precision))):
        if given not in ("auto", *known):
            raise UsageError(f"'{given}' is not one of auto, {', '.join(known)}")
    device = torch.device(device)
    choice = _choose(model, how, engine, precision, batch, device, layer_precisions, measure)
    return Engine(
        model, how, choice.engine, choice.precision, batch=batch, device=device, layer_precisions=layer_precisions
    ), choice


def _choose(
    model: Classifier,
    how: Preprocessing,
    engine: str,
    precision: str,
    batch: int,
    device: torch.device,
    layer_precisions: tuple[LayerPrecision, ...],
    measure: bool,
) -> Choice:
    if engine != "auto" and precision != "auto":
        return Choice(engine, precision, "as asked for")
    asked = [
        (name, numbers)
        for name, several in availability.table(device).items()
        for numbers in several
        if (name == engine or (engine == "auto" and name != "compiled"))  # compiling takes longer than measuring may
        and precision in ("auto", numbers)
    ]
    reasons = {pair: availability.why_not(model, *pair, device, layer_precisions) for pair in asked}
    able = [pair for pair, reason in reasons.items() if reason is None]
    if not able:
        reason = next(iter(reasons.values()), f"{device.type} has no {engine} in {precision}")
        raise UsageError(f"no engine here can run this model in {precision}: {reason}")
    if able[0] == ("kernels", "int8"):
        return Choice(*able[0], "the model is quantized")
    if len(able) == 1:
        return Choice(*able[0], "the only one here")
    rates = _remembered(key := _key(model, able, batch, device), able)
    if rates is None and not measure:
        return Choice(*able[0], "as a rule the fastest; not measured")
    if rates is None:
        rates = _measure(model, how, _worth_trying(able), batch, device)
        _remember(key, rates)
    best, *others = sorted(rates, key=lambda pair: -rates[pair])
    compared = "".join(f"; {name} {numbers} {rates[name, numbers]:,.0f}" for name, numbers in others)
    return Choice(*best, f"{rates[best]:,.0f} images/s here{compared}")


def _worth_trying(able: list[Pair]) -> list[Pair]:
    """Of each engine the quickest numbers that the hardware knows, so that it takes seconds."""
    bfloat16 = {"avx512_bf16", "amx_bf16"} & processor.abilities() or torch.cuda.is_available()
    known = [(name, numbers) for name, numbers in able if numbers != "bf16" or bfloat16]
    first = {name: (name, numbers) for name, numbers in reversed(known)}
    return [pair for pair in able if pair in first.values()]


def _measure(
    model: Classifier, how: Preprocessing, pairs: list[Pair], batch: int, device: torch.device
) -> dict[Pair, float]:
    """Images a second, the median of some rounds in turns; without engines that fail, or answer otherwise."""
    height, width = model.config.image_size
    pixels = torch.randint(0, 256, (batch, model.config.in_channels, height, width), dtype=torch.uint8)
    wanted = Engine(model, how, "eager", "fp32", batch=batch, device=device)(pixels[:2])
    able: dict[Pair, Engine] = {}
    for name, numbers in pairs:
        try:
            made = Engine(model, how, name, numbers, batch=batch, device=device)
            found = made(pixels)
        except Exception:  # whatever a runtime does to a model that it does not take
            continue
        off = (found.features[:2] - wanted.features).abs().max()
        if off <= FURTHEST * wanted.features.std():
            able[name, numbers] = made
    seconds: dict[Pair, list[float]] = {pair: [] for pair in able}
    for _ in range(ROUNDS):
        for pair, made in able.items():
            began = time.perf_counter()
            made(pixels)
            seconds[pair].append(time.perf_counter() - began)
    return {pair: batch / statistics.median(each) for pair, each in seconds.items()}


def _key(model: Classifier, pairs: list[Pair], batch: int, device: torch.device) -> str:
    """All that the answer may depend on."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor.name()
    versions = [__version__, *map(_version, PACKAGES)]
    ours = library("forward")
    kernels = ours if isinstance(ours, str) else Path(ours._name).name  # named by what they were compiled from
    said = [where, torch.get_num_threads(), versions, kernels, repr(model.config), batch, pairs]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


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
        part = folder / f"{uuid.uuid4().hex}.part"
        part.write_text(json.dumps([[*pair, rate] for pair, rate in rates.items()]))
        part.replace(folder / f"{key}.json")
    except OSError:  # then it is measured again next time
        pass
