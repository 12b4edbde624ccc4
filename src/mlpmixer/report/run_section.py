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
from mlpmixer.errors import DataError, MixerError, RunError
from mlpmixer.evaluation.card_files import own_card
from mlpmixer.evaluation.evaluate import evaluate
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.report.card_section import card_section
from mlpmixer.report.figures import Progress, grid, no_progress
from mlpmixer.report.run_card import NAME
from mlpmixer.report.run_facts import RunFacts, facts_of
from mlpmixer.report.run_figure import curves, draw_run, prediction_rows
from mlpmixer.report.run_predictions import RunPredictions, predict_run
from mlpmixer.report.weights import weight_figures
from mlpmixer.run.folder import RunFolder
from mlpmixer.text import printable
from mlpmixer.weights.load import load

# What values of the wrong kind, or lists that are too short, lead to.
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)

LOSSES = 12  # images with the largest loss that are shown


@dataclass(frozen=True)
class Opens:
    """The images that a report may open. The recipe of an untrusted run may name any folder of the user's, whose images
    would then be on a page that is passed on, or an address that would be called.

    Attributes:
        data: the data set to take instead.
        named: whether to open all that recipes name; otherwise only builtin data sets.
        log: is called with what is opened, and what is not.
        progress: as for `evaluate`.
    """

    data: str | None = None
    named: bool = False
    log: Callable[[str], None] = lambda _: None
    progress: Progress = no_progress

    def source(self, recipe: Recipe) -> str | None:
        """The data set to open for a run; None: none."""
        own = recipe.data.source
        return self.data or (own if self.named or own in BUILTIN else None)


def run_sections(folder: Path, *, prefix: str = "", opens: Opens | None = None) -> tuple[str, list[Section]]:
    """What was trained, in a few words, and the sections of the finished run. `prefix`: of their titles, where the page
    has several runs. The run's figures are drawn anew, if its own images can be opened."""
    run, opens = RunFolder(folder), opens or Opens()
    assert run.recipe is not None
    recipe = toml.loads(run.recipe, f"{folder}/recipe.toml")
    model = load(folder)
    facts = facts_of(run, recipe, model)
    source, closed = opens.source(recipe), ""
    if source is None:
        named = printable(recipe.data.source)
        closed = f"a report opens '{named}' only if it is told --images, or other images with --data SOURCE"
        opens.log(f"{printable(folder)}: no images are shown; {closed}")
    else:
        opens.log(f"{printable(folder)}: its images are read from {printable(source)}")
    learning_curves = page.beside(*(page.drawing(one, "Learning curves") for one in curves(run, recipe)))
    card = _card(folder, opens, closed)
    found, why = _predictions(recipe, source, model, closed)
    own = found if source == recipe.data.source else None
    if own is not None or not (run.path / NAME).exists():
        try:
            draw_run(run, recipe, facts, own)
        except RunError as error:  # the folder may be somebody else's
            opens.log(f"{printable(folder)}: its figures are not drawn; {error}")
    weights = grid(weight_figures(model.float(), progress=opens.progress)[0])
    return facts.title, [
        Section(f"{prefix}Summary", _summary(recipe, facts, folder)),
        Section(f"{prefix}Learning curves", learning_curves),
        Section(f"{prefix}Evaluation card", card),
        Section(f"{prefix}Predictions", why if found is None else _shown(found)),
        Section(f"{prefix}Weights", page.folded("Stem filters, token mixing, receptive fields", weights)),
    ]


def _card(folder: Path, opens: Opens, closed: str) -> str:
    """The run's own card, measured now if there is none; or why it is not. `closed`: why the images are not opened."""
    own = own_card(folder)
    if own is not None:
        with suppress(*DAMAGED):
            return card_section(own)
    try:
        if closed:
            return page.words(f"Not measured: {closed}", "warn")
        return card_section(evaluate(folder, opens.data, progress=opens.progress))
    except (MixerError, ValueError) as error:
        return page.words(f"Not measured: {error}", "warn")


def _predictions(
    recipe: Recipe, source: str | None, model: Classifier, closed: str
) -> tuple[RunPredictions | None, str]:
    """The predictions, or why there are none as a part of the page."""
    try:
        if source is None:
            raise DataError(closed)
        return predict_run(toml.change(recipe, {"data.source": source}), model.float(), losses=LOSSES), ""
    except MixerError as error:  # the images may be on another machine
        return None, page.words(f"No images are shown: {error}", "warn")


def _shown(found: RunPredictions) -> str:
    losses = [
        (one.image, [f"predicted {one.label}", f"true {one.true}", f"loss {one.loss:.2f}, p = {one.probability:.1%}"])
        for one in found.losses
    ]
    parts = [page.beside(*(page.drawing(one, "Predictions") for one in prediction_rows(found)))]
    if losses:
        note = f"The largest losses of {found.count:,} {found.split} images; p: probability of the true class."
        parts += [page.small_heading("Top losses"), page.words(note, "soft"), page.shots(losses)]
    return "".join(parts)


def _summary(recipe: Recipe, facts: RunFacts, folder: Path) -> str:
    first, *rest = facts.lines()
    parts = []
    if facts.accuracy is not None:
        low, high = facts.accuracy.interval
        parts.append(page.words(f"95 % interval {low:.1f} to {high:.1f} %"))
    if facts.verdict is not None and facts.accuracy is not None:
        kind = "warn" if facts.verdict.outcome == "lower than expected" else ""
        sentence = f"{facts.accuracy.value:.1f} %, expected {facts.verdict.expected}: {facts.verdict.outcome}"
        parts.append(page.words(sentence, kind))
    parts += [page.words(line, "soft") for line in rest]
    parts += [page.words(recipe.about.description), page.small_heading("Reproduce"), page.commands(_commands(folder))]
    return page.words(first, "big") + page.beside(
        "".join(parts), page.table(["", ""], _settings(recipe, facts.machine))
    )


def _settings(recipe: Recipe, machine: dict[str, Any]) -> list[list[str]]:
    length = f"{recipe.train.steps:,} steps" if recipe.train.steps else f"{recipe.train.epochs:g} epochs"
    if recipe.train.min_steps and not recipe.train.steps:
        length += f" (at least {recipe.train.min_steps:,} steps)"
    start = f"from {recipe.model.weights}" if recipe.model.weights else "from scratch"
    return [
        ["model", f"{recipe.model.name} {start}"],
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
