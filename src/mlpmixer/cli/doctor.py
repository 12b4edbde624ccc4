"""`mixer doctor`: is this data set fit to be learnt from?"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from mlpmixer.cli.output import page, print_table
from mlpmixer.errors import DataError
from mlpmixer.text import printable, to_json

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from mlpmixer.data.doctor.appearance import Looks
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
    """Say what is wrong with a data set: broken images, copies, leaks between splits, odd sizes and classes.

    Args:
        data: A folder of images, a list, shards, or the name of a known data set.
        max: Look at only so many images, chosen evenly over all; copies of the others are missed.
        workers: How many processes look at images; by default as many as cores.
        strict: Exit with 1 when a problem is found; remarks are none.
        json: Print JSON, with all paths.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mlpmixer import data as data_sets
    from mlpmixer.data.doctor.examine import examine
    from mlpmixer.machine.processes import cores

    opened = data_sets.open(data, strict=False)
    columns = TextColumn("looking at"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        total = sum(len(split) for split in opened.splits.values())
        bar = progress.add_task("", total=total if max is None else min(max, total))
        found = examine(
            opened,
            workers=cores() if workers is None else workers,
            limit=max,
            seen=lambda count: progress.advance(bar, count),
        )
    if json:
        print(to_json(found.as_dict(), indent=2))
    else:
        _print_page(found)
    if strict and not found.healthy:
        raise DataError(f"{opened.source} has {_problems(found)}")


def _print_page(found: Examination) -> None:
    from mlpmixer.data.doctor import near_duplicates

    console = page(highlight=False, markup=False, emoji=False, soft_wrap=True)
    data, total, looked = found.sample.data, int(found.counts.sum()), len(found.sample)
    verdict = "healthy" if found.healthy else _problems(found)
    if remarks := sum(not finding.complaint.serious for finding in found.findings):
        verdict += f", {_count(remarks, 'remark')}"
    console.print(f"{printable(data.source)}: {verdict}", style=f"bold {'green' if found.healthy else 'red'}")
    sampled = "" if looked == total else f", {looked:,} of them looked at"
    usable = "all" if found.usable == looked else f"{found.usable:,}"
    classes = _count(len(data.classes), "class", "classes")
    console.print(f"{_count(total, 'image')} of {classes}{sampled}; {usable} can be used\n")
    for finding in found.findings:
        _print_finding(console, found, finding)
    if any(finding.kind.startswith("alike") for finding in found.findings):
        coarse, fine = near_duplicates.COARSE, near_duplicates.FINE
        alike = f"≈: at most {coarse} of the 64 coarsest and {fine} of all 256 bits of likeness differ"
        console.print(f"{alike}, in the image or in its mirror image", style="dim")
    _print_classes(found)
    if found.looks:
        _print_looks(console, found.looks, " of train" if "train" in data.splits else "")


def _print_finding(console: Console, found: Examination, finding: Finding) -> None:
    complaint = finding.complaint
    if finding.groups:
        members = sum(map(len, finding.groups))
        what = f"{_count(len(finding.groups), 'group')} of {_count(members, 'image')}"
    elif finding.classes:
        what = _listed(finding.classes)
    elif finding.paths:
        what = _count(len(finding.paths), "link")
    elif finding.files:
        what = _listed([f"{count:,} {kind or 'without extension'}" for kind, count in finding.files.items()])
    else:
        what = _count(len(finding.images), "image")
    note = f" ({printable(finding.note)})" if finding.note else ""
    mark, style = ("✗", "red") if complaint.serious else ("·", "yellow")
    console.print(f"{mark} {complaint.title}: {what}{note}", style=style)
    shown = [*finding.groups[:EXAMPLES], *([image] for image in finding.images[:EXAMPLES])]
    lines = [*(_line(found, group, finding.kind) for group in shown), *map(printable, finding.paths[:EXAMPLES])]
    for line in lines:
        console.print(f"    {line}")
    if more := len(finding.groups) + len(finding.images) + len(finding.paths) - len(lines):
        console.print(f"    and {more:,} more, which --json lists")
    console.print(f"  {complaint.advice}\n", style="dim")


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - EXAMPLES
    return ", ".join(map(printable, texts[:EXAMPLES])) + (f" and {more:,} more" if more > 0 else "")


def _line(found: Examination, positions: Sequence[int] | np.ndarray, kind: str) -> str:
    """Images that belong together, with what tells them apart."""
    data, sample = found.sample.data, found.sample
    sign = "≈" if kind.startswith("alike") else "="
    kind = kind.removeprefix("alike_")
    texts = []
    for place in map(sample.place, positions[:MEMBERS]):
        text = place.where.removeprefix(data.source.rstrip("/") + "/").removeprefix(data.source + " ")
        detail = {"labels": place.label, "leak": place.split}.get(kind, "")
        texts.append(printable(text if detail in ("", *re.split(r"[/\[]", text)) else f"{text} ({detail})"))
    return f"  {sign}  ".join(texts) + (f"  and {len(positions) - MEMBERS:,} more" if len(positions) > MEMBERS else "")


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


def _print_looks(console: Console, looks: Looks, learnt: str) -> None:
    small, median, large = (f"{width}×{height}" for width, height in (looks.smallest, looks.median, looks.largest))
    total = sum(looks.shorter_side.values())
    if small == large:
        console.print(f"Size      {small}, all of them")
    else:
        console.print(f"Size      {small} to {large} by the shorter side, in the middle {median} (width × height)")
        for title, bars in (("shorter side", looks.shorter_side), ("shape", looks.ratio)):
            for name, count in bars.items():
                if count:
                    bar = "█" * max(1, round(count / total * 40))
                    console.print(f"          {title:12}  {name:14}  {bar} {count:,}")
                    title = ""
    if formats := " · ".join(f"{name} {count:,}" for name, count in looks.formats.items() if name):
        console.print(f"Format    {formats}")
    gray = looks.gray == total
    mean, std = (" ".join(f"{value:.4f}" for value in values[: 1 if gray else 3]) for values in (looks.mean, looks.std))
    console.print(f"Color    mean {mean}, standard deviation {std}")
    channels = "all is gray;" if gray else "red, green, blue"
    console.print(f"          ({channels} from 0 to 1, over all pixels{learnt}, every image weighing the same)")
    how = looks.suggested
    console.print("\nFor a model that starts afresh, a recipe may say")
    console.print(f"    model.image_size = {list(how.crop)}")
    console.print(f"    evaluation.resize = {how.resize}")
    console.print(f'    evaluation.shape = "{how.shape}"')
    console.print(f"    evaluation.mean = {list(how.mean)}")
    console.print(f"    evaluation.std = {list(how.std)}")
    console.print("With weights from elsewhere, leave what they come with.", style="dim")


def _problems(found: Examination) -> str:
    return _count(sum(finding.complaint.serious for finding in found.findings), "problem")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
