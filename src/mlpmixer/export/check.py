"""Is a file the same function as the model that it was made from, and how fast is it?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from mlpmixer.data.preprocess import normalize, prepare, resize, short_side
from mlpmixer.errors import DataError, MixerError
from mlpmixer.export.check_images import Images, each
from mlpmixer.export.job import Job, Run
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.intervals import wilson

AT_ONCE = 16  # images
BATCHES = (1, 16)  # images at once when the speed is measured
ROUNDS = 5
SECONDS = 30.0  # of measuring a batch, after which no further round begins

Watch = Callable[[str, int, int], None]  # what is done, how many images of how many


class Refused(MixerError):
    """A file that answers otherwise than its model. `table`: what was measured, for people."""

    def __init__(self, said: str, report: dict[str, object]):
        super().__init__(said)
        self.report = report


@dataclass(frozen=True)
class Bar:
    """What a file must reach: the same label as the model for such a share of images, scores no further off, and such
    a share of the model's accuracy where labels are known."""

    alike: float
    scores: float | None = None
    accuracy: float | None = None


BARS = {"fp32": Bar(0.999, 1e-3), "bf16": Bar(0.995), "fp16": Bar(0.995), "int8": Bar(0.99, accuracy=0.99)}
# Other people's resizing may be a level off in some pixels of a hundred. The scores follow; the function is held to its
# bar on images that need no resizing.
RESIZED = 0.1
# Of images that a model is not for, its label is a toss-up now and then. Where its two best scores are no further
# apart than this, another label says nothing against a file; where images are of its kind, every label counts.
UNSURE = 0.1


@dataclass
class Tally:
    """Of one way to run a file, on one kind of images. `counted`: those whose label must be the same."""

    way: str
    images: str
    bar: Bar | None
    count: int = 0
    alike: int = 0
    counted: int = 0
    counted_alike: int = 0
    furthest: float = 0.0
    right: int = 0
    broken: bool = False  # whether a score was no number

    def add(
        self, wanted: Float[np.ndarray, "N K"], found: Float[np.ndarray, "N K"], labels: np.ndarray, all_count: bool
    ):
        same = wanted.argmax(1) == found.argmax(1)
        ranked = np.sort(wanted, axis=1)
        counts = np.full(len(wanted), True) if all_count else ranked[:, -1] - ranked[:, -2:-1].sum(axis=1) > UNSURE
        self.count += len(wanted)
        self.alike += int(same.sum())
        self.counted += int(counts.sum())
        self.counted_alike += int((same & counts).sum())
        self.broken |= not np.isfinite(found).all()
        self.furthest = max(self.furthest, float(np.nan_to_num(np.abs(wanted - found), nan=1.0).max()))
        self.right += int((found.argmax(1) == labels).sum())

    def fault(self, right: int | None) -> str | None:
        """What keeps the file from being as good as the model, which was right so often; None: nothing."""
        if self.bar is None:
            return None
        if self.broken:
            return "some of its scores are no numbers"
        if self.bar.accuracy is not None and right:
            if self.right < self.bar.accuracy * right:
                return f"it is right for {self.right} of {self.count} images, the model for {right}"
        elif self.counted_alike < self.bar.alike * self.counted:
            return f"it gives {self.counted - self.counted_alike} of {self.counted} images another label than the model"
        if self.bar.scores is not None and self.furthest > self.bar.scores:
            return f"its scores are up to {self.furthest:.2g} from the model's, allowed are {self.bar.scores:g}"
        return None


def check(job: Job, ways: dict[str, Run], images: Images, *, resizes: bool, watch: Watch) -> dict[str, object]:
    """`ways` to run the file, of which the first must hold. `resizes`: whether the file does so by other people's code.

    The report; a file that is too far off raises `Refused`.
    """
    first, bar = next(iter(ways)), BARS[job.precision]
    resizes = resizes and job.size != "prepared"
    loosened = Bar(bar.alike, RESIZED if bar.scores else None, bar.accuracy) if resizes else bar
    whole = [Tally(way, "as they are", loosened if way == first else None) for way in ways]
    ready = Tally(first, "resized beforehand", bar)
    right = done = 0
    for numbers, some in _chunks(images, job.how):
        labels = images.asked.labels[numbers]
        some = [_taken(image, job) for image in some]
        wanted = _answers(some, job)
        for tally in whole:
            tally.add(wanted, _run(ways[tally.way], some), labels, images.theirs)
        if resizes and job.size == "dynamic" and bar.scores is not None:
            found = _run(ways[first], [_resized(image, job) for image in some])
            ready.add(wanted, found, labels, images.theirs)
        right += int((wanted.argmax(1) == labels).sum())
        done += len(some)
        watch("checking", done, len(images.asked))
    if not done:
        raise DataError(f"no image of {images.origin} can be read; `mixer doctor` says more")
    tallies = [tally for tally in (*whole, ready) if tally.count]
    known = right if images.labeled else None
    report: dict[str, object] = {
        "images": {"from": images.origin, "count": done, "labeled": images.labeled},
        "agreement": [_row(tally, images.labeled) for tally in tallies],
        "accuracy": _share(right, done) if images.labeled else None,
    }
    for tally in tallies:
        if (fault := tally.fault(known)) is not None:
            raise Refused(f"refused, and nothing was written: {fault}", report)
    return report


def speeds(job: Job, ways: dict[str, Run], images: Images) -> list[dict[str, object]]:
    """Images a second of the model and of the file, from pixels to scores: medians of a few batches, in turns."""
    _, image = next(each(images.asked, job.how))
    image = _taken(image, job)
    systems: dict[str, Run] = {"PyTorch, eager": lambda several: _answers(list(several), job), **ways}
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
            rows.append({"way": name, "batch": batch, "images_per_s": batch / statistics.median(seconds)})
    return rows


def _chunks(images: Images, how: Preprocessing) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    numbers: list[int] = []
    read: list[np.ndarray] = []
    for number, image in each(images.asked, how):
        numbers.append(number)
        read.append(image)
        if len(read) == AT_ONCE:
            yield numbers, read
            numbers, read = [], []
    if read:
        yield numbers, read


def _taken(image: np.ndarray, job: Job) -> np.ndarray:
    """The image as the file takes it."""
    if job.size == "prepared":
        return prepare(image, job.how).permute(1, 2, 0).numpy()
    return image if job.size == "dynamic" else _scaled(image, job.size, job)


def _resized(image: np.ndarray, job: Job) -> np.ndarray:
    """At the size where all that is left to do is to cut out the middle."""
    side, (height, width) = job.how.resize, image.shape[:2]
    return _scaled(image, (side, side) if job.how.shape == "stretch" else short_side(height, width, side), job)


def _scaled(image: np.ndarray, size: tuple[int, int], job: Job) -> np.ndarray:
    return resize(image, size, job.how.interpolation).permute(1, 2, 0).numpy()


def _answers(images: list[np.ndarray], job: Job) -> Float[np.ndarray, "N K"]:
    """The model's own."""
    if job.size == "prepared":
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    else:
        pixels = torch.stack([prepare(image, job.how) for image in images])
    with torch.inference_mode():
        return job.model(normalize(pixels, job.how)).softmax(dim=1).numpy()


def _run(run: Run, images: list[np.ndarray]) -> Float[np.ndarray, "N K"]:
    """Neighbors of one size go together."""
    found: list[np.ndarray] = []
    begin = 0
    for end in range(1, len(images) + 1):
        if end == len(images) or images[end].shape != images[begin].shape:
            found.append(run(np.stack(images[begin:end])))
            begin = end
    return np.concatenate(found)


def _row(tally: Tally, labeled: bool) -> dict[str, object]:
    return {
        "way": tally.way,
        "images": tally.images,
        "alike": tally.alike / tally.count,
        "counted": tally.counted,
        "furthest": tally.furthest,
        "accuracy": _share(tally.right, tally.count) if labeled else None,
        "bar": None if tally.bar is None else vars(tally.bar),
    }


def _share(right: int, count: int) -> dict[str, float]:
    low, high = wilson(right, count)
    return {"right": right, "count": count, "value": right / count, "low": low, "high": high}
