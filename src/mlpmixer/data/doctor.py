"""What is wrong with a data set: the examination behind `mixer doctor`.

Every picture is decoded once. What is kept of it is a row of `FACTS`, so that a million take some 0.2 GB.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlpmixer.data import likeness
from mlpmixer.data.chance import shuffled
from mlpmixer.data.complaints import COMPLAINTS, Complaint
from mlpmixer.data.dataset import DataSet
from mlpmixer.data.facts import FACTS, FLAGS, facts
from mlpmixer.data.pictures import Picture
from mlpmixer.data.processes import each
from mlpmixer.errors import MixerError, UsageError
from mlpmixer.passport import Preprocessing

CHUNK = 32  # pictures that a process is handed at once

UNEVEN = 10  # times the smallest class
LONG = 4  # times the shorter side
TINY = 1 / 4  # of the median shorter side
BLANK = 2 / 255  # standard deviation of each channel

SIDES = (32, 64, 128, 256, 512, 1024, 2048)  # where the bars of the shorter side are cut, in pixels
RATIOS = (1 / 2, 3 / 4, 4 / 3, 2)  # and those of width to height
RATIO_NAMES = ("over 1:2 tall", "tall", "about square", "wide", "over 2:1 wide")
TARGETS = (28, 32, 64, 96, 224)  # sides of models' pictures


class Patients:
    """The pictures of all splits in one row, or a sample of them. `split` and `labels`: (N,) positions."""

    def __init__(self, data: DataSet, limit: int | None = None):
        if limit is not None and limit < 1:
            raise UsageError(f"at least 1 picture must be looked at, not {limit}")
        self.data = data
        counts = [len(split) for split in data.splits.values()]
        chosen = np.arange(sum(counts))
        if limit is not None and limit < len(chosen):
            chosen = np.sort(shuffled(len(chosen), "doctor")[:limit])
        ends = np.cumsum(counts)
        self.split = np.searchsorted(ends, chosen, side="right")
        self.index = chosen - (ends - counts)[self.split]
        self.labels = np.concatenate([split.labels for split in data.splits.values()])[chosen]
        self._splits = tuple(data.splits.items())

    def __len__(self) -> int:
        return len(self.index)

    def read(self, position: int) -> Picture | None:
        try:
            picture = self._splits[self.split[position]][1].read(int(self.index[position]))
        except (MixerError, OSError):
            return None
        return os.fspath(picture) if isinstance(picture, os.PathLike) else picture

    def place(self, position: int) -> Place:
        name, split = self._splits[self.split[position]]
        return Place(name, split.where(int(self.index[position])), self.data.classes[self.labels[position]])


@dataclass(frozen=True)
class Place:
    split: str
    where: str
    label: str


@dataclass(frozen=True)
class Finding:
    """One of `COMPLAINTS` with the pictures, groups of pictures (both as positions among all) or classes it is about."""

    kind: str
    pictures: np.ndarray
    groups: Sequence[np.ndarray] = ()
    classes: Sequence[str] = ()
    note: str = ""

    @property
    def complaint(self) -> Complaint:
        return COMPLAINTS[self.kind]


@dataclass(frozen=True)
class Looks:
    """Of all pictures that can be used: sizes in pixels, how many have what, colours in [0, 1].

    Mean and standard deviation are of red, green and blue over all pixels, every picture weighing the same.
    """

    smallest: tuple[int, int]  # width and height, of the picture with the shortest side
    median: tuple[int, int]
    largest: tuple[int, int]
    shorter_side: dict[str, int]
    ratio: dict[str, int]
    formats: dict[str, int]
    grey: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    suggested: Preprocessing


@dataclass(frozen=True)
class Examination:
    """`counts`: (splits, classes), of all pictures even where only a sample was looked at."""

    patients: Patients
    counts: np.ndarray
    usable: int
    findings: tuple[Finding, ...]
    looks: Looks | None  # without a usable picture there is none

    @property
    def healthy(self) -> bool:
        return not any(finding.complaint.serious for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Everything, in plain values."""
        data, place = self.patients.data, lambda position: asdict(self.patients.place(position))
        return {
            "source": data.source,
            "healthy": self.healthy,
            "pictures": int(self.counts.sum()),
            "looked_at": len(self.patients),
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
                    "pictures": [place(position) for position in finding.pictures],
                    "groups": [[place(position) for position in group] for group in finding.groups],
                }
                for finding in self.findings
            ],
            "looks": self.looks and asdict(self.looks),
        }


def examine(
    data: DataSet,
    *,
    workers: int = 0,
    limit: int | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> Examination:
    """Look at every picture, or at `limit` of them, in so many processes; `seen` hears how many were, now and then."""
    patients = Patients(data, limit)
    found = _look(patients, workers, seen)
    usable = np.flatnonzero(found["state"] == "usable")
    counts = np.stack([np.bincount(split.labels, minlength=len(data.classes)) for split in data.splits.values()])
    findings = [
        *_unusable(found),
        *_copies(patients, found, usable),
        *_classes(data, counts),
        *_odd(found, usable),
    ]
    findings.sort(key=lambda finding: [*COMPLAINTS].index(finding.kind))
    return Examination(patients, counts, len(usable), tuple(findings), _looks(found[usable]) if len(usable) else None)


def _look(patients: Patients, workers: int, seen: Callable[[int], None]) -> np.ndarray:
    found = np.zeros(len(patients), FACTS)
    chunks = [range(start, min(start + CHUNK, len(found))) for start in range(0, len(found), CHUNK)]

    def handed(chunks: Sequence[range]) -> Iterator[_Handed]:
        return (_Handed(chunk, [patients.read(position) for position in chunk]) for chunk in chunks)

    survivors = []
    # Starting a process takes as long as looking at some hundred pictures.
    with closing(each(_facts, handed(chunks), workers if len(chunks) > 8 else 0)) as looked:
        for task, rows in looked:
            if rows is None:
                survivors += [range(position, position + 1) for position in task.positions]
                continue
            found[task.positions.start : task.positions.stop] = rows
            seen(len(task.positions))
    # A process died: one picture of the chunk did it, and the others are looked at again.
    with closing(each(_facts, handed(survivors), min(workers, 1))) as looked:
        for task, rows in looked:
            found[task.positions.start] = rows[0] if rows is not None else _DEADLY
            seen(1)
    return found


@dataclass(frozen=True)
class _Handed:
    positions: range
    pictures: list[Picture | None]


_DEADLY = np.zeros((), FACTS)
_DEADLY["state"] = "deadly"


def _facts(task: _Handed) -> np.ndarray:
    return np.stack([facts(picture) for picture in task.pictures])


def _unusable(found: np.ndarray) -> Iterator[Finding]:
    for state in np.unique(found["state"]).tolist():
        if state != "usable":
            yield Finding(state, np.flatnonzero(found["state"] == state))


def _copies(patients: Patients, found: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    """What is there more than once, the same or alike."""
    if not len(usable):
        return
    _, first, which = np.unique(found["digest"][usable], return_index=True, return_inverse=True)
    same = _groups(usable, first[which])
    yield from _sorted_out(patients, same, {"labels": "labels", "splits": "leak", "neither": "repeat"})

    single = usable[np.sort(first)]  # each picture once, in the first split that has it
    single = single[found["comparable"][single]]
    plain, mirrored = likeness.families(found["bits"][single])
    alike = _groups(single, mirrored)
    family = dict(zip(single.tolist(), plain.tolist(), strict=True))
    turned = {int(group[0]) for group in alike if len({family[position] for position in group.tolist()}) > 1}
    kinds = {"labels": "alike_labels", "splits": "alike_leak", "neither": "alike"}
    yield from _sorted_out(patients, alike, kinds, turned)


def _groups(positions: np.ndarray, roots: np.ndarray) -> list[np.ndarray]:
    """The positions that share their root with others, group by group."""
    shared = np.bincount(roots)[roots] > 1
    positions, roots = positions[shared], roots[shared]
    order = np.argsort(roots, kind="stable")
    return [group for group in np.split(positions[order], np.flatnonzero(np.diff(roots[order])) + 1) if len(group)]


def _sorted_out(
    patients: Patients, groups: list[np.ndarray], kinds: dict[str, str], mirrored: set[int] = frozenset()
) -> Iterator[Finding]:
    """A finding for the groups under different labels, one for those across splits, one for the others."""
    names = [*patients.data.splits]
    sorts: dict[str, list[np.ndarray]] = {"labels": [], "splits": [], "neither": []}
    for group in groups:
        labels, splits = len({*patients.labels[group]}) > 1, len({*patients.split[group]}) > 1
        if labels:
            sorts["labels"].append(group)
        if splits:
            sorts["splits"].append(group)
        if not labels and not splits:
            sorts["neither"].append(group)
    for sort, members in sorts.items():
        if members:
            across = Counter(" and ".join(names[split] for split in np.unique(patients.split[g])) for g in members)
            notes = [f"{count} in {splits}" for splits, count in across.most_common()] if sort == "splits" else []
            if turned := sum(int(group[0]) in mirrored for group in members):
                notes.append(f"{turned} mirrored")
            yield Finding(kinds[sort], np.concatenate(members), members, note=", ".join(notes))


def _classes(data: DataSet, counts: np.ndarray) -> Iterator[Finding]:
    nowhere = np.empty(0, np.int64)
    splits, everywhere = [*data.splits], counts.sum(axis=0)
    if (everywhere == 0).any():
        yield Finding("barren", nowhere, classes=_chosen(data.classes, everywhere == 0))
    for split, row in zip(splits, counts, strict=True):
        if (lacking := (row == 0) & (everywhere > 0)).any():
            kind = "untaught" if split == "train" else "untested"
            yield Finding(kind, nowhere, classes=_chosen(data.classes, lacking), note=split)
    row = counts[splits.index("train") if "train" in splits else 0]
    if (row > 0).any():
        small, large = np.where(row > 0, row, row.max()).argmin(), row.argmax()
        if row[large] >= UNEVEN * row[small]:
            note = f"{data.classes[large]} has {row[large]:,} pictures, {data.classes[small]} {row[small]:,}"
            yield Finding("uneven", nowhere, classes=(data.classes[large], data.classes[small]), note=note)


def _chosen(names: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [names[i] for i in np.flatnonzero(chosen)]


def _odd(found: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    """Pictures that can be used but deserve a word."""
    if not len(usable):
        return
    rows = found[usable]
    shorter, longer = rows["size"].min(axis=1), rows["size"].max(axis=1)
    variance = rows["mean_square"] - rows["mean"] ** 2
    odd = {flag: rows[flag] for flag in FLAGS} | {
        "blank": (variance < BLANK**2).all(axis=1),
        "tiny": shorter < TINY * np.median(shorter),
        "long": longer > LONG * shorter,
    }
    grey = odd.pop("grey")
    odd |= {"grey": grey} if grey.mean() < 0.5 else {"coloured": ~grey}
    for kind, these in odd.items():
        if these.any():
            yield Finding(kind, usable[these])


def _looks(rows: np.ndarray) -> Looks:
    width, height = rows["size"].T.astype(np.int64)
    shorter = np.minimum(width, height)
    by_size = np.lexsort((width * height, shorter))
    mean, square = rows["mean"].mean(axis=0), rows["mean_square"].mean(axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    at = {name: by_size[place] for name, place in (("smallest", 0), ("median", len(rows) // 2), ("largest", -1))}
    bars = ["under 32", *(f"{low} to {high - 1}" for low, high in itertools.pairwise(SIDES)), "2048 and more"]
    return Looks(
        **{name: (int(width[i]), int(height[i])) for name, i in at.items()},
        shorter_side=_bars(bars, np.searchsorted(SIDES, shorter, side="right")),
        ratio=_bars(RATIO_NAMES, np.searchsorted(RATIOS, width / height, side="right")),
        formats=dict(Counter(rows["format"].tolist()).most_common()),
        grey=int(rows["grey"].sum()),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        suggested=_suggested(width, height, mean, std),
    )


def _bars(names: Sequence[str], which: np.ndarray) -> dict[str, int]:
    return dict(zip(names, np.bincount(which, minlength=len(names)).tolist(), strict=True))


def _suggested(width: np.ndarray, height: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Preprocessing:
    """For a model that starts afresh: the largest usual side that half of the pictures have, and the set's colours."""
    shorter = np.minimum(width, height)
    side = max(target for target in TARGETS if target <= max(np.median(shorter), TARGETS[0]))
    whole = (width == side).all() and (height == side).all()  # nothing to be gained by scaling up and cropping
    usual = Preprocessing.usual((side, side))
    ...
