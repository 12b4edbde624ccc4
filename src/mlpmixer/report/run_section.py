"""A run as a part of a page: what ran, how it went, its card, its answers, a look into its weights."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from mlpmixer.errors import MixerError
from mlpmixer.experiments.cards import own_card
from mlpmixer.experiments.evaluate import evaluate
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.report import page
from mlpmixer.report.card_section import card_section
from mlpmixer.report.exhibits import together
from mlpmixer.report.page import Section
from mlpmixer.report.run_picture import curves, predictions, summary
from mlpmixer.report.weights import look_at_weights
from mlpmixer.run.folder import RunFolder
from mlpmixer.weights.load import load


def run_sections(folder: Path, *, prefix: str = "") -> list[Section]:
    """Of a finished run; `prefix`: to tell its titles from those of others on the page."""
    run = RunFolder(folder)
    assert run.recipe is not None
    recipe = toml.loads(run.recipe, f"{folder}/recipe.toml")
    model = load(run.weights)
    first, *rest = summary(run, recipe, model)
    machine = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    ran = [
        page.words(first, "big"),
        *(page.words(line, "soft") for line in rest),
        page.words(recipe.about.what),
        page.table(["", ""], _what_ran(recipe, machine)),
        page.small_heading("The same again"),
        page.commands(_commands(folder)),
    ]
    how_it_went = page.beside(*(page.drawing(one, "How the run went") for one in curves(run, recipe)))
    sections = [Section(f"{prefix}What ran", "".join(ran)), Section(f"{prefix}Curves", how_it_went)]
    card, why_not = card_of(folder)
    if card is not None:
        sections.append(Section(f"{prefix}Card", card_section(card)))
    else:
        sections.append(Section(f"{prefix}Card", page.words(f"Not measured: {why_not}", "warn")))
    try:
        rows = "".join(page.drawing(one, "Predictions") for one in predictions(recipe, model.float()))
    except MixerError as error:  # the pictures may be on another machine
        rows = page.words(f"No pictures are shown: {error}", "warn")
    sections.append(Section(f"{prefix}Answers", rows))
    sections.append(Section(f"{prefix}Weights", together(look_at_weights(model.float())[0])))
    return sections


def card_of(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The run's own card, measured now if it was not before; or why there is none."""
    try:
        return own_card(folder) or evaluate(folder), ""
    except (MixerError, ValueError) as error:
        return None, str(error)


def _what_ran(recipe: Recipe, machine: dict[str, Any]) -> list[list[str]]:
    length = f"{recipe.train.steps:,} steps" if recipe.train.steps else f"{recipe.train.epochs:g} epochs"
    if recipe.train.least_steps and not recipe.train.steps:
        length += f" (at least {recipe.train.least_steps:,} steps)"
    return [
        ["model", f"{recipe.model.name} {recipe.model.weights or 'from scratch'}"],
        ["data", recipe.data.source],
        ["length", f"{length} of {recipe.train.batch_size} pictures a step, {recipe.train.precision}"],
        ["optimiser", f"{recipe.optim.name}, lr {recipe.optim.lr:g}, weight decay {recipe.optim.weight_decay:g}"],
        ["seed", str(recipe.train.seed)],
        *([["to be expected", recipe.about.expect]] if recipe.about.expect else []),
        ["machine", f"{machine.get('processor')}; torch {machine.get('torch')}, mlpmixer {machine.get('mlpmixer')}"],
        ["begun", str(machine.get("started"))],
    ]


def _commands(folder: Path) -> list[str]:
    return [
        shlex.join(("mixer", "train", f"{folder}/recipe.toml", "--folder", "runs/again")),
        shlex.join(("mixer", "evaluate", str(folder))),
        shlex.join(("mixer", "look", str(folder))),
    ]
