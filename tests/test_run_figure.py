"""A finished run as one SVG: what it shows is what the run folder says."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlpmixer import Predictor
from mlpmixer.draw.chart import LOOKS, Series, labels, line_chart, ticks
from mlpmixer.draw.svg import COLORS, document, escaped
from mlpmixer.errors import RunError
from mlpmixer.recipe import About, Augment, Data, Evaluation, Machine, Model, Recipe, Train
from mlpmixer.recipes import toml
from mlpmixer.report.run_facts import duration
from mlpmixer.report.run_figure import write_run_figure
from mlpmixer.train.loop import fit

SVG = "{http://www.w3.org/2000/svg}"
CLASSES = ("bags & <b>'more'", "hats")

RECIPE = Recipe(
    name='tops & "bags" <1>',
    about=About(curve=((1.0, 60.0), (4.0, 90.0)), tolerance=3.0),
    model=Model(name="mixer_pico", options={"layers": 1}),
    data=Data(val="val", test="test"),
    augment=Augment(crop="pad", padding=2),
    evaluation=Evaluation(resize=28),
    train=Train(steps=16, batch_size=8, precision="fp32"),
    machine=Machine(device="cpu", workers=0, log_every=2),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, bright above in one class and below in the other; some of the test images lie about it."""
    root = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for split, count, lies in (("train", 16, 0), ("val", 4, 0), ("test", 10, 2)):
        for side, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = chance.integers(0, 128, (28, 28), dtype=np.uint8)
                half = slice(0, 14) if side == (n >= lies) else slice(14, 28)
                pixels[half] += 100
                Image.fromarray(pixels).save(folder / f"{n}.png")
    return root


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = replace(RECIPE, data=replace(RECIPE.data, source=str(images)))
    return fit(recipe, tmp_path_factory.mktemp("runs") / "run", quiet=True).folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def drawn(run: Path) -> ET.Element:
    path = write_run_figure(run)
    assert path == run / "image.svg"
    return ET.fromstring(path.read_text(encoding="utf-8"))


def words(root: ET.Element, kind: str = "") -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text") if kind in text.get("class", "").split() or not kind]


def chart(root: ET.Element, title: str) -> ET.Element:
    return next(
        group for group in root.iter(f"{SVG}g") if [text.text for text in group.findall(f"{SVG}text")][:1] == [title]
    )


def series(chart: ET.Element) -> dict[str, ET.Element]:
    """By their names."""
    groups = [group for group in chart.findall(f"{SVG}g") if group.get("class") == "series"]
    return {str(group.findtext(f"{SVG}title")): group for group in groups}


def scale(chart: ET.Element, axis: str) -> np.poly1d:
    """From pixels to the numbers that stand at an axis."""
    ticks = [text for text in chart.findall(f"{SVG}text") if axis in text.get("class", "").split()]
    at = [float(tick.get("x" if axis == "across" else "y", "nan")) for tick in ticks]
    return np.poly1d(np.polyfit(at, [float(str(tick.text)) for tick in ticks], 1))


def shown_points(chart: ET.Element, name: str) -> np.ndarray:
    """As a reader takes them from the axes."""
    line = series(chart)[name].find(f"{SVG}polyline")
    assert line is not None
    places = np.array([pair.split(",") for pair in line.get("points", "").split()], float)
    baseline = 4  # a tick's number stands so many pixels below its line
    return np.stack([scale(chart, "across")(places[:, 0]), scale(chart, "up")(places[:, 1] + baseline)], axis=1)


def metrics(run: Path, kind: str, name: str) -> np.ndarray:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return np.array([(line["epoch"], line[name]) for line in lines if line["kind"] == kind])


def test_the_lines_are_where_the_metrics_say(run: Path):
    root = drawn(run)
    loss = shown_points(chart(root, "Training loss"), "loss")
    np.testing.assert_allclose(loss, metrics(run, "train", "loss"), atol=0.01)
    right = chart(root, "Validation accuracy (%)")
    expected = metrics(run, "val", "top1") * [1, 100]
    assert len(expected) == 4
    np.testing.assert_allclose(shown_points(right, "this run"), expected, atol=0.4)
    np.testing.assert_allclose(shown_points(right, "expected ± 3"), [(1, 60), (4, 90)], atol=0.4)


def test_the_heading_says_what_came_out(run: Path):
    root = drawn(run)
    assert words(root, "name") == [RECIPE.name]
    result = json.loads((run / "result.json").read_text())
    said = " / ".join(words(root, "words"))
    assert f"{100 * result['test']['top1']:.1f} % accuracy on 20 test images" in said
    parameters = sum(p.numel() for p in Predictor(run).model.parameters())
    assert f"mixer_pico, {parameters:,} parameters; 4 epochs in" in said


def test_tiles_are_test_images_with_the_models_answers(run: Path, images: Path):
    root = drawn(run)
    predictor = Predictor(run)
    truth = {Image.open(path).tobytes(): path.parent.name for path in images.glob("test/*/*.png")}
    tiles = [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}image") is not None]
    marks = {"right": [], "wrong": []}
    for tile in tiles:
        image = tile.find(f"{SVG}image")
        assert image is not None
        with Image.open(io.BytesIO(base64.b64decode(image.get("href", "").split(",")[1]))) as opened:
            pixels = opened.convert("L")
        found = predictor(pixels)
        name, score, *rest = str(image.findtext(f"{SVG}title")).split(", ")
        mark = next(circle.get("class", "") for circle in tile.iter(f"{SVG}circle"))
        assert name.removeprefix("predicted ") == found.label
        assert score in (f"{100 * found.score:.0f} %", "over 99 %")
        true = truth[pixels.tobytes()]
        assert (mark == "right") == (found.label == true)
        assert rest == ([] if mark == "right" else [f"true {true}"])
        marks[mark].append(found)
    assert {found.label for found in marks["right"]} <= {*CLASSES}
    assert len({found.label for found in marks["right"]}) == len(marks["right"])
    scores = [found.score for found in marks["wrong"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) >= 4  # the images that lie


def test_without_a_validation_split(images: Path, tmp_path: Path):
    recipe = toml.change(RECIPE, {"data.source": str(images), "data.val": "", "train.steps": 4})
    root = drawn(fit(recipe, tmp_path / "run", quiet=True).folder)
    assert words(root, "head")[0] == "Training loss"
    assert not any("val" in title.lower() for title in words(root, "head"))


def test_without_a_test_split_validation_images_are_shown(images: Path, tmp_path: Path):
    recipe = toml.change(RECIPE, {"data.source": str(images), "data.test": "", "train.steps": 4})
    root = drawn(fit(recipe, tmp_path / "run", quiet=True).folder)
    assert any(re.fullmatch(r"\d+\.\d % accuracy on 8 val images", line) for line in words(root, "words"))
    assert any("of 8 val images" in title for title in words(root, "head"))


def test_curves_without_the_images(run: Path):
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(re.sub(r"source = .*", 'source = "/nowhere"', text))
    root = drawn(run)
    assert "No images are shown: there is no data set '/nowhere'" in " ".join(words(root, "words"))
    assert chart(root, "Validation accuracy (%)") is not None


def test_what_is_no_finished_run_says_so_in_one_line(run: Path, tmp_path: Path):
    (run / "result.json").unlink()
    for folder, message in ((run, "is not finished"), (tmp_path, "there is no run in")):
        with pytest.raises(RunError, match=message) as caught:
            write_run_figure(folder)
        assert "\n" not in str(caught.value)
        assert not (folder / "image.svg").exists()


def test_any_name_can_be_written():
    name = "a<b>&\"c'\x00\udcff€"
    root = ET.fromstring(document(line_chart(name, [Series(name, [(0, 1)])], x_label=name), name))
    assert root.findtext(f"{SVG}title") == "a<b>&\"c'\ufffd\ufffd€"
    assert escaped(name) in document(line_chart(name, [Series("x", [(0, 1)])], x_label=""), "")


@pytest.mark.parametrize(
    ("low", "high", "about", "expected"),
    [
        (0, 10, 5, ["0", "2", "4", "6", "8", "10"]),
        (0.31, 0.94, 5, ["0.2", "0.4", "0.6", "0.8", "1.0"]),
        (45.2, 88.9, 5, ["40", "50", "60", "70", "80", "90"]),
        (0, 123_456, 3, ["0", "50,000", "100,000", "150,000"]),
        (-0.02, 0.013, 3, ["-0.02", "0.00", "0.02"]),
        (7, 7, 5, ["6.4", "6.6", "6.8", "7.0", "7.2", "7.4", "7.6"]),
    ],
)
def test_ticks_are_round_and_hold_everything(low: float, high: float, about: int, expected: list[str]):
    found = ticks(low, high, about)
    assert labels(found) == expected
    assert found[0] <= low <= high <= found[-1]


def test_lines_can_be_told_apart_without_colors():
    drawing = line_chart("t", [Series(f"s{n}", [(0, n), (1, n)]) for n in range(len(LOOKS))], x_label="x")
    groups = series(chart(ET.fromstring(document(drawing, "")), "t")).values()
    lines = [group.find(f"{SVG}polyline") for group in groups]
    assert len({line.get("stroke-dasharray") for line in lines if line is not None}) == len(LOOKS)
    assert len({str(mark.get("d")) for group in groups for mark in group.findall(f"{SVG}path")}) == len(LOOKS)


def test_long_runs_have_few_marks():
    points = [(n, n % 7) for n in range(5000)]
    body = line_chart("t", [Series("s", points)], x_label="x").body
    assert body.count("<path") < 50
    assert len(re.findall(r"\d,\d", body)) >= 4000  # and yet every point


def luminance(color: str) -> float:
    """Of WCAG 2."""
    channels = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [1, 2], ids=["light", "dark"])
def test_contrast(theme: int):
    paper = luminance(COLORS["paper"][theme])
    ratios = {}
    for name, colors in COLORS.items():
        dim, bright = sorted((luminance(colors[theme]), paper))
        ratios[name] = (bright + 0.05) / (dim + 0.05)
    assert all(ratios[name] >= 4.5 for name in ratios if name not in ("paper", "mark", "on-shade", "rule", "edge"))
    assert COLORS["on-shade"][theme] == COLORS["paper"][theme]  # which is told from all shades
    assert ratios["edge"] >= 3


def test_every_class_has_its_colors(run: Path):
    root = drawn(run)
    style = str(root.findtext(f"{SVG}style"))
    light, dark = style.split("@media (prefers-color-scheme:dark)")
    used = {name for element in root.iter() for name in element.get("class", "").split()}
    for name in used & {*COLORS}:
        assert f".figure .{name}{{" in light
        assert f".figure .{name}{{" in dark
    assert {"paper", "ink", "soft", "line-1", "line-2", "shade-2"} <= used


@pytest.mark.parametrize(("seconds", "expected"), [(42.4, "42 s"), (161, "2 min 41 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, expected: str):
    assert duration(seconds) == expected
