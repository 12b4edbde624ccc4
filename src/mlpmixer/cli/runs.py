"""`mixer runs`: list the runs below a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mlpmixer.cli.output import print_table, require_writable, say
from mlpmixer.text import to_json


def runs(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs"),
    /,
    where: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    state: Literal["finished", "unfinished", "diverged", "unreadable"] | None = None,
    sort: str = "changed",
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    curves: Path | None = None,
    json: bool = False,
) -> None:
    """List the runs below a folder, with what differs in them.

    Args:
        folder: Where to look for them.
        where: Only runs that match: optim.lr=0.001, model.name!=mixer_nano, test>=0.9; may be repeated.
        state: Only runs that are finished, that can be resumed, that have diverged, or whose files cannot be read.
        sort: Sort by test, val, best, epoch or changed, highest first; by name, or by a line of the recipe.
        limit: List so many at most, 1 or more.
        curves: Plot their accuracy by epoch into this .svg file.
        json: Print JSON, with whole recipes.
    """
    from mlpmixer.draw.svg import document
    from mlpmixer.report.compare import comparison, overlay
    from mlpmixer.run import index

    if curves is not None:
        require_writable(curves)
    found = index.runs(folder, where=where, state=state, sort=sort, limit=limit)
    if json:
        print(to_json([asdict(one) for one in found], indent=1))
    elif found:
        print_table(*comparison(found, folder))
    else:
        say(f"no such runs below {folder}")
    if curves is not None:
        drawing = overlay([one.path for one in found], [str(one.path.relative_to(folder)) for one in found])
        if drawing is not None:
            curves.write_text(document(drawing, f"Runs below {folder}"), encoding="utf-8")
