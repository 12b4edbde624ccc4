"""`mixer report`: what came out, on one page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from mlpmixer.cli.output import say, tell
from mlpmixer.text import to_json


def report(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
    /,
    out: Path | None = None,
    data: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None,
    images: bool = False,
    json: bool = False,
) -> None:
    """Write one HTML page, which needs no network, of finished runs and studies.

    Args:
        folders: Folders that `mixer train` or `mixer reproduce` has written.
        out: The page; by default report.html in the first folder.
        data: Show and measure on these images, instead of those that the recipes name.
        images: Open whatever data set the recipes name: a folder, a list, an address. Without it only sets that have
            a name here are opened, such as cifar10: the run of a stranger may name any folder of yours.
        json: Print where the page is and what is in it, as JSON.
    """
    from mlpmixer.report.report import report

    target = out or (folders[0] / "report.html" if folders else Path("report.html"))
    written = report(folders, target, data=data, images=images, say=tell)
    if json:
        print(to_json(asdict(written), indent=1))
    else:
        say(written.page)
