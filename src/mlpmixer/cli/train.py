"""`mixer train`: a recipe becomes a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mlpmixer.cli.output import print_table, say
from mlpmixer.errors import UsageError
from mlpmixer.text import to_json


def train(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|NAME")],
    /,
    folder: Path | None = None,
    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    quiet: bool = False,
    json: bool = False,
    *,
    changes: dict[str, str],
) -> None:
    """Train a model, or go on with a run that was stopped.

    Every line of a recipe is a flag as well: `--optim.lr 0.003 --data.source photos`. `mixer recipes NAME` shows them
    all, with what they mean.

    Args:
        recipe: A recipe file, or a name from `mixer recipes`.
        folder: Where the run is kept; runs/NAME if not said. A run that is there goes on.
        grid: Values to try, such as optim.lr=0.003,0.01,0.03; may be given again for another line.
        quiet: Show nothing but warnings.
        json: Print the result as JSON.
    """
    from mlpmixer.recipes import RECIPES, find, toml
    from mlpmixer.train.progress import speaks_for_all

    if recipe.endswith(".toml") or os.path.isfile(recipe):  # noqa: PTH113
        wanted = toml.read(recipe)
        if wanted.name in RECIPES:  # it was printed by `mixer recipes NAME`, and perhaps changed
            wanted = toml.without_stale_claims(wanted, find(wanted.name))
    else:
        wanted = find(recipe)
    wanted = toml.change(wanted, changes)
    folder = folder or Path("runs") / wanted.name
    if grid:
        from mlpmixer.train.grid import search

        points = search(wanted, folder, axes := _axes(grid), quiet=quiet or json)
        if not speaks_for_all():
            return
        picked, result = points[0], points[0].result
        if json:
            rows = [{**point.values, "folder": str(point.result.folder), "val": point.result.val} for point in points]
            print(to_json({"points": rows, "test": result.test}))
            return
        rows = [[*map(str, p.values.values()), f"{p.score:.2%}", str(p.result.folder)] for p in points]
        print_table([*axes, "val", "folder"], rows, f"picked by val: {picked.result.folder}")
    else:
        from mlpmixer.train.loop import fit

        result = fit(wanted, folder, quiet=quiet or json)
        if not speaks_for_all():
            return
        if json:
            shown = {"folder": str(result.folder), "weights": str(result.weights), "val": result.val}
            print(to_json({**shown, "test": result.test}))
            return
    for name, found in {"val": result.val, "test": result.test}.items():
        if found is not None:
            say(f"{result.of.get(name, name):4}  {found['top1']:.2%} of {found['count']:,.0f} images right")
    say(f"{result.weights}   (mixer predict IMAGE --weights {result.folder})")


def _axes(grid: Sequence[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    for name, values in map(_axis, grid):
        if name in axes:
            both = ",".join([*axes[name], *values])
            raise UsageError(f"--grid has {name} twice; give all of its values at once: --grid {name}={both}")
        axes[name] = values
    return axes


def _axis(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not all(values.split(",")):
        raise UsageError(f"--grid looks like optim.lr=0.003,0.01; got '{text}'")
    return name, values.split(",")
