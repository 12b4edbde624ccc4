"""Names from outside, made harmless: what a file, a class or a server is called may hold anything."""

from __future__ import annotations


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
