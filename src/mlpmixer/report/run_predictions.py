"""What a run's model predicts for its test images: correct and wrong examples, the largest losses, the confusion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mlpmixer.data.dataset import Part, Split
from mlpmixer.data.images import ImageInput, decode
from mlpmixer.data.preprocess import prepare
from mlpmixer.data.select import select
from mlpmixer.errors import ImageError
from mlpmixer.evaluation.card import ConfusionTable
from mlpmixer.metrics.confusion import confusion
from mlpmixer.models.classifier import Classifier
from mlpmixer.predict.predictor import Prediction, Predictor
from mlpmixer.recipe import Recipe

MOST_IMAGES = 1000  # that are predicted, evenly over the split
MOST_LABELS = 1000  # whose probabilities are asked for; a true class that is not among them has next to none
SMALLEST = 1e-12  # probability that a loss is computed of


@dataclass(frozen=True)
class Example:
    """An image as the model sees it, with the prediction and the truth.

    Attributes:
        image: The prepared image.
        label: The predicted class.
        score: Its probability.
        true: The true class.
        probability: That of the true class.
    """

    image: Image.Image
    label: str
    score: float
    true: str
    probability: float

    @property
    def loss(self) -> float:
        """The cross-entropy, in nats."""
        return -math.log(max(self.probability, SMALLEST))


@dataclass(frozen=True)
class RunPredictions:
    """Predictions for images of a split.

    Attributes:
        split: "test" or "val".
        count: How many images were predicted.
        confusion: Of the images whose true class the model has.
        correct: The first of each class that is predicted correctly.
        wrong: The most confident errors.
        losses: The images with the largest loss, whether wrong or not.
    """

    split: str
    count: int
    confusion: ConfusionTable
    correct: Sequence[Example]
    wrong: Sequence[Example]
    losses: Sequence[Example]


def predict_run(recipe: Recipe, model: Classifier, *, examples: int = 6, losses: int = 0) -> RunPredictions | None:
    """Predicts images of the run's test split, or else of its validation split; those that cannot be read are left out.

    Args:
        recipe: The run's recipe.
        model: The run's model.
        examples: Of each kind, at most.
        losses: Images with the largest loss, at most.

    Returns:
        None where the run has neither split, or no image of it can be read.

    Raises:
        MixerError: The data set cannot be opened.
    """
    images = select(recipe.data)
    name, whole = ("test", images.test) if images.test is not None else ("val", images.val)
    if whole is None:
        return None
    split = Part(whole, np.linspace(0, len(whole), min(MOST_IMAGES, len(whole)), endpoint=False).astype(np.int64))
    predictor = Predictor(model, top=MOST_LABELS)
    read = [(number, image) for number in range(len(split)) if (image := _read(split, number)) is not None]
    answers = predictor.stream([image for _, image in read])
    found = {n: one for (n, _), (_, one) in zip(read, answers, strict=True) if not isinstance(one, ImageError)}
    if not found:
        return None
    truth = {number: images.classes[split.labels[number]] for number in found}
    places = {label: place for place, label in enumerate(predictor.classes)}
    pairs = [(places[truth[n]], places[one.label]) for n, one in found.items() if truth[n] in places]
    true, predicted = np.array(pairs, np.int64).reshape(-1, 2).T
    wrong = [n for n, one in found.items() if one.label != truth[n]]
    firsts: dict[str, int] = {}
    for n in sorted({*found} - {*wrong}):
        firsts.setdefault(truth[n], n)

    def shown(numbers: Sequence[int]) -> list[Example]:
        return [
            Example(
                Image.fromarray(prepare(decode(split.read(n)), predictor.preprocessing).permute(1, 2, 0).numpy()),
                found[n].label,
                found[n].score,
                truth[n],
                _probability(found[n], truth[n]),
            )
            for n in numbers
        ]

    return RunPredictions(
        name,
        len(found),
        ConfusionTable.of(confusion(true, predicted, len(places)), predictor.classes),
        shown([*firsts.values()][:examples]),
        shown(sorted(wrong, key=lambda n: -found[n].score)[:examples]),
        shown(sorted(found, key=lambda n: _probability(found[n], truth[n]))[:losses]),
    )


def _read(split: Split, number: int) -> ImageInput | None:
    try:
        return split.read(number)
    except ImageError:
        return None


def _probability(found: Prediction, label: str) -> float:
    return next((score for name, score in found.top if name == label), 0.0)
