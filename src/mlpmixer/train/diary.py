"""The records of a run while it runs: metrics, broken pictures, the bar, and a stop when the loss is lost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mlpmixer.data.dataset import Split
from mlpmixer.data.loader import Batch
from mlpmixer.errors import RunError
from mlpmixer.recipe import Recipe
from mlpmixer.run.folder import RunFolder
from mlpmixer.train.progress import Bar
from mlpmixer.train.team import Team

EXPLODED = 5.0  # times the mean loss of the first lines


class Diary:
    """Losses stay on the device until `look`, since reading one makes the device wait."""

    def __init__(
        self, run: RunFolder, recipe: Recipe, pictures: Split, flops: float, rate: float, team: Team, bar: Bar
    ):
        """flops: of a training step, for one picture. rate: the most of them that a device could do in a second."""
        self.run, self.recipe, self.pictures, self.team, self.bar = run, recipe, pictures, team, bar
        self.flops, self.rate = flops, rate * team.ranks
        self.per_epoch = len(pictures) / recipe.train.batch_size  # steps
        before = [line["loss"] for line in run.metrics() if line["kind"] == "train"]
        self.first = before[0] if before else None
        self.broken = 0
        self.board = _tensorboard(run) if team.is_first else None
        self._turn_the_page()

    def step(self, step: int, loss: Tensor, norm: Tensor, parts: Sequence[Batch]) -> None:
        self.losses.append(loss)
        self.norm = norm
        self.seen.append(torch.cat([part.indices for part in parts]))
        self.broken += sum(len(part.broken) for part in parts)
        for part in parts:
            for where, why in part.broken:
                self.run.note_broken(step, where, why)
        self.bar.at(step)

    def look(self, step: int, lr: float) -> None:
        """Writes down what happened since the last look. Stops the run if it has lost its way."""
        losses = (self.team.total(torch.stack(self.losses)) / self.team.ranks).tolist()
        seconds = time.perf_counter() - self.since
        mean, speed = sum(losses) / len(losses), len(losses) * self.recipe.train.batch_size / seconds
        self._check(step - len(losses), losses, mean)
        if self.first is None:
            self.first = mean
        values = {
            "epoch": step / self.per_epoch,
            "loss": mean,
            "lr": lr,
            "norm": float(self.norm),
            "images_per_s": speed,
            "mfu": speed * self.flops / self.rate,
        }
        self.note(step, "train", values)
        skipped = f"  {self.broken} broken" if self.broken else ""
        self.bar.at(step, f"loss {mean:.3f}  lr {lr:.2g}  {speed:,.0f} images/s  MFU {values['mfu']:.0%}{skipped}")
        self._turn_the_page()

    def found(self, step: int, split: str, values: dict[str, float]) -> None:
        """What the model did on a split."""
        self.note(step, split, {"epoch": step / self.per_epoch, **values})
        epoch, percent, about = step / self.per_epoch, values["top1"] * 100, self.recipe.about
        self.bar.say(f"epoch {epoch:6.4g}  {split}: {percent:.2f} % right, {values['nats']:.4f} nats")
        if split == "dev" and (strayed := off_the_curve(about.curve, about.band, epoch, percent)):
            self.bar.warn(strayed)

    def pause(self, seconds: float) -> None:
        """Time that went elsewhere than into training."""
        self.since += seconds

    def note(self, step: int, kind: str, values: dict[str, Any]) -> None:
        if self.team.is_first:
            self.run.note(step, kind, **{name: _short(value) for name, value in values.items()})
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def _check(self, begin: int, losses: list[float], mean: float) -> None:
        lost = [n for n, loss in enumerate(losses) if not math.isfinite(loss)]
        if lost:
            how = f"the loss is {losses[lost[0]]}"
        elif self.first is not None and mean > EXPLODED * self.first:
            lost, how = [losses.index(max(losses))], f"the loss has grown from {self.first:.3g} to {mean:.3g}"
        else:
            return
        step = begin + lost[0]
        files = [self.pictures.where(int(index)) for index in self.seen[lost[0]]]
        if self.team.ranks > 1:
            shares: list[list[str]] = [[]] * self.team.ranks
            dist.all_gather_object(shares, files)
            files = [file for share in shares for file in share]
        if self.team.is_first:
            report = {"steps": [begin, begin + len(losses)], "losses": [repr(x) for x in losses], "pictures": files}
            self.run.write("diverged.json", report)
        last = max((int(path.name[5:]) for path in self.run.checkpoints.glob("step-*")), default=None)
        raise RunError(
            f"{how} at step {step} (steps {begin} to {begin + len(losses)} are in {self.run.path}/diverged.json, with "
            f"the {len(files)} pictures of that one); {_good(last)}; try a lower optim.lr, a longer "
            "optim.warmup_steps, or optim.clip 1"
        )

    def _turn_the_page(self) -> None:
        self.losses: list[Tensor] = []
        self.seen: list[Tensor] = []
        self.since = time.perf_counter()


def off_the_curve(curve: Sequence[tuple[float, float]], band: float, epoch: float, accuracy: float) -> str | None:
    """A warning when `accuracy` (in %) is outside the band around the curve, a line from point to point."""
    for (before, low), (after, high) in pairwise(curve):
        if before <= epoch <= after:
            expected = low + (high - low) * (epoch - before) / (after - before)
            if abs(accuracy - expected) > band:
                way = "below" if accuracy < expected else "above"
                return f"{accuracy:.1f} % after {epoch:.3g} epochs is {way} the expected {expected:.1f} ± {band:g} %"
            return None
    return None


def _good(step: int | None) -> str:
    return "no checkpoint was written yet" if step is None else f"the last good checkpoint is that of step {step}"


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _tensorboard(run: RunFolder) -> Any:
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / "tensorboard"))
