"""The evaluation card: from weights and real images to metrics, beside the same computed in another way."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import shaken
from hypothesis import given
from hypothesis import strategies as st
from messages import Says
from PIL import Image

import mlpmixer
from mlpmixer import data
from mlpmixer.cli import main
from mlpmixer.data.dataset import DataSet, Split
from mlpmixer.data.images import decode
from mlpmixer.data.preprocess import center_crop, prepare, preprocess, resize
from mlpmixer.data.sources import imagenet
from mlpmixer.data.sources.imagenet import all_names
from mlpmixer.data.tta import TTA
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.table import ENGINES, EngineSpec, Run, Setup
from mlpmixer.errors import DataError, MixerError, RunError, UsageError
from mlpmixer.evaluation import imagenet_variants as imagenet_sets
from mlpmixer.evaluation.card import METRICS, Card, DataRecord, ModelRecord, head_fields, measure
from mlpmixer.evaluation.card_files import own_card
from mlpmixer.evaluation.evaluate import AGREEING, evaluate, prepared_by
from mlpmixer.evaluation.preprocessing_check import mcnemar
from mlpmixer.evaluation.tables import metric_table
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.metrics.class_mapping import outputs_for
from mlpmixer.metrics.metric import Metric, MetricInputs
from mlpmixer.metrics.predictions import Predictions, class_predictions
from mlpmixer.models.classifier import Classifier
from mlpmixer.predict.predictor import Predictor
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.report.card_section import card_section
from mlpmixer.run.folder import RunFolder
from mlpmixer.text import to_json
from mlpmixer.weights.load import load

WNIDS = [line.split()[0] for line in imagenet.CLASSES.read_text(encoding="utf-8").splitlines()]


ONNX = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="ONNX Runtime is not installed")


@pytest.fixture
def clothing(photos: list[Path], tmp_path: Path) -> Path:
    """The ten photographs as a data set."""
    for split in ("train", "test"):
        for photo in photos:
            (tmp_path / "clothing" / split / photo.stem).mkdir(parents=True)
            shutil.copy(photo, tmp_path / "clothing" / split / photo.stem)
    return tmp_path / "clothing"


def named(model: Classifier, classes: tuple[str, ...] | None) -> Classifier:
    model.metadata = ModelInfo(preprocessing=Preprocessing.usual(model.config.image_size), classes=classes)
    return model


def small(outputs: int, classes: tuple[str, ...] | None = None) -> Classifier:
    return named(shaken(mlpmixer.create("mixer_nano", num_classes=outputs)), classes)


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)  # made before a test's own: with others, how an image is cropped may change its class
    return small(1000)


def logits_of(model: Classifier, images: list[Path]) -> torch.Tensor:
    """One image after another."""
    how = model.metadata.preprocessing
    with torch.inference_mode():
        return torch.cat([model(preprocess(decode(image), how)[None]) for image in images])


def refused(**options: Any) -> str:
    """The error of `evaluate` where there are no weights, unless another one comes first."""
    with pytest.raises(MixerError) as found:
        evaluate("nowhere.npz", "fashion_mnist_small", **options)
    return str(found.value)


class TestMatching:
    def test_by_name(self):
        model = small(3, ("T-Shirt", "dress", "hat"))
        assert outputs_for(("hat", "t_shirt", "shoe"), model).tolist() == [2, 0, -1]

    def test_a_class_that_is_a_number(self):
        assert outputs_for(("0", "1", "10", "2"), small(1000)).tolist() == [0, 1, 10, 2]
        assert outputs_for(("0", "10", "2"), small(1000, all_names())).tolist() == [0, 10, 2]

    def test_nameless_outputs(self):
        assert outputs_for(("goldfish", "tench"), small(1000)).tolist() == [1, 0]
        assert outputs_for(("cat", "dog"), small(2)).tolist() == [0, 1]
        assert outputs_for(("cat", "dog"), small(3)).tolist() == [-1, -1]

    def test_other_names_are_other_classes(self):
        assert outputs_for(("cat", "dog"), small(2, ("shoe", "hat"))).tolist() == [-1, -1]


class TestPaired:
    def test_a_known_table(self):
        """6 against 16 of 22 that differ: a two-sided binomial test has 0.0525."""
        first = np.array([True] * 6 + [False] * 16 + [True] * 30)
        second = np.array([False] * 6 + [True] * 16 + [True] * 30)
        assert mcnemar(first, second) == pytest.approx(0.05248, abs=1e-5)

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
    def test_it_is_a_chance_and_takes_no_side(self, pairs: list[tuple[bool, bool]]):
        first, second = (np.array([pair[k] for pair in pairs], dtype=bool) for k in (0, 1))
        assert 0 < mcnemar(first, second) == mcnemar(second, first) <= 1


class TestOwnData:
    @pytest.mark.parametrize(
        ("engine", "precision", "off"), [("eager", "bf16", 0.02), pytest.param("onnx", "fp32", 1e-4, marks=ONNX)]
    )
    def test_any_engine_can_be_measured(self, engine: str, precision: str, off: float, clothing: Path):
        model = small(10, tuple(folder.name for folder in sorted((clothing / "test").iterdir())))
        usual = evaluate(model, clothing, workers=0, train_images=0, engine="eager")
        other = evaluate(model, clothing, workers=0, train_images=0, engine=engine, precision=precision)
        assert other["top1"] == usual["top1"]
        assert other["calibration_error"].value == pytest.approx(usual["calibration_error"].value, abs=off)
        assert (usual.engine, other.engine) == ("eager, fp32", f"{engine}, {precision}")

    @pytest.mark.parametrize("off", [0.0, 0.1])
    def test_the_fastest_engine_is_taken_if_it_agrees(
        self, off: float, clothing: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def build(setup: Setup) -> Run:
            right = Engine(setup.model, setup.how, "eager", "fp32", batch=setup.batch, device=setup.device)

            def run(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                features, logits = right(pixels)
                return features, logits + off * logits.std() * torch.tensor([1.0] + 9 * [0.0])

            return run

        fast = SimpleNamespace(why_not=lambda _: None, build=build)
        monkeypatch.setitem(sys.modules, "fast", fast)
        monkeypatch.setitem(ENGINES, next(iter(ENGINES)), EngineSpec("fast", {"cpu": ("fp32",)}))
        card = evaluate(small(10), clothing, workers=0, train_images=0)
        assert card.engine == ("eager, fp32" if off else f"{next(iter(ENGINES))}, fp32")
        assert {origin.engine for origin in card.origins.values()} == {card.engine}

    def test_images_that_cannot_be_read_compare_no_engines(self, clothing: Path, photos: list[Path]):
        """Of 20 images every other one is broken, and just these are the ones on which engines are compared."""
        for photo in photos:
            shutil.copy(photo, clothing / "test" / photo.stem / "a.jpg")
        split = data.open(clothing).splits["test"]
        compared = np.unique(np.linspace(0, len(split) - 1, AGREEING).round().astype(np.int64))
        for index in compared.tolist():
            Path(split.where(index)).write_bytes(b"no image")
        card = evaluate(small(10), clothing, workers=0, train_images=0)
        assert card.engine == "eager, fp32"
        assert len(card.unreadable) == len(compared)
        assert card.data.count == 20 - len(compared)

    def test_figures_are_those_of_single_images(self, clothing: Path, photos: list[Path]):
        card = evaluate("mixer_clothing", clothing, workers=0, batch_size=3)
        model = load("mixer_clothing")
        classes = (model.metadata or ModelInfo()).classes or ()
        ranked = logits_of(model.float(), photos).argsort(1, descending=True)
        truth = torch.tensor([classes.index(photo.stem) for photo in photos])
        assert card["top1"].correct == int((ranked[:, 0] == truth).sum())
        assert card["top5"].correct == int((ranked[:, :5] == truth[:, None]).sum())
        matrix = card.confusion.matrix if card.confusion is not None else None
        assert matrix is not None
        assert card.data.count == np.sum(matrix) == 10
        assert card["majority_class"].value == 0.1
        assert [one.name for one in card.per_class] == sorted(photo.stem for photo in photos)
        assert card["knn"].value == 1.0  # train and test are the same images here
        assert [key for key in card.metrics if key.startswith("few_shot")] == ["few_shot_1"]
        assert card.warnings == []
        assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card

    @pytest.mark.parametrize("tta", ["flip", "shifts"])
    def test_averages_over_views_are_one_more_accuracy(self, tta: TTA, clothing: Path, photos: list[Path]):
        plain = evaluate("mixer_clothing", clothing, workers=0, train_images=0)
        card = evaluate("mixer_clothing", clothing, workers=0, train_images=0, batch_size=3, tta=tta)
        found = Predictor("mixer_clothing", precision="fp32", tta=tta)(photos)
        right = sum(one.label == photo.stem for one, photo in zip(found, photos, strict=True))
        assert card[f"top1_{tta}"].correct == right
        assert {key: metric for key, metric in card.metrics.items() if key in plain.metrics} == plain.metrics

    def test_a_model_without_a_file_is_measured_as_it_would_be_saved(self, clothing: Path, tmp_path: Path, says: Says):
        classes = [folder.name for folder in sorted((clothing / "test").iterdir())]
        model = shaken(mlpmixer.create("mixer_pico", num_classes=10))
        how = replace(Preprocessing.usual(model.config.image_size), std=(0.2, 0.2, 0.2))
        for options in ({}, {"classes": classes[::-1], "preprocessing": how}):
            card = evaluate(model, clothing, train_images=0, workers=0, **options)
            saved = evaluate(
                mlpmixer.save(model, tmp_path / "m.safetensors", **options), clothing, train_images=0, workers=0
            )
            others = {"model": card.model, "machine": {}, "origins": {}}  # names, and when it was
            assert replace(card, **others) == replace(saved, **others)
        assert model.metadata.classes is None
        with says(UsageError):
            evaluate(model, clothing, classes=["ant", "bee"])

    def test_some_classes_only(self, clothing: Path):
        """Predictions are among all classes that the model has."""
        for name in ("hat", "pants", "skirt", "shirt", "shorts", "t-shirt", "longsleeve", "outwear"):
            for split in ("train", "test"):
                shutil.rmtree(clothing / split / name)
        for split in ("train", "test"):
            shutil.move(clothing / split / "dress", clothing / split / "Dress")
            shutil.copytree(clothing / split / "shoes", clothing / split / "bicycle")
        card = evaluate("mixer_clothing", clothing, workers=0, train_images=0)
        assert [one.name for one in card.per_class] == ["Dress", "bicycle", "shoes"]
        assert card.warnings[0] == "the model has no class 'bicycle': its images all count as wrong"
        assert card.per_class[1].recall == 0
        assert "knn" not in card

    def test_features_only(self, clothing: Path):
        card = evaluate(small(3, ("a", "b", "c")), clothing, workers=0)
        assert "top1" not in card
        assert card["knn"].train_images == 10
        assert card.warnings[0].startswith("the model has no class of this data set, so only its features")
        headless = evaluate(small(0), clothing, workers=0)
        assert headless["few_shot_1"].value == 1.0

    def test_wrong_preprocessing_is_noticed(self):
        """The model of a run, told to see blue for red or values from another range, on images with colors."""
        red_or_blue = _ColorJudge()
        split = _Colors()
        opened = DataSet("colors", ("red", "blue"), {"test": split})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "open", lambda _: opened)
            right = evaluate(red_or_blue, "colors", workers=0)
            assert right["top1"].value == 1
            assert right.warnings == []
            swapped = evaluate(_ColorJudge(swapped=True), "colors", workers=0)
        assert swapped["top1"].value == 0
        for words in (
            "top-1 is not above the majority-class baseline (50.0%)",
            "with red and blue swapped accuracy is higher (100.0% instead of 0.0% of 256 images)",
        ):
            assert any(text.startswith(words) for text in swapped.warnings)

    def test_broken_images(self, clothing: Path, says: Says):
        (clothing / "test" / "hat" / "broken.jpg").write_bytes(b"no image")
        card = evaluate("mixer_clothing", clothing, workers=0, train_images=0)
        assert card.data.count == 10
        assert card.unreadable[0].image.endswith("broken.jpg")
        assert "skipped 1 images that cannot be read" in card.warnings[-1]
        with says(DataError):
            evaluate("mixer_clothing", clothing, workers=0, train_images=0, strict=True)

    def test_what_cannot_be(self, clothing: Path, says: Says):
        with says(UsageError):
            evaluate("mixer_clothing")
        with pytest.raises(UsageError, match="not crops"):
            evaluate("mixer_clothing", clothing, tta="crops")
        with says(DataError):
            evaluate("mixer_clothing", clothing, split="val")
        (clothing / "real.json").write_text("[[1], [2]]")
        with says(DataError):
            evaluate("mixer_clothing", clothing, real=clothing / "real.json", workers=0)


def test_blocks_make_no_difference():
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 9, generator=rng), torch.randint(5, (50,), generator=rng)
    predictions = Predictions(torch.zeros(50, 2), logits, labels, torch.arange(50))
    classes, outputs = tuple("abcde"), np.array([3, -1, 0, 8, 5])  # the model does not have the second
    whole, parts = (class_predictions(predictions, classes, outputs, block=block) for block in (1024, 7))
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(value, getattr(parts, name))
    known = labels != 1
    cross_entropy = F.cross_entropy(logits[known].double(), torch.from_numpy(outputs)[labels[known]])
    found = measure(MetricInputs(classes=5, test=predictions, head=whole))
    assert found["cross_entropy"].value == pytest.approx(float(cross_entropy), rel=1e-12)


def card_of(predictions: Predictions, classes: tuple[str, ...], train: Predictions | None = None) -> Card:
    """A card of predictions that no model made."""
    count = len(classes)
    head = class_predictions(predictions, classes, np.arange(count))
    return Card(
        model=ModelRecord(name="a model", parameters=1, image_size=(32, 32), classes=count),
        data=DataRecord(source="many", split="test", title="test", count=len(predictions), classes=count),
        protocol="own",
        preprocessing=Preprocessing(),
        engine="eager, fp32",
        metrics=measure(MetricInputs(classes=count, test=predictions, head=head, train=train)),
        **head_fields(head, classes),
    )


def random_predictions(count: int, classes: int) -> Predictions:
    rng = torch.Generator().manual_seed(0)
    features, logits = (torch.randn(count, size, generator=rng) for size in (4, classes))
    return Predictions(features, logits, torch.randint(classes, (count,), generator=rng), torch.arange(count))


def test_a_card_of_many_classes_is_small():
    """Of ImageNet-21k's, a matrix would have 477 million numbers; what is kept are the pairs that occur."""
    classes, rng = tuple(f"class {n}" for n in range(21_843)), np.random.default_rng(0)
    labels, predicted = rng.integers(0, len(classes), (2, 40))
    logits = torch.full((40, len(classes)), -1.0)
    logits[torch.arange(40), torch.from_numpy(predicted)] = 9.0
    card = card_of(Predictions(torch.zeros(40, 2), logits, torch.from_numpy(labels), torch.arange(40)), classes)
    assert card.confusion is not None
    pairs = [(one, other, 1) for one, other in sorted(zip(labels.tolist(), predicted.tolist(), strict=True))]
    assert card.confusion.pairs == pairs
    assert len(json.dumps(card.to_json()["confusion"])) < 1e6
    text = html.unescape(card_section(card))
    assert "The 20 of 21,843 with the lowest F1" in text
    worst = next(one for one in card.per_class if one.count and not one.f1)
    assert worst.confused_with
    assert f"<td>{worst.name}</td><td>{worst.confused_with}</td>" in text  # among the pairs most often confused
    assert len(text) < 20_000


class TestCard:
    def test_json_and_back(self):
        card = card_of(random_predictions(60, 3), ("a", "b", "c"), train=random_predictions(60, 3))
        assert {*METRICS} - {*card.metrics} == {"few_shot_25"}  # there are about 20 images of a class
        assert Card.from_json(json.loads(to_json(card.to_json()))) == card

    def test_other_versions_and_damaged_ones_are_refused(self):
        content = json.loads(to_json(card_of(random_predictions(20, 3), ("a", "b", "c")).to_json()))
        metric = content["metrics"]["top1"]
        harms = {
            "version 1, and this is 2; measure again with mixer evaluate": [{"top1": {"value": 1.0}}],
            "version 3, and": [content | {"version": 3}],
            "the card is damaged; measure again with mixer evaluate": [
                content | {"data": 3},
                content | {"metrics": {"top1": "x"}},
                content | {"metrics": {"top1": metric | {"value": None}}},
                content | {"metrics": {"top1": metric | {"value": float("inf")}}},
                content | {"per_class": [{"name": "a"}]},
                {name: value for name, value in content.items() if name != "protocol"},
            ],
        }
        for words, cards in harms.items():
            for card in cards:
                with pytest.raises(RunError, match=words):
                    Card.from_json(card)

    def test_a_new_metric_is_a_function_and_a_row(
        self, monkeypatch: pytest.MonkeyPatch, clothing: Path, capsys: pytest.CaptureFixture[str]
    ):
        """docs/extending/metric.md in code: it is in the JSON, on the terminal and in the report."""

        def mean_confidence(inputs: MetricInputs) -> Metric | None:
            if inputs.head is None:
                return None
            return Metric(name="mean confidence", value=float(inputs.head.confidence.mean()), interval=(0.0, 1.0))

        monkeypatch.setitem(METRICS, "mean_confidence", mean_confidence)
        out = clothing / "card.json"
        main(["evaluate", "mixer_clothing", "--data", str(clothing), "--workers", "0", "--output", str(out)])
        card = Card.from_json(json.loads(out.read_text()))
        value = f"{card['mean_confidence'].value:.2%}"
        for text in (capsys.readouterr().out, html.unescape(card_section(card))):
            assert "mean confidence" in text
            assert value in text


def test_the_papers_two_ways():
    own = Preprocessing(crop=(112, 112), resize=112, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    first, second = prepared_by(own, "i"), prepared_by(own, "ii")
    assert (first.shape, second.shape) == ("stretch", "short_side")
    assert first == replace(second, shape="stretch")
    assert (first.resize, first.crop, first.mean, first.std) == (128, (112, 112), (0, 0, 0), (1, 1, 1))
    assert prepared_by(own, "own") is own


class _Colors(Split):
    labels = np.arange(60) % 2

    def read(self, index: int) -> np.ndarray:
        image = np.random.default_rng(index).integers(0, 60, (8, 8, 3), dtype=np.uint8)
        image[..., 2 * self.labels[index]] += 150
        return image

    def where(self, index: int) -> str:
        return f"colors[{index}]"


class _ColorJudge(Classifier[Any]):
    """Says red or blue by which is more. (A Mixer that does so would have to be trained.)"""

    def __init__(self, swapped: bool = False):
        super().__init__(small(2).config, "judge", num_features=2)
        self.head = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.eye_(self.head.weight)
        self.swapped = swapped
        named(self, ("red", "blue"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        means = images.mean(dim=(2, 3))[:, [0, 2]]
        return self.head(means.flip(1) if self.swapped else means)


def train_on_grays(folder: Path, images: dict[str, int], changes: Mapping[str, object] | None = None) -> Path:
    """A run on a data set of 40 training images, and some others, of grays that are all different."""
    shades = iter(range(256))
    for place, count in {"train/dark": 20, "train/pale": 20, **images}.items():
        (folder / "grays" / place).mkdir(parents=True)
        for n in range(count):
            Image.new("L", (8, 8), next(shades)).save(folder / "grays" / place / f"{n}.png")
    recipe = {
        "data.source": str(folder / "grays"),
        "model.image_size": 8,
        "model.options.layers": 1,
        "augment.crop": "none",
        "evaluation.resize": 8,
        "train.steps": 1,
        "train.batch_size": 4,
        "machine.workers": 0,
    }
    mlpmixer.fit(toml.change(Recipe(), {**recipe, **(changes or {})}), folder / "run", quiet=True)
    return folder / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_grays(tmp_path_factory.mktemp("trained"), {"val/dark": 3, "val/pale": 4}, {"data.val": "10%"})


class TestRuns:
    def test_a_run_is_measured_on_its_own_data(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        run = train_on_grays(tmp_path, {"test/dark": 6, "test/pale": 5})
        result = RunFolder(run).result()
        assert result is not None
        main(["evaluate", str(run), "--workers", "0", "--json", "--output", str(tmp_path / "card.json")])
        card = json.loads(capsys.readouterr().out)
        assert card["metrics"]["top1"]["value"] == result["test"]["top1"]
        assert card["metrics"]["cross_entropy"]["value"] == pytest.approx(result["test"]["cross_entropy"], rel=1e-5)
        assert card["metrics"]["knn"]["train_images"] == 38  # 2 % are held out
        kept = [*(run / "cards").iterdir()]
        assert [file.name for file in kept] == ["grays-test.json"]
        assert json.loads(kept[0].read_text()) == card == json.loads((tmp_path / "card.json").read_text())
        # Others that lie beside it are not taken for it.
        evaluate(run, workers=0, protocol="i")
        evaluate(run, workers=0, split="train")
        evaluate(run, tmp_path / "grays", workers=0, split="train")
        assert own_card(run) == Card.from_json(card)

    @pytest.fixture
    def grays(self, trained: Path, tmp_path: Path) -> Path:
        """A copy of that run and its images."""
        shutil.copytree(trained.parent, tmp_path / "there")
        recipe = tmp_path / "there" / "run" / "recipe.toml"
        recipe.write_text(recipe.read_text().replace(str(trained.parent), str(recipe.parents[1])))
        return recipe.parent

    def test_what_is_held_out_and_a_split_of_the_same_name_are_told_apart(
        self, grays: Path, capsys: pytest.CaptureFixture[str], says: Says
    ):
        """Once, `mixer report` put a card of 24 images in the place of one of 153."""
        own = evaluate(grays, workers=0)
        other = evaluate(grays, grays.parent / "grays", split="val", workers=0, train_images=0)
        assert (own.data.split, own.data.title, own.data.count) == ("val", "val (10% of train)", 4)
        assert (other.data.split, other.data.title, other.data.count) == ("val", "val", 7)
        assert len([*(grays / "cards").iterdir()]) == 2
        assert own_card(grays) == own
        with says(DataError):
            evaluate(grays, split="test", workers=0)
        main(["evaluate", str(grays), "--workers", "0", "--train-images", "0"])
        assert "grays, val (10% of train))" in capsys.readouterr().out

    def test_a_card_that_says_less_is_added_to_the_one_that_says_more(self, grays: Path):
        """All parts stay, each with its origin."""
        evaluate(grays, workers=0)
        (file,) = (grays / "cards").iterdir()
        card = json.loads(file.read_text())
        for origin in card["origins"].values():
            origin |= {"command": ["an older one"], "started": "2026-01-02T03:04:05+00:00"}
        file.write_text(json.dumps(card))
        older, found = Card.from_json(card), None
        for train_images, split in ((0, "auto"), (10, "auto"), (0, "val")):
            evaluate(grays, workers=0, train_images=train_images, split=split)
            found = own_card(grays)
            assert found is not None
            for key in ("knn", "few_shot_10", "linear_probe"):
                assert (found[key], found.origins[key]) == (older[key], older.origins[key])
            assert found.origins["top1"].command == sys.argv
        days = {row[0]: row[-1] for row in metric_table(found).rows}
        assert days[found["linear_probe"].name] == "2026-01-02" < days[found["top1"].name]
        evaluate(grays, workers=0, engine="eager", train_images=0)  # of the same precision, and so of the same card
        found = own_card(grays)
        evaluate(grays, workers=0, engine="eager", precision="bf16", train_images=0)
        assert {"grays-val.json", "grays-val-bf16.json"} == {one.name for one in (grays / "cards").iterdir()}
        assert own_card(grays) == found

    def test_cards_of_other_images_of_the_same_name_lie_side_by_side(self, grays: Path):
        data = grays.parent / "grays"
        first = evaluate(grays, data, split="val", workers=0, train_images=0)
        (data / "val" / "pale" / "0.png").unlink()
        second = evaluate(grays, data, split="val", workers=0, train_images=0)
        evaluate(grays, data, split="val", workers=0, train_images=0)
        one, two = sorted((grays / "cards").iterdir(), key=lambda file: len(file.name))
        assert one.name == "grays-val.json"
        assert re.fullmatch(r"grays-val-[0-9a-f]{8}\.json", two.name)
        assert [json.loads(file.read_text())["data"]["count"] for file in (one, two)] == [7, 6]
        assert Card.from_json(json.loads(one.read_text())) == first
        assert Card.from_json(json.loads(two.read_text()))["top1"] == second["top1"]

    def test_other_versions_are_not_read_and_never_written_over(self, grays: Path):
        evaluate(grays, workers=0, train_images=0)
        file = grays / "cards" / "grays-val.json"
        card = json.loads(file.read_text())
        del card["version"]
        no_card = {"data": {"own": True}, "model": {}, "preprocessing": 3, "engine": 4, "warnings": 5}
        for other in (json.dumps(card), "[", "[1]", json.dumps(no_card | {"version": 2})):
            file.write_text(other)
            for beside in {*file.parent.iterdir()} - {file}:
                beside.unlink()
            assert own_card(grays) is None
            assert evaluate(grays, workers=0).warnings[-1].startswith("the new card is kept beside another: ")
            assert own_card(grays) is not None
            assert file.read_text() == other

    def test_a_card_of_other_weights_is_not_the_runs_own(self, grays: Path):
        evaluate(grays, workers=0)
        model = mlpmixer.load(grays)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        mlpmixer.save(model, grays / "weights.safetensors")
        assert own_card(grays) is None
        evaluate(grays, workers=0)
        assert own_card(grays) is not None
        assert len([*(grays / "cards").iterdir()]) == 2

    def test_a_card_that_cannot_be_kept_is_still_told(self, grays: Path):
        (grays / "cards").write_text("in the way")
        assert "the card is not kept: cannot write to" in evaluate(grays, workers=0, train_images=0).warnings[-1]

    def test_the_table(self, clothing: Path, capsys: pytest.CaptureFixture[str]):
        main(["evaluate", "mixer_clothing", "--data", str(clothing), "--workers", "0", "--protocol", "i"])
        out = capsys.readouterr().out
        assert "on 10 images of 10 classes" in out
        for words in (
            "top-1",
            "top-5",
            "k-NN (k = 20, 10 training images)",
            "linear probe",
            "linear 1-shot",
            "calibration error",
        ):
            assert words in out
        assert out.count("confused with") == 1


class TestImageNet:
    """Its other test sets, as small folders in their forms; figures against logits of single images."""

    def test_real(self, model: Classifier, photos: list[Path], tmp_path: Path):
        """Of five images one has no label; the others have two, chosen so that two are right."""
        ranked = logits_of(model, photos[:5]).argsort(1, descending=True)[:, :3].tolist()
        sets: list[list[int]] = [[] for _ in range(50_000)]
        for place, (photo, number) in enumerate(zip(photos, (7, 3, 50_000, 20, 21), strict=False)):
            folder = tmp_path / "imagenet" / "val" / WNIDS[place]
            folder.mkdir(parents=True)
            shutil.copy(photo, folder / f"ILSVRC2012_val_{number:08}.JPEG")
            sets[number - 1] = [[5, ranked[place][0]], [ranked[place][1]], [], [ranked[place][0]], [ranked[place][2]]][
                place
            ]
        for wnid in WNIDS:
            (tmp_path / "imagenet" / "val" / wnid).mkdir(exist_ok=True)
        (tmp_path / "real.json").write_text(json.dumps(sets))
        card = evaluate(model, tmp_path / "imagenet", real=tmp_path / "real.json", workers=0)
        assert (card["real"].correct, card["real"].count) == (2, 4)

    def test_v2_and_sketch_seek_among_all(self, model: Classifier, photos: list[Path], clothing: Path, tmp_path: Path):
        best = logits_of(model, photos).argmax(1).tolist()
        for place, photo in enumerate(photos):
            for name, folder in (("v2", str(best[place])), ("sketch", WNIDS[best[place] if place % 2 else 999])):
                (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
                shutil.copy(photo, tmp_path / name / folder)
        found = evaluate(
            model,
            clothing,
            train_images=0,
            workers=0,
            variants={"imagenet_v2": tmp_path / "v2", "imagenet_sketch": tmp_path / "sketch"},
        )
        assert (found["imagenet_v2"].correct, found["imagenet_v2"].count) == (10, 10)
        assert found["imagenet_sketch"].correct == sum(best[place] == 999 or place % 2 for place in range(10))

    def test_a_and_r_seek_among_theirs(
        self, model: Classifier, photos: list[Path], clothing: Path, tmp_path: Path, says: Says
    ):
        """Each image lies in the class that is its second best; the best are not among these."""
        logits = logits_of(model, photos)
        best = {*logits.argmax(1).tolist()}
        others = [n for n in range(1000) if n not in best]
        second = [others[n] for n in logits[:, others].argmax(1).tolist()]
        theirs = [*dict.fromkeys([*second, *others])][:200]
        for place in theirs:
            (tmp_path / "a" / WNIDS[place]).mkdir(parents=True)
        for photo, place in zip(photos, second, strict=True):
            shutil.copy(photo, tmp_path / "a" / WNIDS[place])
        folders: Any = {"imagenet_a": tmp_path / "a", "imagenet_v2": tmp_path / "a"}
        found = evaluate(model, clothing, train_images=0, workers=0, variants=folders)
        assert found["imagenet_a"].correct == 10
        assert found["imagenet_v2"].correct == 0
        with says(DataError):
            evaluate(model, clothing, train_images=0, workers=0, variants={"imagenet_v2": clothing})

    @pytest.mark.parametrize("name", ["a", "r"])
    def test_a_and_r_have_200_classes(self, name: str, photos: list[Path], clothing: Path, tmp_path: Path):
        folder = tmp_path / name
        for wnid in WNIDS[:199]:
            (folder / wnid).mkdir(parents=True)
        shutil.copy(photos[0], folder / WNIDS[0])
        variants: Any = {f"imagenet_{name}": folder}
        title = f"ImageNet-{name.upper()}"
        words = (
            f"{folder} has 199 of ImageNet's classes, and {title} has 200; unpack {title} whole, and name its folder"
        )
        assert refused(variants=variants) == words
        (folder / "n00000000").mkdir()
        assert refused(variants=variants).startswith(f"{folder} is no {title}: 'n00000000' is no class of ImageNet's;")
        (folder / "n00000000").rename(folder / WNIDS[199])
        assert refused(variants=variants).startswith("there is no file 'nowhere.npz'")
        (folder / WNIDS[200]).mkdir()
        assert refused(variants=variants).startswith(f"{folder} has 201 of ImageNet's classes")
        variants = {f"imagenet_{name}": clothing}
        assert refused(variants=variants).startswith(f"{clothing} is no {title}: 'dress' is no class of ImageNet's;")

    def test_a_mistyped_path_is_met_at_the_door(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], says: Says):
        """Before weights and images are read."""
        (tmp_path / "theirs").mkdir()
        for name in ("real", "imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-c"):
            with pytest.raises(SystemExit):
                main(
                    [
                        "evaluate",
                        "mixer_cifar10",
                        "--data",
                        "fashion_mnist_small",
                        f"--{name}",
                        str(tmp_path / "thiers"),
                    ]
                )
            err = capsys.readouterr().err
            assert "did you mean 'theirs'?" in err, name
            says.check(err)
            assert err.count("\n") == 1

    def test_c(self, model: Classifier, photos: list[Path], clothing: Path, tmp_path: Path):
        best = int(logits_of(model, photos[:1]).argmax(1))
        root = tmp_path / "c"
        for severity in range(1, 6):
            place = (
                root / "noise" / "gaussian_noise" / str(severity) / WNIDS[best if severity < 3 else (best + 1) % 1000]
            )
            place.mkdir(parents=True)
            shutil.copy(photos[0], place)
        card = evaluate(model, clothing, train_images=0, workers=0, variants={"imagenet_c": root})
        assert card.corruptions is not None
        assert card.corruptions.errors == {"gaussian_noise": [0, 0, 1, 1, 1]}
        assert card.corruptions.of_alexnet["gaussian_noise"] == pytest.approx(60 / 0.886428)
        assert "imagenet_c" not in card
        assert "1 of 15 corruption types, so no mCE" in card_section(card)
        shutil.rmtree(root / "noise" / "gaussian_noise" / "4")
        assert "has no folder 4" in refused(variants={"imagenet_c": root})
        assert "no ImageNet-C in" in refused(variants={"imagenet_c": clothing})

    @pytest.mark.parametrize("protocol", ["own", "i", "ii"])
    def test_nothing_is_cropped_from_c(self, protocol: Any, clothing: Path, tmp_path: Path):
        """A blue image with a red frame is red as a whole; a crop of 7/8 would have lost the frame."""
        image = np.zeros((32, 32, 3), dtype=np.uint8)
        image[..., 0] = 255
        image[2:-2, 2:-2] = (0, 0, 70)
        for severity in range(1, 6):
            place = tmp_path / "c" / "fog" / str(severity) / "red"
            place.mkdir(parents=True)
            Image.fromarray(image).save(place / "1.png")
        others: Any = {"imagenet_c": tmp_path / "c", "imagenet_sketch": tmp_path / "c" / "fog" / "1"}
        card = evaluate(_ColorJudge(), clothing, train_images=0, workers=0, protocol=protocol, variants=others)
        assert card.corruptions is not None
        assert card.corruptions.errors == {"fog": [0] * 5}
        assert card["imagenet_sketch"].correct == 0

    @pytest.mark.parametrize("size", [(224, 224), (112, 112), (320, 192)])
    def test_c_goes_straight_to_the_models_size(self, size: tuple[int, int]):
        image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
        how = imagenet_sets.uncropped(Preprocessing.usual(size))
        side = max(size)
        straight = center_crop(resize(image, (side, side)), size)
        assert torch.equal(prepare(image, how), straight)
        assert (size != (224, 224)) or torch.equal(straight, torch.from_numpy(image).permute(2, 0, 1))
        assert replace(how, resize=0) == replace(Preprocessing.usual(size), resize=0)
