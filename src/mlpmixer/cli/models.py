"""`mixer models`: models with their cost, and pretrained weights."""

from __future__ import annotations

from typing import Annotated, Any

import tyro

from mlpmixer.cli.output import parse_size, print_table
from mlpmixer.models import canonical, list_models
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
        name: Only this model, such as mixer_b16 or Mixer-B/16.
        image_size: Count at this size instead: a side in pixels, or HEIGHTxWIDTH.
        weights: List the checkpoints that others have published, by the names that other commands take.
        json: Print JSON.
    """
    if weights:
        _weights(name, json)
        return
    chosen = [canonical(name)] if name else list_models()
    written = {} if image_size else {row["name"]: row for row in measured()}
    rows = [_row(written.get(model) or _measured_now(model, image_size)) for model in chosen]
    if json:
        _print_json(rows)
        return
    if name:
        print(" · ".join(f"{key} {value}" for key, value in rows[0]["dimensions"].items()))
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


def _weights(model: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from mlpmixer.weights.model_zoo import model_zoo

    entries = [e for e in model_zoo().values() if model is None or e.model == canonical(model)]
    if as_json:
        _print_json([asdict(entry) for entry in entries])
        return
    print_table(
        ["name", "GELU", "top-1 %", "description and address"],
        [[e.name, e.gelu or "–", f"{e.top1:.2f}" if e.top1 is not None else "", f"{e.what} {e.url}"] for e in entries],
        note="A name can be given wherever a file of weights can: it is downloaded once and checked. "
        "--json adds who says so, preprocessing and checksums.",
    )


def _print_json(rows: list[dict[str, Any]]) -> None:
    print(to_json(rows, indent=2))
