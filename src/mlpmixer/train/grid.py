"""A grid: one run for each combination of values, each in its own folder, and the best by the validation split."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlpmixer.errors import Diverged, RecipeError, RunError
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.check import check
from mlpmixer.run.folder import RunFolder
from mlpmixer.train.loop import Result, fit
from mlpmixer.train.progress import speaks_for_all


@dataclass(frozen=True)
class Point:
    values: dict[str, Any]
    result: Result

    @property
    def score(self) -> float:
        assert self.result.val is not None
        return self.result.val["top1"]


def search(
    recipe: Recipe, folder: str | os.PathLike[str], axes: Mapping[str, Sequence[Any]], *, quiet: bool = False
) -> list[Point]:
    """Runs all points, or goes on with those that are not finished; the best on the validation split comes first.

    axes: dotted names of a recipe's lines, with the values to try. A point whose loss is lost is left out.
    """
    if recipe.data.val == "":
        raise RecipeError("a grid picks by the validation split, and data.val says that there is none")
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    # All of them are checked before the first one starts.
    recipes = [toml.change(recipe, combination) for combination in combinations]
    for one in recipes:
        check(one)
    points: list[Point] = []
    lost: list[dict[str, Any]] = []
    for combination, one in zip(combinations, recipes, strict=True):
        own = Path(folder) / ",".join(f"{name}={value}" for name, value in combination.items())
        try:
            points.append(Point(combination, fit(one, own, quiet=quiet)))
        except Diverged as error:
            lost.append({**combination, "why": str(error)})
    if not points:
        raise RunError(f"all {len(lost)} points lost their loss, the last so: {lost[-1]['why']}")
    points.sort(key=lambda point: -point.score)
    if speaks_for_all():
        RunFolder(folder).write(
            "grid.json",
            {
                "picked": str(points[0].result.folder),
                "points": [{**p.values, "val": p.result.val} for p in points],
                "lost": lost,
            },
        )
    return points
