"""Draws docs/answers.svg and docs/scaling.svg from the tables that were measured: `python benchmarks/charts.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mlpmixer.bench.bars import speedup_bars
from mlpmixer.bench.curves import curves
from mlpmixer.bench.inference import Speedup
from mlpmixer.bench.scaling import Growth, Point

DOCS = Path(__file__).parents[1] / "docs"
TABLES = next(path for path in (DOCS / "log" / "benchmarks.md", DOCS / "benchmarks.md") if path.exists())


def section(text: str, title: str) -> str:
    """From a heading to the next one."""
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_table(text: str) -> list[list[str]]:
    lines = [*map(str.strip, text.splitlines())]
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def machine(text: str) -> str:
    found = re.search(r"AMD EPYC \(Zen 4\), 2 cores, \d{4}-\d\d-\d\d", text)
    assert found is not None
    return found[0]


def inference(text: str) -> str:
    """Each row has the ratio to the fastest alternative, which is the largest number among theirs."""
    part = section(text, "Inference")
    head, *rows = first_table(part)
    begin, end = head.index("timm"), next(n for n, name in enumerate(head) if name.startswith("times the best"))
    speedups = []
    for row in rows:
        theirs = {name: float(cell) for name, cell in zip(head[begin:end], row[begin:end], strict=True) if cell}
        ratio, first, third = (float(number) for number in re.findall(r"\d+\.\d+", row[end]))
        model, batch = row[0].split(", ")
        other = max(theirs, key=lambda name: theirs[name]).removeprefix("timm → ")
        speedups.append(Speedup(model, row[1], int(batch), "kernels", other, ratio, (first, third)))
    return speedup_bars(speedups, machine(part))


def scaling(text: str) -> str:
    part = section(text, "Growth with the number of patches, and with the batch")
    head, *rows = first_table(part)
    points, growths = [], []
    for row in rows:
        model, engine = row[0].split(", ")
        for title, cell in zip(head[1:-2], row[1:-2], strict=True):
            side, patches = map(int, re.findall(r"\d+", title))
            speed = 1000 / float(cell.replace(",", ""))
            points.append(Point(model, engine, "bf16", side, patches, 1, 0.0, speed, 0.0, ()))
        growths.append(Growth(model, engine, 400, float(row[-2]), float(row[-1]), 0.0))
    return curves(points, growths, f"{machine(part)}; bf16; powers from 400 patches on")


CHARTS = {"answers.svg": inference, "scaling.svg": scaling}

if __name__ == "__main__":
    content = Path(sys.argv[1] if len(sys.argv) > 1 else TABLES).read_text(encoding="utf-8")
    for name, draw in CHARTS.items():
        (DOCS / name).write_text(draw(content), encoding="utf-8")
