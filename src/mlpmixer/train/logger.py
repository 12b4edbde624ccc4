"""The records of a run while it runs: metrics, broken images, the bar, and a stop when the loss is lost."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mlpmixer import files
from mlpmixer.data.loader import Batch
from mlpmixer.data.select import Selection
from mlpmixer.errors import Diverged, RunError
from mlpmixer.machine.distributed import Group
from mlpmixer.recipe import Recipe
from mlpmixer.run.folder import RunFolder, by_epoch
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.progress import Bar

# This many times the first line's loss, or that of knowing nothing if it is more, is too much: as the mean of as many
# steps as a line has, since a single one may leap.
EXPLODED = 5.0


class RunLogger:
    """Losses stay on the device until `look`, since reading one makes the device wait. To be entered, and left."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        images: Selection,
        speeds: tuple[float, float],
        group: Group,
        checkpoints: Checkpoints,
        bar: Bar,
    ):
        """speeds: floating-point operations of a training step for one image, and the most that a device could do in
        a second."""
        self.run, self.recipe, self.group, self.checkpoints, self.bar = run, recipe, group, checkpoints, bar
        self.images = images.train
        self.flops, self.rate = speeds[0], speeds[1] * group.world_size
        self.per_epoch = len(images.train) / recipe.train.batch_size  # steps
        self.ignorance = math.log(len(images.classes))
        before = run.metrics()
        self.first: float | None = next((loss for _, loss in by_epoch(before, "train", "loss")), None)
        self.recent: deque[float] = deque(maxlen=recipe.machine.log_every)
        self.broken = {line["image"] for line in run.broken()}
        self.board = _tensorboard(run, before) if group.is_main else None
        self._turn_the_page()

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def step(self, step: int, loss: Tensor, norm: Tensor, parts: Sequence[Batch]) -> None:
        self.losses.append(loss)
        self.norms.append(norm)
        self.seen.append(torch.cat([part.indices for part in parts]))
        self.list_broken(step, [pair for part in parts for pair in part.broken])
        self.bar.at(step)

    def look(self, step: int, lr: float) -> None:
        """Writes down what happened since the last look. Stops the run if it has lost its way."""
        losses = (self.group.all_reduce_sum(torch.stack(self.losses)) / self.group.world_size).tolist()
        norms = torch.stack(self.norms).tolist()
        seconds = time.perf_counter() - self.since
        mean, speed = sum(losses) / len(losses), len(losses) * self.recipe.train.batch_size / seconds
        self._check(step - len(losses) + 1, losses, norms)
        if self.first is None:
            self.first = mean
        values = {
            "epoch": step / self.per_epoch,
            "loss": mean,
            "lr": lr,
            "norm": norms[-1],
            "images_per_s": speed,
            "mfu": speed * self.flops / self.rate,
        }
        self.note(step, "train", values)
        skipped = f"  {len(self.broken)} broken" if self.broken else ""
        self.bar.at(step, f"loss {mean:.3f}  lr {lr:.2g}  {speed:,.0f} images/s  MFU {values['mfu']:.0%}{skipped}")
        self._turn_the_page()

    def found(self, step: int, split: str, values: dict[str, float]) -> None:
        """What the model did on a split."""
        self.note(step, split, {"epoch": step / self.per_epoch, **values})
        epoch, percent, about = step / self.per_epoch, values["top1"] * 100, self.recipe.about
        self.bar.say(f"epoch {epoch:6.4g}  {split}: {percent:.2f} % right, {values['cross_entropy']:.4f} cross_entropy")
        if split == "val" and (strayed := off_the_curve(about.curve, about.band, epoch, percent)):
            self.bar.warn(strayed)

    def pause(self, seconds: float) -> None:
        """Time that went elsewhere than into training."""
        self.since += seconds

    def note(self, step: int, kind: str, values: dict[str, Any]) -> None:
        if self.group.is_main:
            with self._bearing_it():
                self.run.note(step, kind, **{name: _short(value) for name, value in values.items()})
        if self.board is not None:
            _draw(self.board, step, kind, values)

    def list_broken(self, step: int, images: Iterable[tuple[str, str]]) -> None:
        """Each (where, why) once, when this process first meets it."""
        for where, why in images:
            if where not in self.broken:
                self.broken.add(where)
                with self._bearing_it():
                    self.run.note_broken(step, where, why)

    @contextmanager
    def _bearing_it(self) -> Iterator[None]:
        """A line that cannot be written is no reason to lose what is learnt."""
        try:
            yield
        except RunError as error:
            self.bar.warn(str(error))

    def _check(self, begin: int, losses: list[float], norms: list[float]) -> None:
        """`begin`: the step of the first of them."""
        lost = [n for n, loss in enumerate(losses) if not math.isfinite(loss)]
        # With fp16, a gradient that has overflown is left out, and the next one is scaled less.
        blown = [n for n, norm in enumerate(norms) if not math.isfinite(norm) and self.recipe.train.precision != "fp16"]
        self.recent.extend(losses)
        mean = sum(self.recent) / len(self.recent)
        if lost and lost[0] <= min(blown, default=lost[0]):
            which, how = lost[0], f"the loss is {losses[lost[0]]}"
        elif blown:
            which, how = blown[0], f"the gradient's norm is {norms[blown[0]]}"
        elif (
            self.first is not None
            and len(self.recent) == self.recent.maxlen
            and mean > EXPLODED * max(self.first, self.ignorance)
        ):
            which, how = losses.index(max(losses)), f"the loss has grown from {self.first:.3g} to {mean:.3g}"
        else:
            return
        files = [self.images.where(index) for index in dict.fromkeys(self.seen[which].tolist())]
        if self.group.world_size > 1:
            shares: list[list[str]] = [[]] * self.group.world_size
            dist.all_gather_object(shares, files)
            files = [file for share in shares for file in share]
        last = begin + len(losses) - 1
        if self.group.is_main:
            window = {"losses": [repr(x) for x in losses], "norms": [repr(x) for x in norms]}
            with self._bearing_it():  # or it would end otherwise here than in the other processes
                self.run.write("diverged.json", {"steps": [begin, last], **window, "images": files})
        newest = self.checkpoints.newest()
        good = f"the last good checkpoint is that of step {newest}" if newest else "no checkpoint was written yet"
        raise Diverged(
            f"{how} at step {begin + which} (steps {begin} to {last} are in {self.run.path}/diverged.json, with the "
            f"{len(files)} images of that one); {good}; try a lower optim.lr, a longer optim.warmup_steps, or "
            "optim.clip 1, in another --folder"
        )

    def _turn_the_page(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.seen: list[Tensor] = []
        self.since = time.perf_counter()


def off_the_curve(curve: Sequence[tuple[float, float]], band: float, epoch: float, accuracy: float) -> str | None:
    """A warning when `accuracy` (in %) is outside the band around the curve, a line from point to point."""
    for (before, low), (after, high) in pairwise(curve):
        if before <= epoch <= after and before < after:
            expected = low + (high - low) * (epoch - before) / (after - before)
            if abs(accuracy - expected) > band:
                way = "below" if accuracy < expected else "above"
                return f"{accuracy:.1f} % after {epoch:.3g} epochs is {way} the expected {expected:.1f} ± {band:g} %"
            return None
    return None


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _tensorboard(run: RunFolder, lines: Iterable[dict[str, Any]]) -> Any:
    """A board with the curves of all lines so far, in a file that stands for those before.

    The order of several would hang on their names, which tell the second by the clock of some machine, no more; and
    what a killed process had not written yet would be missing.
    """
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    try:
        folder = files.below(run.path, "tensorboard")
        for old in folder.glob("events.out.tfevents.*"):
            with files.open_end(old) as file:
                file.truncate(0)  # not deleted: a TensorBoard that reads it would never come to the next
    except OSError as error:
        raise RunError(f"cannot write {error.filename}: {error.strerror}; remove it") from error
    board = SummaryWriter(str(folder), purge_step=0)  # and it shows nothing twice
    for line in lines:
        values = {name: value for name, value in line.items() if name not in ("step", "kind", "time")}
        _draw(board, line["step"], line["kind"], values, line.get("time"))
    return board


def _draw(board: Any, step: int, kind: str, values: dict[str, Any], when: float | None = None) -> None:
    """when: in seconds since 1970; now, if not said."""
    for name, value in values.items():
        if value is not None:  # as lines have what is no number
            board.add_scalar(f"{kind}/{name}", value, step, when)
