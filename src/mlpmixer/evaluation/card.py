"""The evaluation card: all that is measured of a model on one data set, as typed fields with a versioned JSON form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cattrs
import numpy as np

from mlpmixer.draw import page
from mlpmixer.errors import RunError
from mlpmixer.evaluation import tables
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics import accuracy, calibration, few_shot, knn, linear_probe
from mlpmixer.metrics.calibration import Bin
from mlpmixer.metrics.confusion import ClassFigures, Confusion, class_figures, confusion
from mlpmixer.metrics.metric import Metric, MetricInputs
from mlpmixer.metrics.predictions import ClassPredictions
from mlpmixer.text import printable
from mlpmixer.version import __version__

VERSION = 2  # of the JSON form; cards of mlpmixer 0.1.0 have none
MATRIX_CLASSES = 64  # classes at most whose confusion is a matrix; of more, the pairs that occur

# JSON key → function; it returns None where it lacks what it needs. docs/extending/metric.md adds one.
METRICS: dict[str, Callable[[MetricInputs], Metric | None]] = {
    "top1": accuracy.top1,
    "top5": accuracy.top5,
    "cross_entropy": accuracy.mean_cross_entropy,
    "calibration_error": calibration.calibration_error,
    "majority_class": accuracy.majority_class,
    "knn": knn.knn_accuracy,
    "few_shot_1": few_shot.with_shots(1),
    "few_shot_5": few_shot.with_shots(5),
    "few_shot_10": few_shot.with_shots(10),
    "few_shot_25": few_shot.with_shots(25),
    "linear_probe": linear_probe.linear_probe_accuracy,
}


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The model that was measured. `digest`: of its weights file, if it is a run's."""

    name: str
    source: str | None = None
    parameters: int
    image_size: tuple[int, int]
    classes: int
    provenance: dict[str, str] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The images that it was measured on. `own`: they are the usual ones of the run in question; `digest`: of all
    prepared images and labels."""

    source: str
    split: str
    title: str
    own: bool = False
    digest: str = ""
    count: int
    classes: int


@dataclass(frozen=True)
class ConfusionTable:
    """Of few classes the `matrix` (true × predicted); of many the `pairs` that occur: positions of the true and the
    predicted class in `names`, and the number of images."""

    names: tuple[str, ...]
    matrix: list[list[int]] | None = None
    pairs: list[tuple[int, int, int]] | None = None

    @classmethod
    def of(cls, found: Confusion, names: tuple[str, ...]) -> ConfusionTable:
        if len(names) <= MATRIX_CLASSES:
            return cls(names, matrix=found.matrix().tolist())
        pairs = np.stack([found.true, found.predicted, found.counts], axis=1).tolist()
        return cls(names, pairs=[tuple(pair) for pair in pairs])

    def mistakes(self) -> list[tuple[int, int, int]]:
        """The pairs of unequal classes, the most frequent first, of a table that has pairs."""
        return sorted((pair for pair in self.pairs or () if pair[0] != pair[1]), key=lambda pair: -pair[2])


@dataclass(frozen=True, kw_only=True)
class CorruptionErrors:
    """ImageNet-C, by corruption type: the error at each of five severities, and the mean in percent of AlexNet's."""

    errors: dict[str, list[float]]
    of_alexnet: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PreprocessingTrial:
    """Accuracy on a part of the images, prepared in another way. `p_value`: of the difference from the usual way;
    `better`: it is surely above that."""

    preprocessing: str
    top1: float
    p_value: float | None = None
    better: bool = False


@dataclass(frozen=True)
class Unreadable:
    image: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """When, by which command and on which engine a metric was computed."""

    started: str
    command: list[str]
    mlpmixer: str
    engine: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """An evaluation card. `card["top1"]` is a metric, `"knn" in card` tells whether it has one.

    Attributes:
        model: The model.
        data: The images.
        protocol: How they were prepared: "own", "i" or "ii" (see `evaluate`).
        preprocessing: The same, in detail.
        engine: Engine and precision of the newest metrics: "eager, fp32".
        metrics: By the keys of `METRICS`, and "real", "imagenet_v2", … for other test sets of ImageNet.
        per_class: Recall, precision and F1 of each class.
        confusion: None where the model has no class of the data; so is `reliability` empty then.
        reliability: Bins of the reliability diagram.
        corruptions: ImageNet-C.
        transform: Of every prepared image, where a study has one; by its name.
        preprocessing_check: Trials with other preprocessing; the first is the usual one.
        unreadable: Images that were left out.
        origins: Of each metric.
        warnings: Sentences for people.
        machine: What it was measured on.
        mlpmixer: The version that wrote the card.
    """

    model: ModelRecord
    data: DataRecord
    protocol: str
    preprocessing: Preprocessing
    engine: str
    metrics: dict[str, Metric]
    per_class: list[ClassFigures] = field(default_factory=list)
    confusion: ConfusionTable | None = None
    reliability: list[Bin] = field(default_factory=list)
    corruptions: CorruptionErrors | None = None
    transform: str | None = None
    preprocessing_check: list[PreprocessingTrial] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    mlpmixer: str = __version__

    @property
    def precision(self) -> str:
        return self.engine.rpartition(", ")[2]

    def __getitem__(self, metric: str) -> Metric:
        return self.metrics[metric]

    def __contains__(self, metric: object) -> bool:
        return metric in self.metrics

    def _repr_html_(self) -> str:
        """For notebooks: what was measured, the metrics, warnings."""
        parts = [page.words(tables.summary(self)), page.table(*tables.metric_table(self))]
        return "".join([*parts, *map(page.words, self.warnings)])

    def to_json(self) -> dict[str, Any]:
        """As `json` and `mlpmixer.text.to_json` take it."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], name: object = "the card") -> Card:
        """Reads what `to_json` wrote.

        Args:
            content: The parsed JSON.
            name: What errors call it.

        Raises:
            RunError: It has another version, or is damaged.
        """
        version = content.get("version", 1)
        if version != VERSION:
            found = f"{name} has version {printable(version, 20)}, and this is {VERSION}"
            raise RunError(f"{found}; measure again with mixer evaluate")
        try:
            return cattrs.structure({key: value for key, value in content.items() if key != "version"}, cls)
        except (cattrs.BaseValidationError, ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{name} is damaged; measure again with mixer evaluate") from error


def measure(inputs: MetricInputs, progress: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, Metric]:
    """All metrics of the table that these inputs allow. `progress`: as for `evaluate`."""
    found: dict[str, Metric] = {}
    for done, (key, metric) in enumerate(METRICS.items()):
        progress("metrics", done, len(METRICS))
        if (value := metric(inputs)) is not None:
            found[key] = value
    return found


def head_fields(head: ClassPredictions, classes: Sequence[str]) -> dict[str, Any]:
    """`per_class`, `confusion` and `reliability` of a card."""
    found = confusion(head.labels, head.predicted, len(head.names))
    return {
        "per_class": class_figures(found, head.names)[: len(classes)],
        "confusion": ConfusionTable.of(found, head.names),
        "reliability": calibration.reliability(head.confidence, head.correct)[0],
    }
