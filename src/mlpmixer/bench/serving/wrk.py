"""Load by wrk (Debian, Homebrew): so little of the machine goes into it that the server has the rest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlpmixer.errors import MissingPackage, RunError
from mlpmixer.text import first_line

TIMEOUT = 60  # seconds for an answer
MARK = "measured "

# Sends the requests of files one after the other, again and again, and writes what was measured as JSON.
SCRIPT = """\
local requests, at = {}, 0
for number = 0, %(count)d - 1 do
  local file = assert(io.open("%(folder)s/" .. number, "rb"))
  requests[number] = file:read("*a")
  file:close()
end
function request()
  at = at + 1
  return requests[at %% %(count)d]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '%(mark)s{"microseconds": %%d, "requests": %%d, "p50": %%d, "p99": %%d, ' ..
    '"status": %%d, "connect": %%d, "read": %%d, "write": %%d, "timeout": %%d}\\n',
    summary.duration, summary.requests, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What clients saw.

    Attributes:
        seconds: For which they asked.
        requests: That were answered with success.
        p50: Seconds of the median answer.
        p99: Seconds within which 99 % came.
        errors: Other answers, and requests without one.
    """

    seconds: float
    requests: int
    p50: float
    p99: float
    errors: int


def require_wrk() -> str:
    """Where it is.

    Raises:
        MissingPackage: It is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise MissingPackage("capacity is measured by wrk: apt-get install wrk, or brew install wrk")
    return found


def version() -> str:
    said = subprocess.run([require_wrk(), "-v"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"wrk (\S+)", said)
    return found[1] if found else "unknown"


class Wrk:
    """Clients that ask again as soon as they are answered.

    Args:
        requests: Whole, as bytes.
        folder: An empty one, for its files.
    """

    def __init__(self, requests: Sequence[bytes], folder: Path):
        self.program = require_wrk()
        folder.mkdir()
        for number, request in enumerate(requests):
            (folder / str(number)).write_bytes(request)
        self.script = folder / "requests.lua"
        self.script.write_text(SCRIPT % {"count": len(requests), "folder": folder.as_posix(), "mark": MARK})

    def run(self, port: int, clients: int, seconds: int) -> Load:
        """Whole seconds."""
        command = [self.program, "-t1", f"-c{clients}", f"-d{seconds}s", f"--timeout={TIMEOUT}s"]
        ran = subprocess.run(
            [*command, "-s", str(self.script), f"http://127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return load_of(ran.stdout, ran.stderr)


def load_of(said: str, errors: str = "") -> Load:
    """Of wrk's output.

    Raises:
        RunError: There is no result in it.
    """
    lines = [line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)]
    if not lines:
        raise RunError(f"wrk measured nothing: {first_line(errors or said)}")
    found = json.loads(lines[-1])
    bad = sum(found[kind] for kind in ("status", "connect", "read", "write", "timeout"))
    return Load(
        seconds=found["microseconds"] / 1e6,
        requests=found["requests"] - found["status"],
        p50=found["p50"] / 1e6,
        p99=found["p99"] / 1e6,
        errors=bad,
    )
