"""`interpret`: a page of figures of a model's weights, and of how it predicts one image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mlpmixer.draw.page import Section, page
from mlpmixer.errors import UsageError
from mlpmixer.report.explanation import explain, question
from mlpmixer.report.figures import Progress, grid, no_progress
from mlpmixer.report.weights import weight_figures
from mlpmixer.run.folder import RunFolder
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
    parts = {"Weights": weight_figures(model, layers, progress)}
    if asked is not None:
        parts["Prediction"] = explain(model, asked, progress)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"model": model.name, "weights": str(weights)}
    sections = []
    for title, (figures, found) in parts.items():
        values[title.lower()] = found
        sections.append(Section(title, grid(figures)))
        for figure in figures:
            figure.write(root)
    run = RunFolder(root)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run.write("interpret.html", page(f"Inside {model.name}", [f"{weights}, {parameters:,} parameters"], sections))
    run.write("interpret.json", values)
    return values
