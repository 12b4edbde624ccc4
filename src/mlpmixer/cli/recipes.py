"""`mixer recipes`: the recipes, or one of them as a file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import tyro

from mlpmixer.cli.output import print_lines
from mlpmixer.text import to_json

# Titles of the list, and how the hardware begins of those below them.
GROUPS = {
    "On a laptop (2 cores, minutes to hours)": ("2 cores", "meant for 2 cores"),
    "On a GPU": ("meant for a GPU",),
    "The paper's pre-training (8 GPUs)": ("meant for 8 GPUs",),
}


def recipes(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
    /,
    json: bool = False,
) -> None:
    """List the recipes, or print one as a file.

    To change and train it: `mixer recipes NAME > my.toml`, then `mixer train my.toml`.

    Args:
        name: Only this recipe, as TOML with the help of each line.
        json: Print JSON.
    """
    from mlpmixer.recipes import RECIPES, find, toml

    if name is not None:
        recipe = find(name)
        print(to_json(asdict(recipe), indent=2) if json else toml.dumps(recipe, explain=True).removesuffix("\n"))
        return
    found = [find(name) for name in RECIPES]
    rows = [{"name": recipe.name, **asdict(recipe.about)} for recipe in found]
    if json:
        print(to_json(rows, indent=2))
        return
    print_lines(
        {
            title: [[row["name"], row["description"]] for row in rows if row["hardware"].startswith(begins)]
            for title, begins in GROUPS.items()
        },
        note="`mixer recipes NAME` prints one in full: hardware, expected result, the command that runs it.",
    )
