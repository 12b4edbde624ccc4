"""Checks: findings from the statistics of all images, the labels and the folders of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.doctor import near_duplicates
from mlpmixer.data.doctor.image_stats import FLAGS
from mlpmixer.data.doctor.issues import Finding
from mlpmixer.data.doctor.sample import Sample
from mlpmixer.data.sources.folder import FolderImages

REPEATED = 0.05  # of a split: more copies than these, and no fewer than MANY, are a problem
MANY = 5
UNEVEN = 10  # times the smallest class
LONG = 4  # times the shorter side
TINY = 1 / 4  # of the median shorter side
BLANK = 2 / 255  # standard deviation of each channel


def unusable(found: np.ndarray) -> Iterator[Finding]:
    for state in np.unique(found["state"]).tolist():
        if state != b"usable":
            yield Finding(state.decode(), np.flatnonzero(found["state"] == state))


def ignored(data: DataSet) -> Iterator[Finding]:
    """Files in the folders of a data set that no split has."""
    every: Counter[str] = Counter()
    for split in data.splits.values():
        if isinstance(split, FolderImages):
            every += split.ignored()
    if every:
        yield Finding("ignored", files=dict(every.most_common()))


def nesting(data: DataSet) -> Iterator[Finding]:
    """Links that lead back, and folders within class folders."""
    splits = [split for split in data.splits.values() if isinstance(split, FolderImages)]
    if loops := [str(loop) for split in splits for loop in split.loops]:
        yield Finding("loop", paths=loops)
    nested = Counter[str]()
    for split in splits:
        nested += split.nested()
    if nested:
        first = {place.partition("/")[0] for place in nested}
        note = f"{len(nested):,} {'folder' if len(nested) == 1 else 'folders'}, such as {min(nested)}"
        yield Finding("nested", classes=sorted(first), note=note)


def copies(sample: Sample, found: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    """Images that are there more than once, and near duplicates."""
    if not len(usable):
        return
    _, first, which = np.unique(found["digest"][usable], return_index=True, return_inverse=True)
    same = _groups(usable, first[which])
    many, how_many = _repeated(sample, usable, first[which])
    for finding in _sorted_out(sample, same, {"labels": "label_conflict", "splits": "leak", "neither": "duplicate"}):
        if finding.kind != "duplicate":
            yield finding
        elif not many:
            yield replace(finding, note=how_many)
    if many:  # all of them, those among leaks as well
        twice = [group for group in same if np.bincount(sample.split[group]).max() > 1]
        yield Finding("duplicates", groups=twice, note=how_many)

    single = usable[np.sort(first)]  # each image once, in the first split that has it
    single = single[found["comparable"][single]]
    plain, mirrored = near_duplicates.groups_of(found["bits"][single])
    kinds = {"labels": "near_label_conflict", "splits": "near_leak", "neither": "near_duplicate"}
    yield from _sorted_out(sample, _groups(single, mirrored), kinds, turned=single[plain != mirrored])


def _repeated(sample: Sample, usable: np.ndarray, roots: np.ndarray) -> tuple[bool, str]:
    """Whether a split has many duplicates, and how many distinct images the splits with duplicates have, in words."""
    many, notes = False, []
    for number, name in enumerate(sample.data.splits):
        here = roots[sample.split[usable] == number]
        distinct = len(np.unique(here))
        if copies := len(here) - distinct:
            many |= copies >= MANY and copies > REPEATED * len(here)
            notes.append(f"{distinct:,} different ones of {len(here):,} in {name}")
    return many, ", ".join(notes)


def _groups(positions: np.ndarray, roots: np.ndarray) -> list[np.ndarray]:
    """The positions that share their root with others, group by group."""
    shared = np.bincount(roots)[roots] > 1
    positions, roots = positions[shared], roots[shared]
    order = np.argsort(roots, kind="stable")
    return [group for group in np.split(positions[order], np.flatnonzero(np.diff(roots[order])) + 1) if len(group)]


def _sorted_out(
    sample: Sample, groups: list[np.ndarray], kinds: dict[str, str], turned: Sequence[int] | np.ndarray = ()
) -> Iterator[Finding]:
    """A finding for the groups under different labels, one for those across splits, one for the others.

    `turned`: images that are only in their group because one of them is like the mirror image of another.
    """
    sorts: dict[str, list[np.ndarray]] = {"labels": [], "splits": [], "neither": []}
    for group in groups:
        labels, splits = _varied_first(group, sample.labels), _varied_first(group, sample.split)
        if labels is not None:
            sorts["labels"].append(labels)
        if splits is not None:
            sorts["splits"].append(splits)
        if labels is None and splits is None:
            sorts["neither"].append(group)
    for sort, members in sorts.items():
        if members:
            notes = _later(sample, members) if sort == "splits" else []
            if mirrored := sum(np.isin(group, turned).any() for group in members):
                notes.append(f"{mirrored} mirrored")
            yield Finding(kinds[sort], groups=members, note=", ".join(notes))


def _varied_first(group: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """The group with the first of each different value in front; None where it has only one."""
    first = np.sort(np.unique(values[group], return_index=True)[1])
    return np.concatenate([group[first], np.delete(group, first)]) if len(first) > 1 else None


def _later(sample: Sample, groups: Sequence[np.ndarray]) -> list[str]:
    """How many images of each split are in an earlier one too."""
    later = np.concatenate([sample.split[group][sample.split[group] > sample.split[group].min()] for group in groups])
    counts, of = (np.bincount(splits, minlength=len(sample.data.splits)) for splits in (later, sample.split))
    return [f"{n:,} of {all:,} in {name}" for name, n, all in zip(sample.data.splits, counts, of, strict=True) if n]


def classes(data: DataSet, counts: np.ndarray) -> Iterator[Finding]:
    splits, everywhere = [*data.splits], counts.sum(axis=0)
    if (everywhere == 0).any():
        yield Finding("empty_class", classes=_chosen(data.classes, everywhere == 0))
    for split, row in zip(splits, counts, strict=True):
        if (lacking := (row == 0) & (everywhere > 0)).any():
            kind = "not_in_train" if split == "train" else "not_in_split"
            yield Finding(kind, classes=_chosen(data.classes, lacking), note=split)
    row = counts[splits.index("train") if "train" in splits else 0]
    if (row > 0).any():
        small, large = np.where(row > 0, row, row.max()).argmin(), row.argmax()
        if row[large] >= UNEVEN * row[small]:
            note = f"{data.classes[large]} has {row[large]:,} images, {data.classes[small]} {row[small]:,}"
            yield Finding("imbalanced", classes=(data.classes[large], data.classes[small]), note=note)


def _chosen(names: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [names[i] for i in np.flatnonzero(chosen).tolist()]


def odd(found: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    """Images that can be used but are unusual."""
    if not len(usable):
        return
    size = found["size"][usable]
    shorter, longer = size.min(axis=1), size.max(axis=1)
    variance = found["mean_square"][usable] - found["mean"][usable] ** 2
    blank = (variance < BLANK**2).all(axis=1)
    odd = {flag: found[flag][usable] for flag in FLAGS} | {
        "blank": blank,
        "tiny": shorter < TINY * np.median(shorter),
        "elongated": longer > LONG * shorter,
    }
    gray = odd.pop("gray")
    odd |= {"gray": gray & ~blank} if gray.mean() < 0.5 else {"colored": ~gray}
    for kind, these in odd.items():
        if these.any():
            yield Finding(kind, usable[these])
