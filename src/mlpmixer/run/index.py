"""All runs below a folder, found again quickly: what each says of itself is kept in one SQLite file.

Only runs whose files have changed are read again, so that thousands can be listed, sorted and filtered at once. The
index is a cache: it can be deleted, and where it cannot be written, it is made anew in memory.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlpmixer.errors import RunError, UsageError, nearest
from mlpmixer.run.folder import RunFolder

FILE = ".runs.sqlite"
VERSION = 1  # of the table below
WATCHED = ("recipe.toml", "metrics.jsonl", "result.json", "diverged.json")

State = Literal["finished", "lost", "unfinished"]
FIGURES = ("test", "dev", "best", "epoch", "changed")  # columns of numbers
WORDS = ("name", "path", "state")
COMPARED = {"=": "=", "!=": "is not", "<": "<", "<=": "<=", ">": ">", ">=": ">="}  # as SQL has it

TABLE = f"""
create table if not exists runs_{VERSION} (
    path text primary key, stamp text, name text, state text, test real, dev real, best real, epoch real, changed real,
    recipe text
)
"""


@dataclass(frozen=True)
class Found:
    """A run. `test` and `dev`: shares right in the end; `best`: the best on dev so far; `changed`: seconds since 1970.
    `recipe`: its lines, such as "optim.lr"."""

    path: Path
    name: str
    state: State
    test: float | None
    dev: float | None
    best: float | None
    epoch: float | None
    changed: float
    recipe: dict[str, Any]


def runs(
    folder: str | os.PathLike[str],
    *,
    where: Sequence[str] = (),
    state: State | None = None,
    sort: str = "changed",
    limit: int | None = None,
) -> list[Found]:
    """where: lines of the recipe, such as "optim.lr=0.001" or "model.name=mixer_nano", all of which must hold; `<`,
    `<=`, `>` and `>=` compare numbers, and `!=` holds of runs without the line, too. sort: a figure, a name or a line
    of the recipe; figures fall, names rise."""
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"there is no folder {root}")
    with closing(_opened(root)) as index:
        _refresh(index, root)
        return _asked(index, root, where, state, sort, limit)


def differing(found: Sequence[Found]) -> list[str]:
    """The lines in which the recipes of these runs differ, those of the machine and about them left out."""
    lines = {line for one in found for line in one.recipe if line.split(".")[0] not in ("about", "machine", "name")}
    return sorted(line for line in lines if len({json.dumps(one.recipe.get(line)) for one in found}) > 1)


def _opened(root: Path) -> sqlite3.Connection:
    try:
        index = sqlite3.connect(root / FILE, timeout=30)
        index.execute(TABLE)
        index.execute("begin immediate")  # fails here, if it cannot be written
        index.rollback()
    except sqlite3.Error:
        index = sqlite3.connect(":memory:")
        index.execute(TABLE)
    return index


def _refresh(index: sqlite3.Connection, root: Path) -> None:
    known = dict(index.execute(f"select path, stamp from runs_{VERSION}").fetchall())
    there = {}
    for place in _folders(root):
        path, stamp = os.path.relpath(place, root), _stamp(place)
        there[path] = stamp
        if known.get(path) != stamp:
            row = _row(place)
            index.execute(f"insert or replace into runs_{VERSION} values (?,?,?,?,?,?,?,?,?,?)", (path, stamp, *row))
    index.executemany(f"delete from runs_{VERSION} where path = ?", [(path,) for path in known if path not in there])
    index.commit()


def _folders(root: Path) -> Iterator[Path]:
    """Every folder that a run was begun in. Nothing is looked for inside of one."""
    waiting = [root]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                inner = list(entries)
        except OSError:
            continue
        if any(entry.name == "recipe.toml" for entry in inner):
            yield place
            continue
        waiting += [Path(entry.path) for entry in inner if entry.is_dir(follow_symlinks=False)]


def _stamp(place: Path) -> str:
    stamps = []
    for name in WATCHED:
        try:
            status = os.stat(place / name)  # noqa: PTH116 (a Path for each of many thousand files is slow)
            stamps.append(f"{status.st_mtime_ns}-{status.st_size}")
        except OSError:
            stamps.append("")
    return " ".join(stamps)


def _row(place: Path) -> tuple[Any, ...]:
    run = RunFolder(place)
    try:
        recipe = tomllib.loads(run.recipe or "")
    except (tomllib.TOMLDecodeError, OSError):
        recipe = {}
    lines = {
        f"{table}.{line}" if isinstance(inner, dict) else table: value
        for table, inner in recipe.items()
        for line, value in (_flat(inner) if isinstance(inner, dict) else {"": inner}).items()
    }
    metrics = run.metrics()
    dev = [line["top1"] for line in metrics if line.get("kind") == "dev" and line.get("top1") is not None]
    epochs = [line["epoch"] for line in metrics if line.get("epoch") is not None]
    try:
        result = run.result()
    except RunError:
        result = None
    ends = {split: ((result or {}).get(split) or {}).get("top1") for split in ("test", "dev")}
    state: State = "finished" if result else "lost" if (place / "diverged.json").exists() else "unfinished"
    changed = max(
        ((place / name).stat().st_mtime for name in WATCHED if (place / name).exists()),
        default=0.0,
    )
    name = str(lines.get("name", place.name))
    best, epoch = max(dev, default=None), max(epochs, default=None)
    return (name, state, ends["test"], ends["dev"], best, epoch, changed, json.dumps(lines))


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{line}.{inner}" if isinstance(value, dict) else line: deep
        for line, value in table.items()
        for inner, deep in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _asked(
    index: sqlite3.Connection, root: Path, where: Sequence[str], state: State | None, sort: str, limit: int | None
) -> list[Found]:
    lines = _lines(index)
    conditions, values = ["1"], []
    for text in where:
        line, sign, value = _condition(text)
        conditions.append(f"{_column(line, lines)} {COMPARED[sign]} ?")
        values.append(value)
    if state is not None:
        conditions.append("state = ?")
        values.append(state)
    way = "desc nulls last" if sort in FIGURES else "asc nulls last"
    rows = index.execute(
        f"select path, name, state, test, dev, best, epoch, changed, recipe from runs_{VERSION} "
        f"where {' and '.join(conditions)} order by {_column(sort, lines)} {way}, path limit ?",
        (*values, -1 if limit is None else limit),
    )
    return [
        Found(root / path, name, state, test, dev, best, epoch, changed, json.loads(recipe))
        for path, name, state, test, dev, best, epoch, changed, recipe in rows
    ]


def _condition(text: str) -> tuple[str, str, float | str | int]:
    found = re.fullmatch(r"([^=!<>]+)([=!<>]+)(.*)", text)
    if found is None or found[2] not in COMPARED:
        raise UsageError(f"--where looks like optim.lr=0.001, or test>=0.9 (with {' '.join(COMPARED)}); got '{text}'")
    sign, value = found[2], _typed(found[3].strip())
    if sign[0] in "<>" and isinstance(value, str):
        raise UsageError(f"--where: {sign} compares numbers; got '{text}'")
    return found[1].strip(), sign, value


def _lines(index: sqlite3.Connection) -> list[str]:
    return [row[0] for row in index.execute(f"select distinct key from runs_{VERSION}, json_each(recipe)")]


def _column(name: str, lines: Sequence[str]) -> str:
    columns = (*FIGURES, *WORDS)
    if name in columns:
        return name
    if name not in lines:
        hint = nearest(name, (*columns, *lines))
        raise UsageError(f"runs have no line '{name}'{hint} ({', '.join(columns)}, or a recipe's, such as optim.lr)")
    quoted = name.replace("'", "''")
    return f"json_extract(recipe, '$.\"{quoted}\"')"


def _typed(text: str) -> float | str | int:
    if text in ("true", "false"):
        return int(text == "true")
    try:
        return float(text)
    except ValueError:
        return text
