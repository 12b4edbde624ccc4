"""Prediction benchmark: image files into the five likeliest labels, by our Predictor and by timm's loader and model.

Both have the same weights, preprocessing, precision, batch size and cores; timm reads with as many processes as there
are cores. Ours in int8, calibrated on some of the images, is timed as well. Labels are compared: the ways to shrink an
image differ by a level of brightness here and there, so a few first labels may differ, since the weights are random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer.bench import baselines
from mlpmixer.bench.interleave import interleaved, ratio
from mlpmixer.bench.systems import Subject
from mlpmixer.data.sources.naming import EXTENSIONS
from mlpmixer.engines import kernels
from mlpmixer.errors import UsageError
from mlpmixer.machine.cores import cores
from mlpmixer.machine.devices import DTYPES
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.predict.int8_calibration import FEWEST, calibrated
from mlpmixer.predict.predictor import Predictor

TOP = 5

Answer = list[tuple[int, float]]


@dataclass(frozen=True)
class PredictionRow:
    """`same_label`: the share of images whose first label is ours. `speedup`: ours over it, and the
    quartiles over rounds."""

    system: str
    engine: str
    precision: str
    model: str
    batch: int
    images_per_s: float
    spread: float
    same_label: float
    speedup: tuple[float, float, float] | None


def bench_predicting(
    folder: Path,
    model: tuple[str, int],
    precision: str,
    images: int,
    rounds: int,
    *,
    quick: bool = False,
    tell: Callable[[str], object] = lambda _line: None,
) -> tuple[list[PredictionRow], list[str]]:
    """The rows, and who is left out, and why. images: how many files at most."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS)
    paths = [*map(str, islice(files, images))]
    if not paths:
        raise UsageError(f"there are no image files in {folder}")
    name, batch = model
    subject = Subject(name)
    height, width = subject.model.config.image_size
    # As timm has it for its Mixers.
    how = dataclasses.replace(Preprocessing.usual((height, width)), interpolation="bicubic")
    subject.model.metadata = ModelInfo(preprocessing=how)
    settings = {"device": "cpu", "top": TOP, "batch_size": batch, "measure": True}
    predictor = Predictor(subject.model, precision=precision, **settings)
    us = ("mlpmixer", predictor.engine.name, precision)
    systems: dict[tuple[str, str, str], Callable[[], list[Answer]]] = {us: _ours(predictor, paths)}
    if kernels.unsupported(subject.model) is None and len(paths) >= FEWEST:
        quantized, *_ = calibrated(subject.model, paths)
        systems["mlpmixer", "kernels", "int8"] = _ours(Predictor(quantized, precision="int8", **settings), paths)
    reason = baselines.why_not("timm", torch.device("cpu"))
    if reason is None:
        for compiled in (False,) if quick else (False, True):
            system = ("timm", "compiled" if compiled else "eager", precision)
            systems[system] = _timms(subject, how, paths, batch, precision, compiled)
    labels = {}
    for system, run in systems.items():
        tell(" ".join(system))
        labels[system] = run()  # which warms up, too
    times = interleaved(systems, rounds, warm_up=0)
    rows = []
    for system, each in times.items():
        same_label = sum(a[0][0] == b[0][0] for a, b in zip(labels[us], labels[system], strict=True)) / len(paths)
        speedup = None if system == us else ratio(times[us], each)
        rows.append(PredictionRow(*system, name, batch, len(paths) / each.median, each.spread, same_label, speedup))
    return rows, [] if reason is None else [f"timm: {reason}"]


def _ours(predictor: Predictor, paths: Sequence[str]) -> Callable[[], list[Answer]]:
    indices = {name: index for index, name in enumerate(predictor.classes)}

    def run() -> list[Answer]:
        found = []
        for _, prediction in predictor.stream(paths):
            if isinstance(prediction, Exception):
                raise prediction
            found.append([(indices[label], score) for label, score in prediction.top])
        return found

    return run


class Files(torch.utils.data.Dataset[Tensor]):
    def __init__(self, paths: Sequence[str], transform: Callable[..., Tensor]):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def _timms(
    subject: Subject, how: Preprocessing, paths: Sequence[str], batch: int, precision: str, compiled: bool
) -> Callable[[], list[Answer]]:
    from mlpmixer.bench.timm import eager, frozen, twin

    network = twin(subject).to(DTYPES[precision])
    from timm.data.transforms_factory import create_transform

    transform = create_transform(
        (3, *how.crop),
        interpolation=how.interpolation,
        mean=how.mean,
        std=how.std,
        crop_pct=how.crop[0] / how.resize,
    )
    answer = frozen(network, torch.device("cpu")) if compiled else eager(network)

    def run() -> list[Answer]:
        found: list[Answer] = []
        loader = torch.utils.data.DataLoader(Files(paths, transform), batch_size=batch, num_workers=cores())  # pyright: ignore[reportArgumentType]
        for images in loader:
            missing = batch - len(images)  # another size would be compiled once more
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)).to(DTYPES[precision])
            scores, labels = answer(images)[: batch - missing].float().softmax(dim=1).topk(TOP)
            for row, values in zip(labels.tolist(), scores.tolist(), strict=True):
                found.append([*zip(row, values, strict=True)])
        return found

    return run
