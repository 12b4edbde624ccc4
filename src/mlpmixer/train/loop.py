"""Training: one `fit` for pre-training and fine-tuning, which differ in their recipes only.

    recipe → images, model → steps, with a look at the validation split now and then → weights

The run folder holds all that is left behind. The same call with the same folder goes on where it was stopped, to the
bit: weights, optimizer and average come from the checkpoint, and all chance is a function of the step.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlpmixer.data.augment import Augmentation
from mlpmixer.data.dataset import Split
from mlpmixer.data.loader import Share, Transform, all_batches, train_batches, usual_workers
from mlpmixer.data.mix import mixes
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.data.select import choose, title
from mlpmixer.errors import RunError, RunStopped
from mlpmixer.machine.allocator import keep_freed_memory
from mlpmixer.machine.description import describe_machine, matrix_rate
from mlpmixer.machine.distributed import Group, joined
from mlpmixer.machine.dtypes import DTYPES
from mlpmixer.metrics.accuracy import accuracy, count_right
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.measure import measure
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.check import check
from mlpmixer.run.folder import RunFolder
from mlpmixer.train.accidents import explained
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.init_model import begin
from mlpmixer.train.logger import RunLogger
from mlpmixer.train.optim import lr_at, warmup_of
from mlpmixer.train.progress import Bar
from mlpmixer.train.signals import Stop
from mlpmixer.train.state import State, averaged, finished
from mlpmixer.train.step import Update
from mlpmixer.weights.load import load
from mlpmixer.weights.save import save


@dataclass(frozen=True)
class Result:
    """`val` and `test`: top1, top5, cross_entropy and count of the finished weights; None where there is no such split.
    `of`: which images those are, in words."""

    folder: Path
    weights: Path
    val: dict[str, float] | None
    test: dict[str, float] | None
    of: dict[str, str]


def fit(
    recipe: Recipe, folder: str | os.PathLike[str], *, transform: Transform | None = None, quiet: bool = False
) -> Result:
    """Runs `recipe` in `folder`, or goes on with what is there. `quiet`: nothing is shown but warnings.

    transform: applied to every prepared image (3, H, W), in training and in validation; only its name is kept.
    """
    check(recipe)
    keep_freed_memory()
    run = RunFolder(folder)
    with (
        joined(recipe.machine) as group,
        explained(group),
        alone_in(run, group),
        Stop() as stop,
        Checkpoints(run.checkpoints, group, recipe.machine.keep) as checkpoints,
    ):
        moved = refuse_another_recipe(run, recipe)
        if (result := run.result()) is not None and not moved:
            return Result(run.path, run.weights, result["val"], result["test"], result["of"])

        images = choose(recipe.data)
        if transform is not None:
            images.record["transform"] = str(transform)
        if moved or checkpoints.newest():
            refuse_other_images(run, images.record, moved)
        if result is not None:
            return Result(run.path, run.weights, result["val"], result["test"], result["of"])
        per_epoch = len(images.train) / recipe.train.batch_size  # steps
        steps, look_every = length_of(recipe, per_epoch)
        torch.manual_seed(recipe.train.seed)
        model = begin(recipe, images.classes)
        if transform is not None and model.metadata is not None:
            model.metadata.provenance["transform"] = str(transform)
        update = Update(recipe, model, steps, group)
        state = State(update)
        begun, warnings = state.restore(checkpoints)
        if begun > steps:
            raise RunError(
                f"{run.path} has a checkpoint of step {begun}, and the run has {steps}; choose another --folder"
            )
        if group.is_main:
            run.begin(begun, toml.dumps(recipe), describe_machine(group), images.record)
        group.barrier()

        loading = {
            "transform": transform,
            "skip_broken": recipe.data.on_bad_image == "skip",
            "share": Share(group.rank, group.world_size),
            "workers": usual_workers() if recipe.machine.workers < 0 else recipe.machine.workers,
            "pin": group.device.type == "cuda",
        }
        batches = train_batches(
            images.train,
            Augmentation(recipe.augment, update.preprocessing),
            steps=range(begun, steps),
            batch_size=recipe.train.batch_size,
            micro_batch=recipe.machine.micro_batch,
            one_before=mixes(recipe.augment),
            seed=recipe.train.seed,
            **loading,
        )
        at_once = recipe.machine.micro_batch or recipe.train.batch_size // group.world_size
        whole = {**loading, "batch_size": min(at_once, 256)}  # of splits that are looked at from end to end

        with (
            closing(batches),
            Bar(steps, begun, quiet or not group.is_main) as bar,
            RunLogger(run, recipe, images, speeds(recipe, model, group), group, checkpoints, bar) as logger,
        ):
            bar.say(images.in_words())
            for warning in [*warnings, *images.warnings()]:
                bar.warn(warning)
            if (warmup := warmup_of(steps, recipe.optim)) > steps / 3:
                bar.warn(
                    f"{min(warmup, steps):,} of the run's {steps:,} steps are warm-up, more than a third; "
                    "--optim.warmup_share 0.1 makes that a tenth, --train.steps makes the run longer"
                )
            for step, parts in enumerate(batches, begun + 1):  # counted from 1: how many are done
                loss, norm = update(step - 1, parts)
                logger.step(step, loss, norm, parts)

                stopping, last = group.any(stop.asked), step == steps
                measuring = images.val is not None and (last or crosses(step, look_every))
                saving = stopping or last or step % recipe.machine.save_every == 0
                if measuring or saving or step % recipe.machine.log_every == 0:
                    # Before anything is kept: this stops a run whose weights are no numbers any more.
                    logger.look(step, lr_at(step - 1, steps, recipe.optim))

                if measuring and images.val is not None:
                    began = time.perf_counter()
                    broken = partial(logger.list_broken, step)
                    with averaged(update):
                        found = measured(update.predict, model, images.val, group, whole, broken)
                    logger.found(step, "val", found)
                    if found["top1"] > state.best:
                        state.best.fill_(found["top1"])
                        keep(update, run.best)
                    logger.pause(time.perf_counter() - began)

                if saving and (trouble := checkpoints.save(step, state.dict())):
                    bar.warn(f"{trouble}; the one before still stands, and the next will be tried")
                if stopping and not last:
                    checkpoints.finish()
                    raise RunStopped(f"stopped after step {step} of {steps}; it is saved, and the same command goes on")
            checkpoints.finish()

            if recipe.train.keep == "best" and images.val is not None:
                if group.is_main:
                    run.copy(run.best, run.weights)
            else:
                keep(update, run.weights)
            group.barrier()
            # What is measured in the end is what is on the disk, read as anybody will read it.
            model = load(run.weights).to(group.device)
            final: dict[str, dict[str, float] | None] = {"val": None, "test": None}
            of = {name: title(images.record, name) for name in final if name in images.record}
            for name, split in {"val": images.val, "test": images.test}.items():
                if split is not None:
                    final[name] = found = measured(
                        model, model, split, group, whole, partial(logger.list_broken, steps)
                    )
                    logger.found(steps, f"final {name}", found)
            if group.is_main:
                run.write("result.json", {"steps": steps, **final, "of": of})
    return Result(run.path, run.weights, final["val"], final["test"], of)


def alone_in(run: RunFolder, group: Group) -> AbstractContextManager[None]:
    """The first process holds the folder for all."""
    return run.held() if group.is_main else nullcontext()


def refuse_another_recipe(run: RunFolder, recipe: Recipe) -> str:
    """A run goes on with what it began with; only the machine may change, and what is said about it. If its images
    are to be read from elsewhere than before, how that differs: where they lie is not learnt."""
    text = run.recipe
    if text is None:
        return ""
    before = toml.loads(text, f"{run.path}/recipe.toml")
    changed = toml.differences(recipe, before, apart_from=("about", "machine"))
    moved = [line for line in changed if line.startswith("data.source: ")]
    if changed != moved:
        raise another_recipe(run, changed)
    return "".join(moved)


def another_recipe(run: RunFolder, changed: list[str]) -> RunError:
    return RunError(
        f"{run.path} holds a run of another recipe ({'; '.join(changed)}); choose another folder with --folder, or "
        "make the recipe the same again"
    )


def refuse_other_images(run: RunFolder, record: dict[str, Any], moved: str) -> None:
    """A run goes on with the images it began with, wherever they lie by now; as far as its `picks.json` tells.

    moved: they lie elsewhere than before, and have to be the same themselves. Where they lie as before, one that was
    broken may have been mended.
    """
    none, splits = {"count": 0}, ("train", "val", "test")
    try:
        before = run.json("picks.json")
        if before is not None and not all(isinstance(before.get(split, none), dict) for split in splits):
            raise RunError(f"{run.path / 'picks.json'} is damaged")
    except RunError as error:
        raise RunError(f"{error}; delete it, and the run goes on with the images that are there") from error
    if before is None and moved:
        raise another_recipe(run, [moved])
    changed, before = [], before or record
    if "classes" in before and record["classes"] != before["classes"]:
        then = before["classes"] if isinstance(before["classes"], list) else []
        changed.append(difference("classes", len(record["classes"]), len(then)))
    for split in splits:
        now, then = record.get(split, none), before.get(split, none)
        if moved and then != none and "images" not in then:  # an older record
            raise another_recipe(run, [moved])
        told = ("count", "digest", "labels", *(["images"] if moved else []))
        if any(now.get(name) != then[name] for name in told if name in then):
            changed.append(difference(f"{split} images", now["count"], then.get("count", 0)))
    if record.get("transform") != before.get("transform"):
        changed.append(f"transform: {record.get('transform')}, not {before.get('transform')}")
    if changed:
        raise RunError(
            f"{run.path} holds a run on other images ({'; '.join(changed)}); choose another folder with --folder, or "
            "make the images the same again"
        )


def difference(what: str, now: int, before: int) -> str:
    return f"{what}: {now}, not {before}" if now != before else f"{what}: {now} as before, but not the same"


def length_of(recipe: Recipe, per_epoch: float) -> tuple[int, float]:
    """How many steps a run has, and after how many the validation split is looked at each time. `per_epoch`: steps."""
    how, look_every = recipe.train, recipe.evaluation.every * per_epoch
    if how.steps:
        return how.steps, look_every
    steps = math.ceil(how.epochs * per_epoch)
    longer = max(1.0, how.least_steps / steps)
    return max(steps, how.least_steps), look_every * longer


def crosses(step: int, every: float) -> bool:
    """Whether a multiple of `every` steps was passed with this one."""
    return math.floor(step / every) > math.floor((step - 1) / every)


def speeds(recipe: Recipe, model: Classifier, group: Group) -> tuple[float, float]:
    """Floating-point operations of a training step for one image, and those a second that the device could do."""
    forward = measure(model.name, **vars(model.config)).gmacs * 2e9
    return 3 * forward, matrix_rate(group.device, DTYPES[recipe.train.precision])


def keep(update: Update, path: Path) -> None:
    """All help to bring the weights together; the first process writes them."""
    model = finished(update)
    if model is not None:
        save(model, path)


def measured(
    predict: Callable[[Tensor], Tensor],
    model: Classifier,
    split: Split,
    group: Group,
    loading: dict[str, Any],
    list_broken: Callable[[list[tuple[str, str]]], None],
) -> dict[str, float]:
    """How often `predict` is right on images that are prepared as `model` wants them; the devices share the work."""
    assert model.metadata is not None
    how, training = model.metadata.preprocessing, model.training

    def ready() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in all_batches(split, partial(prepare, how=how), **loading):
            list_broken(batch.broken)
            yield normalize(batch.images.to(group.device), how), batch.labels

    model.eval()
    with torch.no_grad():
        totals = count_right(predict, ready())
    model.train(training)
    return accuracy(group.all_reduce_sum(totals))
