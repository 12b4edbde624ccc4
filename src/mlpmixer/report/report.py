"""`report`: an HTML page of runs and studies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlpmixer.draw import page
from mlpmixer.draw.page import Section
from mlpmixer.errors import RunError, UsageError
from mlpmixer.experiments.study import record_name
from mlpmixer.report.compare import comparison, overlay
from mlpmixer.report.figures import Progress, no_progress
from mlpmixer.report.run_section import DAMAGED, Opens, run_sections
from mlpmixer.report.study_section import study_section
from mlpmixer.run import index
from mlpmixer.run.folder import RunFolder


@dataclass(frozen=True)
class Written:
    """What was written. `parts`: titles of sections, in their order."""

    page: Path
    runs: tuple[Path, ...]
    studies: tuple[Path, ...]
    parts: tuple[str, ...]


def report(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    images: bool = False,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = no_progress,
) -> Written:
    """Writes a page of finished runs and studies; runs without an evaluation card are evaluated first.

    Args:
        folders: of runs and studies.
        out: the page.
        data: the images to evaluate on and to show, instead of those of the recipes.
        images: opens whatever data set recipes name; otherwise only builtin ones, such as cifar10, since the recipe of
            an untrusted run may name any folder or address.
        log: is called with a line for each data set that is opened, or not.
        progress: as for `mlpmixer.evaluate`.

    Raises:
        UsageError: without folders.
        RunError: if a folder holds no finished run or study, or the page cannot be written.
    """
    if not folders:
        raise UsageError("no runs given; name their folders: mixer report runs/mine")
    places = [Path(folder) for folder in folders]
    studies = {place: _studies(place) for place in places}
    runs = [place for place in places if not studies[place]]
    for place in runs:
        if RunFolder(place).recipe is None:
            raise RunError(f"there is no run and no study in {place}; name a folder that `mixer train` has written")
        if RunFolder(place).result() is None:
            raise RunError(f"the run in {place} is not finished; the command that started it resumes it")
    counted = {"run": len(runs), "study": len(places) - len(runs)}
    plural = {"run": "runs", "study": "studies"}
    several = " and ".join(f"{n} {plural[kind] if n > 1 else kind}" for kind, n in counted.items() if n)
    title = places[0].absolute().name if len(places) == 1 else several
    sections, opens = [], Opens(None if data is None else os.fspath(data), images, log, progress)
    if len(runs) > 1:
        sections.append(_side_by_side(runs))
    for place, records in studies.items():
        for path, record in records.items():
            try:
                sections.append(study_section(record, place))
            except DAMAGED as error:
                raise _damaged(path) from error
        if not records:
            trained, parts = run_sections(place, prefix=f"{place.name}: " if len(places) > 1 else "", opens=opens)
            sections += parts
            title = trained if len(places) == 1 else title
    target = Path(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror}; name another place with --output") from error
    RunFolder(target.parent).write(target.name, page.page(title, [], sections))
    done = tuple(place for place in places if studies[place])
    return Written(target, tuple(runs), done, tuple(section.title for section in sections))


def _studies(place: Path) -> dict[Path, dict[str, Any]]:
    found = {}
    for path in sorted(place.glob(record_name("*"))):
        try:
            found[path] = RunFolder(place).json(path.name)
        except RunError as error:
            raise _damaged(path) from error
    return {path: record for path, record in found.items() if record is not None}


def _damaged(path: Path) -> RunError:
    return RunError(f"{path} is damaged; `mixer reproduce` writes it again")


def _side_by_side(places: Sequence[Path]) -> Section:
    found = [index.read(place) for place in places]
    root = Path(os.path.commonpath([place.absolute() for place in places]))
    named = [index.RunSummary(**{**vars(one), "path": one.path.absolute()}) for one in found]
    head, rows = comparison(named, root)
    drawing = overlay([one.path for one in found], [one.path.name for one in found])
    return Section("Comparison", page.table(head, rows) + (page.drawing(drawing, "Curves") if drawing else ""))
