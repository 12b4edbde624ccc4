"""`mixer predict`: classify images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mlpmixer.cli.output import one_of, tell
from mlpmixer.cli.progress import Bar
from mlpmixer.engines.table import ENGINES, precisions
from mlpmixer.errors import UsageError
from mlpmixer.weights.bundled import DEFAULT
from mlpmixer.weights.locate import require_weights


def predict(
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER|URL|-...")],
    /,
    weights: Annotated[str, tyro.conf.arg(metavar="RUN|FILE|NAME")] = DEFAULT,
    top: int = 5,
    json: bool = False,
    csv: bool = False,
    parquet: bool = False,
    output: Path | None = None,
    html: Path | None = None,
    resume: bool = False,
    embeddings: Path | None = None,
    tta: Literal["none", "flip", "shifts", "crops"] = "none",
    strict: bool = False,
    engine: Annotated[str, one_of(("auto", *ENGINES))] = "auto",
    precision: Annotated[str, one_of(("auto", *precisions()))] = "auto",
    device: str = "auto",
    batch: int = 32,
    null: Annotated[bool, tyro.conf.arg(aliases=["-0"])] = False,
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None,
) -> None:
    """Classify images.

    Args:
        images: Image files, folders with images somewhere below them, http(s) addresses, or - for paths on standard
            input, one a line.
        weights: A run folder, a file of weights, or a name from `mixer models --weights`; by default the small model
            that comes with the package, which knows the ten classes of CIFAR-10.
        top: Labels for each image.
        json: A line of JSON for each image.
        csv: A line of CSV for each image, after one with the names of the columns.
        parquet: Parquet; needs --output, which becomes a folder of parts.
        output: Write into this file instead of to standard output; its ending tells the format, too.
        html: Write a gallery too, an .html page that needs no network: thumbnails, labels, filters by class and score.
            Its CSV is --output, or a file beside it.
        resume: Continue --output where a run ended, however it did: what is in the file is done.
        embeddings: Write embeddings (penultimate features) into this .npy file, a row for each image.
        tta: Test-time augmentation: average over flip (and its mirror image), shifts (by half a patch, mirrored) or
            crops (center, corners, mirrored).
        strict: Exit with code 1 when an image could not be read. (The others are predicted all the same.)
        engine: Inference backend. auto: the fastest here.
        precision: Numeric precision. int8 calibrates its ranges on the first images, if the weights have none, and is
            refused where too many labels would change.
        device: auto, cpu or cuda.
        batch: Batch size.
        null: Paths on standard input are ended by NULs, as `find -print0` writes them.
        ray: Work on a Ray cluster: its address, such as auto, ray://host:10001, or local for one that is started here.
    """
    if not images:
        raise UsageError("give one image or more: mixer predict photo.jpg")
    if html is not None:
        output = _table_of(html, output, resume)
    form = _form([name for name, given in (("json", json), ("csv", csv), ("parquet", parquet)) if given], output)
    if html is not None and form != "csv":
        raise UsageError(f"a gallery is made of a CSV: leave out --{form}")
    if resume and output is None:
        raise UsageError("--resume continues a file: name it with --output")
    if embeddings is not None and embeddings.suffix != ".npy":
        raise UsageError(f"embeddings are written as .npy, not as '{embeddings.name}'")

    from mlpmixer.predict import paths

    require_weights(weights)
    if not resume:
        paths.require_some(images)

    from mlpmixer.predict.job import Job

    settings: dict[str, Any] = {"engine": engine, "precision": precision, "device": device, "top": top, "tta": tta}
    settings["batch_size"] = batch
    job = Job(images, weights, settings, form, output, embeddings, html, resume, null, ray, strict)
    shown = output is not None or not sys.stdout.isatty()  # otherwise one sees the predictions
    with Bar(None if job.endless or job.one else job.files, hidden=not shown) as bar:

        def say(line: object) -> None:
            with bar.aside():
                tell(line, wrapped=True)

        job.say, job.advance = say, bar.advance
        job.run()


def _table_of(html: Path, output: Path | None, resume: bool) -> Path:
    """The CSV that a gallery is made of."""
    if html.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html writes a page: end '{html.name}' with .html")
    if output is not None and output.suffix.lower() != ".csv":
        raise UsageError(f"a gallery is made of a CSV: end --output with .csv, not as '{output.name}', or leave it out")
    if html.exists() and not resume:
        raise UsageError(f"{html} exists; remove it, or choose another name")
    return output or html.with_suffix(".csv")


def _form(named: list[str], output: Path | None) -> str:
    if len(named) > 1:
        raise UsageError(f"--{named[0]} and --{named[1]} exclude each other")
    if named == ["parquet"] and output is None:
        raise UsageError("Parquet is not text: say where with --output, such as labels.parquet")
    if named or output is None:
        return named[0] if named else "table"
    from mlpmixer.predict.formats import format_of

    return format_of(output)
