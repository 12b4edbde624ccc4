"""`mixer evaluate`: how good is this model, on these images, and how sure is that?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mlpmixer.cli.output import one_of, print_table, require_writable, say
from mlpmixer.engines.table import ENGINES, precisions
from mlpmixer.machine.progress import progress_bar
from mlpmixer.text import printable, to_json

ALL_CLASSES = 20  # with more of them, the table has only the worst


def evaluate(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE|NAME")],
    /,
    data: str | None = None,
    split: str = "auto",
    protocol: Literal["own", "i", "ii"] = "own",
    known: int = 10_000,
    real: Path | None = None,
    imagenet_v2: Path | None = None,
    imagenet_a: Path | None = None,
    imagenet_r: Path | None = None,
    imagenet_sketch: Path | None = None,
    imagenet_c: Path | None = None,
    strict: bool = False,
    device: str = "auto",
    engine: Annotated[str, one_of(("auto", *ENGINES))] = "eager",
    precision: Annotated[str, one_of(("auto", *precisions()))] = "fp32",
    workers: int = -1,
    batch_size: int = 64,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a model on a data set: accuracy and how sure it is, by class, calibration, and what its features hold.

    The card of a run is kept in its folder, cards/.

    Args:
        weights: A run folder, a file of weights, or a name from `mixer models --weights`.
        data: A data set: a folder, a list, shards, or a known name. By default what the run was measured on.
        split: train, val, test or another; auto: test, or else val, or else what a run held out of train (val), or else
            all there is.
        protocol: own: images as the model's metadata says; i: stretched to 256×256, crop 224, as for the paper's
            Table 2; ii: short side to 256, crop 224, as for Table 3; each in proportion to the model's size.
        known: Training images to learn from the features by: nearest neighbors, few shots, a probe; 0: none of it.
        real: ReaL's labels (real.json), for ImageNet's val.
        imagenet_v2: A folder of ImageNet-V2.
        imagenet_a: A folder of ImageNet-A.
        imagenet_r: A folder of ImageNet-R.
        imagenet_sketch: A folder of ImageNet-Sketch.
        imagenet_c: A folder of ImageNet-C.
        strict: Fail when an image cannot be read, instead of leaving it out.
        device: cpu, cuda, or auto.
        engine: What runs the model; eager: PyTorch, as the model is written.
        precision: In which numbers; int8 is for quantized models.
        workers: Processes that load images; -1: by the number of cores.
        batch_size: Images at once.
        out: Also write the card into this file, as JSON.
        json: Print the card as JSON.
    """
    from mlpmixer.evaluation.evaluate import evaluate

    if out is not None:
        require_writable(out)
    folders = {
        "imagenet_v2": imagenet_v2,
        "imagenet_a": imagenet_a,
        "imagenet_r": imagenet_r,
        "imagenet_sketch": imagenet_sketch,
        "imagenet_c": imagenet_c,
    }
    with progress_bar() as watch:
        card = evaluate(
            weights,
            data,
            split=split,
            protocol=protocol,
            known=known,
            real=real,
            variants={name: folder for name, folder in folders.items() if folder is not None},  # pyright: ignore[reportArgumentType] (its keys are names of variants)
            strict=strict,
            device=device,
            engine=engine,
            precision=precision,
            workers=workers,
            batch_size=batch_size,
            watch=watch,
        )
    if out is not None:
        out.write_text(to_json(card, indent=1) + "\n", encoding="utf-8")
    if json:
        print(to_json(card, indent=1))
        return
    _show(card)
    for warning in card["warnings"]:
        print(f"warning: {printable(warning)}", file=sys.stderr)


def _show(card: dict[str, Any]) -> None:
    model, images = card["model"], card["data"]
    say(
        f"{model['name']}, {model['parameters'] / 1e6:,.2f} M parameters, on {images['count']:,} images of "
        f"{images['classes']:,} classes ({images['source']}, {images['title']})"
    )
    print_table(["", "of images", "95 % interval", "right", "of"], _rows(card), _notes(card))
    if "classes" in card:
        classes = card["classes"]
        if len(classes) > ALL_CLASSES:
            classes = sorted(classes, key=lambda one: one["recall"])[:ALL_CLASSES]
            say(f"The {ALL_CLASSES} classes that are found least often, of {len(card['classes'])}:")
        print_table(
            ["class", "images", "recall", "precision", "F1", "mistaken most for"],
            [
                [
                    one["name"],
                    str(one["count"]),
                    *(f"{one[k]:.1%}" for k in ("recall", "precision", "f1")),
                    one["mistaken_for"] or "–",
                ]
                for one in classes
            ],
        )


def _rows(card: dict[str, Any]) -> list[list[str]]:
    learnt = card.get("learnt", {})
    shares = {
        "top-1": card.get("top1"),
        "top-5": card.get("top5") if card["data"]["classes"] > 5 else None,
        "ReaL": card.get("real"),
        **{name: card.get(key) for name, key in VARIANTS.items()},
        f"the {learnt.get('neighbors', {}).get('nearest')} nearest of {learnt.get('known', 0):,}": learnt.get(
            "neighbors"
        ),
        f"logistic probe on {learnt.get('known', 0):,}": learnt.get("probe"),
    }
    rows = [
        [name, f"{one['value']:.2%}", f"{one['low']:.2%} – {one['high']:.2%}", f"{one['right']:,}", f"{one['count']:,}"]
        for name, one in shares.items()
        if one is not None
    ]
    for shots, found in learnt.get("few_shot", {}).items():
        seeds = f"{min(found['seeds']):.2%} – {max(found['seeds']):.2%} in {len(found['seeds'])} seeds"
        rows.append([f"linear, {shots} shot{'s' * (shots != '1')}", f"{found['mean']:.2%}", seeds, "", ""])
    return rows


VARIANTS = {
    "ImageNet-V2": "imagenet_v2",
    "ImageNet-A": "imagenet_a",
    "ImageNet-R": "imagenet_r",
    "ImageNet-Sketch": "imagenet_sketch",
}


def _notes(card: dict[str, Any]) -> str:
    lines = []
    if "calibration" in card:
        error, (low, high) = card["calibration"]["error"], card["calibration"]["interval"]
        lines.append(
            f"calibration error {error:.2%} ({low:.2%} – {high:.2%}); cross-entropy {card['cross_entropy']:.4f}"
        )
        lines.append(f"always the most frequent class: {card['chance']['share']:.2%}")
    if "imagenet_c" in card:
        mce = card["imagenet_c"]["mce"]
        ways = len(card["imagenet_c"]["errors"])
        lines.append(f"ImageNet-C: mCE {mce:.1f}" if mce is not None else f"ImageNet-C: {ways} of 15 ways, so no mCE")
    return "\n".join(lines)
