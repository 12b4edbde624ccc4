"""`interpret`: a page of figures of a model's weights, and of how it predicts one image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mlpmixer.draw import page
from mlpmixer.draw.page import Section
from mlpmixer.errors import UsageError
from mlpmixer.report.explanation import explain, question
from mlpmixer.report.figures import Figure, Progress, grid, no_progress
from mlpmixer.report.weights import weight_figures
from mlpmixer.run.folder import RunFolder
from mlpmixer.text import printable
from mlpmixer.weights.load import load


def interpret(
    weights: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    image: str | os.PathLike[str] | None = None,
    label: str | None = None,
    layers: Sequence[int] | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Visualizes weights and explains a prediction: interpret.html, interpret.json and each figure by itself.

    Args:
        weights: what `load` takes.
        folder: where the files are written.
        image: the image whose prediction is explained.
        label: the class that is explained; None: the predicted one.
        layers: whose token-mixing units are drawn; None: the first three and the last.
        progress: is called with (stage, steps done, steps).

    Returns:
        What interpret.json holds.

    Raises:
        UsageError: for a label without an image, or that the model does not have, or a layer that it does not have.
    """
    if label is not None and image is None:
        raise UsageError(f"label: '{label}' is explained for an image; give one with --image")
    model = load(weights, dtype=torch.float32)
    asked = None if image is None else question(model, image, label)
    figures, found = weight_figures(model, layers, progress)
    values: dict[str, Any] = {"model": model.name, "weights": found}
    sections, title = [Section("Weights", grid(figures))], f"Inside {model.name}"
    if asked is not None:
        explained, values["prediction"] = explain(model, asked, progress)
        sections.insert(0, Section("Prediction", _prediction(explained, values["prediction"])))
        figures += explained
        title = f"{model.name} on {printable(Path(image or '').name, 60)}"
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        figure.write(root)
    run = RunFolder(root)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run.write("interpret.html", page.page(title, [f"{weights}, {parameters:,} parameters"], sections))
    run.write("interpret.json", values)
    return values


def _prediction(figures: Sequence[Figure], values: dict[str, Any]) -> str:
    """The image, what speaks for the class in it, and the likeliest classes; then the rest."""
    top = [(one["class"], one["probability"]) for one in values["top"]]
    said = f"{top[0][0]}, {top[0][1]:.1%}"
    said += "" if values["class"] == top[0][0] else f"; explained: {values['class']}, {values['probability']:.1%}"
    front = [next(one for one in figures if one.name == name).html() for name in ("photo", "integrated-gradients")]
    classes = page.small_heading("Likeliest classes") + page.ranking(top)
    others = [one for one in figures if one.name not in ("photo", "integrated-gradients")]
    return page.words(said, "big") + page.beside(*front, classes) + grid(others)
