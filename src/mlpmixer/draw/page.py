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

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1d22;--soft:#5a616c;--rule:#e2e5ea;--wash:#f5f6f8;--link:#0a5bb0}
@media(prefers-color-scheme:dark){:root{--paper:#16181d;--ink:#e9ebef;--soft:#a5adb9;--rule:#2f343c;--wash:#1e2127;
--link:#7db8ff}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2rem 1.25rem 4rem}h1{font-size:1.7rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.25rem;margin:2.8rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{max-width:46rem;margin:.4rem 0}.soft{color:var(--soft)}a{color:var(--link)}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:1rem 0 0}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1.5rem;align-items:start}
figure{margin:1rem 0;min-width:0}figure img{max-width:100%;height:auto;border:1px solid var(--rule)}
figure svg{max-width:100%;height:auto}figcaption{color:var(--soft);font-size:.875rem;max-width:46rem}
.pixels img{image-rendering:pixelated}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.6rem 0}
caption{text-align:left;color:var(--soft);padding-bottom:.4rem}
th,td{padding:.32rem .9rem .32rem 0;text-align:left;border-bottom:1px solid var(--rule);white-space:nowrap}
th{font-weight:600}td.n,th.n{text-align:right}td.w{white-space:normal;min-width:12rem;max-width:32rem}
pre{background:var(--wash);padding:.75rem 1rem;overflow-x:auto;border-radius:6px;font-size:.875rem}
.big{font-size:2.2rem;font-weight:600;line-height:1.1}.warn{border-left:3px solid #b3261e;padding-left:.8rem}
"""


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
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escaped(title)}</title><style>{STYLE}{svg.style()}</style></head>"
        f"<body><main><h1>{escaped(title)}</h1>{head}<nav>{links}</nav>{parts}</main></body></html>\n"
    )


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


def image(image: Image.Image, caption: str, *, pixels: bool = False) -> str:
    """`pixels`: each of them is a value, and stays a square however large it is shown."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    data = base64.b64encode(out.getvalue()).decode()
    kind = ' class="pixels"' if pixels else ""
    return (
        f'<figure{kind}><img src="data:image/png;base64,{data}" width="{image.width}" height="{image.height}" '
        f'alt="{escaped(caption)}"><figcaption>{escaped(caption)}</figcaption></figure>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Columns of numbers are set to the right; those with long texts may be broken into lines."""
    kinds = [_kind([row[n] for row in rows]) for n in range(len(head))]

    def line(cells: Sequence[str], tag: str) -> str:
        inner = (f"<{tag}{kind}>{escaped(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    above = f"<caption>{escaped(caption)}</caption>" if caption else ""
    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>{above}<thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _kind(cells: Sequence[str]) -> str:
    if all(_is_number(cell) for cell in cells):
        return " class=n"
    return " class=w" if any(len(cell) > LONG for cell in cells) else ""


def _is_number(text: str) -> bool:
    return text in ("", "–") or text.lstrip("+-−")[:1].isdigit()
