"""The run card: a PNG that holds whatever a run is, and says what the run folder says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlpmixer
from mlpmixer.cli import main
from mlpmixer.draw import canvas
from mlpmixer.draw.chart import Series
from mlpmixer.evaluation.card import ConfusionTable
from mlpmixer.recipe import About, Augment, Data, Evaluation, Machine, Model, Recipe, Train
from mlpmixer.recipes import toml
from mlpmixer.report import run_card as run_card_module
from mlpmixer.report.run_card import FLOOR, PANELS, TILE, TILES, run_card
from mlpmixer.report.run_facts import Accuracy, RunFacts, Verdict, data_name, verdict
from mlpmixer.report.run_figure import write_run_figure
from mlpmixer.report.run_predictions import Example, RunPredictions, predict_run
from mlpmixer.weights.save import save

CLASSES = ("été & <b>", "hats")
GREEN, RED = (28, 114, 72), (179, 38, 30)

RECIPE = Recipe(
    name="tops",
    about=About(curve=((1.0, 60.0), (4.0, 90.0)), tolerance=3.0, expected="89.0 to 91.5 % top-1 on the test images"),
    model=Model(name="mixer_pico", options={"layers": 1}),
    data=Data(val="val", test="test"),
    augment=Augment(crop="pad", padding=2),
    evaluation=Evaluation(resize=28),
    train=Train(steps=2, batch_size=8, precision="fp32"),
    machine=Machine(device="cpu", workers=0),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(0, 255, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{n}.png")
    return root


@pytest.fixture
def run(images: Path, tmp_path: Path) -> Path:
    """A finished run as `mixer train` leaves it, of a model that has learned nothing."""
    folder = tmp_path / "run"
    folder.mkdir()
    save(
        mlpmixer.create("mixer_pico", layers=1, num_classes=2),
        folder / "weights.safetensors",
        classes=CLASSES,
    )
    recipe = replace(RECIPE, data=replace(RECIPE.data, source=str(images)))
    (folder / "recipe.toml").write_text(toml.dumps(recipe), encoding="utf-8")
    measured = {"top1": 0.9, "count": 1000}
    (folder / "result.json").write_text(json.dumps({"steps": 2, "val": None, "test": measured}))
    lines = [{"step": n, "kind": "val", "epoch": n, "top1": n / 5} for n in range(1, 5)]
    lines += [{"step": n, "kind": "train", "epoch": n, "loss": 1 / n, "images_per_s": 8.0} for n in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def facts(**others: Any) -> RunFacts:
    accuracy = Accuracy("test", 90.0, (88.0, 91.7), 1000)
    known = RunFacts("mixer_b16", "photos", 59_880_472, accuracy, None, 3.0, 62.0, "bf16", {"processor": "a CPU"})
    return replace(known, **others)


def example(label: str, true: str, size: tuple[int, int] = (64, 48)) -> Example:
    return Example(Image.new("RGB", size, (0, 0, 255)), label, 0.98, true, 0.01)


def colors(card: Image.Image, left: int, right: int) -> set[tuple[int, ...]]:
    return {*map(tuple, np.asarray(card)[:, left:right].reshape(-1, 3).tolist())}


def test_whatever_a_run_is():
    curve = ("Validation accuracy (%)", [Series("this run", [(1, 50), (2, 60)])])
    names = ("猫", "كلب", "собака", "x" * 1000, "a\n\x1b[31m\udcff", "🦜 parrot")
    few = ConfusionTable(names, matrix=[[3] * 6] * 6)
    many = tuple(f"n{k:08}" for k in range(1000))
    pairs = ConfusionTable(many, pairs=[(k, 999 - k, k + 1) for k in range(1000)])
    one = ConfusionTable(("only",), matrix=[[10]])
    blank = ("Training loss", [Series("loss", [(1.0, float("nan"))])])
    odd = [example(names[0], names[1], (300, 1)), example(names[3], names[4], (1, 300))]
    cases = {
        "usual": (facts(verdict=Verdict("89.0 to 91.5 %", "as expected")), curve, few, odd, odd),
        "neither validated nor tested": (facts(accuracy=None, epochs=None, machine={}), blank, None, [], []),
        "one class": (facts(data="x" * 300), ("Training loss", [Series("loss", [(0, 1.0)])]), one, odd, []),
        "1,000 classes": (facts(model="m" * 100), curve, pairs, odd, odd),
        "no images": (facts(machine={"processor": "p" * 500}), curve, few, None, None),
    }
    failures = []
    for name, (known, lines, confusion, correct, wrong) in cases.items():
        found = None if correct is None else RunPredictions("test", 9, confusion or one, correct, wrong or [], [])
        card = run_card(known, lines, confusion, found)
        pixels = np.asarray(card)
        edges = np.concatenate([part.reshape(-1, 3) for part in (pixels[:16], pixels[-16:], pixels[:, :16])])
        if card.size != (1200, 630) or (edges != 255).any() or (pixels[:, -16:] != 255).any():
            failures.append(f"{name}: {card.size}, or something at its edges")
        if len({*map(tuple, pixels[30:80, 40:800].reshape(-1, 3).tolist())}) < 10:
            failures.append(f"{name}: no title")
    assert not failures


def test_marks_stand_beside_their_kind():
    table = ConfusionTable(("a", "b"), matrix=[[1, 1], [0, 1]])
    found = RunPredictions("test", 3, table, [example("a", "a")], [example("a", "b")], [])
    card = run_card(facts(), ("Training loss", [Series("loss", [(1, 1), (2, 0)])]), table, found)
    correct, wrong = colors(card, TILES, TILES + TILE + 14), colors(card, TILES + TILE + 16, 1200)
    assert (GREEN in correct, RED in correct, GREEN in wrong, RED in wrong) == (True, False, False, True)


def test_the_curve_and_the_band_are_where_the_numbers_say():
    flat = [Series("this run", [(0, 90), (10, 90)]), Series("expected ± 5", [(0, 50), (10, 50)], 5.0)]
    pixels = np.asarray(run_card(facts(), ("Validation accuracy (%)", flat), None, None)).astype(int)
    top, bottom = PANELS + 48, FLOOR - 26  # of the axis, which goes from 40 to 100
    place = np.poly1d(np.polyfit([40, 100], [bottom, top], 1))

    def rows_of(color: tuple[int, int, int]) -> np.ndarray:
        return np.flatnonzero((abs(pixels - color).sum(axis=2) < 6).sum(axis=1) > 800)

    assert rows_of((10, 91, 176)).mean() == pytest.approx(place(90), abs=2)
    band = rows_of((225, 227, 229))
    assert (band.min(), band.max()) == (pytest.approx(place(55), abs=3), pytest.approx(place(45), abs=3))


def test_letters_that_no_font_has_are_marked():
    words = canvas.shortened("\U000f0000 abc", 1000, 16)
    assert words == "\ufffd abc"
    short = canvas.shortened("many letters that do not fit", 80, 16)
    assert short.endswith("…")
    assert len(short) < 20


def test_both_figures_of_a_finished_run(run: Path):
    assert write_run_figure(run) == run / "image.svg"
    with Image.open(run / "run_card.png") as card:
        assert (card.format, card.size) == ("PNG", (1200, 630))
        assert {GREEN, RED} & colors(card.convert("RGB"), TILES, 1200)


def test_a_card_that_is_damaged_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch):
    write_run_figure(run)
    usual = (run / "run_card.png").read_bytes()
    failures = []
    for table in (
        ConfusionTable(CLASSES, matrix=[[1, 2]]),
        ConfusionTable(CLASSES, matrix=[[1, -2], [10**30, 4]]),
        ConfusionTable((), matrix=[]),
        ConfusionTable(CLASSES, pairs=[(0, 7, 3)]),
    ):
        monkeypatch.setattr(run_card_module, "own_card", lambda _folder, table=table: SimpleNamespace(confusion=table))
        write_run_figure(run)
        if (run / "run_card.png").read_bytes() != usual:
            failures.append(table)
    assert not failures


def test_broken_images_are_left_out(images: Path, run: Path, tmp_path: Path):
    root = Path(shutil.copytree(images, tmp_path / "broken"))
    (root / "test" / "hats" / "0.png").write_bytes(b"no image")
    recipe = replace(RECIPE, data=replace(RECIPE.data, source=str(root)))
    found = predict_run(recipe, mlpmixer.load(run), losses=20)
    assert found is not None
    assert found.count == 11
    assert sum(map(sum, found.confusion.matrix or [])) == 11
    assert len(found.losses) == 11
    losses = [one.loss for one in found.losses]
    assert losses == sorted(losses, reverse=True)
    assert all(one.label != one.true for one in found.wrong)
    for one in found.losses:
        assert one.probability == pytest.approx(one.score if one.label == one.true else 1 - one.score, abs=1e-5)


def test_train_leaves_the_figures(images: Path, tmp_path: Path):
    (tmp_path / "r.toml").write_text(toml.dumps(replace(RECIPE, data=replace(RECIPE.data, source=str(images)))))
    main(["train", str(tmp_path / "r.toml"), "--folder", str(tmp_path / "run"), "--quiet"])
    for name in ("image.svg", "run_card.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000, name


def test_verdicts():
    failures = []
    for text, interval, expected in (
        ("89.5 to 90.0 % top-1 on …", (89.0, 89.6), ("89.5 to 90.0 %", "as expected")),
        ("89.5 to 90.0 % top-1", (88.0, 89.4), ("89.5 to 90.0 %", "lower than expected")),
        ("about 70.5 % on ImageNet", (71.0, 72.0), ("about 70.5 %", "higher than expected")),
        ("75.9 ± 2.1 % top-1", (73.0, 74.0), ("75.9 ± 2.1 %", "as expected")),
        ("more than half of them", (73.0, 74.0), None),
        ("", (73.0, 74.0), None),
    ):
        found = verdict(text, Accuracy("test", sum(interval) / 2, interval, 1000))
        if (found and (found.expected, found.outcome)) != expected:
            failures.append(f"{text}: {found}")
    assert not failures


def test_data_sets_have_short_names():
    assert [data_name(source) for source in ("cifar10", "/home/me/my photos/", "https://x.org/set.tar", "/")] == [
        "cifar10",
        "my photos",
        "set.tar",
        "/",
    ]
