"""`look`: a page with all that the interpret shows of a model, and of what it makes of one image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlpmixer.draw.page import Section, page
from mlpmixer.errors import UsageError
from mlpmixer.report.figures import together
from mlpmixer.report.photo import look_at_photo, question
from mlpmixer.report.progress import Watch, nobody
from mlpmixer.report.weights import look_at_weights
from mlpmixer.run.folder import RunFolder
from mlpmixer.weights.load import load


def look(
    weights: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    image: str | os.PathLike[str] | None = None,
    label: str | None = None,
    layers: Sequence[int] | None = None,
    watch: Watch = nobody,
) -> dict[str, Any]:
    """Writes look.html, look.json and each figure by itself into `folder`; returns what look.json holds.

    label: the class that is asked about; None: the one that the model says.
    layers: whose token-mixing units are drawn; None: the first three and the last.
    """
    import torch

    if label is not None and image is None:
        raise UsageError(f"label: '{label}' is asked about an image; give one with --image")
    model = load(weights, dtype=torch.float32)
    asked = None if image is None else question(model, image, label)
    parts = {"Weights": look_at_weights(model, layers, watch)}
    if asked is not None:
        parts["One image"] = look_at_photo(model, asked, watch)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"model": model.name, "weights": str(weights)}
    sections = []
    for title, (exhibits, found) in parts.items():
        figures[title.lower()] = found
        sections.append(Section(title, together(exhibits)))
        for one in exhibits:
            one.write(root)
    run = RunFolder(root)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run.write("look.html", page(f"A look into {model.name}", [f"{weights}, {parameters:,} parameters"], sections))
    run.write("look.json", figures)
    return figures
