"""The figures of a finished run: learning curves and predictions as one SVG, and the run card."""

from __future__ import annotations

import os
from pathlib import Path

from mlpmixer.draw import svg, tiles
from mlpmixer.draw.chart import Series, line_chart
from mlpmixer.errors import MixerError, RunError
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.report.run_card import percent, write_run_card
from mlpmixer.report.run_facts import RunFacts, facts_of
from mlpmixer.report.run_predictions import RunPredictions, predict_run
from mlpmixer.run.folder import RunFolder, by_epoch
from mlpmixer.weights.load import load

SHOWN = 6  # images of each kind


def write_run_figure(folder: str | os.PathLike[str]) -> Path:
    """Draws a run's learning curves and some predictions into its image.svg, and its card into run_card.png.

    Returns:
        The path of image.svg.

    Raises:
        RunError: There is no finished run, or the files cannot be written.
    """
    run = RunFolder(folder)
    if run.recipe is None:
        raise RunError(f"there is no run in {run.path}; name a folder that `mixer train` has written")
    result = run.result()
    if result is None:
        raise RunError(f"the run in {run.path} is not finished; the command that started it resumes it")
    recipe = toml.loads(run.recipe, f"{run.path}/recipe.toml")
    model = load(folder)
    found, why = None, ""
    try:
        found = predict_run(recipe, model)
    except MixerError as error:  # the images may be on another machine; the curves are worth having without them
        why = f"No images are shown: {error}"
    draw_run(run, recipe, facts_of(run, recipe, model), found, why)
    return run.path / "image.svg"


def draw_run(run: RunFolder, recipe: Recipe, facts: RunFacts, found: RunPredictions | None, why: str = "") -> None:
    """Writes both figures. `why`: there are no predictions, for people.

    Raises:
        RunError: They cannot be written.
    """
    drawings = [svg.heading(recipe.name, facts.lines()), *curves(run, recipe)]
    drawings += prediction_rows(found) if found is not None else [svg.heading("", [why])] if why else []
    run.write("image.svg", svg.document(svg.stacked(drawings), f"The run {recipe.name}"))
    write_run_card(run, recipe, facts, found)


def curves(run: RunFolder, recipe: Recipe) -> list[svg.Drawing]:
    lines = run.metrics()
    loss = by_epoch(lines, "train", "loss")
    val = [(epoch, 100 * top1) for epoch, top1 in by_epoch(lines, "val", "top1")]
    drawings = [line_chart("Training loss", [Series("loss", loss)], x_label="epoch")]
    if val:
        series = [Series("this run", val)]
        if recipe.about.curve:
            series.append(Series(f"expected ± {recipe.about.tolerance:g}", recipe.about.curve, recipe.about.tolerance))
        drawings.append(line_chart("Validation accuracy (%)", series, x_label="epoch"))
    return drawings


def prediction_rows(found: RunPredictions) -> list[svg.Drawing]:
    """A row of correct predictions, each of another class, and one of the most confident errors."""
    correct = [tiles.Tile(one.image, [one.label, percent(one.score)], "right") for one in found.correct[:SHOWN]]
    wrong = [
        tiles.Tile(one.image, [f"predicted {one.label}", percent(one.score), f"true {one.true}"], "wrong")
        for one in found.wrong[:SHOWN]
    ]
    of = f"of {found.count:,} {found.split} images"
    rows = {f"Correct predictions, {of}": correct, f"Most confident errors, {of}": wrong}
    return [tiles.rows(title, row) for title, row in rows.items() if row]
