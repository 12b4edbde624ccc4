"""`mixer doctor`: check a data set for problems."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mlpmixer.cli.output import page, print_table
from mlpmixer.errors import DataError
from mlpmixer.text import listed, printable, to_json

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from mlpmixer.data.doctor.appearance import Appearance
    from mlpmixer.data.doctor.examine import Examination
    from mlpmixer.data.doctor.issues import Finding

EXAMPLES = 5  # of images or groups on the page, for each finding
MEMBERS = 4  # of a group on the page
ALL_CLASSES = 20  # with more of them, the table has only the largest and the smallest


def doctor(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    /,
    max: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    strict: bool = False,
    json: bool = False,
) -> None:
    """Check a data set for problems.

    Broken images, duplicates, leaks between splits, odd sizes, class imbalance; each with what to do about it.

    Args:
        data: A folder of images, a list, shards, or the name of a built-in data set.
        max: Scan only N images, chosen evenly over all; duplicates among the others are missed.
        workers: Number of processes that scan images; by default the number of cores.
        strict: Exit with code 1 when a problem is found; warnings do not count.
        json: Print JSON, with all paths.
    """
    from mlpmixer import data as data_sets

    data_sets.require_source(data)

    from mlpmixer.data.doctor.examine import examine
    from mlpmixer.machine.cores import cores
    from mlpmixer.machine.progress import progress_bar

    opened = data_sets.open(data, strict=False)
    total, done = sum(len(split) for split in opened.splits.values()), 0
    with progress_bar() as show:

        def scanned(count: int) -> None:
            nonlocal done
            done += count
            show("scanning", done, total if max is None else min(max, total))

        workers = cores() if workers is None else workers
        found = examine(opened, workers=workers, limit=max, scanned=scanned)
    if json:
        print(to_json(found.as_dict(), indent=2))
    else:
        _print_page(found)
    if strict and not found.healthy:
        raise DataError(f"{opened.source} has {_problems(found)}")


def _print_page(found: Examination) -> None:
    from mlpmixer.data.doctor import near_duplicates

    console = page(highlight=False, markup=False, emoji=False, soft_wrap=True)
    data, total, scanned = found.sample.data, int(found.counts.sum()), len(found.sample)
    verdict = "healthy" if found.healthy else _problems(found)
    if warnings := sum(not finding.issue.serious for finding in found.findings):
        verdict += f", {_count(warnings, 'warning')}"
    console.print(f"{printable(data.source)}: {verdict}", style=f"bold {'green' if found.healthy else 'red'}")
    sampled = "" if scanned == total else f", {scanned:,} of them scanned"
    usable = "all" if found.usable == scanned else f"{found.usable:,}"
    classes = _count(len(data.classes), "class", "classes")
    console.print(f"{_count(total, 'image')} of {classes}{sampled}; {usable} can be used\n")
    for finding in found.findings:
        _print_finding(console, found, finding)
    if any(finding.kind.startswith("near_") for finding in found.findings):
        coarse, fine = near_duplicates.COARSE, near_duplicates.FINE
        near = f"≈: at most {coarse} of the 64 coarsest and {fine} of all 256 bits of the perceptual hash differ"
        console.print(f"{near}, for the image or its mirror image", style="dim")
    _print_classes(found)
    if found.usable and Path(data.source).exists():
        console.print(f"Train on them: mixer train photos --data.source {shlex.quote(printable(data.source))}\n")
    if found.appearance:
        _print_appearance(console, found.appearance, " of train" if "train" in data.splits else "")


def _print_finding(console: Console, found: Examination, finding: Finding) -> None:
    issue = finding.issue
    if finding.groups:
        members = sum(map(len, finding.groups))
        what = f"{_count(len(finding.groups), 'group')} of {_count(members, 'image')}"
    elif finding.classes:
        what = listed(finding.classes, EXAMPLES)
    elif finding.paths:
        what = _count(len(finding.paths), "link")
    elif finding.files:
        what = listed([f"{n:,} {kind or 'without extension'}" for kind, n in finding.files.items()], EXAMPLES)
    else:
        what = _count(len(finding.images), "image")
    note = f" ({printable(finding.note)})" if finding.note else ""
    mark, style = ("✗", "red") if issue.serious else ("·", "yellow")
    console.print(f"{mark} {issue.title}: {what}{note}", style=style)
    shown = [*finding.groups[:EXAMPLES], *([image] for image in finding.images[:EXAMPLES])]
    lines = [*(_line(found, group, finding.kind) for group in shown), *map(printable, finding.paths[:EXAMPLES])]
    for line in lines:
        console.print(f"    {line}")
    if more := len(finding.groups) + len(finding.images) + len(finding.paths) - len(lines):
        console.print(f"    and {more:,} more, which --json lists")
    console.print(f"  {issue.advice}\n", style="dim")


def _line(found: Examination, positions: Sequence[int] | np.ndarray, kind: str) -> str:
    """A group of images, each with its class or split where those differ."""
    data, sample = found.sample.data, found.sample
    sign = "≈" if kind.startswith("near_") else "="
    kind = kind.removeprefix("near_")
    texts = []
    for location in map(sample.location, positions[:MEMBERS]):
        text = location.where.removeprefix(data.source.rstrip("/") + "/").removeprefix(data.source + " ")
        detail = {"label_conflict": location.label, "leak": location.split}.get(kind, "")
        texts.append(printable(text if detail in ("", *re.split(r"[/\[]", text)) else f"{text} ({detail})"))
    return listed([*texts, *positions[MEMBERS:]], MEMBERS, f"  {sign}  ")


def _print_classes(found: Examination) -> None:
    classes, splits, order = found.sample.data.classes, [*found.sample.data.splits], range(found.counts.shape[1])
    left_out = len(order) - ALL_CLASSES
    if left_out > 0:
        by_size = found.counts[0].argsort(kind="stable")[::-1].tolist()
        order = [*by_size[: ALL_CLASSES // 2], *by_size[-ALL_CLASSES // 2 :]]
    rows = [[classes[i], *(f"{count:,}" for count in found.counts[:, i])] for i in order]
    if left_out > 0:
        rows.insert(ALL_CLASSES // 2, [f"({left_out:,} between)", *("" for _ in splits)])
    rows.append(["all", *(f"{count:,}" for count in found.counts.sum(axis=1))])
    print_table(["class", *splits], rows)


def _print_appearance(console: Console, appearance: Appearance, where: str) -> None:
    small, median, large = (
        f"{width}×{height}" for width, height in (appearance.smallest, appearance.median, appearance.largest)
    )
    total = sum(appearance.shorter_side.values())
    if small == large:
        console.print(f"Size      {small}, all of them")
    else:
        console.print(f"Size      {small} to {large} by the shorter side, median {median}")
        for title, bars in (("shorter side", appearance.shorter_side), ("shape", appearance.ratio)):
            for name, count in bars.items():
                if count and count < total:  # a single bar says nothing
                    bar = "█" * max(1, round(count / total * 30))
                    console.print(f"          {title:12}  {name:14}  {bar} {count:,}")
                    title = ""
    if formats := " · ".join(f"{name} {count:,}" for name, count in appearance.formats.items() if name):
        console.print(f"Format    {formats}")
    gray = appearance.gray == total
    mean, std = (
        " ".join(f"{value:.4f}" for value in values[: 1 if gray else 3]) for values in (appearance.mean, appearance.std)
    )
    console.print(f"Color     mean {mean}, standard deviation {std}")
    channels = "all images are gray" if gray else "red, green, blue"
    console.print(f"          ({channels}, from 0 to 1; the mean over all images{where})")
    how = appearance.suggested
    console.print("\nSuggested recipe for training from scratch")
    console.print(f"    model.image_size = {list(how.crop)}")
    console.print(f"    evaluation.resize = {how.resize}")
    console.print(f'    evaluation.shape = "{how.shape}"')
    console.print(f"    evaluation.mean = {list(how.mean)}")
    console.print(f"    evaluation.std = {list(how.std)}")
    console.print("With pretrained weights, keep the preprocessing that they come with.", style="dim")


def _problems(found: Examination) -> str:
    return _count(sum(finding.issue.serious for finding in found.findings), "problem")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
