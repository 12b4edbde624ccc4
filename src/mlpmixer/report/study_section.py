"""A study as a part of a page: its table, the paper's claims and whether they hold here, learning curves."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mlpmixer.draw import page
from mlpmixer.draw.chart import LOOKS, Series, line_chart
from mlpmixer.draw.page import Section

HOLDS = {True: "holds", False: "does not hold", None: "cannot be decided"}


def study_section(record: dict[str, Any], folder: Path) -> Section:
    machine = record["machine"]
    parts = [
        page.words(f"{record['what']} {record['where']}; scale: {record['scale']}.", "soft"),
        page.table(record["columns"], record["rows"]),
    ]
    if record["claims"]:
        rows = [[one["statement"], HOLDS[one["holds"]], one["evidence"]] for one in record["claims"]]
        parts.append(page.table(["claim", "here it", "evidence"], rows))
    if record["paper"]:
        parts.append(page.words(f"The paper: {record['paper']}"))
    lines = [
        Series(name, [(epoch, 100 * top1) for epoch, top1 in points])
        for name, points in record["curves"].items()
        if len(points) > 1
    ]
    # As many charts as there are sets of line styles.
    for start in range(0, len(lines), len(LOOKS)):
        chart = line_chart("Validation accuracy (%)", lines[start : start + len(LOOKS)], x_label="epoch", height=280)
        parts.append(page.drawing(chart, record["study"]))
    flags = ["--scale", record["scale"], "--folder", str(folder), *record.get("flags", ())]
    parts.append(page.commands([shlex.join(("mixer", "reproduce", record["study"], *flags))]))
    parts.append(
        page.words(f"{machine['processor']}; torch {machine['torch']}, mlpmixer {machine['mlpmixer']}", "soft")
    )
    return Section(f"Study: {record['study']}, {record['scale']}", "".join(parts))
