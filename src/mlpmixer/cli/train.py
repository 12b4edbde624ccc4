"""`mixer train`: train a model by a recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mlpmixer import data as data_sets
from mlpmixer.cli.output import print_table, say
from mlpmixer.errors import UsageError
from mlpmixer.text import to_json
from mlpmixer.weights.locate import require_weights


def train(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|NAME")],
    /,
    folder: Annotated[Path | None, tyro.conf.arg(metavar="RUN_FOLDER")] = None,
    grid: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="LINE=VALUE,VALUE,...")] = (),
    quiet: bool = False,
    json: bool = False,
    *,
    changes: dict[str, str],
) -> None:
    """Train a model, or resume a run that was stopped.

    Every line of a recipe is a flag as well: `--optim.lr 0.003 --data.source photos`. `mixer recipes NAME` shows them
    all, with what they mean.

    Args:
        recipe: A recipe file, or a name from `mixer recipes`, such as photos for your own images.
        folder: The run folder; runs/NAME by default. An existing run is resumed.
        grid: Grid search over values such as optim.lr=0.003,0.01,0.03; may be repeated for another line.
        quiet: Show nothing but warnings.
        json: Print the result as JSON.
    """
    from mlpmixer.recipes import RECIPES, find, toml
    from mlpmixer.recipes.check import check, require_source

    if recipe.endswith(".toml") or os.path.isfile(recipe):  # noqa: PTH113
        wanted = toml.read(recipe)
        if wanted.name in RECIPES:  # it was printed by `mixer recipes NAME`, and perhaps changed
            wanted = toml.without_stale_claims(wanted, find(wanted.name))
    else:
        wanted = find(recipe)
    wanted = toml.change(wanted, changes)
    require_source(wanted)
    folder = folder or Path("runs") / wanted.name
    if not grid:  # which may set what is wrong
        check(wanted)
    if not grid and not folder.exists():  # a run that is there may be finished, and need no images
        data_sets.require_source(wanted.data.source)
        if wanted.model.weights:
            require_weights(wanted.model.weights)
    from mlpmixer.train.progress import is_main_process

    if grid:
        from mlpmixer.train.grid import search

        trials = search(wanted, folder, axes := _axes(grid), quiet=quiet or json)
        if not is_main_process():
            return
        result = trials[0].result
        if json:
            rows = [{**trial.values, "folder": str(trial.result.folder), "val": trial.result.val} for trial in trials]
            print(to_json({"trials": rows, "test": result.test}))
            return
        rows = [[*map(str, t.values.values()), f"{t.score:.2%}", str(t.result.folder)] for t in trials]
        print_table([*axes, "val", "folder"], rows, f"best on val: {result.folder}")
    else:
        from mlpmixer.train.loop import fit

        result = fit(wanted, folder, quiet=quiet or json)
        if not is_main_process():
            return
        if json:
            shown = {"folder": str(result.folder), "weights": str(result.weights), "val": result.val}
            print(to_json({**shown, "test": result.test}))
            return
    for name, found in {"val": result.val, "test": result.test}.items():
        if found is not None:
            say(f"{result.of.get(name, name):4}  accuracy {found['top1']:.2%} ({found['count']:,.0f} images)")
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
