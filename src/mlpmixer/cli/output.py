"""How commands read sizes, print tables and see that a file can be written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

from mlpmixer.errors import UsageError


def parse_size(text: str) -> int | tuple[int, int]:
    """`224`, or `320x192` for height × width."""
    found = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text)
    if found is None:
        raise UsageError(f"a size is a side in pixels or HEIGHTxWIDTH, such as 224 or 320x192; got '{text}'")
    return (int(found[1]), int(found[2])) if found[2] else int(found[1])


def require_writable(path: Path) -> None:
    """At the door, not after ten minutes. Its folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def page(**how: Any) -> Console:
    """Standard output. A reader that has read enough is `main`'s affair, as it is for all that is printed."""
    from rich.console import Console

    class Page(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Page(**how)


def print_table(head: list[str], rows: list[list[str]], note: str = "") -> None:
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    # What reads a pipe wants whole lines; a terminal has its own width.
    console = page(width=None if sys.stdout.isatty() else 400)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(head):
        numbers = all(row[i][:1].isdigit() or row[i] in ("", "–") for row in rows)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=numbers or i == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if note:
        console.print(note, style="dim")
