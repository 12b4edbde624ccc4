"""`mixer report`: runs and studies on one page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from mlpmixer.cli.output import say, tell
from mlpmixer.errors import UsageError, nearest_path
from mlpmixer.machine.progress import progress_bar
from mlpmixer.text import to_json


def report(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
    /,
    output: Path | None = None,
    data: Annotated[str | None, tyro.conf.arg(metavar="SET")] = None,
    images: bool = False,
    json: bool = False,
) -> None:
    """Write an HTML page of finished runs and studies.

    One file without external resources.

    Args:
        folders: Run folders, and folders of `mixer reproduce`.
        output: The page; by default report.html in the first folder.
        data: Data set to evaluate on and to show, instead of those of the recipes.
        images: Open whatever data set the recipes name: a folder, a list, an address. Without it only builtin ones
            are opened, such as cifar10: an untrusted run may name any folder of yours.
        json: Print the page's path and contents as JSON.
    """
    for folder in folders:
        if not folder.exists():
            raise UsageError(f"there is no run '{folder}'{nearest_path(str(folder))}")

    from mlpmixer.report.report import report

    target = output or (folders[0] / "report.html" if folders else Path("report.html"))
    with progress_bar() as progress:
        written = report(folders, target, data=data, images=images, log=tell, progress=progress)
    if json:
        print(to_json(asdict(written), indent=1))
    else:
        say(written.page)
