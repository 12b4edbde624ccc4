"""`mixer interpret`: visualize weights, explain a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from mlpmixer.cli.output import say
from mlpmixer.errors import UsageError, nearest_path
from mlpmixer.machine.progress import progress_bar
from mlpmixer.text import to_json
from mlpmixer.weights.locate import require_weights


def interpret(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE|NAME")],
    /,
    image: Path | None = None,
    label: str | None = None,
    layers: str = "",
    folder: Path = Path("interpret"),
    json: bool = False,
) -> None:
    """Visualize a model's weights, and explain a prediction.

    Args:
        weights: A run folder, a file of weights, or a name from `mixer models --weights`.
        image: The image whose prediction is explained.
        label: The class to explain; by default the predicted one.
        layers: Layers whose token-mixing units are drawn, such as 0,1,5; by default the first three and the last.
        folder: Where the page and its figures are written.
        json: Print the figures' values as JSON.
    """
    require_weights(weights)
    if image is not None and not image.exists():
        raise UsageError(f"there is no file {image}{nearest_path(str(image))}")
    chosen = [_number(text) for text in layers.split(",")] if layers else None

    from mlpmixer.report.interpret import interpret

    with progress_bar() as progress:
        values = interpret(weights, folder, image=image, label=label, layers=chosen, progress=progress)
    if json:
        print(to_json(values, indent=1))
    else:
        say(f"{folder / 'interpret.html'}   (open it in a browser; each figure is beside it)")


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise UsageError(f"--layers looks like 0,1,5; got '{text}'")
    return int(text)
