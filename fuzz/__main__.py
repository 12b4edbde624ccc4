"""Fuzzing: a bounded campaign of damaged files against everything that reads untrusted files, and of damaged requests.

    python -m fuzz                          all readers, about five minutes on two cores
    python -m fuzz images weights --count 1000000 --seconds 3600
    python -m fuzz images --first 1234 --count 1      one input again, with its traceback

Input number N of a reader is the same each time. A reader may succeed or raise a one-line MixerError, within
`SECONDS` seconds and `MEMORY` bytes more than it had; anything else is a finding: it is shown with the command that
repeats it, its files are kept, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzz.readers import Reader

SECONDS = 20  # for one input
MEMORY = 2 << 30  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("readers", nargs="*")
    parser.add_argument("--seconds", type=float, default=1200, help="at most; each reader has a share")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, help="inputs of each reader; by default as many as its row says")
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs that a reader's row says")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where the files of findings are kept")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.readers[0], args.first, args.count, args.seconds, args.keep)
        return
    from fuzz.readers import READERS

    names = args.readers or list(READERS)
    share = args.seconds * args.jobs / len(names)
    counts = {name: args.count or max(1, round(args.share * READERS[name].inputs)) for name in names}
    campaigns = [Campaign(name, args.first, counts[name], share, args.keep) for name in names]
    waiting, running, done = campaigns[:], [], []
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                running.append(waiting.pop(0).start())
            for campaign in [*running]:
                if not campaign.poll():
                    running.remove(campaign)
                    done.append(campaign)
            time.sleep(0.05)
    finally:
        for campaign in running:
            campaign.process.kill()
    findings = sum(campaign.findings for campaign in done)
    print(f"{sum(campaign.tried for campaign in done):,} inputs, {findings} findings")
    sys.exit(1 if findings else 0)


class Campaign:
    """One reader in a process of its own, which is started anew where an input brought it down."""

    def __init__(self, name: str, first: int, count: int, seconds: float, keep: Path):
        self.name, self.next, self.end, self.keep = name, first, first + count, keep
        self.left = seconds
        self.tried = self.findings = 0
        self.places: set[str] = set()

    def start(self) -> Campaign:
        options = ["--first", str(self.next), "--count", str(self.end - self.next), "--seconds", str(self.left)]
        command = [sys.executable, "-m", "fuzz", self.name, "--child", *options, "--keep", str(self.keep)]
        # A pipe that nobody reads would fill with the output of libraries.
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr, start_new_session=True)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.began = self.heard = time.monotonic()
        self.at: int | None = None  # the input that it is at
        self.rest = b""
        return self

    def poll(self) -> bool:
        ended = self.process.poll() is not None
        self._read_messages()
        waited = time.monotonic() - self.heard
        if not ended and self.at is not None and waited > SECONDS:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return self._crashed(f"took over {SECONDS} s")
        if not ended:
            return True
        if self.process.returncode == 0:
            places = f" in {len(self.places)} places" if self.findings else ""
            print(f"{self.name:12} {self.tried:8,} inputs, {self.findings} findings{places}", flush=True)
            return False
        self.stderr.seek(0)
        why = self.stderr.read().decode(errors="replace")[-2000:]
        return self._crashed(f"ended with {self.process.returncode}: {why}")

    def _read_messages(self) -> None:
        assert self.process.stdout is not None
        while block := self.process.stdout.read():
            self.heard = time.monotonic()
            *lines, self.rest = (self.rest + block).split(b"\n")
            for line in lines:
                message = json.loads(line)
                self.at = message.get("at", self.at)
                self.tried += "at" in message
                if "finding" in message:
                    self._found(message["finding"])

    def _crashed(self, why: str) -> bool:
        self.left -= time.monotonic() - self.began
        if self.at is None:  # before the first input
            print(f"{self.name}: {why}", flush=True)
            self.findings += 1
            return False
        self._found(why)
        self.next = self.at + 1
        self.start()
        return True

    def _found(self, why: str) -> None:
        """The same place is shown once."""
        self.findings += 1
        place = " ".join(re.findall(r'File ".*", line \d+', why)[-1:]) or why
        if place in self.places:
            return
        self.places.add(place)
        again = f"python -m fuzz {self.name} --first {self.at} --count 1"
        print(f"FINDING {self.name} {self.at}: {why}\n  again: {again}", flush=True)


def child(name: str, first: int, count: int, seconds: float, keep: Path) -> None:
    from fuzz.readers import READERS

    reader = READERS[name]
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as place:
        os.environ["MLPMIXER_CACHE"] = cache
        seeds, case = Path(place, "seeds"), Path(place, "case")
        seeds.mkdir()
        reader.build(seeds)
        files = sorted(path.relative_to(seeds) for path in seeds.rglob("*") if path.is_file())
        limit_memory()
        for number in range(first, first + count):
            if time.monotonic() > until:
                return
            report(at=number)
            if why := trial(reader, seeds, case, files, random.Random(f"{name} {number}")):
                shutil.rmtree(keep / f"{name}-{number}", ignore_errors=True)
                shutil.copytree(case, keep / f"{name}-{number}", symlinks=True)
                report(finding=why)


def trial(reader: Reader, seeds: Path, case: Path, files: list[Path], rng: random.Random) -> str | None:
    """What is wrong with how the reader ended; None: nothing."""
    from fuzz.mutate import damaged, document
    from mlpmixer.errors import MixerError

    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(seeds, case)
    changed = case / rng.choice(files)
    if changed.suffix == ".json":
        changed.write_text(document(changed.read_text(), rng), "utf-8", "surrogatepass")
    else:
        changed.write_bytes(damaged(changed.read_bytes(), rng))
    reader.after(case, changed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        reader.read(case, changed)
    except MixerError as error:
        if "\n" in str(error) or not str(error):
            return f"a message that is not one line: {str(error)!r}"
    except Exception:
        return traceback.format_exc()[-2000:]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return f"took {grown / 1e9:.1f} GB" if grown > MEMORY else None


def limit_memory() -> None:
    """Too much memory ends in a MemoryError here, not in another process being killed."""
    with Path("/proc/self/statm").open() as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + 2 * MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def report(**what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
