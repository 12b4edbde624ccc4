"""A gallery of predictions: one HTML page without network, with thumbnails, filters by class and score, and the CSV."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from mlpmixer import files
from mlpmixer.data.images import decode
from mlpmixer.draw import page
from mlpmixer.draw.svg import escaped
from mlpmixer.errors import ImageError, UsageError
from mlpmixer.machine.cores import cores
from mlpmixer.machine.ordered_pool import in_order
from mlpmixer.text import printable

MOST_IMAGES = 20_000  # on the page; the CSV has all
MANY = 500  # images whose thumbnails take a while
MOST_BYTES = 24 << 20  # of all thumbnails
THUMBNAIL = 176  # pixels of the longer side
OTHERS = 2  # further classes that are listed

STYLE = """
form{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;gap:.6rem 1.5rem;align-items:center;
background:var(--paper);padding:.8rem 0;border-bottom:1px solid var(--rule);font-size:.95rem}
form label{display:flex;gap:.5rem;align-items:center}select{font:inherit;max-width:14rem}output{color:var(--soft)}
input[type=range]{width:8rem}.cards{display:grid;gap:1.25rem;margin-top:1.25rem;
grid-template-columns:repeat(auto-fill,minmax(min(10rem,45%),1fr))}
.cards figure{margin:0;content-visibility:auto;contain-intrinsic-size:10rem 15rem;border-top:3px solid var(--link);
padding-top:.3rem}
.cards figure[hidden]{display:none}.cards .unsure{border-top-style:dashed;border-top-color:#a8480c}
.cards img,.cards .none{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--wash);border:0}
.cards .none{padding:40% .5rem 0;text-align:center;color:var(--soft);font-size:.875rem}
.cards b{color:var(--ink)}.cards a{text-decoration:none;color:inherit}
@media(max-width:620px){form{position:static}}
"""
SCRIPT = """
const form=document.forms[0],cards=[...document.querySelectorAll('.cards figure')],grid=cards[0]?.parentNode;
function show(){let n=0;const low=Number(form.low.value),high=Number(form.high.value);
for(const card of cards){const score=100*Number(card.dataset.score);
const on=(!form.label.value||card.dataset.label===form.label.value)&&score>=low&&score<=high;card.hidden=!on;n+=on}
form.lows.value=low+' %';form.highs.value=high+' %';form.shown.value=n.toLocaleString('en')+' shown'}
function sort(){const sign={least:1,most:-1}[form.order.value],order=[...cards];
if(sign)order.sort((a,b)=>sign*(a.dataset.score-b.dataset.score));grid?.append(...order)}
form.addEventListener('input',show);form.order.addEventListener('input',sort);
form.addEventListener('submit',event=>event.preventDefault());show()
"""


@dataclass(frozen=True)
class Row:
    """A line of the CSV: a path, and its likeliest classes with their probabilities, best first."""

    path: str
    top: tuple[tuple[str, float], ...]


def write_gallery(table: Path, target: Path, title: str, tell: Callable[[str], object]) -> None:
    """Writes a page of the images that a CSV of `mixer predict` lists.

    Args:
        table: The CSV; the page links to it.
        target: The page.
        title: Its heading.
        tell: Gets a line where the page has less than the CSV.

    Raises:
        UsageError: The page cannot be written.
    """
    counts = Counter(row.top[0][0] for row in _rows(table))
    total = sum(counts.values())
    if total > MANY:
        tell(f"thumbnails of {min(total, MOST_IMAGES):,} images are drawn")
    try:
        with files.whole(target) as part, part.open("w", encoding="utf-8") as file:
            left_out = _write(file, table, target, title, counts)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    if total > MOST_IMAGES:
        tell(f"the gallery shows the first {MOST_IMAGES:,} of {total:,} images; {table} has all")
    if left_out:
        tell(f"{left_out:,} images are in the gallery without a thumbnail: it has {files.size(MOST_BYTES)} of them")


def _write(file: TextIO, table: Path, target: Path, title: str, counts: Counter[str]) -> int:
    """Returns how many images have no thumbnail for want of room."""
    total, room, left_out = sum(counts.values()), MOST_BYTES, 0
    most = f" (the first {MOST_IMAGES:,} are here)" if total > MOST_IMAGES else ""
    link = f'<a href="{_address(table, target)}" download>{escaped(printable(table.name))}</a>'
    start, end = page.frame(title, style=STYLE, script=SCRIPT)
    file.write(f'{start}<p class="soft">{total:,} images{most}, {len(counts):,} classes. Table: {link}</p>')
    file.write(f'{_form(counts, total)}<div class="cards">')

    def images(rows: list[Row]) -> list[str | None]:
        return [_thumbnail(row.path) if room > 0 else None for row in rows]

    shown = islice(_rows(table), MOST_IMAGES)
    for row, image in chain.from_iterable(in_order(images, shown, threads=cores(), batch_size=8)):
        left_out += room <= 0
        room -= len(image or "")
        file.write(_card(row, image, target))
    file.write(f"</div>{end}")
    return left_out


def _rows(table: Path) -> Iterator[Row]:
    with table.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        next(lines, None)
        for path, *cells in lines:
            yield Row(path, tuple((label, float(score)) for label, score in zip(cells[::2], cells[1::2], strict=True)))


def _form(counts: Counter[str], total: int) -> str:
    options = "".join(
        f'<option value="{_name(label)}">{_name(label)} ({count:,})</option>' for label, count in sorted(counts.items())
    )
    return (
        f'<form><label>class <select name="label"><option value="">all ({total:,})</option>{options}</select></label>'
        '<label>score from <input type="range" name="low" min="0" max="100" value="0"><output name="lows"></output>'
        '</label><label>to <input type="range" name="high" min="0" max="100" value="100"><output name="highs"></output>'
        '</label><label>order <select name="order"><option value="">as found</option><option value="least">least sure '
        'first</option><option value="most">surest first</option></select></label><output name="shown"></output></form>'
    )


def _card(row: Row, image: str | None, target: Path) -> str:
    (label, score), *others = row.top
    name = escaped(printable(os.path.basename(row.path) or row.path))  # noqa: PTH119 (may be no path at all)
    shown = f'<img src="{image}" alt="{name}" loading="lazy">' if image else '<div class="none">no thumbnail</div>'
    if not _is_address(row.path):
        shown = f'<a href="{_address(Path(row.path), target)}">{shown}</a>'
    rest = ", ".join(f"{_name(other)} {share:.1%}" for other, share in others[:OTHERS])
    unsure = ' class="unsure"' if score < 0.5 else ""
    return (
        f'<figure{unsure} data-label="{_name(label)}" data-score="{score:.6g}">{shown}<figcaption>'
        f'<b>{_name(label)}</b> {score:.1%}<br><span title="{escaped(printable(row.path))}">{name}</span>'
        f"{'<br>' if rest else ''}{rest}</figcaption></figure>\n"
    )


def _name(label: str) -> str:
    return escaped(printable(label))


def _is_address(path: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE) is not None


def _address(path: Path, target: Path) -> str:
    """Relative to the page, so that both can be moved together."""
    try:
        relative = os.path.relpath(path, target.parent)
    except ValueError:  # another drive of Windows
        return path.absolute().as_uri()
    return "./" + quote(Path(relative).as_posix(), errors="surrogateescape")


def _thumbnail(path: str) -> str | None:
    if not _is_address(path):
        with suppress(ImageError, MemoryError):  # it is gone since, or there is no room for it
            image = decode(path)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            return page.data_url(image, "JPEG")
    return None
