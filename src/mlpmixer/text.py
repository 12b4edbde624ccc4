"""Names from outside, made harmless or refused: what a file, a class or a server is called may hold anything."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

MOST_LETTERS = 1_000  # of a class's name


def printable(text: object, most: int = 0) -> str:
    r"""`text` in one line that no terminal acts on: control, direction and line-breaking characters, and bytes that are
    no text, are written out, as in `\x1b`, `\n`, `\u202e` or `\udce9`.

    Args:
        text: Anything; `str()` of it is taken.
        most: Characters at most, the last then an ellipsis; 0: however many there are.
    """
    line = str(text)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return line if not most or len(line) <= most else line[: most - 1] + "…"


def first_line(error: object, most: int = 200) -> str:
    """The first line of an error, or of anything else, as `printable`; an error without words gives its kind."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0], most)


def listed(items: Sequence[object], most: int, separator: str = ", ") -> str:
    """The first `most` items as `printable`, and how many others there are: "a, b and 3 more"."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return separator.join(map(printable, items[:most])) + more


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON with the letters of all languages as they are, and nothing that a terminal acts on. What is no number is
    null, since JSON has no word for it; what JSON does not know becomes its `str()`."""
    text = json.dumps(_without_nan(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    return re.sub(r"[^\n]+", lambda line: line[0] if line[0].isprintable() else _escaped(line[0]), text)


def _escaped(line: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fault(classes: Sequence[object]) -> str | None:
    """What is wrong with these names of classes, as words to stand behind what has them; None: nothing."""
    met = set()
    for name in classes:
        if not isinstance(name, str) or not name.strip():
            return "has a class without a name"
        if len(name) > MOST_LETTERS:
            return f"has a class whose name has {len(name):,} letters, and {MOST_LETTERS:,} is the most"
        if not name.isprintable():
            return f"has the class '{printable(name, 80)}', whose name cannot be printed"
        if name in met:
            return f"has the class '{name}' twice"
        met.add(name)
    return None
