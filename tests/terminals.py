"""`mixer` in a real pseudo-terminal, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mlpmixer.cli import main

# What a terminal acts on without a mark: colors, the cursor, erased lines.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def mixer_in_terminal(*arguments: str, columns: int, code: int = 0) -> list[str]:
    """Every line that the command shows in a terminal this wide, those that are drawn over one another included."""
    ended = 0
    with terminal(columns) as seen:
        try:
            main(list(arguments))
        except SystemExit as end:
            ended = end.code
    text = CONTROL.sub("", b"".join(seen).decode())
    assert ended == code, text
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@contextmanager
def terminal(columns: int) -> Iterator[list[bytes]]:
    """Standard input, output and error are a terminal; gives what is written to it."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    seen: list[bytes] = []
    reader = threading.Thread(target=_read, args=(master, seen))
    before = [os.dup(number) for number in (0, 1, 2)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            for number in (0, 1, 2):
                os.dup2(slave, number)
            patch.setattr(sys, "stdout", os.fdopen(os.dup(slave), "w", encoding="utf-8"))
            patch.setattr(sys, "stderr", os.fdopen(os.dup(slave), "w", encoding="utf-8"))
            patch.setenv("TERM", "xterm")
            for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
                patch.delenv(name, raising=False)
            reader.start()
            try:
                yield seen
            finally:
                for stream in (sys.stdout, sys.stderr):
                    stream.close()
    finally:
        for number, old in enumerate(before):
            os.dup2(old, number)
            os.close(old)
        os.close(slave)  # the last one: the reader comes to the end
        reader.join()
        os.close(master)


def _read(master: int, seen: list[bytes]) -> None:
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # Linux's word for the end
            return
        if not part:
            return
        seen.append(part)
