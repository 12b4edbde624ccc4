"""`mixer look`: what is inside a model, and what it sees in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from mlpmixer.cli.output import say
from mlpmixer.errors import UsageError
from mlpmixer.machine.progress import progress_bar
from mlpmixer.text import to_json


def look(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE|NAME")],
    /,
    image: Path | None = None,
    label: str | None = None,
    layers: str = "",
    folder: Path = Path("look"),
    json: bool = False,
) -> None:
    """Draw what a model's weights look for, and how it comes to its answer on an image.

    Args:
        weights: A run folder, a file of weights, or a name from `mixer models --weights`.
        image: An image to look at through the model.
        label: The class to ask about; by default the model's answer.
        layers: Whose token-mixing units are drawn, such as 0,1,5; by default the first three and the last.
        folder: Where the page and its figures are written.
        json: Print the figures as JSON.
    """
    from mlpmixer.report.interpret import look

    chosen = [_number(text) for text in layers.split(",")] if layers else None
    with progress_bar() as watch:
        figures = look(weights, folder, image=image, label=label, layers=chosen, watch=watch)
    if json:
        print(to_json(figures, indent=1))
    else:
        say(f"{folder / 'look.html'}   (to be opened in a browser; each figure is beside it)")


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise UsageError(f"--layers looks like 0,1,5; got '{text}'")
    return int(text)
