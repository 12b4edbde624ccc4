"""`mixer export`: a validated standalone model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mlpmixer import data as data_sets
from mlpmixer.cli.output import parse_size, print_table, say
from mlpmixer.export import push as pushing
from mlpmixer.machine.progress import progress_bar
from mlpmixer.text import to_json
from mlpmixer.weights.locate import require_weights

if TYPE_CHECKING:
    from mlpmixer.export.job import Size


def export(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE|NAME")],
    /,
    to: Annotated[str, tyro.conf.arg(metavar="onnx|openvino|pt2|safetensors")],
    output: Path | None = None,
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32",
    data: str | None = None,
    size: str = "dynamic",
    count: int = 1000,
    license: str = "unknown",
    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")] = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Write a validated model file: ONNX, OpenVINO, PyTorch.

    Preprocessing and class names are inside. The same images go through the model and through the file before the file
    is kept. A model card (Markdown) is written beside it.

    Args:
        weights: A run folder, a file of weights, or a name from `mixer models --weights`.
        to: onnx, for ONNX Runtime; openvino; pt2, which PyTorch runs without mlpmixer; safetensors, for mlpmixer.
        output: The file. Default: named after the weights, in the current folder.
        precision: Numeric precision of the weights. onnx: fp32, fp16; openvino: fp32, fp16, int8; pt2: fp32, bf16;
            safetensors: all four.
        data: Images to validate with, and to calibrate int8 with: a data set, or a folder of images. Default: what
            the run was tested on, or images that come with mlpmixer.
        size: Of the input images. dynamic: any; HEIGHTxWIDTH: only this one; prepared: the model's own size, and the
            file resizes nothing.
        count: Images to validate with at most.
        license: License of the weights, for the model card.
        push: Upload the files to this repository on the Hugging Face Hub as well, the model card as its README.md.
        force: Replace files that exist.
        json: Print the report as JSON.
    """
    require_weights(weights)
    if data is not None:
        data_sets.require_source(data)
    if push is not None:
        pushing.require(push)

    from mlpmixer.export.check import Refused
    from mlpmixer.export.export import export

    try:
        with progress_bar() as progress:
            report = export(
                weights,
                to,
                output=output,
                precision=precision,
                data=data,
                size=_size(size),
                count=count,
                license=license,
                force=force,
                progress=progress,
            )
    except Refused as refused:
        _show_agreement(refused.report) if not json else print(to_json(refused.report, indent=1))
        raise
    if push is not None:
        report["pushed"] = pushing.push([Path(path) for path in report["paths"]], push)
    if json:
        print(to_json(report, indent=1))
        return
    from mlpmixer.export.card import speed_table

    _show_agreement(report)
    print_table(*speed_table(report))
    for path in report["paths"]:
        say(path)
    if push is not None:
        say(report["pushed"])


def _size(text: str) -> Size:
    if text == "dynamic" or text == "prepared":
        return text
    sides = parse_size(text)
    return sides if isinstance(sides, tuple) else (sides, sides)


def _show_agreement(report: dict[str, Any]) -> None:
    from mlpmixer.export.card import agreement_table

    images = report["images"]
    print_table(*agreement_table(report), f"{images['count']:,} images: {images['source']}")
