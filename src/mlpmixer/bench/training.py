"""Training benchmark: speed and memory of a Mixer, ours and timm's in the same run.

All systems begin with the same weights, see the same images, and take whole steps: forward, backward, clip, AdamW.
The first losses are compared, so that no system is fast by computing something else.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlpmixer.bench import baselines, peak, roofline
from mlpmixer.bench.interleave import Times, interleaved, ratio
from mlpmixer.bench.roofline import FULL, Effort, Way
from mlpmixer.bench.systems import CLASSES
from mlpmixer.engines import trainable
from mlpmixer.errors import UsageError
from mlpmixer.machine.allocator import keep_freed_memory
from mlpmixer.models import create
from mlpmixer.models.measure import kept_for_backward, measure
from mlpmixer.models.mixer import SIZES, Mixer, MixerConfig
from mlpmixer.weights.save import save

System = tuple[str, str]  # whose, and its engine


@dataclass(frozen=True)
class TrainingRow:
    """`share`: of the matrix rate that was reached beside it. `kept_mb`: 10⁶ bytes stored for backward, for an
    image, counted; `peak_mb`: what an image more adds to the most that a step takes, measured (None: cannot be).
    `loss`: the first one."""

    system: str
    engine: str
    model: str
    precision: str
    batch: int
    images_per_s: float
    spread: float
    share: float
    kept_mb: float
    peak_mb: float | None
    loss: float
    times: Times


def bench_training(
    models: Sequence[tuple[str, int]],
    precision: str,
    rounds: int,
    device: torch.device,
    *,
    compiled: bool = True,
    peaks: bool = True,
    effort: Effort = FULL,
) -> tuple[list[TrainingRow], float]:
    """The rows, and how many operations a second matrix products reached, interleaved with them.

    Args:
        models: Names and batch sizes.
        precision: fp32 or bf16.
        rounds: How often each system is timed.
        device: Where to compute.
        compiled: torch.compile too, which takes a minute a model to begin.
        peaks: Measure memory at its peak, in a process for each system.
        effort: How long each measurement takes.
    """
    keep_freed_memory()
    ways = roofline.products(precision, device, effort)
    found = [_one(name, batch, precision, rounds, device, ways, compiled, peaks) for name, batch in models]
    return [row for rows, _ in found for row in rows], statistics.median(rate for _, most in found for rate in most)


def speedups(rows: Sequence[TrainingRow]) -> dict[str, tuple[float, float, float]]:
    """For each model: our best against the better of timm's, with the quartiles over rounds."""
    found = {}
    for name in dict.fromkeys(row.model for row in rows):
        ours, theirs = (
            max((row for row in rows if (row.model, row.system) == (name, system)), key=lambda row: row.images_per_s)
            for system in ("mlpmixer", "timm")
        )
        found[name] = ratio(ours.times, theirs.times)
    return found


def _one(
    name: str,
    batch: int,
    precision: str,
    rounds: int,
    device: torch.device,
    ways: Sequence[Way],
    compiled: bool,
    with_peaks: bool,
) -> tuple[list[TrainingRow], list[float]]:
    """The rows, and the matrix rate of each round."""
    images, labels = _batch(name, batch, device)
    autocast = _autocast(precision, device)
    builders = _networks(name, precision, device, compiled)
    peaks: dict[System, float | None] = dict.fromkeys(builders)
    if with_peaks:
        peaks = {system: _peak(name, batch, precision, device, compiled, system) for system in builders}
    networks = {system: build() for system, build in builders.items()}
    stored, losses = {}, {}
    for system, network in networks.items():
        with autocast():
            two, one = (kept_for_backward(network, images[:n]) for n in (2, 1))
            stored[system] = (two - one) / 1e6
            losses[system] = F.cross_entropy(network(images).float(), labels).item()
    steps = {system: _step(network, images, labels, autocast) for system, network in networks.items()}
    times = interleaved({**steps, **{way.name: way.run for way in ways}}, rounds)
    most = roofline.best_by_round(ways, {way.name: times[way.name] for way in ways})
    work, rows = 3 * measure(name).gmacs * 2e9 * batch, []
    for key in steps:
        each = times[key]
        speed = (batch / each.median, each.spread, roofline.share(work, each, most))
        rows.append(TrainingRow(*key, name, precision, batch, *speed, stored[key], peaks[key], losses[key], each))
    return rows, most


def _batch(name: str, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *measure(name).image_size, generator=chance)
    return images.to(device), torch.randint(CLASSES, (batch,), generator=chance).to(device)


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")


def _peak(name: str, batch: int, precision: str, device: torch.device, compiled: bool, system: System) -> float | None:
    """10⁶ bytes an image, from what whole and half batches take at most in a process of their own, where nothing that
    was freed before hides what is taken anew."""
    if device.type != "cuda" and not peak.measurable():
        return None
    sizes = (max(1, batch // 2), max(2, batch))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        few, many = pool.submit(_peaks, name, sizes, precision, device, compiled, system).result()
    return (many - few) / (sizes[1] - sizes[0]) / 1e6


def _peaks(
    name: str, batches: tuple[int, int], precision: str, device: torch.device, compiled: bool, system: System
) -> tuple[int, int]:
    network = _networks(name, precision, device, compiled)[system]()
    few, many = (
        peak.of(_step(network, *_batch(name, batch, device), _autocast(precision, device)), device) for batch in batches
    )
    return few, many


def _networks(name: str, precision: str, device: torch.device, compiled: bool) -> dict[System, Callable[[], nn.Module]]:
    """What makes the same model with the same weights, for each."""
    if name not in SIZES:
        raise UsageError(f"{name} is no Mixer; only their training is compared")
    if reason := baselines.why_not("timm", device):
        raise UsageError(f"timm cannot be compared with: {reason}")
    from mlpmixer.bench.timm import shaped

    def ours() -> Mixer:
        torch.manual_seed(0)
        model = cast(Mixer, create(name, num_classes=CLASSES, gelu="erf").to(device))  # as timm has it
        nn.init.normal_(cast(nn.Linear, model.head).weight, std=0.02)
        return model

    def theirs() -> nn.Module:
        model = ours()
        with tempfile.TemporaryDirectory() as folder:
            weights = torch.load(save(model, Path(folder) / "weights.pth", layout="timm"), weights_only=True)
        return shaped(cast(MixerConfig, model.config), weights).to(device)

    networks: dict[System, Callable[[], nn.Module]] = {("timm", "eager"): theirs, ("mlpmixer", "eager"): ours}
    if compiled:
        torch._dynamo.reset()  # it gives up after so many models of one kind
        networks["timm", "compiled"] = lambda: cast(nn.Module, torch.compile(theirs()))
        networks["mlpmixer", "compiled"] = lambda: cast(nn.Module, torch.compile(ours()))
    if precision == "bf16" and trainable.why_not(ours()) is None:
        networks["mlpmixer", "kernels"] = lambda: trainable.Trainable(ours())
        networks["mlpmixer", "kernels, low memory"] = lambda: trainable.Trainable(ours(), low_memory=True)
    return networks


def _step(
    network: nn.Module, images: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> Callable[[], object]:
    parameters = [*network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with autocast():
            loss = F.cross_entropy(network(torch.roll(images, 1, 0)).float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if images.is_cuda:
            torch.cuda.synchronize()

    return step
