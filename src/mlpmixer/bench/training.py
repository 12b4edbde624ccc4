"""How fast a Mixer trains, and what memory it takes, beside timm's in the same run.

All systems begin with the same weights, see the same pictures, and take whole steps: forward, backward, clip, AdamW.
The first losses are compared, so that nobody is fast by computing something else.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlpmixer.bench import peers
from mlpmixer.bench.systems import CLASSES
from mlpmixer.bench.turns import Times, in_turns, ratio
from mlpmixer.engines import trainable
from mlpmixer.errors import UsageError
from mlpmixer.models import create
from mlpmixer.models.measure import kept_for_backward, measure
from mlpmixer.models.mixer import SIZES, Mixer, MixerConfig
from mlpmixer.train.allocator import keep_freed_memory
from mlpmixer.weights.save import save


@dataclass(frozen=True)
class Row:
    """`share`: of the matrix rate. `kept_mb`: 10⁶ bytes kept for the way back, for a picture. `loss`: the first one."""

    system: str
    engine: str
    model: str
    precision: str
    batch: int
    images_per_s: float
    spread: float
    share: float
    kept_mb: float
    loss: float
    times: Times


def bench_training(
    models: Sequence[tuple[str, int]],
    precision: str,
    rounds: int,
    device: torch.device,
    rate: float,
    *,
    compiled: bool = True,
) -> list[Row]:
    """models: names and batch sizes. rate: of matrix products, in operations a second. compiled: torch.compile too,
    which takes a minute a model to begin."""
    keep_freed_memory()
    return [row for name, batch in models for row in _one(name, batch, precision, rounds, device, rate, compiled)]


def speed_ups(rows: Sequence[Row]) -> dict[str, tuple[float, float, float]]:
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
    name: str, batch: int, precision: str, rounds: int, device: torch.device, rate: float, compiled: bool
) -> list[Row]:
    chance = torch.Generator().manual_seed(0)
    size = measure(name).image_size
    pictures = torch.randn(batch, 3, *size, generator=chance).to(device)
    labels = torch.randint(CLASSES, (batch,), generator=chance).to(device)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")
    networks = _networks(name, precision, device, compiled)
    kept, losses = {}, {}
    for system, network in networks.items():
        with autocast():
            two, one = (kept_for_backward(network, pictures[:n]) for n in (2, 1))
            kept[system] = (two - one) / 1e6
            losses[system] = F.cross_entropy(network(pictures).float(), labels).item()
    steps = {system: _step(network, pictures, labels, autocast) for system, network in networks.items()}
    flops = 3 * measure(name).gmacs * 2e9
    rows = []
    for (system, engine), times in in_turns(steps, rounds).items():
        speed, key = batch / times.median, (system, engine)
        share = speed * flops / rate
        rows.append(
            Row(system, engine, name, precision, batch, speed, times.spread, share, kept[key], losses[key], times)
        )
    return rows


def _networks(name: str, precision: str, device: torch.device, compiled: bool) -> dict[tuple[str, str], nn.Module]:
    """(system, engine) → the same model with the same weights."""
    if name not in SIZES:
        raise UsageError(f"{name} is no Mixer; only their training is compared")
    if lacking := peers.why_not("timm", device):
        raise UsageError(f"timm cannot be compared with: {lacking}")
    from mlpmixer.bench.timm import shaped

    torch.manual_seed(0)
    ours = create(name, num_classes=CLASSES, gelu="erf").to(device)  # as timm has it
    nn.init.normal_(cast(nn.Linear, ours.head).weight, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        weights = torch.load(save(ours, Path(folder) / "weights.pth", layout="timm"), weights_only=True)

    def theirs() -> nn.Module:
        return shaped(cast(MixerConfig, ours.config), weights).to(device)

    networks: dict[tuple[str, str], nn.Module] = {("timm", "eager"): theirs(), ("mlpmixer", "eager"): ours}
    if compiled:
        torch._dynamo.reset()  # it gives up after so many models of one kind
        networks["timm", "compiled"] = cast(nn.Module, torch.compile(theirs()))
        networks["mlpmixer", "compiled"] = cast(nn.Module, torch.compile(copy.deepcopy(ours)))
    if precision == "bf16" and trainable.why_not(ours) is None:
        networks["mlpmixer", "kernels"] = trainable.Trainable(cast(Mixer, copy.deepcopy(ours)))
        networks["mlpmixer", "kernels, lean"] = trainable.Trainable(cast(Mixer, copy.deepcopy(ours)), lean=True)
    return networks


def _step(
    network: nn.Module, pictures: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> Callable[[], object]:
    parameters = [*network.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with autocast():
            loss = F.cross_entropy(network(torch.roll(pictures, 1, 0)).float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if pictures.is_cuda:
            torch.cuda.synchronize()

    return step
