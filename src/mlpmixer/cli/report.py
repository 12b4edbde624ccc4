"""`mixer report`: what came out, on one page."""

from __future__ import annotations

import json as as_json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro


def report(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
    /,
    out: Path | None = None,
    data: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None,
    pictures: bool = False,
    json: bool = False,
) -> None:
    """Write one HTML page, which needs no network, of finished runs and studies.

    Args:
        folders: Folders that `mixer train` or `mixer reproduce` has written.
        out: The page; by default report.html in the first folder.
        data: Show and measure on these pictures, instead of those that the recipes name.
        pictures: Open whatever data set the recipes name: a folder, a list, an address. Without it only sets that have
            a name here are opened, such as cifar10: the run of a stranger may name any folder of yours.
        json: Print where the page is and what is in it, as JSON.
    """
    from mlpmixer.report.report import report

    target = out or (folders[0] / "report.html" if folders else Path("report.html"))
    written = report(
        folders, target, data=data, pictures=pictures, say=lambda line: print(f"mixer: {line}", file=sys.stderr)
    )
    if json:
        print(as_json.dumps(asdict(written), indent=1, default=str))
    else:
        print(written.page)
