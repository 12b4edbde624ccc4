"""Grid search: a run for each combination of values, in a folder of its own; the best by the validation split."""

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
from mlpmixer.train.loop import Result, run_checked
from mlpmixer.train.progress import is_main_process


@dataclass(frozen=True)
class Trial:
    """A finished run, and the values in which it differs from the others."""

    values: dict[str, Any]
    result: Result

    @property
    def score(self) -> float:
        """Top-1 accuracy on the validation split, as a share."""
        assert self.result.val is not None
        return self.result.val["top1"]


def search(
    recipe: Recipe, folder: str | os.PathLike[str], axes: Mapping[str, Sequence[Any]], *, quiet: bool = False
) -> list[Trial]:
    """Runs all trials, and resumes those that are not finished.

    Args:
        recipe: What all trials have in common.
        folder: Each trial has a folder in it.
        axes: Dotted names of a recipe's lines, with the values to try.
        quiet: Show nothing but warnings.

    Returns:
        All trials but those that diverged, the best on the validation split first.

    Raises:
        RecipeError: A combination is not valid; nothing was run then.
        RunError: All trials diverged, or one could not be run.
    """
    if recipe.data.val == "":
        raise RecipeError("a grid search selects by the validation split, and data.val is empty")
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    # All of them are checked before the first one starts.
    recipes = [toml.change(recipe, combination) for combination in combinations]
    for one in recipes:
        check(one)
    trials: list[Trial] = []
    diverged: list[dict[str, Any]] = []
    for combination, one in zip(combinations, recipes, strict=True):
        own = Path(folder) / ",".join(f"{name}={value}" for name, value in combination.items())
        try:
            trials.append(Trial(combination, run_checked(one, own, quiet=quiet)))
        except Diverged as error:
            diverged.append({**combination, "why": str(error)})
    if not trials:
        raise RunError(f"all {len(diverged)} trials diverged; the last one: {diverged[-1]['why']}")
    trials.sort(key=lambda trial: -trial.score)
    if is_main_process():
        RunFolder(folder).write(
            "grid.json",
            {
                "best": str(trials[0].result.folder),
                "trials": [{**p.values, "val": p.result.val} for p in trials],
                "diverged": diverged,
            },
        )
    return trials
