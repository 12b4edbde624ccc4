"""`export`: weights in, a file for others out, checked before it gets its name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mlpmixer.errors import UsageError, nearest
from mlpmixer.export import card, check_images
from mlpmixer.export.check import Watch, check, speeds
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
    watch: Watch = lambda *_: None,
) -> dict[str, Any]:
    """The report of what was written and how it was checked; a card beside the file says the same to people.

    source: what `load` takes.
    to: a name in `FORMATS`.
    output: the file; by default named after `source`, here.
    precision: in what numbers the file keeps its weights; int8 computes in them as well.
    data: images to check with, and to calibrate int8 with: what `mlpmixer.data.open` takes, or a folder of images.
    size: of the images that the file takes.
    count: images to check with at most.
    license: of the weights, for the card.
    force: whether files of that name may be replaced.
    """
    form = _format(to, precision, size)
    if count < 1:
        raise UsageError(f"it takes 1 image or more to check a file; got {count}")
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
        watch("converting", 0, 1)
        code(to).write(job, parts[0])
        ways = code(to).start(parts[0], job)
        report: dict[str, Any] = {
            "source": os.fspath(source),
            "to": to,
            "precision": precision,
            **check(job, ways, found, resizes=form.resizes, watch=watch),
            "run": _measured_by_the_run(source),
            "model": {"name": model.name, **card.size_of(job)},
            "machine": card.machine_for(form.needs(precision)),
        }
        watch("timing", 0, 1)
        report["speed"] = speeds(job, ways, found)
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
    if not form.anywhere and size != "dynamic":
        raise UsageError(f"{to} files hold no preprocessing that has a size; leave --size out")
    for package in form.needs(precision):
        if find_spec(package) is None:
            raise UsageError(f"{to} in {precision} needs the package {package}: pip install 'mlpmixer[{to}]'")
    return form


def _model(source: str | os.PathLike[str]) -> Classifier:
    model = load(source, dtype=torch.float32)
    if model.config.num_classes == 0:
        raise UsageError(f"{source} has no head, so it has no labels to give")
    if model.config.in_channels != 3:
        raise UsageError(f"{source} takes images of {model.config.in_channels} channels; files take red, green, blue")
    return model


def _paths(source: str | os.PathLike[str], output: object, form: Format, precision: str) -> list[Path]:
    """Of all files that will be there, the card as the last."""
    usual = form.endings[0]
    if output is None:
        name = Path(os.fspath(source)).absolute().name.removesuffix(".safetensors").removesuffix(".npz")
        path = Path(f"{name}{'' if precision == 'fp32' else f'-{precision}'}{usual}")
    else:
        path = Path(str(output))
        if path.suffix != usual:
            raise UsageError(f"such a file is to end with {usual}; got --output {path}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a file: --output {path / 'model'}{usual}")
    return [*(path.with_suffix(ending) for ending in form.endings), path.with_name(f"{path.name}.md")]


@contextmanager
def _beside(paths: list[Path]) -> Iterator[list[Path]]:
    """Places for the same files in a folder beside them. They get their names when all has gone well, else nothing is
    left of them."""
    target = paths[0]
    folder = None
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


def _measured_by_the_run(source: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a run folder knows of its own accuracy, as a share with Wilson's interval."""
    result = RunFolder(source).result()
    for split in ("test", "val"):
        found = (result or {}).get(split)
        if found:
            low, high = wilson(found["top1"] * found["count"], found["count"])
            of = (result or {}).get("of", {}).get(split, split)
            return {"split": of, "value": found["top1"], "low": low, "high": high, "count": int(found["count"])}
    return None
