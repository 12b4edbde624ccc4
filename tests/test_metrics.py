"""Metrics, against other people's implementations of the same."""

from __future__ import annotations

import importlib.metadata
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import confusion_matrix as sklearns_confusion
from sklearn.metrics import precision_recall_fscore_support
from sklearn.neighbors import KNeighborsClassifier

from mlpmixer.data.torchvision_guard import ensure_torchvision
from mlpmixer.evaluation.imagenet_variants import ALEXNET, count_real, mean_corruption_error, of_alexnet
from mlpmixer.metrics.calibration import reliability
from mlpmixer.metrics.confusion import class_figures, confusion
from mlpmixer.metrics.few_shot import CONSTANT, few_shot, ridge, shuffled
from mlpmixer.metrics.intervals import bootstrap, wilson
from mlpmixer.metrics.knn import knn
from mlpmixer.metrics.linear_probe import classify, linear_probe, logistic

ensure_torchvision()
from torchmetrics.classification import MulticlassCalibrationError  # noqa: E402 (it imports torchvision)

CLASSES = 5
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, 400)
CENTERS = RNG.normal(0, 1, (CLASSES, 12))
FEATURES = CENTERS[LABELS] + RNG.normal(0, 1.5, (400, 12))
X, Y = torch.from_numpy(FEATURES), torch.from_numpy(LABELS)
TRAIN, TEST = slice(0, 250), slice(250, 400)


class TestIntervals:
    @given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_wilson_solves_its_equation(self, pair: tuple[int, int]):
        """Its ends are the shares from which what was seen is 1.96 standard deviations away."""
        right, count = pair
        for end in wilson(right, count):
            if 1e-9 < end < 1 - 1e-9:
                away = abs(right / count - end) / np.sqrt(end * (1 - end) / count)
                assert away == pytest.approx(1.959964, rel=1e-5)

    def test_wilson_holds_the_truth_as_often_as_it_classify(self):
        seen = np.random.default_rng(0).binomial(200, 0.9, 4000)
        held = np.mean([low <= 0.9 <= high for low, high in (wilson(k, 200) for k in seen)])
        assert 0.93 < held < 0.97

    def test_wilson_of_nothing(self):
        assert wilson(0, 0) == (0.0, 1.0)
        assert wilson(0, 10)[0] == 0.0
        assert wilson(10, 10)[1] == 1.0

    def test_bootstrap_agrees_with_wilson_on_a_share(self):
        right = np.random.default_rng(1).random(500) < 0.8
        found = bootstrap(lambda chosen: float(right[chosen].mean()), 500)
        assert found == pytest.approx(wilson(right.sum(), 500), abs=0.01)
        assert found == bootstrap(lambda chosen: float(right[chosen].mean()), 500)


class TestConfusion:
    def test_as_sklearn_has_it(self):
        predicted = np.where(RNG.random(400) < 0.6, LABELS, RNG.integers(0, CLASSES - 1, 400))  # the last: seldom
        found = confusion(LABELS, predicted, CLASSES)
        np.testing.assert_array_equal(found.matrix(), sklearns_confusion(LABELS, predicted))
        figures = class_figures(found, tuple("abcde"))
        ours = [(one.precision, one.recall, one.f1, one.count) for one in figures]
        theirs: Any = precision_recall_fscore_support(LABELS, predicted, zero_division=0)  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(np.array(ours).T, np.stack(theirs))

    def test_what_is_confused_with_what(self):
        """Of two that it is as often mistaken for, the first."""
        true, predicted = np.repeat([0, 0, 0, 0, 1, 3, 3], [5, 1, 3, 3, 2, 1, 1]), [0] * 5 + [1] + [2] * 3 + [3] * 3
        found = confusion(true, np.array([*predicted, 1, 1, 0, 2]), 4)
        figures = class_figures(found, ("cat", "dog", "cow", "hen"))
        assert [one.confused_with for one in figures] == ["cow", None, None, "cat"]

    def test_many_classes_take_no_more_room(self):
        """All pairs of ImageNet-21k's classes would fill 3.8 GB; those that occur are as many as images at most."""
        classes, rng = 21_843, np.random.default_rng(2)
        labels, predicted = rng.integers(classes - 50, classes, (2, 3000))
        tracemalloc.start()
        found = confusion(labels, predicted, classes)
        figures = class_figures(found, tuple(map(str, range(classes))))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 50e6
        pairs = dict(
            zip(zip(found.true.tolist(), found.predicted.tolist(), strict=True), found.counts.tolist(), strict=True)
        )
        assert pairs == Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
        assert figures[-1].count == (labels == classes - 1).sum()
        assert figures[0].recall == figures[0].count == 0


class TestCalibration:
    def test_as_torchmetrics_has_it(self):
        logits = torch.randn(500, CLASSES, generator=torch.Generator().manual_seed(0)) * 2
        labels = torch.randint(CLASSES, (500,), generator=torch.Generator().manual_seed(1))
        confidence, predicted = logits.softmax(1).max(1)
        for bins in (10, 15):
            theirs = MulticlassCalibrationError(CLASSES, n_bins=bins)(logits, labels)
            ours = reliability(confidence.numpy(), (predicted == labels).numpy(), bins)[1]
            assert ours == pytest.approx(float(theirs), abs=1e-6)

    @given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60))
    def test_every_prediction_is_in_one_bin(self, predictions: list[tuple[float, bool]]):
        confidence, correct = np.array([a for a, _ in predictions]), np.array([b for _, b in predictions], dtype=bool)
        bins, error = reliability(confidence, correct)
        assert sum(one.count for one in bins) == len(predictions)
        assert all(one.low <= one.confidence <= one.high + 1e-12 for one in bins if one.count)
        assert 0 <= error <= 1
        assert sum(one.count * one.accuracy for one in bins) == pytest.approx(correct.sum())

    def test_confident_and_correct(self):
        assert reliability(np.ones(9), np.ones(9, dtype=bool))[1] == 0


class TestFewShot:
    @pytest.mark.parametrize("count", [8, 200])  # fewer, and more, than there are features
    def test_ridge_as_sklearn_has_it(self, count: int):
        train, labels = X[:count], Y[:count]
        ours = ridge(train, labels, X[TEST], CLASSES, l2=3.0)
        mean, std = train.mean(0), train.std(0, correction=0) + 1e-5
        whitened = [torch.cat([(x - mean) / std, torch.full((len(x), 1), CONSTANT)], 1) for x in (train, X[TEST])]
        targets = 2 * np.eye(CLASSES)[labels] - 1
        theirs = Ridge(alpha=3.0, fit_intercept=False, solver="svd").fit(whitened[0], targets).predict(whitened[1])
        np.testing.assert_array_equal(ours, theirs.argmax(1))

    def test_shots(self):
        found = few_shot(X[TRAIN], Y[TRAIN], X[TEST], Y[TEST], CLASSES, shots=(1, 5, 25, 100_000))
        assert [*found] == [1, 5, 25]
        assert [len(seeds) for seeds in found.values()] == [3, 3, 3]
        assert np.mean(found[1]) < np.mean(found[5]) < np.mean(found[25])
        assert np.mean(found[25]) > 2 / CLASSES

    def test_few_are_the_beginning_of_more(self):
        order = shuffled(LABELS, CLASSES, seed=1)
        assert [sorted(indices) for indices in order] == [np.flatnonzero(k == LABELS).tolist() for k in range(CLASSES)]
        assert all(a.tolist() == b.tolist() for a, b in zip(order, shuffled(LABELS, CLASSES, seed=1), strict=True))
        assert any(a.tolist() != b.tolist() for a, b in zip(order, shuffled(LABELS, CLASSES, seed=2), strict=True))


class TestNeighbors:
    def test_one_neighbor_as_sklearn_has_it(self):
        ours = knn(X[TRAIN], Y[TRAIN], X[TEST], CLASSES, k=1)
        theirs = KNeighborsClassifier(1, metric="cosine").fit(FEATURES[TRAIN], LABELS[TRAIN]).predict(FEATURES[TEST])
        np.testing.assert_array_equal(ours, theirs)

    def test_votes_as_sklearn_counts_them(self):
        weights: Any = lambda far: np.exp((1 - far) / 0.07)  # noqa: E731
        theirs = KNeighborsClassifier(20, metric="cosine", weights=weights)
        predicted = theirs.fit(FEATURES[TRAIN], LABELS[TRAIN]).predict(FEATURES[TEST])
        np.testing.assert_array_equal(knn(X[TRAIN], Y[TRAIN], X[TEST], CLASSES), predicted)

    def test_fewer_images_than_k(self):
        assert knn(X[:3], Y[:3], X[:3], CLASSES).tolist() == Y[:3].tolist()


class TestProbe:
    def test_as_sklearn_has_it(self):
        weights = logistic(X, Y, CLASSES, penalty=0.01)
        theirs = LogisticRegression(C=1 / (0.01 * len(X)), max_iter=2000, tol=1e-8).fit(FEATURES, LABELS)
        logits = X @ weights[:-1] + weights[-1]
        np.testing.assert_allclose(logits.softmax(1), theirs.predict_proba(FEATURES), atol=1e-4)
        np.testing.assert_array_equal(classify(weights, X), theirs.predict(FEATURES))

    def test_accuracy_and_chosen_penalty(self):
        predicted, penalty = linear_probe(X[TRAIN], Y[TRAIN], X[TEST], CLASSES)
        assert float((predicted == Y[TEST]).double().mean()) > 3 / CLASSES
        assert 1e-6 <= penalty <= 1


class TestReal:
    def test_original_labels_against_real(self):
        """The published figure: 90.02 % of 46,837 images."""
        sets = json.loads(within("timm", "timm/data/_info/imagenet_real_labels.json"))
        folder = "tensorflow_datasets/datasets/imagenet2012"
        names, truth = (
            within("tensorflow-datasets", f"{folder}/{name}.txt").split() for name in ("labels", "validation_labels")
        )
        right, judged = count_real(np.array([names.index(name) for name in truth]), sets)
        assert judged == 46_837
        assert round(100 * right / judged, 2) == 90.02

    def test_without_labels_left_out(self):
        assert count_real(np.array([3, 1, 2]), [[1, 3], [], [7]]) == (1, 2)


def within(package: str, path: str) -> str:
    """A file of an installed package, which need not be imported."""
    return Path(str(importlib.metadata.distribution(package).locate_file(path))).read_text()


class TestCorruption:
    def test_alexnet_has_a_hundred(self):
        assert mean_corruption_error({name: [error] * 5 for name, error in ALEXNET.items()}) == pytest.approx(100)

    def test_all_corruption_types_or_no_mean(self):
        errors = {"fog": [0.1, 0.2, 0.3], "snow": [0.4]}
        assert of_alexnet(errors) == pytest.approx({"fog": 20 / 0.819324, "snow": 40 / 0.866816})
        assert mean_corruption_error(errors) is None


@given(st.integers(1, 5))
def test_all_take_any_number_of_images(count: int):
    assert knn(X[:count], Y[:count], X[:count], CLASSES, k=1).tolist() == Y[:count].tolist()
