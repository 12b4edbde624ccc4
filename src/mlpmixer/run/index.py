"""Index of the runs below a folder, cached in the user's cache folder so that thousands are listed at once.

Only runs whose files have changed are read again. The cache may be deleted at any moment; where it cannot be read or
written, all runs are read. It lies apart from the runs, which may come from an untrusted source: in a folder that only
the user can open, under a digest of where the runs are. It is used only if folder and file belong to the user and
nobody else can write to them; and then only what has the form of a row.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, Literal, get_args

from mlpmixer import files
from mlpmixer.errors import RunError, UsageError, nearest
from mlpmixer.files import cache_folder
from mlpmixer.recipe import tables
from mlpmixer.run.folder import RunFolder, by_epoch, is_figure, is_share
from mlpmixer.text import printable

VERSION = 3  # of the rows
WATCHED = ("recipe.toml", "metrics.jsonl", "result.json", "diverged.json")

State = Literal["finished", "diverged", "unfinished", "unreadable"]
FIGURES = ("test", "val", "best", "epoch", "changed")
WORDS = ("name", "path", "state")
COMPARED: dict[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


@dataclass(frozen=True)
class RunSummary:
    """A run in the index.

    Attributes:
        test: Final top-1 accuracy on the test split, as a share; `val`: on the validation split.
        best: The best top-1 accuracy on the validation split so far.
        changed: The last change of its files, in seconds since 1970.
        recipe: Lines of its recipe by dotted name, such as "optim.lr".
        why: Why it cannot be read, in a line.
    """

    path: Path
    name: str
    state: State
    test: float | None
    val: float | None
    best: float | None
    epoch: float | None
    changed: float
    recipe: dict[str, Any]
    why: str = ""


def runs(
    folder: str | os.PathLike[str],
    *,
    where: Sequence[str] = (),
    state: State | None = None,
    sort: str = "changed",
    limit: int | None = None,
) -> list[RunSummary]:
    """The runs below a folder.

    Args:
        folder: Where to look for them.
        where: Conditions on lines of the recipe, such as "optim.lr=0.001" or "model.name=mixer_nano", all of which
            must hold; `<`, `<=`, `>` and `>=` compare numbers, and `!=` also holds for runs without the line.
        state: Only those in this state.
        sort: A figure, a name or a line of the recipe; figures in falling order, others in rising order.
        limit: How many at most.

    Raises:
        RunError: There is no such folder.
        UsageError: A condition or a name is not valid.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is how many runs to list, at least 1; got {limit}")
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"there is no folder {root}")
    found = _refreshed(root)
    lines = {line for one in found for line in one.recipe}
    for text in where:
        line, sign, value = _condition(text)
        _require(line, lines)
        found = [one for one in found if _holds(_value(one, line, root), sign, value)]
    found = [one for one in found if state in (None, one.state)]
    _require(sort, lines)
    found.sort(key=lambda one: os.fsencode(one.path))
    found.sort(key=lambda one: _rank(_value(one, sort, root), falls=sort in FIGURES))
    return found[:limit]


def differing(found: Sequence[RunSummary]) -> list[str]:
    """The lines in which the recipes of these runs differ, but for [machine] and [about]."""
    lines = {line for one in found for line in one.recipe if line.split(".")[0] not in ("about", "machine", "name")}
    return sorted(line for line in lines if len({json.dumps(one.recipe.get(line)) for one in found}) > 1)


def _refreshed(root: Path) -> list[RunSummary]:
    """All runs; those that have changed are read again."""
    kept = _Cache(root)
    known, found, rows = kept.rows(), [], {}
    for place in _folders(root):
        path, stamp = os.path.relpath(place, root), _stamp(place)
        one = _from_row(root / path, known.get(path), stamp) or read(root / path)
        found.append(one)
        if one.state != "unreadable":
            rows[path] = {**asdict(one), "path": path, "stamp": stamp}
    if rows != known:
        kept.keep(rows)
    return found


def _folders(root: Path) -> Iterator[Path]:
    """Every run folder; the search does not go into one."""
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
            status = os.stat(place / name, follow_symlinks=False)  # noqa: PTH116 (a Path for each of thousands is slow)
            stamps.append(f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}")
        except OSError:
            stamps.append("")
    return " ".join(stamps)


def read(place: Path) -> RunSummary:
    """A run as its files describe it; or that they cannot be read, and why."""
    changed = 0.0
    for name in WATCHED:
        try:
            changed = max(changed, os.stat(place / name, follow_symlinks=False).st_mtime)  # noqa: PTH116
        except OSError:  # it has not come to that yet
            continue
    run = RunFolder(place)
    try:
        lines = _lines(place, run.recipe or "")
        metrics, result = run.metrics(), run.result()
    except RunError as error:
        why = str(error).removeprefix(f"{place}{os.sep}")
        return RunSummary(place, place.name, "unreadable", None, None, None, None, changed, {}, why)
    best = max((top1 for _, top1 in by_epoch(metrics, "val", "top1") if is_share(top1)), default=None)
    epoch = max((line["epoch"] for line in metrics if "epoch" in line), default=None)
    ends = {split: ((result or {}).get(split) or {}).get("top1") for split in ("test", "val")}
    state: State = "finished" if result else "diverged" if (place / "diverged.json").exists() else "unfinished"
    name = str(lines.get("name", place.name))
    return RunSummary(place, name, state, ends["test"], ends["val"], best, epoch, changed, lines)


def _lines(place: Path, text: str) -> dict[str, Any]:
    """A recipe's lines by dotted names, whatever it holds: texts, true and false, figures, and lists of such."""
    try:
        return _flat(tables(text))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{place / 'recipe.toml'} cannot be read: {printable(error, 80)}") from error


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    if above.count(".") > 2:
        raise ValueError("it has tables in tables in tables")
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, bool) or is_figure(value) else str(value)


class _Cache:
    """The rows of the runs below a folder, by their paths in it."""

    def __init__(self, root: Path):
        self.file = cache_folder() / "runs" / _digest(os.fsencode(root.resolve()))

    def rows(self) -> dict[str, Any]:
        try:
            files.require_ours(self.file.parent)
            files.require_ours(self.file)
            digest, _, text = files.read_text(self.file, files.MOST, follow=False).partition("\n")
            found = json.loads(text) if digest == _digest(text.encode()) else None
        except (OSError, ValueError, RecursionError):
            return {}
        rows = found.get("runs") if isinstance(found, dict) and found.get("version") == VERSION else None
        return rows if isinstance(rows, dict) else {}

    def keep(self, rows: Mapping[str, Any]) -> None:
        """If it can be; where not, there is no harm."""
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.require_ours(self.file.parent)
            text = json.dumps({"version": VERSION, "runs": rows})
            RunFolder(self.file.parent).write(self.file.name, f"{_digest(text.encode())}\n{text}")
        except (OSError, RunError):
            return


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _from_row(path: Path, row: Any, stamp: str) -> RunSummary | None:
    """A run as it was kept; None if it has changed since, or the row is not whole."""
    if not isinstance(row, dict) or row.get("stamp") != stamp or {*row} != {"stamp", *NAMES}:
        return None
    sound = (
        all(isinstance(row[name], str) for name in ("name", "why"))
        and row["state"] in get_args(State)
        and all(row[name] is None or is_figure(row[name]) for name in FIGURES)
        and is_figure(row["changed"])
        and isinstance(row["recipe"], dict)
        and all(isinstance(value, str | bool | list) or is_figure(value) for value in row["recipe"].values())
    )
    return RunSummary(path, *(row[name] for name in NAMES[1:])) if sound else None


NAMES = tuple(field.name for field in fields(RunSummary))


def _condition(text: str) -> tuple[str, str, float | str]:
    found = re.fullmatch(r"([^=!<>]+)([=!<>]+)(.*)", text)
    if found is None or found[2] not in ("=", "!=", *COMPARED):
        signs = " ".join(("=", "!=", *COMPARED))
        raise UsageError(f"--where looks like optim.lr=0.001, or test>=0.9 (with {signs}); got '{text}'")
    sign, value = found[2], _typed(found[3].strip())
    if sign[0] in "<>" and isinstance(value, str):
        raise UsageError(f"--where: {sign} compares numbers; got '{text}'")
    return found[1].strip(), sign, value


def _require(name: str, lines: set[str]) -> None:
    columns = (*FIGURES, *WORDS)
    if name not in columns and name not in lines:
        hint = nearest(name, (*columns, *lines))
        raise UsageError(f"runs have no line '{name}'{hint} ({', '.join(columns)}, or a recipe's, such as optim.lr)")


def _value(one: RunSummary, name: str, root: Path) -> float | str | None:
    if name == "path":
        return os.path.relpath(one.path, root)
    value = getattr(one, name) if name in (*FIGURES, *WORDS) else one.recipe.get(name)
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | dict) else value


def _holds(value: float | str | None, sign: str, wanted: float | str) -> bool:
    if sign in COMPARED:
        return isinstance(value, int | float) and COMPARED[sign](value, wanted)
    return (value == wanted) == (sign == "=")


def _rank(value: float | str | None, *, falls: bool) -> tuple[int, float, str]:
    """Numbers before texts before nothing."""
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, str):
        return 1, 0.0, value
    return 0, -value if falls else value, ""


def _typed(text: str) -> float | str:
    if text in ("true", "false"):
        return text == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
