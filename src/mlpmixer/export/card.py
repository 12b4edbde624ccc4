"""The model card beside an exported file: origin, accuracy, agreement with the model, speed, how to use it."""

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
    """Parameters, and GMACs (10⁹ multiply-adds) for an image."""
    flops = FlopCounterMode(display=False)
    with flops, torch.no_grad():
        job.model(torch.zeros(1, job.model.config.in_channels, *job.model.config.image_size))
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    return {"parameters": parameters, "gmacs": flops.get_total_flops() / 2e9}


def machine_for(packages: Sequence[str]) -> dict[str, Any]:
    """Processor, threads, system and versions that a file was validated on."""
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
    form = FORMATS[report["format"]]
    provenance = [[plain(name), plain(text)] for name, text in about["provenance"].items()]
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    parts = [
        front_matter(job, report),
        f"# {plain(Path(files[0]['name']).stem)}",
        f"{job.model.name}, an image classifier of {len(job.classes):,} classes, as {report['format']} in "
        f"{job.precision}. Written and validated by mlpmixer {__version__} on {machine['date']}.",
        "## Files",
        table(["file", "bytes"], [[quoted(file["name"]), f"{file['bytes']:,}"] for file in files]),
        "## Origin",
        table(["", ""], [["weights", quoted(report["source"])], *provenance, ["license", plain(job.license)]]),
        "## Accuracy",
        *_accuracy(report),
        "## Agreement",
        f"The same {images['count']:,} images ({plain(images['source'])}) through the model, in float32 by "
        "PyTorch, and through the file.",
        table(*agreement_table(report)),
        "## Speed",
        f"From pixels to scores, images of the first one's size, on {machine['processor']} with "
        f"{machine['threads']} threads; medians of a few interleaved batches.",
        table(*speed_table(report)),
        f"{machine['system']}; {versions}.",
        "## Size",
        f"{size['parameters']:,} parameters; {size['gmacs']:.3f} · 10⁹ multiply-adds an image, twice as many "
        "floating-point operations.",
        "## Images",
        prepared(job),
        "## Use",
        f"With {' and '.join(form.packages) if form.standalone else 'mlpmixer'}:",
        f"```python\n{use(job, report['format'], files[0]['name'])}```",
        "## Classes",
        ", ".join(f"{i} {plain(name)}" for i, name in enumerate(job.classes)),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(job: Job, report: Mapping[str, Any]) -> str:
    """What the Hugging Face Hub reads, in YAML; texts are quoted as in JSON, which YAML contains."""
    accuracy, images = report["run"] or report["accuracy"], report["images"]
    known = re.fullmatch(r"[a-z0-9.-]+", job.license.lower())
    lines = [
        f"license: {job.license.lower() if known else 'other'}",
        *([] if known else [f"license_name: {_yaml(job.license)}"]),
        "pipeline_tag: image-classification",
        f"library_name: {'mlpmixer' if not FORMATS[report['format']].standalone else report['format']}",
        "tags:",
        *(f"- {tag}" for tag in ("image-classification", "mlpmixer", job.model.name, report["format"])),
        "metrics:",
        "- accuracy",
    ]
    if accuracy is not None:
        source = str((report["run"] and job.info.provenance.get("data")) or images["source"])
        lines += [
            "model-index:",
            f"- name: {_yaml(Path(report['files'][0]['name']).stem)}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {_yaml(source)}",
            f"      type: {_yaml(re.sub(r'[^a-z0-9_.-]+', '-', source.lower()).strip('-') or 'images')}",
            "    metrics:",
            "    - type: accuracy",
            f"      value: {accuracy['value']:.4f}",
        ]
    return "\n".join(["---", *lines, "---"])


def _yaml(text: str) -> str:
    return json.dumps(printable(text))


def plain(text: str) -> str:
    """A text from outside, escaped for Markdown."""
    return re.sub(r"[\\`*\[\]<>#|~&!]", r"\\\g<0>", printable(text))


def quoted(text: str) -> str:
    """The same as inline code."""
    return "`" + printable(text).replace("`", "'").replace("|", "\\|") + "`"


def use(job: Job, to: str, file: str, image: str = "photo.jpg") -> str:
    """The fewest lines that use the file."""
    sized = job.how.crop if job.size == "prepared" else job.size
    resized = "" if isinstance(sized, str) else f".resize(({sized[1]}, {sized[0]}))"
    lines = code(to).USE.format(file=json.dumps(printable(file))[1:-1], image=image, resized=resized)
    return f"import json\n{lines}" if "json." in lines else lines


def prepared(job: Job) -> str:
    """Preprocessing in words."""
    how = job.how
    scaled = {
        "short_side": f"the shorter side to {how.resize} pixels in proportion",
        "stretch": f"both sides to {how.resize} pixels",
    }[how.shape]
    steps = (
        f"scaled ({scaled}, {how.interpolation}, antialiased), the central {how.crop[0]}×{how.crop[1]} pixels "
        f"(height×width) cut out, then (value / 255 − mean) / std with mean {list(how.mean)} and std {list(how.std)}"
    )
    shape = "×".join(str(side) for side in job.input_shape)
    if job.size == "prepared":
        return f"uint8 RGB, {shape}, upright. **Not inside the file**: images must be {steps}; that is inside."
    return f"uint8 RGB, {shape}, upright. Inside the file they are {steps}."


def agreement_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the agreement of the file with the model, in each runtime."""
    labeled = report["images"]["labeled"]
    rows = []
    for row in report["agreement"]:
        required = "–" if row["required"] is None else _requirement(row["required"], labeled)
        if row["required"] is not None and row["compared"] < report["images"]["count"]:
            required += f" (of the {row['compared']:,} images that are not tied)"
        accuracy = [_percent(row["accuracy"])] if labeled else []
        difference = f"{row['max_difference']:.1e}"
        rows.append([row["runtime"], row["images"], f"{row['same_top1']:.2%}", difference, required, *accuracy])
    head = ["runtime", "images", "same top-1", "max score difference", "required"]
    return [*head, *(["accuracy"] if labeled else [])], rows


def speed_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: images per second by runtime and batch size."""
    batches, runtimes = (list(dict.fromkeys(row[key] for row in report["speed"])) for key in ("batch", "runtime"))
    rates = {(row["runtime"], row["batch"]): row["images_per_s"] for row in report["speed"]}
    rows = [[name, *(f"{rates[name, batch]:,.1f}" for batch in batches)] for name in runtimes]
    return ["runtime", *(f"images/s, batch {batch}" for batch in batches)], rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", cell) for cell in line) + " |" for line in lines)


def _accuracy(report: Mapping[str, Any]) -> list[str]:
    lines = []
    images, accuracy, run = report["images"], report["accuracy"], report["run"]
    if accuracy is not None:
        found = report["agreement"][0]["accuracy"]
        lines.append(
            f"On {accuracy['count']:,} images of {plain(images['source'])}: the file {_percent(found)}, the model "
            f"{_percent(accuracy)} (in brackets Wilson's 95 % interval)."
        )
    if run is not None:
        lines.append(
            f"At the end of training: {_percent(run)} on all {run['count']:,} images of its {run['split']} split."
        )
    return lines or ["Not measured: there were no labeled images. (Give some with `--data`.)"]


def _percent(accuracy: Mapping[str, float]) -> str:
    return f"{accuracy['value']:.2%} [{accuracy['low']:.2%}, {accuracy['high']:.2%}]"


def _requirement(required: Mapping[str, float | None], labeled: bool) -> str:
    if labeled and required["accuracy"] is not None:
        return f"≥ {required['accuracy']:.1%} of the model's accuracy"
    difference = required["max_difference"]
    return f"≥ {required['same_top1']:.1%}" + ("" if difference is None else f", ≤ {difference:g}")
