"""`mixer report`: what came out, on one page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from mlpmixer.cli.output import say
from mlpmixer.text import to_json


def report(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
    /,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Write one HTML page, which needs no network, of finished runs and studies.

    Args:
        folders: Folders that `mixer train` or `mixer reproduce` has written.
        out: The page; by default report.html in the first folder.
        json: Print where the page is and what is in it, as JSON.
    """
    from mlpmixer.report.report import report

    written = report(folders, out or (folders[0] / "report.html" if folders else Path("report.html")))
    if json:
        print(to_json(asdict(written), indent=1))
    else:
        say(written.page)
