"""What is wrong with a data set: the examination behind `mixer doctor`.

Every image is decoded once, and what is kept of it is a row of `FACTS`: a million images take half a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.doctor import near_duplicates
from mlpmixer.data.doctor.appearance import Looks, looks
from mlpmixer.data.doctor.checks import arranged, classes, copies, ignored, odd, unusable
from mlpmixer.data.doctor.image_stats import FACTS, facts
from mlpmixer.data.doctor.issues import COMPLAINTS, Finding
from mlpmixer.data.doctor.sample import Sample
from mlpmixer.data.images import ImageInput
from mlpmixer.errors import UsageError
from mlpmixer.machine.processes import each

CHUNK = 32  # images that a process is handed at once


@dataclass(frozen=True)
class Examination:
    """`counts`: (splits, classes), of all images even where only a sample was looked at."""

    sample: Sample
    counts: np.ndarray
    usable: int
    findings: tuple[Finding, ...]
    looks: Looks | None  # without a usable image there is none

    @property
    def healthy(self) -> bool:
        return not any(finding.complaint.serious for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Everything, in plain values."""
        data, place = self.sample.data, lambda position: asdict(self.sample.place(position))
        return {
            "source": data.source,
            "healthy": self.healthy,
            "images": int(self.counts.sum()),
            "looked_at": len(self.sample),
            "usable": self.usable,
            "splits": {
                split: dict(zip(data.classes, row.tolist(), strict=True))
                for split, row in zip(data.splits, self.counts, strict=True)
            },
            "findings": [
                {
                    "kind": finding.kind,
                    **asdict(finding.complaint),
                    "note": finding.note,
                    "classes": list(finding.classes),
                    "files": dict(finding.files),
                    "paths": list(finding.paths),
                    "images": [place(position) for position in finding.images],
                    "groups": [[place(position) for position in group] for group in finding.groups],
                }
                for finding in self.findings
            ],
            "alike": {"bits_of_64": near_duplicates.COARSE, "bits_of_256": near_duplicates.FINE},
            "looks": self.looks and asdict(self.looks),
        }


def examine(
    data: DataSet,
    *,
    workers: int = 0,
    limit: int | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> Examination:
    """Look at every image, or at `limit` of them, in so many processes; `seen` hears how many were, now and then."""
    if workers < 0:
        raise UsageError(f"images are looked at by 0 processes or more, not {workers}")
    sample = Sample(data, limit)
    found = _look(sample, workers, seen)
    usable = np.flatnonzero(found["state"] == b"usable")
    counts = np.stack([np.bincount(split.labels, minlength=len(data.classes)) for split in data.splits.values()])
    findings = [
        *unusable(found),
        *copies(sample, found, usable),
        *classes(data, counts),
        *ignored(data),
        *arranged(data),
        *odd(found, usable),
    ]
    findings.sort(key=lambda finding: [*COMPLAINTS].index(finding.kind))
    learnt = usable[sample.split[usable] == [*data.splits].index("train")] if "train" in data.splits else usable
    seen_whole = looks(found, usable, learnt if len(learnt) else usable) if len(usable) else None
    return Examination(sample, counts, len(usable), tuple(findings), seen_whole)


def _look(sample: Sample, workers: int, seen: Callable[[int], None]) -> np.ndarray:
    """`FACTS` of every image."""
    found = np.zeros(len(sample), FACTS)

    def died_of(chunks: Sequence[range], workers: int) -> Iterator[range]:
        tasks = (_Handed(chunk, [sample.read(position) for position in chunk]) for chunk in chunks)
        with closing(each(_facts, tasks, workers)) as done:
            for task, rows in done:
                if rows is None:
                    yield task.positions
                else:
                    found[task.positions.start : task.positions.stop] = rows
                    seen(len(rows))

    chunks = [range(start, min(start + CHUNK, len(found))) for start in range(0, len(found), CHUNK)]
    # Starting a process takes as long as looking at some hundred images.
    lost = [*died_of(chunks, workers if len(chunks) > 8 else 0)]
    if lost:  # to one image of each chunk; the others are innocent
        for position, *_ in died_of([range(i, i + 1) for chunk in lost for i in chunk], 1):
            found["state"][position] = "deadly"
            seen(1)
    return found


@dataclass(frozen=True)
class _Handed:
    positions: range
    images: list[ImageInput | None]


def _facts(task: _Handed) -> np.ndarray:
    return np.stack([facts(image) for image in task.images])
