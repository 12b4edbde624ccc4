"""`mixer models`: models with their cost, and pretrained weights."""

from __future__ import annotations

import shutil
import textwrap
from typing import Annotated, Any

import tyro

from mlpmixer.cli.output import parse_size, print_lines, print_table, say
from mlpmixer.models import canonical, family_name, list_models
from mlpmixer.models.measured import TABLE_1, measured
from mlpmixer.text import to_json


def models(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
    /,
    image_size: Annotated[str | None, tyro.conf.arg(metavar="N")] = None,
    weights: bool = False,
    json: bool = False,
) -> None:
    """List the models with their cost, or pretrained weights.

    Args:
        name: Only this model, such as mixer_b16 or Mixer-B/16, or those of a pattern, such as 'vit_*'.
        image_size: Count at this size instead: a side in pixels, or HEIGHTxWIDTH.
        weights: List pretrained weights, in the package and to download, by the names that other commands take; with
            NAME, of this model or checkpoint, in full.
        json: Print JSON.
    """
    if weights:
        _weights(name, json)
        return
    chosen = list_models(name or "*") or [canonical(name or "")]  # (which says what is meant)
    written = {} if image_size else {row["name"]: row for row in measured()}
    rows = [_row(written.get(model) or _measured_now(model, image_size)) for model in chosen]
    if json:
        _print_json(rows)
        return
    if len(rows) == 1:
        dimensions = " · ".join(f"{key} {value}" for key, value in rows[0]["dimensions"].items())
        print(textwrap.fill(dimensions, shutil.get_terminal_size().columns))
    print_table(
        ["model", "input", "tokens", "parameters", "backbone", "paper", "GMAC", "memory"],
        [
            [
                row["name"],
                _size(row["image_size"]),
                str(row["tokens"] or "–"),
                f"{row['params']:,}",
                f"{row['params_without_head']:,}",
                f"{row['paper_params_m']} M" if row["paper_params_m"] else "",
                f"{row['gmacs']:.3f}",
                f"{row['activation_mb']:.1f}",
            ]
            for row in rows
        ],
        note="input: size in pixels. tokens: patches of an image. backbone: parameters without the head. paper: those "
        "of Table 1. GMAC: 10⁹ multiply-adds per image. memory: MB of activations for backward per image, in float32.",
    )


def _measured_now(model: str, image_size: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    from mlpmixer.models.measure import measure

    return asdict(measure(model, image_size=parse_size(image_size) if image_size else None))


def _row(row: dict[str, Any]) -> dict[str, Any]:
    height, width = row["image_size"]
    square = height == width
    paper = TABLE_1.get(row["name"]) if (height, width) == (224, 224) else None  # token mixing grows with the image
    return {**row, "image_size": height if square else [height, width], "paper_params_m": paper}


def _size(size: int | list[int]) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]}×{size[1]}"


def _weights(name: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from mlpmixer.weights.bundled import ABOUT, BUNDLED
    from mlpmixer.weights.model_zoo import model_zoo

    rows = [{"name": each, **asdict(about), "path": str(BUNDLED[each])} for each, about in ABOUT.items()]
    rows += [{**asdict(entry), "measured_on": entry.top1 and "ImageNet"} for entry in model_zoo().values()]
    if name is not None:
        model = None if name in {row["name"] for row in rows} else canonical(name)
        rows = [row for row in rows if row["name"] == name or row["model"] == model]
    if as_json:
        _print_json(rows)
        return
    groups: dict[str, list[list[str]]] = {}
    for row in rows:
        title = "In the package" if "path" in row else f"{family_name(row['model'])}_*, to download"
        top1 = f"{row['top1']:5.2f} %" if row["top1"] else "–"
        groups.setdefault(title, []).append([row["name"], top1, row["measured_on"] or "", row["what"]])
    print_lines(
        groups,
        note="Top-1, and the images it was measured on. A name can be given wherever a file of weights can.\n"
        "`mixer models NAME --weights` says more of one, or of those of a model."
        if name is None
        else "",
    )
    for row in rows if name is not None else ():
        for key, value in row.items():
            if value is not None:
                say(f"{key}: {to_json(value) if isinstance(value, dict) else value}")
        print()


def _print_json(rows: list[dict[str, Any]]) -> None:
    print(to_json(rows, indent=2))
