"""Helpers of commands: choices, sizes, lines, tables, and whether a file can be written."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tyro.constructors import PrimitiveConstructorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

from mlpmixer.errors import UsageError
from mlpmixer.text import printable


def one_of(names: Iterable[str]) -> Any:
    """An option's values, as they are when the command line is parsed: `Annotated[str, one_of(("auto", *ENGINES))]`."""
    names = tuple(names)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(names)}}}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda given: given in names,
        str_from_instance=lambda name: [name],
        choices=names,
    )


def parse_size(text: str) -> int | tuple[int, int]:
    """`224`, or `320x192` for height × width."""
    found = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text)
    if found is None:
        raise UsageError(f"a size is a side in pixels or HEIGHTxWIDTH, such as 224 or 320x192; got '{text}'")
    return (int(found[1]), int(found[2])) if found[2] else int(found[1])


def require_writable(path: Path) -> None:
    """Checked before the work, not after ten minutes of it. Its folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def say(line: object) -> None:
    """A line on standard output, in which names are harmless."""
    print(printable(line))


def tell(line: object, wrapped: bool = False) -> None:
    """A line on standard error, in which names are harmless; on a terminal an error says where its help is.

    wrapped: On a terminal, between words.
    """
    text = f"mixer: {printable(line)}"
    if sys.stderr.isatty():
        topic = getattr(line, "topic", "")
        text += topic and f" [docs/troubleshooting.md#{topic}]"
        if wrapped:
            width = shutil.get_terminal_size().columns
            text = textwrap.fill(text, width, subsequent_indent=" " * 7, break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)


def page(**how: Any) -> Console:
    """A console on standard output; a closed pipe is left to `main`, as it is for all that is printed."""
    from rich.console import Console

    class Page(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Page(**how)


def print_lines(groups: Mapping[str, Sequence[Sequence[str]]], note: str = "") -> None:
    """Rows in groups, each under its title and a line long: on a terminal, the last cell ends where the line does."""
    from rich.text import Text

    console = page(width=None if sys.stdout.isatty() else 400)
    for title, rows in groups.items():
        console.print(Text(title), style="bold")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  ".join(f"{printable(cell):{width}}" for cell, width in zip(row, widths, strict=True))
            console.print(Text(line.rstrip()), no_wrap=True, overflow="ellipsis", highlight=False)
        console.print()
    for line in note.splitlines():
        console.print(Text(printable(line)), style="dim")


def print_table(head: list[str], rows: list[list[str]], note: str = "") -> None:
    """Cells may be names from outside: they are shown as they are, not as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # What reads a pipe wants whole lines; a terminal has its own width.
    console = page(width=None if sys.stdout.isatty() else 400)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(head):
        numbers = all(row[i][:1].isdigit() or row[i] in ("", "–") for row in rows)
        # Where a terminal is too narrow words are folded, but a number never loses its end.
        widest = max(map(len, (name, *(row[i] for row in rows)))) if numbers else None
        table.add_column(
            Text(printable(name)),
            justify="right" if numbers else "left",
            no_wrap=numbers,
            overflow="fold",
            min_width=widest,
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    for line in note.splitlines():
        console.print(Text(printable(line)), style="dim")
