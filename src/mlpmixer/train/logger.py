"""Log of a run: metrics, unreadable images, TensorBoard, the progress bar; it also stops a run that has diverged."""

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
from mlpmixer.train.progress import ProgressBar

# A run has diverged at this many times the first line's loss, or the loss of a uniform prediction if that is more: as
# the mean of as many steps as a line has, since a single one may leap.
EXPLODED = 5.0


class RunLogger:
    """A context manager. Losses stay on the device until `log_train`, since reading one makes the device wait."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        images: Selection,
        speeds: tuple[float, float],
        group: Group,
        checkpoints: Checkpoints,
        bar: ProgressBar,
    ):
        """speeds: floating-point operations of a training step for one image, and those a second that one device can do
        in matrix products."""
        self.run, self.recipe, self.group, self.checkpoints, self.bar = run, recipe, group, checkpoints, bar
        self.images = images.train
        self.flops, self.rate = speeds[0], speeds[1] * group.world_size
        self.per_epoch = len(images.train) / recipe.train.batch_size  # steps
        self.epochs = f"{round(bar.steps / self.per_epoch, 1):g}"
        self.uniform_loss = math.log(len(images.classes))
        before = run.metrics()
        self.first: float | None = next((loss for _, loss in by_epoch(before, "train", "loss")), None)
        self.recent: deque[float] = deque(maxlen=recipe.machine.log_every)
        self.bad_images = {line["image"] for line in run.bad_images()}
        self.tensorboard = _tensorboard(run, before) if group.is_main else None
        for _, accuracy in by_epoch(before, "val", "top1")[-1:]:
            bar.fields["val"] = _val(accuracy)
        self._at(bar.begun)
        self._reset()

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, *_: object) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()

    def step(self, step: int, loss: Tensor, norm: Tensor, parts: Sequence[Batch]) -> None:
        """Remembers what a step gave, until the next line."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.indices.append(torch.cat([part.indices for part in parts]))
        self.log_bad_images(step, [pair for part in parts for pair in part.broken])
        self._at(step)

    def log_train(self, step: int, lr: float) -> None:
        """Writes a line about the steps since the last one.

        Raises:
            Diverged: The loss is not finite, or far too high.
        """
        losses = (self.group.all_reduce_sum(torch.stack(self.losses)) / self.group.world_size).tolist()
        norms = torch.stack(self.norms).tolist()
        seconds = time.perf_counter() - self.since
        mean, speed = sum(losses) / len(losses), len(losses) * self.recipe.train.batch_size / seconds
        self._raise_if_diverged(step - len(losses) + 1, losses, norms)
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
        self._write(step, "train", values)
        self._at(
            step,
            loss=f"loss {mean:.3f}",
            lr=f"lr {lr:.2g}",
            speed=f"{speed:,.0f} images/s" if speed >= 10 else f"{speed:.2g} images/s",
            mfu=f"MFU {values['mfu']:.0%}",
            unreadable=f"{len(self.bad_images):,} unreadable" if self.bad_images else "",
        )
        self._reset()

    def log_split(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes and shows the accuracy and the loss on a split."""
        epoch, percent, about = step / self.per_epoch, values["top1"] * 100, self.recipe.about
        self._write(step, split, {"epoch": epoch, **values})
        self.bar.say(
            f"epoch {round(epoch, 1):g}/{self.epochs}  {split}: acc {percent:.2f} %  loss {values['cross_entropy']:.4f}"
        )
        if split == "val":
            self._at(step, val=_val(values["top1"]))
        if split == "val" and (warning := off_the_curve(about.curve, about.tolerance, epoch, percent)):
            self.bar.warn(warning)

    def _at(self, step: int, **fields: str) -> None:
        epochs = math.ceil(self.bar.steps / self.per_epoch)
        self.bar.at(step, epoch=f"epoch {min(int(step / self.per_epoch) + 1, epochs):,}/{epochs:,}", **fields)

    def exclude(self, seconds: float) -> None:
        """Time that was not spent on training, left out of the speed."""
        self.since += seconds

    def _write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        if self.group.is_main:
            with self._writing():
                self.run.log(step, kind, **{name: _short(value) for name, value in values.items()})
        if self.tensorboard is not None:
            _draw(self.tensorboard, step, kind, values)

    def log_bad_images(self, step: int, images: Iterable[tuple[str, str]]) -> None:
        """Writes each (where, why) once, when this process first meets it."""
        for where, why in images:
            if where not in self.bad_images:
                self.bad_images.add(where)
                with self._writing():
                    self.run.log_bad_image(step, where, why)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A line that cannot be written is a warning, and no reason to lose the run."""
        try:
            yield
        except RunError as error:
            self.bar.warn(str(error))

    def _raise_if_diverged(self, begin: int, losses: list[float], norms: list[float]) -> None:
        """`begin`: the number of the first of these steps."""
        not_finite = [n for n, loss in enumerate(losses) if not math.isfinite(loss)]
        # With fp16, a gradient that has overflown is left out, and the next one is scaled less.
        overflown = [
            n for n, norm in enumerate(norms) if not math.isfinite(norm) and self.recipe.train.precision != "fp16"
        ]
        self.recent.extend(losses)
        mean = sum(self.recent) / len(self.recent)
        if not_finite and not_finite[0] <= min(overflown, default=not_finite[0]):
            which, how = not_finite[0], f"the loss is {losses[not_finite[0]]}"
        elif overflown:
            which, how = overflown[0], f"the gradient's norm is {norms[overflown[0]]}"
        elif (
            self.first is not None
            and len(self.recent) == self.recent.maxlen
            and mean > EXPLODED * max(self.first, self.uniform_loss)
        ):
            which, how = losses.index(max(losses)), f"the loss has grown from {self.first:.3g} to {mean:.3g}"
        else:
            return
        files = [self.images.where(index) for index in dict.fromkeys(self.indices[which].tolist())]
        if self.group.world_size > 1:
            shares: list[list[str]] = [[]] * self.group.world_size
            dist.all_gather_object(shares, files)
            files = [file for share in shares for file in share]
        last = begin + len(losses) - 1
        if self.group.is_main:
            window = {"losses": [repr(x) for x in losses], "norms": [repr(x) for x in norms]}
            with self._writing():  # or it would end otherwise here than in the other processes
                self.run.write("diverged.json", {"steps": [begin, last], **window, "images": files})
        newest = self.checkpoints.newest()
        good = f"the last good checkpoint is that of step {newest}" if newest else "no checkpoint was written yet"
        raise Diverged(
            f"the run has diverged: {how} at step {begin + which} (steps {begin} to {last} are in "
            f"{self.run.path}/diverged.json, with the {len(files)} images of that one); {good}; try a lower optim.lr, "
            "a longer optim.warmup_steps, or optim.clip 1, in another --folder"
        )

    def _reset(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.indices: list[Tensor] = []
        self.since = time.perf_counter()


def off_the_curve(curve: Sequence[tuple[float, float]], tolerance: float, epoch: float, accuracy: float) -> str | None:
    """A warning when `accuracy` (in %) is farther than `tolerance` from the curve, a line from point to point."""
    for (before, low), (after, high) in pairwise(curve):
        if before <= epoch <= after and before < after:
            expected = low + (high - low) * (epoch - before) / (after - before)
            if abs(accuracy - expected) > tolerance:
                way = "below" if accuracy < expected else "above"
                return (
                    f"{accuracy:.1f} % after {epoch:.3g} epochs is {way} the expected {expected:.1f} ± {tolerance:g} %"
                )
            return None
    return None


def _val(accuracy: float) -> str:
    return f"val acc {100 * accuracy:.1f} %"


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _tensorboard(run: RunFolder, lines: Iterable[dict[str, Any]]) -> Any:
    """A TensorBoard writer with the curves of all lines so far, in one file that replaces those before.

    The order of several files would depend on their names, which hold the second by the clock of some machine; and
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
    writer = SummaryWriter(str(folder), purge_step=0)  # and it shows nothing twice
    for line in lines:
        values = {name: value for name, value in line.items() if name not in ("step", "kind", "time")}
        _draw(writer, line["step"], line["kind"], values, line.get("time"))
    return writer


def _draw(writer: Any, step: int, kind: str, values: dict[str, Any], when: float | None = None) -> None:
    """when: in seconds since 1970; now by default."""
    for name, value in values.items():
        if value is not None:  # as lines have what is no number
            writer.add_scalar(f"{kind}/{name}", value, step, when)
