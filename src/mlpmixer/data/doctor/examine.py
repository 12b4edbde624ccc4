"""Examination of a data set for problems, as `mixer doctor` shows it.

Every image is decoded once, and a row of `STATS` is kept of it: a million images take half a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.doctor import near_duplicates
from mlpmixer.data.doctor.appearance import Appearance, appearance_of
from mlpmixer.data.doctor.checks import classes, copies, ignored, nesting, odd, unusable
from mlpmixer.data.doctor.image_stats import STATS, stats
from mlpmixer.data.doctor.issues import ISSUES, Finding
from mlpmixer.data.doctor.sample import Sample
from mlpmixer.data.images import ImageInput
from mlpmixer.errors import UsageError
from mlpmixer.machine.processes import each

CHUNK = 32  # images that a process is handed at once


@dataclass(frozen=True)
class Examination:
    """The result of `examine`.

    Attributes:
        sample: The images that were scanned.
        counts: (splits, classes), of all images even where only a sample was scanned.
        usable: How many of the sample can be used.
        findings: What was found, the worst first.
        appearance: Sizes, formats and colors; None without a usable image.
    """

    sample: Sample
    counts: np.ndarray
    usable: int
    findings: tuple[Finding, ...]
    appearance: Appearance | None

    @property
    def healthy(self) -> bool:
        return not any(finding.issue.serious for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        data, location = self.sample.data, lambda position: asdict(self.sample.location(position))
        return {
            "source": data.source,
            "healthy": self.healthy,
            "images": int(self.counts.sum()),
            "scanned": len(self.sample),
            "usable": self.usable,
            "splits": {
                split: dict(zip(data.classes, row.tolist(), strict=True))
                for split, row in zip(data.splits, self.counts, strict=True)
            },
            "findings": [
                {
                    "kind": finding.kind,
                    **asdict(finding.issue),
                    "note": finding.note,
                    "classes": list(finding.classes),
                    "files": dict(finding.files),
                    "paths": list(finding.paths),
                    "images": [location(position) for position in finding.images],
                    "groups": [[location(position) for position in group] for group in finding.groups],
                }
                for finding in self.findings
            ],
            "near_duplicates": {"bits_of_64": near_duplicates.COARSE, "bits_of_256": near_duplicates.FINE},
            "appearance": self.appearance and asdict(self.appearance),
        }


def examine(
    data: DataSet,
    *,
    workers: int = 0,
    limit: int | None = None,
    scanned: Callable[[int], None] = lambda _: None,
) -> Examination:
    """Check a data set for problems.

    Args:
        data: The data set.
        workers: Processes that scan images; 0: this one.
        limit: Scan only so many images, chosen evenly over all; None: all.
        scanned: Called now and then with how many images were scanned since the last call.
    """
    if workers < 0:
        raise UsageError(f"images are scanned by 0 processes or more, not {workers}")
    sample = Sample(data, limit)
    found = _scan(sample, workers, scanned)
    usable = np.flatnonzero(found["state"] == b"usable")
    counts = np.stack([np.bincount(split.labels, minlength=len(data.classes)) for split in data.splits.values()])
    findings = [
        *unusable(found),
        *copies(sample, found, usable),
        *classes(data, counts),
        *ignored(data),
        *nesting(data),
        *odd(found, usable),
    ]
    findings.sort(key=lambda finding: [*ISSUES].index(finding.kind))
    train = usable[sample.split[usable] == [*data.splits].index("train")] if "train" in data.splits else usable
    appearance = appearance_of(found, usable, train if len(train) else usable) if len(usable) else None
    return Examination(sample, counts, len(usable), tuple(findings), appearance)


def _scan(sample: Sample, workers: int, scanned: Callable[[int], None]) -> np.ndarray:
    """`STATS` of every image."""
    found = np.zeros(len(sample), STATS)

    def died_of(chunks: Sequence[range], workers: int) -> Iterator[range]:
        tasks = (_Handed(chunk, [sample.read(position) for position in chunk]) for chunk in chunks)
        with closing(each(_stats, tasks, workers)) as done:
            for task, rows in done:
                if rows is None:
                    yield task.positions
                else:
                    found[task.positions.start : task.positions.stop] = rows
                    scanned(len(rows))

    chunks = [range(start, min(start + CHUNK, len(found))) for start in range(0, len(found), CHUNK)]
    # Starting a process takes as long as scanning some hundred images.
    lost = [*died_of(chunks, workers if len(chunks) > 8 else 0)]
    if lost:  # to one image of each chunk; the others are innocent
        for position, *_ in died_of([range(i, i + 1) for chunk in lost for i in chunk], 1):
            found["state"][position] = "out_of_memory"
            scanned(1)
    return found


@dataclass(frozen=True)
class _Handed:
    positions: range
    images: list[ImageInput | None]


def _stats(task: _Handed) -> np.ndarray:
    return np.stack([stats(image) for image in task.images])
