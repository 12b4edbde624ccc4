"""Training: one `fit` for pre-training and fine-tuning, which differ in their recipes only.

    recipe → plan (images, model, schedule) → steps, with a validation pass now and then → weights

The run folder holds all that remains of a run. The same call with the same folder resumes it, bit for bit: weights,
optimizer and average come from the checkpoint, and all random numbers are a function of the seed and the step.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from mlpmixer.data.dataset import Split
from mlpmixer.data.loader import Transform
from mlpmixer.data.select import select, title
from mlpmixer.errors import RunStopped
from mlpmixer.machine.allocator import keep_freed_memory
from mlpmixer.machine.description import describe_machine, matrix_rate
from mlpmixer.machine.devices import DTYPES
from mlpmixer.machine.distributed import Group, process_group
from mlpmixer.metrics.accuracy import accuracy, count_right
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.measure import measure
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.check import check
from mlpmixer.run.folder import RunFolder
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.errors import explain_errors
from mlpmixer.train.logger import RunLogger
from mlpmixer.train.optim import lr_at
from mlpmixer.train.plan import Plan, record_of, refuse_other_images, refuse_other_recipe, resolve
from mlpmixer.train.progress import ProgressBar
from mlpmixer.weights.load import load
from mlpmixer.weights.save import save


@dataclass(frozen=True)
class Result:
    """What a run ends with.

    Attributes:
        folder: The run folder.
        weights: The file of the finished weights.
        val: top1, top5 and cross_entropy on the validation split, and how many images it has; None where there is none.
        test: The same on the test split.
        of: Which images both are, in words.
    """

    folder: Path
    weights: Path
    val: dict[str, float] | None
    test: dict[str, float] | None
    of: dict[str, str]


def fit(
    recipe: Recipe, folder: str | os.PathLike[str], *, transform: Transform | None = None, quiet: bool = False
) -> Result:
    """Trains by a recipe, or resumes the run that is in the folder; one that is finished is only read.

    Args:
        recipe: What to train; from `mlpmixer.recipes`, a TOML file, or made of its parts.
        folder: The run folder; created if it is not there.
        transform: Applied to every prepared image (3, H, W), in training and validation; the run keeps its name only.
        quiet: Show nothing but warnings.

    Returns:
        The finished weights, and what they reach on the validation and test splits.

    Raises:
        RecipeError: The recipe is not valid, or asks for what this machine or the model cannot do.
        DataError: The data is missing, or not as the recipe describes it.
        WeightsError: The weights to start from cannot be used.
        RunError: The folder holds another run, or cannot be written; `Diverged`: the loss is not finite or far too
            high; `RunStopped`: Ctrl-C or SIGTERM came, and the same call resumes the run.

    Examples:
        >>> from mlpmixer.recipes import find, toml
        >>> recipe = toml.change(find("fashion_mnist"), {"train.steps": 2, "data.share": 0.01, "data.test": ""})
        >>> run = mlpmixer.fit(recipe, "runs/mine", quiet=True)
        >>> run.folder.name, run.val["count"]
        ('mine', 800.0)
    """
    check(recipe)
    return run_checked(recipe, folder, transform=transform, quiet=quiet)


def run_checked(
    recipe: Recipe, folder: str | os.PathLike[str], *, transform: Transform | None = None, quiet: bool = False
) -> Result:
    """`fit` of a recipe that `check` has passed."""
    keep_freed_memory()
    run = RunFolder(folder)
    with (
        process_group(recipe.machine.device) as group,
        explain_errors(group),
        run.held() if group.is_main else nullcontext(),  # the first process holds the folder for all
        StopSignals() as signals,
        Checkpoints(run.checkpoints, group, recipe.machine.keep_checkpoints) as checkpoints,
    ):
        moved = refuse_other_recipe(run, recipe)
        if (done := run.result()) is not None:
            if moved:
                refuse_other_images(run, record_of(select(recipe.data), transform), moved)
            return Result(run.path, run.weights, done["val"], done["test"], done["of"])
        plan = resolve(recipe, run, group, checkpoints, moved, transform)
        if group.is_main:
            run.begin(plan.begun, toml.dumps(recipe), describe_machine(group), record_of(plan.images, transform))
        group.barrier()
        bar = ProgressBar(plan.steps, plan.begun, quiet or not group.is_main)
        bar.header(plan.header(run.path))
        flops = 3 * 2e9 * measure(plan.train_step.model.name, **vars(plan.train_step.model.config)).gmacs
        rate = matrix_rate(group.device, DTYPES[recipe.train.precision])
        with RunLogger(run, recipe, plan.images, (flops, rate), group, checkpoints, bar) as logger, bar:
            for warning in plan.warnings:
                bar.warn(warning)
            train(plan, run, group, checkpoints, logger, signals)
            return finish(plan, run, group, logger, signals)


def train(
    plan: Plan, run: RunFolder, group: Group, checkpoints: Checkpoints, logger: RunLogger, signals: StopSignals
) -> None:
    """All steps that are left, with checkpoints and validation passes at their intervals."""
    recipe, train_step, val = plan.recipe, plan.train_step, plan.images.val
    with closing(plan.batches()) as batches:
        for step, parts in enumerate(batches, plan.begun + 1):  # counted from 1: how many are done
            loss, norm = train_step.step(step - 1, parts)
            logger.step(step, loss, norm, parts)

            # Devices agree on each decision, since all have to take part in what follows from it.
            stopping, last = group.any(signals.stop_asked), step == plan.steps
            validating = val is not None and (last or crosses(step, plan.val_every))
            saving = stopping or last or step % recipe.machine.save_every == 0
            if validating or saving or step % recipe.machine.log_every == 0:
                # Before anything is saved: this stops a run that has diverged.
                logger.log_train(step, lr_at(step - 1, plan.steps, recipe.optim))

            if validating and val is not None:
                began = time.perf_counter()
                with train_step.averaged():
                    found = validate(plan, train_step.predict, train_step.model, val, logger, step)
                logger.log_split(step, "val", found)
                if found["top1"] > plan.best:
                    plan.best.fill_(found["top1"])
                    save_model(plan, run.best)
                logger.exclude(time.perf_counter() - began)

            if saving and (trouble := checkpoints.save(step, plan.state())):
                logger.bar.warn(f"{trouble}; the one before is still there, and the next will be tried")
            if stopping and not last:
                checkpoints.finish()
                raise RunStopped(f"stopped after step {step} of {plan.steps}; saved, and the same command resumes it")
        checkpoints.finish()


def finish(plan: Plan, run: RunFolder, group: Group, logger: RunLogger, signals: StopSignals) -> Result:
    """The weights that the recipe selects, and what they reach, measured from the file as anybody will read it."""

    def predict(images: Tensor) -> Tensor:
        if group.any(signals.stop_asked):
            raise RunStopped("stopped while the finished weights were measured; the same command does that again")
        return model(images)

    images = plan.images
    if plan.recipe.train.select == "best" and images.val is not None:
        if group.is_main:
            run.copy(run.best, run.weights)
    else:
        save_model(plan, run.weights)
    group.barrier()
    model = load(run.weights).to(group.device)
    found: dict[str, dict[str, float] | None] = {"val": None, "test": None}
    for name, split in {"val": images.val, "test": images.test}.items():
        if split is not None:
            found[name] = measured = validate(plan, predict, model, split, logger, plan.steps)
            logger.log_split(plan.steps, f"final {name}", measured)
    of = {name: title(images.record, name) for name in found if name in images.record}
    if group.is_main:
        run.write("result.json", {"steps": plan.steps, **found, "of": of})
    return Result(run.path, run.weights, found["val"], found["test"], of)


def validate(
    plan: Plan, predict: Callable[[Tensor], Tensor], model: Classifier, split: Split, logger: RunLogger, step: int
) -> dict[str, float]:
    """Accuracy and loss of `predict` on a split, prepared as `model` wants it; the devices share the work."""
    how, training = model.metadata.preprocessing, model.training

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in plan.prepared(split, how):
            logger.log_bad_images(step, batch.broken)
            yield batch.images, batch.labels  # (n, 3, H, W), (n,)

    model.eval()
    with torch.no_grad():
        totals = count_right(predict, batches())
    model.train(training)
    return accuracy(plan.train_step.group.all_reduce_sum(totals))


def save_model(plan: Plan, path: Path) -> None:
    """All processes help to gather the weights; the first one writes them."""
    model = plan.train_step.gather_model()
    if model is not None:
        save(model, path)


def crosses(step: int, every: float) -> bool:
    """Whether a multiple of `every` steps was passed with this one."""
    return math.floor(step / every) > math.floor((step - 1) / every)


class StopSignals:
    """Ctrl-C, or the SIGTERM of a cluster: `stop_asked` is set, and the run ends after the step it is in. A second
    Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.stop_asked = False
        self.before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] (what signal() gave us)

    def handle(self, number: int, _: FrameType | None) -> None:
        if self.stop_asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_asked = True
