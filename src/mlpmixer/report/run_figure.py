"""The summary figure of a finished run: learning curves and predictions, as one SVG."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlpmixer.data.dataset import Part
from mlpmixer.data.images import decode
from mlpmixer.data.preprocess import prepare
from mlpmixer.data.select import select
from mlpmixer.draw import svg, tiles
from mlpmixer.draw.chart import Series, line_chart
from mlpmixer.errors import MixerError, RunError
from mlpmixer.models.classifier import Classifier
from mlpmixer.predict.predictor import Predictor
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.run.folder import RunFolder, by_epoch, training_seconds
from mlpmixer.weights.load import load

MOST_IMAGES = 1000  # that are predicted, evenly over the split
COLUMNS = 5


def write_run_figure(folder: str | os.PathLike[str]) -> Path:
    """Draws a run's learning curves and some predictions into its image.svg.

    Raises:
        RunError: if there is no finished run.
    """
    run = RunFolder(folder)
    if run.recipe is None:
        raise RunError(f"there is no run in {run.path}; name a folder that `mixer train` has written")
    result = run.result()
    if result is None:
        raise RunError(f"the run in {run.path} is not finished; the command that started it resumes it")
    recipe = toml.loads(run.recipe, f"{run.path}/recipe.toml")
    model = load(folder)
    drawings = [svg.heading(recipe.name, summary(run, recipe, model)), *curves(run, recipe)]
    try:
        drawings += predictions(recipe, model)
    except MixerError as error:  # the images may be on another machine; the curves are worth having without them
        drawings.append(svg.heading("", [f"No images are shown: {error}"]))
    run.write("image.svg", svg.document(svg.stacked(drawings), f"The run {recipe.name}"))
    return run.path / "image.svg"


def summary(run: RunFolder, recipe: Recipe, model: Classifier) -> list[str]:
    result = run.result() or {}
    measured = {split: result[split] for split in ("test", "val") if result.get(split)}
    lines = [
        f"{found['top1']:.1%} accuracy on {found['count']:,.0f} {split} images".replace("%", " %")
        for split, found in measured.items()
    ]
    metrics = run.metrics()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size, trained = f"{model.name}, {parameters:,} parameters", by_epoch(metrics, "train", "epoch")
    if trained:
        took = duration(training_seconds(metrics, recipe.train.batch_size))
        size += f"; {trained[-1][0]:,.1f}".removesuffix(".0") + f" epochs in {took}"
    return [*lines[:1], size, str(machine(run).get("processor", "an unknown processor"))]


def machine(run: RunFolder) -> dict[str, Any]:
    """The machine it ran on; empty where that is not known."""
    try:
        return run.json("machine.json") or {}
    except RunError:
        return {}


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


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


def predictions(recipe: Recipe, model: Classifier) -> list[svg.Drawing]:
    """A row of correct predictions, each of another class, and one of the most confident errors."""
    images = select(recipe.data)
    name, split = ("test", images.test) if images.test is not None else ("val", images.val)
    if split is None:
        return []
    split = Part(split, np.linspace(0, len(split), min(MOST_IMAGES, len(split)), endpoint=False).astype(np.int64))
    predictor = Predictor(model, top=1)
    found = predictor([split.read(number) for number in range(len(split))])
    truth = [images.classes[label] for label in split.labels]

    firsts: dict[str, int] = {}
    wrong = []
    for number, (one, true) in enumerate(zip(found, truth, strict=True)):
        if one.label == true:
            firsts.setdefault(true, number)
        else:
            wrong.append(number)
    wrong.sort(key=lambda number: -found[number].score)

    def image(number: int) -> Image.Image:
        """As the model sees it."""
        how = predictor.preprocessing
        pixels = prepare(decode(split.read(number)), how)
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())

    right_tiles = [
        tiles.Tile(image(number), [found[number].label, percent(found[number].score)], "right")
        for number in [*firsts.values()][:COLUMNS]
    ]
    wrong_tiles = [
        tiles.Tile(
            image(number),
            [f"predicted {found[number].label}", percent(found[number].score), f"true {truth[number]}"],
            "wrong",
        )
        for number in wrong[:COLUMNS]
    ]
    of = f"of {len(split):,} {name} images"
    rows = {f"Correct predictions, {of}": right_tiles, f"Most confident errors, {of}": wrong_tiles}
    return [tiles.row(title, row, columns=COLUMNS) for title, row in rows.items() if row]


def percent(score: float) -> str:
    return "over 99 %" if score > 0.995 else f"{score:.0%}".replace("%", " %")
