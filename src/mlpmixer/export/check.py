"""Validation of a file: its agreement with the model that it was made from, and its speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from mlpmixer.data.preprocess import normalize, prepare, resize, short_side
from mlpmixer.errors import DataError, MixerError
from mlpmixer.export.check_images import Images, each
from mlpmixer.export.job import Job, Run
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.intervals import wilson

CHUNK = 16  # images that are validated together
BATCHES = (1, 16)  # batch sizes that the speed is measured with
ROUNDS = 5
SECONDS = 30.0  # of measuring a batch size, after which no further round begins

Progress = Callable[[str, int, int], None]  # what is being done, images so far, all images


class Refused(MixerError):
    """A file that does not agree with its model. `report`: what was measured, as `export` returns it."""

    def __init__(self, message: str, report: dict[str, object]):
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Requirement:
    """What a file must reach.

    Attributes:
        same_top1: Fraction of images with the same top-1 class as the model.
        max_difference: Largest difference of a score.
        accuracy: Fraction of the model's accuracy, in place of `same_top1` where labels are known.
    """

    same_top1: float
    max_difference: float | None = None
    accuracy: float | None = None


REQUIRED = {
    "fp32": Requirement(0.999, 1e-3),
    "bf16": Requirement(0.995),
    "fp16": Requirement(0.995),
    "int8": Requirement(0.99, accuracy=0.99),
}
# Other people's resizing may be a level off in some pixels of a hundred, and the scores follow. On images that need no
# resizing the file is held to what is required.
RESIZED = 0.1
TIED = 0.01  # and another top-1 class says nothing where the model's two best scores are no further apart
# On images that a model is not for, its top-1 class may be a toss-up. Where its two best scores are no further apart
# than this, another class says nothing against a file; on images of its domain, every image counts.
UNSURE = 0.1


@dataclass
class Tally:
    """Agreement of a file in one runtime, on one kind of images.

    Attributes:
        runtime: What runs the file.
        images: "as they are", or "resized beforehand".
        required: None: nothing is.
        count: Images.
        same: Those with the same top-1 class as the model.
        compared: Those whose top-1 class must be the same.
        compared_same: Those of them where it is.
        max_difference: Largest difference of a score from the model's.
        correct: Correct top-1 classes.
        not_finite: Whether a score was no number.
        tied: Images whose two best scores are no further apart than this are not compared; 0: all are.
    """

    runtime: str
    images: str
    required: Requirement | None
    count: int = 0
    same: int = 0
    compared: int = 0
    compared_same: int = 0
    max_difference: float = 0.0
    correct: int = 0
    not_finite: bool = False
    tied: float = 0.0

    def add(
        self, expected: Float[np.ndarray, "N K"], found: Float[np.ndarray, "N K"], labels: np.ndarray, in_domain: bool
    ):
        same = expected.argmax(1) == found.argmax(1)
        ranked = np.sort(expected, axis=1)
        ahead = ranked[:, -1] - ranked[:, -2:-1].sum(axis=1)
        unsure = self.tied if in_domain else UNSURE
        counts = ahead > unsure if unsure else np.full(len(expected), True)
        self.count += len(expected)
        self.same += int(same.sum())
        self.compared += int(counts.sum())
        self.compared_same += int((same & counts).sum())
        self.not_finite |= not np.isfinite(found).all()
        self.max_difference = max(self.max_difference, float(np.nan_to_num(np.abs(expected - found), nan=1.0).max()))
        self.correct += int((found.argmax(1) == labels).sum())

    def fault(self, correct: int | None) -> str | None:
        """Why the file is not good enough, where the model has so many correct; None: it is."""
        if (required := self.required) is None:
            return None
        if self.not_finite:
            return "some of its scores are not finite"
        if required.accuracy is not None and correct:
            if self.correct < required.accuracy * correct:
                return f"it is correct on {self.correct} of {self.count} images, the model on {correct}"
        elif self.compared_same < required.same_top1 * self.compared:
            return f"top-1 differs from the model's on {self.compared - self.compared_same} of {self.compared} images"
        if required.max_difference is not None and self.max_difference > required.max_difference:
            return (
                f"scores differ from the model's by up to {self.max_difference:.2g}, above {required.max_difference:g}"
            )
        return None


def check(
    job: Job, runtimes: dict[str, Run], images: Images, *, resizes: bool, progress: Progress
) -> dict[str, object]:
    """Compares a file with its model.

    Args:
        job: What was exported.
        runtimes: What runs the file; the first must agree, the others are reported.
        images: Images to compare on.
        resizes: Whether the file resizes by other people's code.
        progress: Called with what is being done, how many images so far, and how many there are.

    Returns:
        "images", "agreement" and "accuracy" of the report.

    Raises:
        Refused: The file is too far off.
        DataError: No image can be read.
    """
    first, required = next(iter(runtimes)), REQUIRED[job.precision]
    resizes = resizes and job.size != "prepared"
    loosened, tied = required, 0.0
    if resizes and required.max_difference is not None:
        loosened, tied = replace(required, max_difference=RESIZED), TIED
    whole = [Tally(runtime, "as they are", loosened if runtime == first else None, tied=tied) for runtime in runtimes]
    ready = Tally(first, "resized beforehand", required)
    correct = done = 0
    for numbers, some in _chunks(images, job.how):
        labels = images.test.labels[numbers]
        some = [file_input(image, job) for image in some]
        expected = model_scores(some, job)
        for tally in whole:
            tally.add(expected, _run(runtimes[tally.runtime], some), labels, images.in_domain)
        if resizes and job.size == "dynamic" and required.max_difference is not None:
            found = _run(runtimes[first], [resized(image, job) for image in some])
            ready.add(expected, found, labels, images.in_domain)
        correct += int((expected.argmax(1) == labels).sum())
        done += len(some)
        progress("validating", done, len(images.test))
    if not done:
        raise DataError(f"no image of {images.source} can be read; `mixer doctor` says more")
    tallies = [tally for tally in (*whole, ready) if tally.count]
    known = correct if images.labeled else None
    report: dict[str, object] = {
        "images": {"source": images.source, "count": done, "labeled": images.labeled},
        "agreement": [_row(tally, images.labeled) for tally in tallies],
        "accuracy": fraction(correct, done) if images.labeled else None,
    }
    for tally in tallies:
        if (fault := tally.fault(known)) is not None:
            raise Refused(f"the exported file does not agree with the model, and nothing was written: {fault}", report)
    return report


def speeds(job: Job, runtimes: dict[str, Run], images: Images) -> list[dict[str, object]]:
    """Images per second of the model and of the file, from pixels to scores: medians of a few interleaved batches."""
    _, image = next(each(images.test, job.how))
    image = file_input(image, job)
    systems: dict[str, Run] = {"PyTorch, eager": lambda several: model_scores(list(several), job), **runtimes}
    rows: list[dict[str, object]] = []
    for batch in BATCHES:
        several = np.repeat(image[None], batch, axis=0)
        taken: dict[str, list[float]] = {name: [] for name in systems}
        for run in systems.values():
            run(several)
        began = time.perf_counter()
        for _ in range(ROUNDS):
            for name, run in systems.items():
                start = time.perf_counter()
                run(several)
                taken[name].append(time.perf_counter() - start)
            if time.perf_counter() - began > SECONDS:
                break
        for name, seconds in taken.items():
            rows.append({"runtime": name, "batch": batch, "images_per_s": batch / statistics.median(seconds)})
    return rows


def _chunks(images: Images, how: Preprocessing) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    numbers: list[int] = []
    read: list[np.ndarray] = []
    for number, image in each(images.test, how):
        numbers.append(number)
        read.append(image)
        if len(read) == CHUNK:
            yield numbers, read
            numbers, read = [], []
    if read:
        yield numbers, read


def file_input(image: np.ndarray, job: Job) -> np.ndarray:
    """The image in the size that the file takes."""
    if job.size == "prepared":
        return prepare(image, job.how).permute(1, 2, 0).numpy()
    return image if job.size == "dynamic" else _scaled(image, job.size, job)


def resized(image: np.ndarray, job: Job) -> np.ndarray:
    """The image at the size where only the center crop is left to do."""
    side, (height, width) = job.how.resize, image.shape[:2]
    return _scaled(image, (side, side) if job.how.shape == "stretch" else short_side(height, width, side), job)


def _scaled(image: np.ndarray, size: tuple[int, int], job: Job) -> np.ndarray:
    return resize(image, size, job.how.interpolation).permute(1, 2, 0).numpy()


def model_scores(images: list[np.ndarray], job: Job) -> Float[np.ndarray, "N K"]:
    """Probabilities by the model itself, in float32: what a file is compared with."""
    if job.size == "prepared":
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    else:
        pixels = torch.stack([prepare(image, job.how) for image in images])
    with torch.inference_mode():
        return job.model(normalize(pixels, job.how)).softmax(dim=1).numpy()


def _run(run: Run, images: list[np.ndarray]) -> Float[np.ndarray, "N K"]:
    """Consecutive images of one size go through as one batch."""
    found: list[np.ndarray] = []
    begin = 0
    for end in range(1, len(images) + 1):
        if end == len(images) or images[end].shape != images[begin].shape:
            found.append(run(np.stack(images[begin:end])))
            begin = end
    return np.concatenate(found)


def _row(tally: Tally, labeled: bool) -> dict[str, object]:
    return {
        "runtime": tally.runtime,
        "images": tally.images,
        "same_top1": tally.same / tally.count,
        "compared": tally.compared,
        "max_difference": tally.max_difference,
        "accuracy": fraction(tally.correct, tally.count) if labeled else None,
        "required": None if tally.required is None else vars(tally.required),
    }


def fraction(correct: int, count: int) -> dict[str, float]:
    """Accuracy with its 95 % interval."""
    low, high = wilson(correct, count)
    return {"correct": correct, "count": count, "value": correct / count, "low": low, "high": high}
