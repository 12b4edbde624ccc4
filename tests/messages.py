"""What users are told when something is wrong: whole sentences, all in one file, tests/messages.txt.

    with says(UsageError):
        create("mixer_b15")

compares the error's words with the line that the file has for this test; `says.check(text)` does the same for anything
that a command printed. After a change of words, `pytest -n 0 --update-messages` writes the file anew, and its diff
shows every sentence that changed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("messages.txt")
_written: dict[str, list[str]] = {}


class Says:
    """The sentences of one test, in the order in which they are checked."""

    def __init__(self, test: str, hidden: dict[str, str], update: bool):
        self.test, self.hidden, self.update = test, hidden, update
        self.count = 0

    @contextmanager
    def __call__(self, error: type[Exception] | tuple[type[Exception], ...]) -> Iterator[pytest.ExceptionInfo]:
        with pytest.raises(error) as found:
            yield found
        self.check(f"{type(found.value).__name__}: {found.value}")

    def check(self, text: str) -> None:
        for place, name in self.hidden.items():
            text = text.replace(place, name)
        text = re.sub(r"\s+", " ", text).strip()
        self.count += 1
        if self.update:
            _written.setdefault(self.test, []).append(text)
            return
        known = golden().get(self.test, [])
        assert self.count <= len(known), f"not in {GOLDEN.name} yet: {text}"
        assert text == known[self.count - 1]


@cache
def golden() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    test = ""
    for line in GOLDEN.read_text(encoding="utf-8").splitlines() if GOLDEN.exists() else ():
        if line.startswith("    "):
            found[test].append(line[4:])
        elif line:
            test = line
            found[test] = []
    return found


@pytest.fixture
def says(request: pytest.FixtureRequest, tmp_path: Path) -> Says:
    root = tmp_path.parent.parent if os.environ.get("PYTEST_XDIST_WORKER") else tmp_path.parent
    hidden = {str(tmp_path): "<tmp>", str(root): "<session>", tempfile.gettempdir(): "<temp>"}
    test = request.node.nodeid.split("/")[-1].encode("ascii", "backslashreplace").decode()
    return Says(test, hidden, bool(request.config.getoption("--update-messages")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-messages", action="store_true", help="write tests/messages.txt from what is said now")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--update-messages") or os.environ.get("PYTEST_XDIST_WORKER"):
        return
    merged = {**golden(), **_written}
    files = {test.partition("::")[0] for test in _written}
    collected = {item.nodeid.split("/")[-1].encode("ascii", "backslashreplace").decode() for item in session.items}
    kept = {test: lines for test, lines in merged.items() if test.partition("::")[0] not in files or test in collected}
    blocks = [f"{test}\n" + "".join(f"    {line}\n" for line in kept[test]) for test in sorted(kept)]
    GOLDEN.write_text("\n".join(blocks), encoding="utf-8")
