"""From a recipe to all that a run needs: images, model, training step, schedule. All refusals happen here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlpmixer.data.augment import Augmentation
from mlpmixer.data.dataset import Split
from mlpmixer.data.images import decode
from mlpmixer.data.loader import Batch, Share, Transform, all_batches, train_batches, usual_workers
from mlpmixer.data.mix import mixes
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.data.select import Selection, select
from mlpmixer.errors import ImageError, RecipeError, RunError
from mlpmixer.machine.distributed import Group
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models import create, family, family_name, revise
from mlpmixer.models.batch_norm import has_batch_norm
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipe import Evaluation, Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.check import require_source
from mlpmixer.run.folder import RunFolder
from mlpmixer.text import first_line
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.optim import warmup_of
from mlpmixer.train.step import TrainStep
from mlpmixer.weights.checkpoint import Checkpoint
from mlpmixer.weights.load import load, open_checkpoint
from mlpmixer.weights.net2net import GROWS, grow

LOOKED_AT, ENLARGED = 5, 4  # images whose size is looked at; how many times longer sides are worth a warning


@dataclass
class Plan:
    """All that a run needs.

    Attributes:
        recipe: What is run.
        images: The images of each split.
        train_step: Model and optimizer, on their device, as of step `begun`.
        begun: Steps that are done already, by a checkpoint.
        steps: Steps of the whole run.
        val_every: Steps between validation passes; not always a whole number.
        best: The highest top-1 accuracy on the validation split so far, as a share; -1: none yet.
        warnings: For the person who runs it.
    """

    recipe: Recipe
    images: Selection
    train_step: TrainStep
    begun: int
    steps: int
    val_every: float
    best: Tensor
    warnings: list[str]
    transform: Transform | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {**self.train_step.state_dict(), "best": self.best}

    def header(self, folder: Path) -> list[tuple[str, str]]:
        """What is run in this folder, as (title, text) for the person who runs it."""
        recipe, model, group = self.recipe, self.train_step.model, self.train_step.group
        length = f"{recipe.train.epochs:g} epochs" if not recipe.train.steps else f"{self.steps:,} steps"
        device = f"{group.world_size} × {group.device.type}" if group.world_size > 1 else str(group.device)
        begun = f", resumed after step {self.begun:,} of {self.steps:,}" if self.begun else ""
        origin = f" from {recipe.model.weights}" if recipe.model.weights else ""
        height, width = model.config.image_size
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        return [
            ("recipe", f"{recipe.name}: {length} in {recipe.train.precision} on {device}, in {folder}{begun}"),
            ("model", f"{model.name}{origin}: {height}×{width} pixels, {millions:,.2f} M parameters"),
            ("data", f"{recipe.data.source}, {len(self.images.classes):,} classes: {self.images.in_words()}"),
        ]

    def batches(self) -> Generator[list[Batch]]:
        """This device's share of the batch of each step that is left, in micro-batches."""
        recipe = self.recipe
        return train_batches(
            self.images.train,
            Augmentation(recipe.augment, self.train_step.preprocessing),
            steps=range(self.begun, self.steps),
            batch_size=recipe.train.batch_size,
            micro_batch=recipe.machine.micro_batch,
            one_before=mixes(recipe.augment),
            seed=recipe.train.seed,
            **self._loading(),
        )

    def prepared(self, split: Split, how: Preprocessing) -> Iterator[Batch]:
        """This device's share of a split, each image once, prepared as in evaluation and on the device."""
        group, recipe = self.train_step.group, self.recipe
        images = recipe.machine.micro_batch or recipe.train.batch_size // group.world_size
        for batch in all_batches(split, partial(prepare, how=how), batch_size=min(images, 256), **self._loading()):
            batch.images = normalize(batch.images.to(group.device), how)
            yield batch

    def _loading(self) -> dict[str, Any]:
        group, machine = self.train_step.group, self.recipe.machine
        return {
            "skip_broken": self.recipe.data.on_bad_image == "skip",
            "share": Share(group.rank, group.world_size),
            "workers": usual_workers() if machine.workers < 0 else machine.workers,
            "pin": group.device.type == "cuda",
            "transform": self.transform,
        }


def resolve(
    recipe: Recipe,
    run: RunFolder,
    group: Group,
    checkpoints: Checkpoints,
    moved: str = "",
    transform: Transform | None = None,
) -> Plan:
    """Opens the data, makes the model, and restores the newest checkpoint; what is cheap to refuse comes first.

    Args:
        recipe: What is run; `check` has passed it.
        run: Where it is run.
        group: The processes that run it.
        checkpoints: Those of the run.
        moved: How the data's location differs from the one that the run began with.
        transform: Of every prepared image.

    Raises:
        RecipeError: The recipe asks for what these processes or this model cannot do.
        DataError: The data is missing, or not as the recipe describes it.
        WeightsError: The weights to start from cannot be used.
        RunError: The folder holds another run.
    """
    if recipe.train.batch_size % group.world_size:
        raise RecipeError(
            f"a batch of {recipe.train.batch_size} images cannot be shared evenly by {group.world_size} devices; "
            "change train.batch_size"
        )
    require_source(recipe)
    stored = open_weights(recipe)
    images = select(recipe.data)
    if moved or checkpoints.newest():
        refuse_other_images(run, record_of(images, transform), moved)
    steps, val_every = length_of(recipe, len(images.train) / recipe.train.batch_size)
    torch.manual_seed(recipe.train.seed)
    model = init_model(recipe, images.classes, stored)
    if transform is not None:
        model.metadata.provenance["transform"] = str(transform)
    train_step = TrainStep(recipe, model, steps, group)

    best = torch.tensor(-1.0, dtype=torch.float64)
    plan = Plan(recipe, images, train_step, 0, steps, val_every, best, [], transform)
    state = plan.state()
    plan.begun, plan.warnings = checkpoints.restore(state)
    if plan.begun:
        train_step.load_state_dict(state)
    if plan.begun > steps:
        raise RunError(
            f"{run.path} has a checkpoint of step {plan.begun}, and the run has {steps}; choose another --folder"
        )
    plan.warnings += images.warnings()
    at_once, share = recipe.machine.micro_batch, recipe.train.batch_size // group.world_size
    if recipe.machine.compile and group.world_size > 1 and has_batch_norm(model):
        plan.warnings.append(
            f"{model.name} runs uncompiled: machine.compile cannot have its batch normalization over several devices"
        )
    if 0 < at_once < share and has_batch_norm(model):
        plan.warnings.append(
            f"{model.name} normalizes over the images of a forward pass: machine.micro_batch {at_once} makes that "
            f"{at_once * group.world_size:,} of the {recipe.train.batch_size:,} of a batch, and changes what is learned"
        )
    if (warmup := warmup_of(steps, recipe.optim)) > steps / 3:
        plan.warnings.append(
            f"{min(warmup, steps):,} of the run's {steps:,} steps are warm-up, more than a third; "
            "--optim.warmup_share 0.1 makes that a tenth, --train.steps makes the run longer"
        )
    plan.warnings += much_enlarged(images.train, model.config.image_size)
    return plan


def much_enlarged(split: Split, image_size: tuple[int, int]) -> list[str]:
    """A warning where the model's images are far larger than those of the split, judging by a few of these."""
    sizes = []
    for index in np.unique(np.linspace(0, len(split) - 1, LOOKED_AT).round().astype(int)).tolist():
        with suppress(ImageError):  # the loader says which cannot be read
            sizes.append(decode(split.read(index)).size)
    width, height = sorted(sizes)[len(sizes) // 2] if sizes else image_size
    if min(image_size) < ENLARGED * min(height, width):
        return []
    return [
        f"images of {height}×{width} pixels are enlarged to {image_size[0]}×{image_size[1]}, which takes longer and "
        f"adds no detail; --model.image_size {2 * max(height, width)} takes less time"
    ]


def length_of(recipe: Recipe, per_epoch: float) -> tuple[int, float]:
    """How many steps a run has, and how many there are between validation passes.

    Args:
        recipe: Has both, in epochs or in steps.
        per_epoch: Steps of an epoch.
    """
    how, val_every = recipe.train, recipe.evaluation.every_epochs * per_epoch
    if how.steps:
        return how.steps, val_every
    steps = math.ceil(how.epochs * per_epoch)
    longer = max(1.0, how.min_steps / steps)
    return max(steps, how.min_steps), val_every * longer


def open_weights(recipe: Recipe) -> Checkpoint | None:
    """The weights to start from, with none of their numbers read yet; None: the model begins anew, and can be built.

    Raises:
        RecipeError: The recipe's options do not fit them.
    """
    wanted = recipe.model
    options: dict[str, Any] = {**wanted.options}
    if not wanted.weights:
        with _wrong_types_refused(), torch.device("meta"):
            create(wanted.name, num_classes=1, image_size=_size(recipe), **options)
        return None
    stored = open_checkpoint(wanted.weights)
    if (asked := family_name(wanted.name)) != stored.family.name:
        raise RecipeError(
            f"model.weights are of a {stored.family.title}, and model.name is {wanted.name}, a {family(asked).title}; "
            f"change one of them, such as --model.name {next(iter(stored.family.sizes))}"
        )
    with _wrong_types_refused():
        revise(stored.config, image_size=_size(recipe), **options)
    for name in GROWS:
        if name in options and options[name] != (has := getattr(stored.config, name)) and not wanted.grow:
            raise RecipeError(
                f"model.weights have {name} {has}, and model.options.{name} is {options[name]}; "
                "--model.grow true makes a larger Mixer of them"
            )
    return stored


def init_model(recipe: Recipe, classes: tuple[str, ...], stored: Checkpoint | None = None) -> Classifier:
    """The model that a run begins with, in training mode, with the metadata that its weights will carry.

    Args:
        recipe: Names a new model, or trained weights.
        classes: Of the data. The head of trained weights stays if they have the same, and is new otherwise.
        stored: What `open_weights` gave, if it was called before.
    """
    wanted, size = recipe.model, _size(recipe)
    stored = stored or open_weights(recipe)
    provenance = {"recipe": recipe.name, "data": recipe.data.source}
    with _wrong_types_refused():
        if stored is None:
            model = create(wanted.name, num_classes=len(classes), image_size=size, **wanted.options)
        else:
            provenance["from"] = wanted.weights
            sizes: dict[str, Any] = {name: value for name, value in wanted.options.items() if name in GROWS}
            options: dict[str, Any] = {name: value for name, value in wanted.options.items() if name not in GROWS}
            if stored.info.classes != classes:
                options |= {"num_classes": len(classes), "fresh": ("head",)}
            model = load(stored, image_size=size, resize=wanted.resize, **options).float()
            model = grow(model, **sizes) if wanted.grow else model
    preprocessing = preprocessing_of(recipe.evaluation, model.config.image_size)
    model.metadata = ModelInfo(preprocessing=preprocessing, classes=classes, provenance=provenance)
    return model.train()


def _size(recipe: Recipe) -> tuple[int, int] | None:
    return (recipe.model.image_size[0], recipe.model.image_size[-1]) if recipe.model.image_size else None


@contextmanager
def _wrong_types_refused() -> Iterator[None]:
    """A model's config takes what it is given, and fails where a text stands for a number."""
    try:
        yield
    except TypeError as error:
        raise RecipeError(f"model.options has a value of the wrong type: {first_line(error)}") from error


def preprocessing_of(how: Evaluation, image_size: tuple[int, int]) -> Preprocessing:
    """The preprocessing of evaluation and use, as the model's metadata has it."""
    usual = Preprocessing.usual(image_size)
    return dataclasses.replace(
        usual,
        resize=how.resize or usual.resize,
        shape=how.shape,
        interpolation=how.interpolation,
        mean=how.mean,
        std=how.std,
    )


def refuse_other_recipe(run: RunFolder, recipe: Recipe) -> str:
    """A run is resumed with the recipe it began with; only [machine] and [about] may change.

    Returns:
        How the location of the data differs, as a line of words: the images may be the same. Empty: not at all.

    Raises:
        RunError: Any other line differs.
    """
    text = run.recipe
    if text is None:
        return ""
    before = toml.loads(text, f"{run.path}/recipe.toml")
    changed = toml.differences(recipe, before, apart_from=("about", "machine"))
    moved = [line for line in changed if line.startswith("data.source: ")]
    if changed != moved:
        raise _other_recipe(run, changed)
    return "".join(moved)


def _other_recipe(run: RunFolder, changed: list[str]) -> RunError:
    return RunError(
        f"{run.path} already holds a run with a different recipe ({'; '.join(changed)}); choose another folder with "
        "--folder, or restore the recipe"
    )


def record_of(images: Selection, transform: Transform | None) -> dict[str, Any]:
    """Which images a run has, for its picks.json, and what they are transformed by."""
    return images.record if transform is None else {**images.record, "transform": str(transform)}


def refuse_other_images(run: RunFolder, record: dict[str, Any], moved: str) -> None:
    """A run is resumed with the images it began with, wherever they are now; as far as its `picks.json` tells.

    Args:
        run: The run, with the record of the images it began with.
        record: The images that are there now.
        moved: How their location differs from before. Then the images themselves have to be the same; where it does
            not, an unreadable one may have been repaired.

    Raises:
        RunError: They differ.
    """
    none, splits = {"count": 0}, ("train", "val", "test")
    try:
        before = run.json("picks.json")
        if before is not None and not all(isinstance(before.get(split, none), dict) for split in splits):
            raise RunError(f"{run.path / 'picks.json'} is damaged")
    except RunError as error:
        raise RunError(f"{error}; delete it, and the run is resumed with the images that are there") from error
    if before is None and moved:
        raise _other_recipe(run, [moved])
    changed, before = [], before or record
    if record["classes"] != (then := before.get("classes")):
        changed.append(_difference("classes", len(record["classes"]), len(then) if isinstance(then, list) else 0))
    for split in splits:
        now, then = record.get(split, none), before.get(split, none)
        if any(now.get(name) != then.get(name) for name in ("count", "digest", "labels", *["images"] * bool(moved))):
            changed.append(_difference(f"{split} images", now["count"], then.get("count", 0)))
    if record.get("transform") != before.get("transform"):
        changed.append(f"transform: {record.get('transform')}, not {before.get('transform')}")
    if changed:
        raise RunError(
            f"{run.path} already holds a run on different images ({'; '.join(changed)}); choose another folder with "
            "--folder, or restore the images"
        )


def _difference(what: str, now: int, before: int) -> str:
    return f"{what}: {now}, not {before}" if now != before else f"{what}: {now} as before, but not the same"
