"""What the figures and the report of a run say of it: model, data, accuracy beside the expected one, time, machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from mlpmixer.errors import RunError
from mlpmixer.metrics.intervals import wilson
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipe import Recipe
from mlpmixer.run.folder import RunFolder, by_epoch, training_seconds
from mlpmixer.text import printable

Outcome = Literal["as expected", "lower than expected", "higher than expected"]
EXPECTED = re.compile(r"(?:about )?(\d+(?:\.\d+)?)(?: to (\d+(?:\.\d+)?)| ± (\d+(?:\.\d+)?))? %")


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on a split, in percent, with its 95 % interval."""

    split: str
    value: float
    interval: tuple[float, float]
    count: int

    def text(self) -> str:
        return f"{self.value:.1f} % accuracy on {self.count:,} {self.split} images"


@dataclass(frozen=True)
class Verdict:
    """The accuracy that a recipe promises, and whether the 95 % interval of the measured one reaches it."""

    expected: str
    outcome: Outcome


@dataclass(frozen=True)
class RunFacts:
    """A finished run in words and numbers.

    Attributes:
        model: The name of the model.
        data: The name of the data set.
        parameters: Of the model.
        accuracy: On the test split, or else on the validation split; None: neither was measured.
        verdict: None where the recipe promises no figure for the test split.
        epochs: How long it was trained.
        seconds: Time spent on training, without validation and pauses.
        precision: In which it was trained.
        machine: The content of machine.json; empty where it is not known.
    """

    model: str
    data: str
    parameters: int
    accuracy: Accuracy | None
    verdict: Verdict | None
    epochs: float | None
    seconds: float
    precision: str
    machine: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.model} on {self.data}"

    @property
    def processor(self) -> str:
        return printable(self.machine.get("processor", "an unknown processor"), 80)

    def training(self) -> str:
        """Its length and time, "40 epochs in 3 min 22 s"; empty where nothing is known of it."""
        if self.epochs is None:
            return ""
        return f"{self.epochs:,.1f}".removesuffix(".0") + f" epochs in {duration(self.seconds)}"

    def lines(self) -> list[str]:
        """Accuracy, model and training, machine: a line each."""
        size = f"{self.model}, {self.parameters:,} parameters"
        trained = self.training()
        size += f"; {trained}" if trained else ""
        return [*([self.accuracy.text()] if self.accuracy else []), size, self.processor]


def facts_of(run: RunFolder, recipe: Recipe, model: Classifier) -> RunFacts:
    """Collects them from the run folder."""
    result = run.result() or {}
    measured = {split: result[split] for split in ("test", "val") if result.get(split)}
    accuracy = next((_accuracy(split, found) for split, found in measured.items()), None)
    metrics = run.metrics()
    trained = by_epoch(metrics, "train", "epoch")
    return RunFacts(
        model=model.name,
        data=data_name(recipe.data.source),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        accuracy=accuracy,
        verdict=None if accuracy is None or accuracy.split != "test" else verdict(recipe.about.expected, accuracy),
        epochs=trained[-1][0] if trained else None,
        seconds=training_seconds(metrics, recipe.train.batch_size),
        precision=recipe.train.precision,
        machine=machine(run),
    )


def _accuracy(split: str, found: dict[str, float]) -> Accuracy:
    count = max(0, round(found["count"]))
    low, high = wilson(found["top1"] * count, count)
    return Accuracy(split, 100 * found["top1"], (100 * low, 100 * high), count)


def verdict(expected: str, accuracy: Accuracy) -> Verdict | None:
    """`expected`: the text of a recipe, "89.5 to 90.0 % top-1 …"; None where it does not begin with a figure."""
    found = EXPECTED.match(expected)
    if found is None:
        return None
    spread = float(found[3] or 0)
    low, high = float(found[1]) - spread, float(found[2] or found[1]) + spread
    lower, upper = accuracy.interval
    outcome: Outcome = "as expected"
    if upper < low:
        outcome = "lower than expected"
    elif lower > high:
        outcome = "higher than expected"
    return Verdict(found[0], outcome)


def data_name(source: str) -> str:
    """The last part of a path or an address; names of builtin data sets stay as they are."""
    return printable(PurePath(source.rstrip("/")).name or source, 60)


def machine(run: RunFolder) -> dict[str, Any]:
    """The machine it ran on; empty where that is not known."""
    try:
        return run.json("machine.json") or {}
    except RunError:
        return {}


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
