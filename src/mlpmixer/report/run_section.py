"""A run as a part of a page: summary, learning curves, evaluation card, predictions, weights."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlpmixer.data.sources.builtin import BUILTIN
from mlpmixer.draw import page
from mlpmixer.draw.page import Section
from mlpmixer.errors import DataError, MixerError
from mlpmixer.evaluation.card_files import own_card
from mlpmixer.evaluation.evaluate import evaluate
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.report.card_section import card_section
from mlpmixer.report.figures import grid
from mlpmixer.report.run_facts import facts_of
from mlpmixer.report.run_figure import curves, prediction_rows
from mlpmixer.report.run_predictions import predict_run
from mlpmixer.report.weights import weight_figures
from mlpmixer.run.folder import RunFolder
from mlpmixer.text import printable
from mlpmixer.weights.load import load

# What values of the wrong kind, or lists that are too short, lead to.
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Opens:
    """The images that a report may open. The recipe of an untrusted run may name any folder of the user's, whose images
    would then be on a page that is passed on, or an address that would be called.

    Attributes:
        data: the data set to take instead.
        named: whether to open all that recipes name; otherwise only builtin data sets.
        log: is called with what is opened, and what is not.
    """

    data: str | None = None
    named: bool = False
    log: Callable[[str], None] = lambda _: None

    def source(self, recipe: Recipe) -> str | None:
        """The data set to open for a run; None: none."""
        own = recipe.data.source
        return self.data or (own if self.named or own in BUILTIN else None)


def run_sections(folder: Path, *, prefix: str = "", opens: Opens | None = None) -> list[Section]:
    """The sections of a finished run. `prefix`: of their titles, where the page has several runs."""
    run, opens = RunFolder(folder), opens or Opens()
    assert run.recipe is not None
    recipe = toml.loads(run.recipe, f"{folder}/recipe.toml")
    model = load(folder)
    facts = facts_of(run, recipe, model)
    first, *rest = facts.lines()
    ran = [
        page.words(first, "big"),
        *(page.words(line, "soft") for line in rest),
        page.words(recipe.about.description),
        page.table(["", ""], _summary(recipe, facts.machine)),
        page.small_heading("Reproduce"),
        page.commands(_commands(folder)),
    ]
    learning_curves = page.beside(*(page.drawing(one, "Learning curves") for one in curves(run, recipe)))
    source, closed = opens.source(recipe), ""
    if source is None:
        own = printable(recipe.data.source)
        closed = f"a report opens '{own}' only if it is told --images, or other images with --data SOURCE"
        opens.log(f"{printable(folder)}: no images are shown; {closed}")
    else:
        opens.log(f"{printable(folder)}: its images are read from {printable(source)}")
    return [
        Section(f"{prefix}Summary", "".join(ran)),
        Section(f"{prefix}Learning curves", learning_curves),
        Section(f"{prefix}Evaluation card", _card(folder, opens.data, closed)),
        Section(f"{prefix}Predictions", _predictions(recipe, source, model, closed)),
        Section(f"{prefix}Weights", grid(weight_figures(model.float())[0])),
    ]


def _card(folder: Path, data: str | None, closed: str) -> str:
    """The run's own card, measured now if there is none; or why it is not. `closed`: why the images are not opened."""
    own = own_card(folder)
    if own is not None:
        with suppress(*DAMAGED):
            return card_section(own)
    try:
        return page.words(f"Not measured: {closed}", "warn") if closed else card_section(evaluate(folder, data))
    except (MixerError, ValueError) as error:
        return page.words(f"Not measured: {error}", "warn")


def _predictions(recipe: Recipe, source: str | None, model: Classifier, closed: str) -> str:
    try:
        if source is None:
            raise DataError(closed)
        taken = toml.change(recipe, {"data.source": source})
        found = predict_run(taken, model.float())
        return "".join(page.drawing(one, "Predictions") for one in prediction_rows(found)) if found else ""
    except MixerError as error:  # the images may be on another machine
        return page.words(f"No images are shown: {error}", "warn")


def _summary(recipe: Recipe, machine: dict[str, Any]) -> list[list[str]]:
    length = f"{recipe.train.steps:,} steps" if recipe.train.steps else f"{recipe.train.epochs:g} epochs"
    if recipe.train.min_steps and not recipe.train.steps:
        length += f" (at least {recipe.train.min_steps:,} steps)"
    return [
        ["model", f"{recipe.model.name} {recipe.model.weights or 'from scratch'}"],
        ["data", recipe.data.source],
        ["length", f"{length} of {recipe.train.batch_size} images a step, {recipe.train.precision}"],
        ["optimizer", f"{recipe.optim.name}, lr {recipe.optim.lr:g}, weight decay {recipe.optim.weight_decay:g}"],
        ["seed", str(recipe.train.seed)],
        *([["expected accuracy", recipe.about.expected]] if recipe.about.expected else []),
        ["machine", f"{machine.get('processor')}; torch {machine.get('torch')}, mlpmixer {machine.get('mlpmixer')}"],
        ["started", str(machine.get("started"))],
    ]


def _commands(folder: Path) -> list[str]:
    return [
        shlex.join(("mixer", "train", f"{folder}/recipe.toml", "--folder", "runs/again")),
        shlex.join(("mixer", "evaluate", str(folder))),
        shlex.join(("mixer", "interpret", str(folder))),
    ]
