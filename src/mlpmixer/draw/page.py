"""HTML pages in one file without external resources, for any screen, in light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from mlpmixer.draw import svg
from mlpmixer.draw.svg import Drawing, escaped

LONG = 40  # letters in a cell

PALETTE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1d22;--soft:#5a616c;--rule:#e2e5ea;--wash:#f5f6f8;--link:#0a5bb0}
@media(prefers-color-scheme:dark){:root{--paper:#16181d;--ink:#e9ebef;--soft:#a5adb9;--rule:#2f343c;--wash:#1e2127;
--link:#7db8ff}}
"""
STYLE = (
    PALETTE
    + """*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2rem 1.25rem 4rem}h1{font-size:1.7rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.25rem;margin:2.8rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{max-width:46rem;margin:.4rem 0}.soft{color:var(--soft)}a{color:var(--link)}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:1rem 0 0}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1.5rem;align-items:start}
figure{margin:1rem 0;min-width:0}figure img{max-width:100%;height:auto;border:1px solid var(--rule)}
figure svg.figure{display:block;width:100%;max-width:440px;height:auto;overflow:visible}
figcaption{color:var(--soft);font-size:.875rem;max-width:46rem;overflow-wrap:anywhere}
.pixels img{image-rendering:pixelated}.wide{overflow-x:auto}
.shots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(9.5rem,45%),1fr));gap:1rem 1.25rem}
.shots figure{margin:0}.shots img{width:100%;aspect-ratio:1;object-fit:contain;background:var(--wash)}
.shots b{color:var(--ink);font-weight:600}
.colors{display:flex;align-items:center;gap:.6rem;font-size:.875rem;color:var(--soft);max-width:20rem}
.colors i{flex:1;height:.7rem;border:1px solid var(--rule)}
.ranking{list-style:none;margin:1rem 0;padding:0;font-size:.95rem;font-variant-numeric:tabular-nums}
.ranking li{display:grid;grid-template-columns:minmax(0,9rem) 1fr 4rem;gap:.6rem;align-items:center;padding:.3rem 0}
.ranking span{overflow-wrap:anywhere}.ranking span:last-child{text-align:right}
.ranking i{background:var(--wash);height:.9rem}.ranking b{display:block;height:100%;background:var(--link)}
.ranking li:first-child{font-weight:600}
details{margin:1rem 0}summary{cursor:pointer;color:var(--link)}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.6rem 0}
caption{text-align:left;color:var(--soft);padding-bottom:.4rem}
th,td{padding:.32rem .9rem .32rem 0;text-align:left;border-bottom:1px solid var(--rule);white-space:nowrap}
th{font-weight:600}td.n,th.n{text-align:right}td.w{white-space:normal;min-width:12rem;max-width:32rem}
pre{background:var(--wash);padding:.75rem 1rem;white-space:pre-wrap;overflow-wrap:anywhere;border-radius:6px;
font-size:.875rem}
.big{max-width:none;font-size:2.2rem;font-weight:600;line-height:1.1}
.warn{border-left:3px solid #b3261e;padding-left:.8rem}
@media(max-width:620px){th,td{white-space:normal;overflow-wrap:anywhere}
td:first-child{overflow-wrap:break-word}td.w{min-width:0}
.stack,.stack tbody,.stack tr{display:block}.stack thead,.stack td:empty{display:none}
.stack tr{padding:.5rem 0;border-bottom:1px solid var(--rule)}
.stack td{display:inline-block;padding:0 1rem 0 0;border:0;text-align:left}
.stack td::before{content:attr(data-label) " ";color:var(--soft)}
.stack td:first-child{display:block;font-weight:600}.stack td:first-child::before{content:none}}
"""
)
STACKED = 4  # columns from which a table's rows become blocks on a phone


@dataclass(frozen=True)
class Section:
    """`body`: HTML made by the functions below."""

    title: str
    body: str


def page(title: str, lines: Sequence[str], sections: Sequence[Section]) -> str:
    """`lines`: below the title."""
    marked = [(f"part-{number}", one) for number, one in enumerate(sections, 1)]
    links = "".join(f'<a href="#{mark}">{escaped(one.title)}</a>' for mark, one in marked)
    parts = "".join(f'<section id="{mark}"><h2>{escaped(one.title)}</h2>{one.body}</section>' for mark, one in marked)
    head = "".join(f'<p class="soft">{escaped(line)}</p>' for line in lines)
    start, end = frame(title, svg.style())
    return f"{start}{head}<nav>{links}</nav>{parts}{end}"


def frame(title: str, style: str = "", script: str = "") -> tuple[str, str]:
    """What stands before and behind the content of a page, with its title. One with a script may load nothing, even if
    a name in it were to ask for it."""
    policy = "default-src 'none';img-src data:;style-src 'unsafe-inline';script-src 'unsafe-inline'"
    strict = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if script else ""
    start = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{strict}'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escaped(title)}</title><style>{STYLE}{style}</style></head><body><main><h1>{escaped(title)}</h1>"
    )
    return start, f"</main>{f'<script>{script}</script>' if script else ''}</body></html>\n"


def words(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>"


def small_heading(text: str) -> str:
    return f"<h3>{escaped(text)}</h3>"


def commands(lines: Sequence[str]) -> str:
    return f"<pre>{escaped(chr(10).join(lines))}</pre>"


def beside(*parts: str) -> str:
    """Next to each other where there is room."""
    return f'<div class="side">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def drawing(one: Drawing, title: str) -> str:
    return f"<figure>{svg.element(one, title)}</figure>"


def folded(summary: str, body: str) -> str:
    """Shown when a reader asks for it."""
    return f"<details><summary>{escaped(summary)}</summary>{body}</details>"


def data_url(image: Image.Image, form: str = "PNG") -> str:
    """The image itself as an address. `form`: PNG or JPEG."""
    out = io.BytesIO()
    image.save(out, form, optimize=True)
    return f"data:image/{form.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def image(image: Image.Image, caption: str, *, pixels: bool = False, scale: str = "") -> str:
    """`pixels`: each of them is a value, and stays a square however large it is shown. `scale`: a `color_bar`."""
    kind = ' class="pixels"' if pixels else ""
    return (
        f'<figure{kind}><img src="{data_url(image)}" width="{image.width}" height="{image.height}" '
        f'alt="{escaped(caption)}">{scale}<figcaption>{escaped(caption)}</figcaption></figure>'
    )


def color_bar(stops: Sequence[tuple[int, int, int]], low: str, high: str) -> str:
    """What the colors of a map stand for, from its lowest to its highest value."""
    colors = ",".join(f"rgb{stop}" for stop in stops)
    bar = f'<i style="background:linear-gradient(90deg,{colors})"></i>'
    return f'<div class="colors"><span>{escaped(low)}</span>{bar}<span>{escaped(high)}</span></div>'


def ranking(shares: Sequence[tuple[str, float]]) -> str:
    """Names with their shares of 1, as bars."""
    rows = (
        f'<li><span>{escaped(name)}</span><i><b style="width:{100 * share:.1f}%"></b></i><span>{share:.1%}</span></li>'
        for name, share in shares
    )
    return f'<ol class="ranking">{"".join(rows)}</ol>'


def shots(images: Sequence[tuple[Image.Image, Sequence[str]]]) -> str:
    """Small images in a grid, each with lines below it, of which the first stands out."""
    parts = []
    for shown, (first, *others) in images:
        kind = ' class="pixels"' if max(shown.size) < 100 else ""
        lines = "<br>".join([f"<b>{escaped(first)}</b>", *map(escaped, others)])
        label = escaped(", ".join((first, *others)))
        parts.append(
            f'<figure{kind}><img src="{data_url(shown)}" width="{shown.width}" height="{shown.height}" '
            f'alt="{label}"><figcaption>{lines}</figcaption></figure>'
        )
    return f'<div class="shots">{"".join(parts)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Columns of numbers are set to the right; those with long texts may be broken into lines. On a phone, each row of
    a wide table is a block in which every cell has the name of its column."""
    kinds = [_kind([row[n] for row in rows]) for n in range(len(head))]
    stacked = len(head) >= STACKED

    def line(cells: Sequence[str], tag: str) -> str:
        labels = [f' data-label="{escaped(name)}"' if stacked and tag == "td" else "" for name in head]
        inner = (
            f"<{tag}{kind}{label}>{escaped(cell)}</{tag}>"
            for cell, kind, label in zip(cells, kinds, labels, strict=True)
        )
        return f"<tr>{''.join(inner)}</tr>"

    above = f"<caption>{escaped(caption)}</caption>" if caption else ""
    body = "".join(line(row, "td") for row in rows)
    titles = f"<thead>{line(head, 'th')}</thead>" if any(head) else ""
    kind = ' class="stack"' if stacked else ""
    return f'<div class="wide"><table{kind}>{above}{titles}<tbody>{body}</tbody></table></div>'


def _kind(cells: Sequence[str]) -> str:
    if all(_is_number(cell) for cell in cells):
        return " class=n"
    return " class=w" if any(len(cell) > LONG for cell in cells) else ""


def _is_number(text: str) -> bool:
    return text in ("", "–") or text.lstrip("+-−")[:1].isdigit()
