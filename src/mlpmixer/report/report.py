"""`report`: runs and studies as one HTML page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlpmixer.errors import RunError, UsageError
from mlpmixer.experiments.study import record_name
from mlpmixer.report import page
from mlpmixer.report.compare import comparison, overlay
from mlpmixer.report.page import Section
from mlpmixer.report.run_section import run_sections
from mlpmixer.report.study_section import study_section
from mlpmixer.run import index
from mlpmixer.run.folder import RunFolder


@dataclass(frozen=True)
class Written:
    """`parts`: titles, in their order."""

    page: Path
    runs: tuple[Path, ...]
    studies: tuple[Path, ...]
    parts: tuple[str, ...]


def report(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Written:
    """Each of `folders` is a finished run, or a study's folder. What was not measured yet is measured now."""
    if not folders:
        raise UsageError("which runs? name their folders: mixer report runs/mine")
    places = [Path(folder) for folder in folders]
    studies = {place: _studies(place) for place in places}
    runs = [place for place in places if not studies[place]]
    for place in runs:
        if RunFolder(place).recipe is None:
            raise RunError(f"there is no run and no study in {place}; name a folder that `mixer train` has written")
        if RunFolder(place).result() is None:
            raise RunError(f"the run in {place} is not finished; the command that began it goes on with it")
    sections = []
    if len(runs) > 1:
        sections.append(_side_by_side(runs))
    for place, records in studies.items():
        sections += [study_section(record, place) for record in records]
        if not records:
            sections += run_sections(place, prefix=f"{place.name}: " if len(places) > 1 else "")
    title = places[0].absolute().name if len(places) == 1 else f"{len(places)} runs"
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    RunFolder(target.parent).write(target.name, page.page(title, [], sections))
    done = tuple(place for place in places if studies[place])
    return Written(target, tuple(runs), done, tuple(section.title for section in sections))


def _studies(place: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(place.glob(record_name("*"))):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RunError(f"{path} is damaged; `mixer reproduce` writes it again") from error
    return found


def _side_by_side(places: Sequence[Path]) -> Section:
    found = [one for place in places for one in index.runs(place)]
    root = Path(os.path.commonpath([place.absolute() for place in places]))
    named = [index.Found(**{**vars(one), "path": one.path.absolute()}) for one in found]
    head, rows = comparison(named, root)
    drawing = overlay([one.path for one in found], [one.path.name for one in found])
    return Section("Side by side", page.table(head, rows) + (page.drawing(drawing, "Curves") if drawing else ""))
