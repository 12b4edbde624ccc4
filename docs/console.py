"""Pages whose code runs: every ```console and ```python block of a page, in order, in one folder.

A console block is commands after `$ ` with what they print. `...` on a line of its own stands for any lines. Figures
are not compared, since they differ from machine to machine. `python docs/console.py PAGE FOLDER` runs a page in a
folder, writes into the page what its commands print there, and tells their seconds on standard error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = re.compile(r"(?ms)^```(console|python)\n(.*?)^```$")
FULL = 12  # lines of an output that are written into a page; of more, the first and the last


@dataclass
class Step:
    """A command, or a block of Python, with the lines that it is to print."""

    command: str
    expected: list[str] = field(default_factory=list)
    python: bool = False


def steps(page: str) -> list[Step]:
    """All that a page runs, in order."""
    found: list[Step] = []
    for kind, text in BLOCK.findall(page):
        if kind == "python":
            found.append(Step(text, python=True))
            continue
        for line in text.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            elif found[-1].command.endswith("\\") and not found[-1].expected:
                found[-1].command += f"\n{line}"
            else:
                found[-1].expected.append(line)
    return found


def run(step: Step, folder: Path) -> list[str]:
    """What a step prints, in a terminal's 80 columns.

    Raises:
        RuntimeError: It ends with another exit code than 0.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-"] if step.python else ["bash", "-c", step.command]
    ran = subprocess.run(
        command,
        input=step.command if step.python else "",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "80"},
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{step.command}\n{ran.stdout}")
    text = re.sub(r"(?m)^.*\r(?!\n)", "", ran.stdout).replace(str(folder) + os.sep, "")
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def masked(line: str, words: Sequence[str] = ()) -> str:
    """A line without what differs between machines: figures, the engine, and `words` such as names of classes."""
    for word in sorted(words, key=len, reverse=True):
        line = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "W", line)
    line = re.sub(r"[-−+]?\d[\d,.:]*(e[-+]?\d+)?", "0", line)
    line = re.sub(r"^mixer: \w+, \w+ \(.*\)$", "mixer: ENGINE", line)
    line = re.sub(r"\(of the 0 images that are not tied\)", "", line)
    line = re.sub(r"[\s─━]+", " ", line).strip()
    return re.sub(r"^(\S+)( (W|0%?|–))+$", r"\1", line)  # of a row of a table, its name


def differences(expected: list[str], found: list[str], words: Sequence[str] = ()) -> list[str]:
    """The expected lines that do not appear, in order, and lines that appear unexpectedly."""
    wanted, rest = ([masked(line, [*words]) for line in lines if line.strip()] for lines in (expected, found))
    free = False
    for line in wanted:
        if line == "...":
            free = True
        elif free and line in rest:
            rest, free = rest[rest.index(line) + 1 :], False
        elif not free and rest and rest[0] == line:
            rest = rest[1:]
        else:
            return [f"expected: {line}", f"but found: {rest[0] if rest else 'nothing'}"]
    return [] if free or not rest else [f"unexpected: {rest[0]}"]


def recorded(page: str, printed: Callable[[Step], list[str]]) -> str:
    """The page with what its commands print here; of a long output, the lines that it showed before remain."""

    def block(found: re.Match[str]) -> str:
        if found[1] == "python":
            printed(Step(found[2], python=True))
            return found[0]
        lines = []
        for step in steps(found[0]):
            lines += [f"$ {step.command}", *_shortened(printed(step))]
        return "```console\n" + "\n".join(lines) + "\n```"

    return BLOCK.sub(block, page)


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= 2 * FULL else [*lines[:FULL], "...", *lines[-FULL:]]


def main(path: Path, folder: Path) -> None:
    seconds: list[tuple[str, float]] = []

    def printed(step: Step) -> list[str]:
        start = time.perf_counter()
        lines = run(step, folder)
        seconds.append(("python" if step.python else step.command, time.perf_counter() - start))
        return lines

    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(recorded(path.read_text(encoding="utf-8"), printed), encoding="utf-8")
    for command, took in seconds:
        print(f"| `{command}` | {took:.1f} |", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
