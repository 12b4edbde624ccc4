"""`mixer predict`: what is in these pictures?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from mlpmixer.cli.output import print_table
from mlpmixer.errors import PictureError, UsageError
from mlpmixer.weights.shipped import DEFAULT


def predict(
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE...")],
    /,
    weights: Annotated[str, tyro.conf.arg(metavar="RUN|FILE|NAME")] = DEFAULT,
    top: int = 5,
    strict: bool = False,
    json: bool = False,
) -> None:
    """Name what is in pictures.

    Args:
        pictures: Picture files.
        weights: A run folder, a file of weights, or a name from `mixer models --weights`; by default the small model
            that comes with the package, which knows the ten classes of CIFAR-10.
        top: How many labels for each picture.
        strict: Fail when a picture cannot be read, instead of leaving it out.
        json: Print JSON, a line a picture.
    """
    if not pictures:
        raise UsageError("give one picture or more: mixer predict photo.jpg")
    from mlpmixer.predict.predictor import Predictor

    predictor = Predictor(weights, top=top)
    rows = []
    for path in pictures:
        try:
            found = predictor(path)
        except PictureError as error:
            if strict or len(pictures) == 1:
                raise
            print(f"mixer: left out: {error}", file=sys.stderr)
            continue
        rows.append([str(path), found.label, f"{found.score:.1%}", _others(found.top[1:])])
        if json:
            _print_line({"path": str(path), "label": found.label, "score": found.score, "top": found.top})
    if rows and not json:
        print_table(["picture", "label", "score", "then"], rows)


def _others(ranked: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{label} {score:.1%}" for label, score in ranked)


def _print_line(found: dict[str, object]) -> None:
    print(json.dumps(found, ensure_ascii=False))
