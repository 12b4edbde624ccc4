"""Metrics: a number with its name, unit and interval, and what it is computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

from mlpmixer.metrics.intervals import wilson
from mlpmixer.metrics.predictions import ClassPredictions, Predictions

FORMATS = {"fraction": "{:.2%}", "nats": "{:.4f} nats", "%": "{:.1f} %"}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number on an evaluation card.

    Attributes:
        name: What people call it, with the settings that matter: "k-NN (k = 20, 10,000 training images)".
        value: A finite number.
        unit: "fraction" (from 0 to 1; shown in percent), "nats", "%", or any other word, which is shown behind it.
        interval: The 95 % interval of the value.
        correct: Correct predictions, of `count`.
        count: Images.
        seeds: The values whose mean `value` is, one for each seed.
        train_images: Training images that it was fitted on; None: it needs none.
        settings: Other numbers that it depends on, such as {"k": 20}.
    """

    name: str
    value: float
    unit: str = "fraction"
    interval: tuple[float, float] | None = None
    correct: int | None = None
    count: int | None = None
    seeds: tuple[float, ...] = ()
    train_images: int | None = None
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) for number in (self.value, *(self.interval or ()), *self.seeds)):
            raise ValueError(f"{self.name} is not a finite number")

    def text(self, value: float) -> str:
        """`value` in the unit of this metric, for people."""
        return FORMATS.get(self.unit, f"{{:.4g}} {self.unit}").format(value)


@dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """All that a metric may be computed from.

    Attributes:
        classes: Number of classes of the data.
        test: Predictions for the images that are measured on.
        head: The same in classes of the data; None: the model has none of them.
        train: Predictions for training images; None: there are none, or they are not wanted.
    """

    classes: int
    test: Predictions
    head: ClassPredictions | None = None
    train: Predictions | None = None


def fraction(name: str, correct: Bool[np.ndarray, " N"], **others: Any) -> Metric:
    """A share of correct predictions, with Wilson's interval; `others`: further fields of the metric."""
    right, count = int(correct.sum()), len(correct)
    interval = wilson(right, count)
    return Metric(name=name, value=float(correct.mean()), interval=interval, correct=right, count=count, **others)
