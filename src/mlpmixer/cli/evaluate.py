"""`mixer evaluate`: accuracy with 95 % confidence intervals, per class, and the quality of a model's features."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mlpmixer import data as data_sets
from mlpmixer.cli.output import one_of, print_table, require_writable, say
from mlpmixer.engines.table import ENGINES, precisions
from mlpmixer.machine.progress import progress_bar
from mlpmixer.text import printable, to_json
from mlpmixer.weights.locate import require_weights

MOST_CLASSES = 20  # of more, those with the lowest F1 are listed


def evaluate(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE|NAME")],
    /,
    data: str | None = None,
    split: str = "auto",
    protocol: Literal["own", "i", "ii"] = "own",
    train_images: int = 10_000,
    tta: Literal["none", "flip", "shifts"] = "none",
    real: Path | None = None,
    imagenet_v2: Path | None = None,
    imagenet_a: Path | None = None,
    imagenet_r: Path | None = None,
    imagenet_sketch: Path | None = None,
    imagenet_c: Path | None = None,
    strict: bool = False,
    device: str = "auto",
    engine: Annotated[str, one_of(("auto", *ENGINES))] = "auto",
    precision: Annotated[str, one_of(("auto", *precisions()))] = "fp32",
    workers: int = -1,
    batch_size: int = 64,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Measure accuracy with 95 % confidence intervals, per class.

    Calibration and the quality of the features, too. The card of a run is also kept in its folder, in cards/.

    Args:
        weights: A run folder, a file of weights, or a name from `mixer models --weights`.
        data: A data set: a folder, a list, shards, or a known name. Default: what the run was tested on.
        split: train, val, test or another; auto: test, or else val, or else what a run held out of train (val), or else
            all images.
        protocol: own: preprocessing of the model's metadata; i: stretched to 256×256, crop 224, as for the paper's
            Table 2; ii: short side to 256, crop 224, as for Table 3; each in proportion to the model's size.
        train_images: Images used to fit k-NN and linear probes; 0: without these metrics.
        tta: Test-time augmentation: also the accuracy of averages over flip (an image and its mirror image) or shifts
            (by half a patch, mirrored).
        real: ReaL's labels (real.json), for ImageNet's val.
        imagenet_v2: A folder of ImageNet-V2.
        imagenet_a: A folder of ImageNet-A.
        imagenet_r: A folder of ImageNet-R.
        imagenet_sketch: A folder of ImageNet-Sketch.
        imagenet_c: A folder of ImageNet-C.
        strict: Fail when an image cannot be read, instead of leaving it out.
        device: cpu, cuda, or auto.
        engine: Inference backend; eager: PyTorch, as the model is written; auto: the one that is usually the fastest,
            if it agrees with eager.
        precision: Numeric precision; int8 is for quantized models.
        workers: Processes that load images; -1: by the number of cores.
        batch_size: Batch size.
        output: A file to write the card to as well, as JSON.
        json: Print the card as JSON.
    """
    if output is not None:
        require_writable(output)
    require_weights(weights)
    if data is not None:
        data_sets.require_source(data)

    from mlpmixer.evaluation import tables
    from mlpmixer.evaluation.evaluate import evaluate

    folders = {
        "imagenet_v2": imagenet_v2,
        "imagenet_a": imagenet_a,
        "imagenet_r": imagenet_r,
        "imagenet_sketch": imagenet_sketch,
        "imagenet_c": imagenet_c,
    }
    with progress_bar() as progress:
        card = evaluate(
            weights,
            data,
            split=split,
            protocol=protocol,
            train_images=train_images,
            tta=tta,
            real=real,
            variants={name: folder for name, folder in folders.items() if folder is not None},  # pyright: ignore[reportArgumentType] (its keys are names of variants)
            strict=strict,
            device=device,
            engine=engine,
            precision=precision,
            workers=workers,
            batch_size=batch_size,
            progress=progress,
        )
    if output is not None:
        output.write_text(to_json(card.to_json(), indent=1) + "\n", encoding="utf-8")
    if json:
        print(to_json(card.to_json(), indent=1))
        return
    say(tables.summary(card))
    for table in tables.all_tables(card, MOST_CLASSES):
        print_table(*table)
    for warning in card.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
