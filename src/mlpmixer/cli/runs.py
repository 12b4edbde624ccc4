"""`mixer runs`: what was trained below this folder, and what came of it?"""

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
    state: Literal["finished", "unfinished", "lost", "unreadable"] | None = None,
    sort: str = "changed",
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    curves: Path | None = None,
    json: bool = False,
) -> None:
    """List the runs below a folder, with the lines in which their recipes differ.

    Args:
        folder: Where to look for them.
        where: Only those of which this holds: optim.lr=0.001, model.name!=mixer_nano, test>=0.9; may be given again.
        state: Only those that are finished, that can go on, that lost their loss, or whose files are not
            what a run writes.
        sort: By test, val, best, epoch or changed, highest first; by name, or by a line of the recipe.
        limit: At most so many, at least 1.
        curves: Draw their accuracy by epoch, over each other, into this .svg file.
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
