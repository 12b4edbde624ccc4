"""The model card: what a person wants to know of a file before using it."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlpmixer.export.formats import FORMATS, code
from mlpmixer.export.job import Job
from mlpmixer.machine import processor
from mlpmixer.text import printable
from mlpmixer.version import __version__


def size_of(job: Job) -> dict[str, float]:
    """Parameters, and 10⁹ multiply-adds for an image."""
    flops = FlopCounterMode(display=False)
    with flops, torch.no_grad():
        job.model(torch.zeros(1, job.model.config.in_channels, *job.model.config.image_size))
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    return {"parameters": parameters, "gmacs": flops.get_total_flops() / 2e9}


def machine_for(packages: Sequence[str]) -> dict[str, Any]:
    """What a file was checked on."""
    versions = {package: version(package) for package in dict.fromkeys(("torch", *packages))}
    return {
        "processor": processor.name(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": {"mlpmixer": __version__, "python": platform.python_version(), **versions},
        "date": time.strftime("%Y-%m-%d"),
    }


def card(job: Job, report: Mapping[str, Any]) -> str:
    about, images, size, machine = job.about(), report["images"], report["model"], report["machine"]
    files = report["files"]
    form = FORMATS[report["to"]]
    provenance = [[plain(name), plain(text)] for name, text in about["provenance"].items()]
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    parts = [
        f"# {plain(Path(files[0]['name']).stem)}",
        f"{job.model.name}, an image classifier of {len(job.classes):,} classes, as {report['to']} in {job.precision}. "
        f"Written and checked by mlpmixer {__version__} on {machine['date']}.",
        "## Files",
        table(["file", "bytes"], [[quoted(file["name"]), f"{file['bytes']:,}"] for file in files]),
        "## Origin",
        table(["", ""], [["weights", quoted(report["source"])], *provenance, ["license", plain(job.license)]]),
        "## Accuracy",
        *_accuracy(report),
        "## Agreement",
        f"The same {images['count']:,} images ({plain(images['from'])}) through the model, in float32 by "
        "PyTorch, and through the file.",
        table(*agreement_table(report)),
        "## Speed",
        f"From pixels to scores, images of the first one's size, on {machine['processor']} with "
        f"{machine['threads']} threads; medians of a few batches, in turns.",
        table(*speed_table(report)),
        f"{machine['system']}; {versions}.",
        "## Size",
        f"{size['parameters']:,} parameters; {size['gmacs']:.3f} · 10⁹ multiply-adds an image, twice as many "
        "floating-point operations.",
        "## Images",
        prepared(job),
        "## Use",
        f"With {' and '.join(form.packages) if form.anywhere else 'mlpmixer'}:",
        f"```python\n{use(job, report['to'], files[0]['name'])}```",
        "## Classes",
        ", ".join(f"{i} {plain(name)}" for i, name in enumerate(job.classes)),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """A name from outside in Markdown, which takes none of it for markup."""
    return re.sub(r"[\\`*\[\]<>#|~&!]", r"\\\g<0>", printable(text))


def quoted(text: str) -> str:
    """The same in the type of code."""
    return "`" + printable(text).replace("`", "'").replace("|", "\\|") + "`"


def use(job: Job, to: str, file: str, image: str = "photo.jpg") -> str:
    """The fewest lines that use the file."""
    sized = job.how.crop if job.size == "prepared" else job.size
    resized = "" if isinstance(sized, str) else f".resize(({sized[1]}, {sized[0]}))"
    lines = code(to).USE.format(file=json.dumps(printable(file))[1:-1], image=image, resized=resized)
    return f"import json\n{lines}" if "json." in lines else lines


def prepared(job: Job) -> str:
    """How images become what the network is given, in words."""
    how = job.how
    scaled = {
        "short_side": f"the shorter side to {how.resize} pixels in proportion",
        "stretch": f"both sides to {how.resize} pixels",
    }[how.shape]
    steps = (
        f"scaled ({scaled}, {how.interpolation}, antialiased), the central {how.crop[0]}×{how.crop[1]} pixels "
        f"(height×width) cut out, then (value / 255 − mean) / std with mean {list(how.mean)} and std {list(how.std)}"
    )
    shape = "×".join(str(side) for side in job.taken)
    if job.size == "prepared":
        return f"uint8 RGB, {shape}, upright. **Not inside the file**: images are to be {steps}; that is inside."
    return f"uint8 RGB, {shape}, upright. Inside the file they are {steps}."


def agreement_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    labeled = report["images"]["labeled"]
    rows = []
    for row in report["agreement"]:
        bar = row["bar"]
        held = "–" if bar is None else _bar(bar, labeled)
        if bar is not None and row["counted"] < report["images"]["count"]:
            held += f" (where it is sure: {row['counted']:,} images)"
        right = [_percent(row["accuracy"])] if labeled else []
        rows.append([row["way"], row["images"], f"{row['alike']:.2%}", f"{row['furthest']:.1e}", held, *right])
    head = ["run by", "images", "same label", "scores off by", "required"]
    return [*head, *(["accuracy"] if labeled else [])], rows


def speed_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    batches = list(dict.fromkeys(row["batch"] for row in report["speed"]))
    ways = list(dict.fromkeys(row["way"] for row in report["speed"]))
    rates = {(row["way"], row["batch"]): row["images_per_s"] for row in report["speed"]}
    head = ["run by", *(f"images/s, {batch} at once" for batch in batches)]
    return head, [[way, *(f"{rates[way, batch]:,.1f}" for batch in batches)] for way in ways]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", cell) for cell in line) + " |" for line in lines)


def _accuracy(report: Mapping[str, Any]) -> list[str]:
    said = []
    images, share, run = report["images"], report["accuracy"], report["run"]
    if share is not None:
        found = report["agreement"][0]["accuracy"]
        said.append(
            f"On {share['count']:,} images of {plain(images['from'])}: the file {_percent(found)}, the model "
            f"{_percent(share)} (in brackets Wilson's 95 % interval)."
        )
    if run is not None:
        said.append(f"When it was trained: {_percent(run)} on all {run['count']:,} images of its {run['split']} split.")
    return said or ["Not measured: there were no images with labels. (`--data` takes some.)"]


def _percent(share: Mapping[str, float]) -> str:
    return f"{share['value']:.2%} [{share['low']:.2%}, {share['high']:.2%}]"


def _bar(bar: Mapping[str, float | None], labeled: bool) -> str:
    if labeled and bar["accuracy"] is not None:
        return f"≥ {bar['accuracy']:.1%} of the model's accuracy"
    return f"≥ {bar['alike']:.1%}" + ("" if bar["scores"] is None else f", ≤ {bar['scores']:g}")
