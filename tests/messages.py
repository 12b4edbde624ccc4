"""What users are told when something is wrong: whole sentences, all in one file, tests/messages.txt.

    with says(UsageError):
        create("mixer_b15")

finds the error's words among the lines that the file has for this test; `says.check(text)` does the same for anything
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

from mlpmixer.weights.adapters import adapters

GOLDEN = Path(__file__).with_name("messages.txt")
REPOSITORY = Path(__file__).parents[1]
_written: dict[str, set[str]] = {}


class Says:
    """The sentences of one test, whatever its parameters are."""

    def __init__(self, test: str, hidden: dict[str, str], update: bool):
        self.test, self.hidden, self.update = test, hidden, update

    @contextmanager
    def __call__(self, error: type[Exception] | tuple[type[Exception], ...]) -> Iterator[pytest.ExceptionInfo]:
        with pytest.raises(error) as found:
            yield found
        self.check(f"{type(found.value).__name__}: {found.value}")

    def check(self, text: str) -> None:
        for place, name in self.hidden.items():
            text = text.replace(place, name)
        text = re.sub(r"<session>/\w+", "<session>", text)
        text = re.sub(r"[0-9a-f]{8,}", "<hex>", re.sub(r"127\.0\.0\.1:\d+", "<server>", text))
        text = re.sub(families(), "<families>", re.sub(r"\s+", " ", text)).strip()
        if self.update:
            _written.setdefault(self.test, set()).add(text)
        else:
            assert text in golden().get(self.test, ()), f"not in {GOLDEN.name}: {text}"


@cache
def families() -> str:
    """All that others have a layout of, listed: another one should change no message here."""
    *some, last = [one.title for one, adapter in adapters() if adapter.layouts]
    return f"{', '.join(some)} (and|or) {last}"


@cache
def golden() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    test = ""
    for line in GOLDEN.read_text(encoding="utf-8").splitlines() if GOLDEN.exists() else ():
        if line.startswith("    "):
            found[test].add(line[4:])
        elif line:
            test = line
            found[test] = set()
    return found


@pytest.fixture
def says(request: pytest.FixtureRequest, tmp_path: Path) -> Says:
    hidden = {
        str(tmp_path): "<tmp>",
        str(tmp_path.parent): "<session>",
        tempfile.gettempdir(): "<temp>",
        str(REPOSITORY): "<repo>",
    }
    return Says(_name(request.node), hidden, bool(request.config.getoption("--update-messages")))


def _name(item: pytest.Item) -> str:
    """FILE::CLASS::TEST, without parameters."""
    return item.nodeid.partition("[")[0].rpartition("/")[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-messages", action="store_true", help="write tests/messages.txt from what is said now")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only tests that have sentences are run to write them."""
    if config.getoption("--update-messages"):
        items[:] = [item for item in items if "says" in getattr(item, "fixturenames", ())]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--update-messages") or os.environ.get("PYTEST_XDIST_WORKER"):
        return
    files = {test.partition("::")[0] for test in _written}
    others = {test: lines for test, lines in golden().items() if test.partition("::")[0] not in files}
    found = {**others, **_written}
    blocks = [f"{test}\n" + "".join(f"    {line}\n" for line in sorted(found[test])) for test in sorted(found)]
    GOLDEN.write_text("\n".join(blocks), encoding="utf-8")
