"""`export`: weights in, a validated standalone model file out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mlpmixer import packages
from mlpmixer.errors import MissingPackage, UsageError, nearest
from mlpmixer.export import card, check_images
from mlpmixer.export.check import Progress, check, speeds
from mlpmixer.export.formats import FORMATS, Format, code
from mlpmixer.export.job import Job, Size
from mlpmixer.metrics.intervals import wilson
from mlpmixer.models.classifier import Classifier
from mlpmixer.run.folder import RunFolder
from mlpmixer.weights.load import load


def export(
    source: str | os.PathLike[str],
    to: str,
    *,
    output: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    data: str | os.PathLike[str] | None = None,
    size: Size = "dynamic",
    count: int = 1000,
    license: str = "unknown",
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Exports a model with its preprocessing and class names to a validated standalone file.

    The same images go through the model and through the file before it is kept. A model card (Markdown) lies beside it.

    Args:
        source: Anything that `mlpmixer.load` takes.
        to: "onnx", "openvino", "pt2" or "safetensors".
        output: The file; None: in the current folder, named after `source`.
        precision: Numeric precision of the weights in the file; int8 computes in it, too.
        data: Images to validate with, and to calibrate int8 with: what `mlpmixer.data.open` takes, or a folder of
            images. None: what the run was tested on, or else images that come with the package.
        size: Of the images that the file takes: "dynamic": any; (height, width); "prepared": the model's own size, and
            the file resizes nothing.
        count: Images to validate with at most.
        license: Of the weights, for the model card.
        force: Replace files that exist.
        progress: Called with what is being done, how many images so far, and how many there are.

    Returns:
        The report: "images", "agreement" with the model in each runtime, "accuracy" if there are labels, "speed",
        "model", "machine", "files" and "paths".

    Raises:
        Refused: The file does not agree with the model; nothing is written.
        UsageError: An option that does not exist or does not fit, or a file that exists or cannot be written.
        MissingPackage: The format needs a package that is not installed.
        DataError: Images that are not there, or none that can be read.
    """
    form = _format(to, precision, size)
    if count < 1:
        raise UsageError(f"a file is validated with 1 image or more; got --count {count}")
    model = _model(source)
    paths = _paths(source, output, form, precision)
    taken = [path for path in paths if path.exists()]
    if taken and not force:
        raise UsageError(f"{taken[0]} exists; replace it with --force, or choose another --output")
    found = check_images.find(os.fspath(source), data, model, count)
    job = Job(
        model=model,
        info=model.metadata,
        precision=precision,
        size=size,
        license=license,
        calibration=found.calibration(model.metadata.preprocessing) if precision == "int8" else None,
    )
    with _beside(paths) as parts:
        progress("converting", 0, 1)
        code(to).write(job, parts[0])
        runtimes = code(to).start(parts[0], job)
        report: dict[str, Any] = {
            "source": os.fspath(source),
            "format": to,
            "precision": precision,
            **check(job, runtimes, found, resizes=form.resizes, progress=progress),
            "run": _accuracy_of_run(source),
            "model": {"name": model.name, **card.size_of(job)},
            "machine": card.machine_for(form.needs(precision)),
        }
        progress("timing", 0, 1)
        report["speed"] = speeds(job, runtimes, found)
        report["files"] = [
            {"name": path.name, "bytes": part.stat().st_size} for part, path in zip(parts[:-1], paths, strict=False)
        ]
        parts[-1].write_text(card.card(job, report), encoding="utf-8", errors="backslashreplace")
    report["paths"] = [str(path) for path in paths]
    return report


def _format(to: str, precision: str, size: Size) -> Format:
    if to not in FORMATS:
        raise UsageError(f"cannot export to '{to}'{nearest(to, FORMATS)} (there are {', '.join(FORMATS)})")
    form = FORMATS[to]
    if precision not in form.precisions:
        raise UsageError(f"{to} files are {', '.join(form.precisions)} here, not {precision}")
    if not form.standalone and size != "dynamic":
        raise UsageError(f"{to} files hold no preprocessing that has a size; leave --size out")
    for package in packages.missing(*form.needs(precision)):
        raise MissingPackage(f"{to} in {precision} needs the package {package}: {packages.how_to_install(to)}")
    return form


def _model(source: str | os.PathLike[str]) -> Classifier:
    model = load(source, dtype=torch.float32)
    if model.config.num_classes == 0:
        raise UsageError(f"{source} has no head, so it has no classes to predict")
    if model.config.in_channels != 3:
        raise UsageError(f"{source} takes images of {model.config.in_channels} channels; files take red, green, blue")
    return model


def _paths(source: str | os.PathLike[str], output: object, form: Format, precision: str) -> list[Path]:
    """All files that will be written, the model card last."""
    usual = form.endings[0]
    if output is None:
        name = Path(os.fspath(source)).absolute().name.removesuffix(".safetensors").removesuffix(".npz")
        path = Path(f"{name}{'' if precision == 'fp32' else f'-{precision}'}{usual}")
    else:
        path = Path(str(output))
        if path.suffix != usual:
            raise UsageError(f"the name of such a file ends with {usual}; got --output {path}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a file: --output {path / 'model'}{usual}")
    return [*(path.with_suffix(ending) for ending in form.endings), path.with_name(f"{path.name}.md")]


@contextmanager
def _beside(paths: list[Path]) -> Iterator[list[Path]]:
    """The same files in a temporary folder beside them; they get their names at the end, all or none.

    A folder, since `files.whole` changes the ending of a name, by which runtimes tell formats.
    """
    target, folder = paths[0], None
    made = [parent for parent in target.absolute().parents if not parent.exists()]
    try:
        if made:
            target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        parts = [folder / path.name for path in paths]
        yield parts
        for part in parts:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        for part, path in reversed([*zip(parts, paths, strict=True)]):  # the one that is named first comes last
            part.replace(path)
        made = []
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}; make room, or choose --output") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _accuracy_of_run(source: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a run measured at its end, with Wilson's interval."""
    result = RunFolder(source).result()
    for split in ("test", "val"):
        found = (result or {}).get(split)
        if found:
            low, high = wilson(found["top1"] * found["count"], found["count"])
            of = (result or {}).get("of", {}).get(split, split)
            return {"split": of, "value": found["top1"], "low": low, "high": high, "count": int(found["count"])}
    return None
