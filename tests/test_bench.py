"""`mixer bench`: the systems are interleaved, compute the same, and are counted correctly."""

from __future__ import annotations

import ctypes
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from conftest import PHOTOS
from messages import Says
from PIL import Image

from mlpmixer import create, data
from mlpmixer.bench import baselines, inference, loading, roofline, scaling
from mlpmixer.bench.bars import bars
from mlpmixer.bench.baselines import Baseline
from mlpmixer.bench.inference import bench_inference, distance, speedups
from mlpmixer.bench.inputs import FORMS, Images
from mlpmixer.bench.interleave import Times, interleaved, ratio
from mlpmixer.bench.systems import CLASSES, Subject, System
from mlpmixer.cli import main, measurements
from mlpmixer.data.preprocess import normalize
from mlpmixer.engines.engine import Engine
from mlpmixer.kernels.library import library
from mlpmixer.metadata import Preprocessing
from mlpmixer.recipe import Augment

CPU = torch.device("cpu")
SMALL = roofline.Effort(run_seconds=0.002, peak_seconds=0.002, sides={"cpu": 256}, copied=1 << 22)
ROW = {"system", "engine", "model", "precision", "batch", "images_per_s", "spread"}


def test_everyone_has_a_turn_in_each_round_and_nobody_is_always_first():
    seen: list[str] = []
    times = interleaved({name: lambda name=name: seen.append(name) for name in "abc"}, rounds=4, warm_up=1)
    assert "".join(seen) == "abc" + "abc" + "cba" + "abc" + "cba"
    assert {name: len(taken.seconds) for name, taken in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_times_are_those_of_the_runs_and_of_nothing_else():
    now = 0.0

    def takes(seconds: float) -> None:
        nonlocal now
        now += seconds

    systems = {"quick": lambda: takes(1.0), "slow": lambda: takes(20.0)}
    times = interleaved(systems, rounds=3, warm_up=1, before_round=lambda: takes(300.0), clock=lambda: now)
    assert {name: taken.seconds for name, taken in times.items()} == {"quick": (1.0,) * 3, "slow": (20.0,) * 3}
    assert now == 4 * 21.0 + 3 * 300.0


def test_ratios_are_taken_within_rounds():
    """A machine that slows down for a round slows all down: that is no difference between them."""
    ours, theirs = Times((1.0, 1.0, 5.0)), Times((2.0, 2.0, 10.0))
    assert ratio(ours, theirs) == (2.0, 2.0, 2.0)
    assert ours.median == 1.0
    assert Times((1.0, 1.0, 1.0, 1.0)).spread == 0.0


def test_what_was_possible_is_that_of_the_same_round():
    """Work beside the first round slows the system and the product alike, and the share stays what it is."""
    assert roofline.share(8.0, Times((4.0, 2.0, 2.0)), most=[4.0, 8.0, 8.0]) == 0.5


def require_right_training(found: dict[str, Any]) -> None:
    rows = found["rows"]
    assert {row["system"] for row in rows} == {"timm", "mlpmixer"}
    # The same weights and images: the same loss, so nobody is fast by computing something else.
    losses = [row["loss"] for row in rows]
    assert max(losses) - min(losses) < 0.01
    assert all(row["images_per_s"] > 0 and row["kept_mb"] > 0 for row in rows)
    assert len(found["speedups"]) == 1
    assert found["roofline"]["matrix_bf16_flop_per_s"] > 0
    assert found["machine"]["torch"]


@pytest.mark.usefixtures("timm")
def test_training_beside_timm(capsys: pytest.CaptureFixture[str]):
    measurements.train([("mixer_pico", 2)], "bf16", 2, True, "cpu", True, peaks=False, effort=SMALL)
    found = json.loads(capsys.readouterr().out)
    require_right_training(found)
    assert all(row["peak_mb"] is None for row in found["rows"])


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
def test_training_beside_timm_with_its_memory(capsys: pytest.CaptureFixture[str]):
    main(["bench", "train", "--models", "mixer_pico:2", "--rounds", "2", "--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    require_right_training(found)
    assert any(row["peak_mb"] for row in found["rows"])


@pytest.mark.usefixtures("timm")
def test_what_cannot_be_compared_is_said(capsys: pytest.CaptureFixture[str], says: Says):
    for models in ("mixer_s32", "vit_s16:8"):
        with pytest.raises(SystemExit) as end:
            main(["bench", "train", "--models", models, "--rounds", "2", "--quick"])
        assert end.value.code == 2
        says.check(capsys.readouterr().err)


def measure(names: str = "timm") -> inference.InferenceResults:
    return bench_inference([("mixer_pico", 2)], ["fp32"], names.split(","), 2, CPU, quick=True, effort=SMALL)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Adds a baseline called "other" that starts so."""

    def add(start: Callable[..., Any]) -> None:
        monkeypatch.setitem(sys.modules, "bench_other", SimpleNamespace(start=start))
        monkeypatch.setitem(baselines.BASELINES, "other", Baseline("bench_other", (), ("fp32",)))

    return add


@pytest.mark.usefixtures("timm")
def test_inference_beside_others(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    names = ["timm", *(name for name, package in (("onnx", "onnxruntime"), ("flax", "flax")) if find_spec(package))]
    image = tmp_path / "bars.svg"
    measurements.infer([("mixer_pico", 2)], ["fp32", "bf16"], names, 2, True, "cpu", image, True, effort=SMALL)
    found = json.loads(capsys.readouterr().out)
    assert {"machine", "roofline", "rows"} <= set(found)
    assert found["machine"]["torch"]
    assert found["machine"]["versions"]["timm"]
    rows = found["rows"]
    assert all(set(row) >= ROW for row in rows)
    for precision, others in (("fp32", names), ("bf16", ["timm"])):
        group = [row for row in rows if row["precision"] == precision]
        assert {row["system"] for row in group} == {"mlpmixer", *others}
        assert all(row["agrees"] and row["images_per_s"] > 0 and row["share"] > 0 for row in group)
    assert [(each["batch"], each["precision"]) for each in found["speedups"]] == [(2, "fp32"), (2, "bf16")]
    assert set(found["roofline"]) == {"copy_bytes_per_s", "matrix_fp32_flop_per_s", "matrix_bf16_flop_per_s"}
    assert not found["skipped"]
    words = "".join(ElementTree.parse(image).getroot().itertext())
    assert "mixer_pico, batch 2, fp32" in words
    assert "timm eager" in words


@pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")
@pytest.mark.skipif(not isinstance(library("forward"), ctypes.CDLL), reason="no kernels here")
@pytest.mark.slow
@pytest.mark.usefixtures("timm")
def test_bytes_beside_openvinos(capsys: pytest.CaptureFixture[str]):
    main(["bench", "--models", "mixer_pico:2", "--precision", "int8", "--rounds", "2", "--baselines", "openvino"])
    said = capsys.readouterr().out
    assert "openvino nncf" in said
    assert "speedup" in said
    assert "skipped" not in said


def test_a_baseline_with_other_outputs_is_reported(
    other: Callable[[Callable[..., Any]], None], capsys: pytest.CaptureFixture[str]
):
    def start(subject: Subject, *_: object) -> list[System]:
        off = torch.randn(CLASSES)
        return [System("other", "eager", "bytes", lambda pixels: subject.logits(pixels) + off)]

    other(start)
    found = measure("other")
    [theirs] = [row for row in found.rows if row.system == "other"]
    assert not theirs.agrees
    assert theirs.distance > 0.1
    assert all(row.agrees for row in found.rows if row.system == "mlpmixer")
    assert not speedups(found.rows)  # nobody is left to be compared with
    assert "other outputs" in bars(found.rows, found.roofline, "here")
    measurements.infer([("mixer_pico", 2)], ["fp32"], ["other"], 2, True, "cpu", None, False, effort=SMALL)
    assert "not compared: other eager, mixer_pico, batch 2, fp32" in capsys.readouterr().out


def test_a_baseline_that_fails_is_skipped(other: Callable[[Callable[..., Any]], None]):
    def start(*_: object) -> list[System]:
        raise RuntimeError("cannot\nat all")

    other(start)
    found = measure("other")
    assert found.skipped == ["other, mixer_pico, batch 2, fp32: cannot"]
    assert {row.system for row in found.rows} == {"mlpmixer"}


def test_a_missing_baseline_is_named_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch):
    row = replace(baselines.BASELINES["openvino"], packages=("no_such", "nor_this"))
    monkeypatch.setitem(baselines.BASELINES, "openvino", row)
    found = measure("openvino")
    assert found.skipped == ["openvino: it needs no_such and nor_this: pip install 'mlpmixer[bench]'"]
    assert {row.system for row in found.rows} == {"mlpmixer"}


def test_images_are_the_same_for_all_and_new_each_round():
    images = Images((2, 3, 8, 8), how := Preprocessing(mean=(0.1, 0.2, 0.3)), CPU)
    images.prepare(FORMS, 3)
    assert [len(images[form]) for form in FORMS] == [3] * len(FORMS)
    first = images["bytes"][1]
    values = normalize(first, how)
    assert torch.equal(images["floats"][1], values)
    assert (images["array"][1] == values.numpy()).all()
    assert (images["array, channels last"][1] == values.permute(0, 2, 3, 1).numpy()).all()
    assert images["bfloats"][1].dtype == torch.bfloat16
    images.renew()
    assert not torch.equal(images["bytes"][1], first)


def test_distances():
    wanted = torch.randn(4, 10)
    assert distance(wanted, wanted) == 0
    assert distance((wanted + wanted.std()).numpy(), wanted) == pytest.approx(1, abs=1e-5)
    assert distance(wanted[:2], wanted) == math.inf
    assert distance(wanted / 0, wanted) == math.inf


def test_peaks_of_all_precisions():
    """In no order: there are processors that multiply bfloat16 at half of the rate of float32."""
    precisions = ["fp32", "bf16", "int8"] if isinstance(library("forward"), ctypes.CDLL) else ["fp32"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ways = {precision: roofline.products(precision, CPU, SMALL) for precision in precisions}
        turns = {(precision, way.name): way.run for precision in precisions for way in ways[precision]}
        times = interleaved(turns, rounds=5)
    finally:
        torch.set_num_threads(threads)
    best = {
        precision: max(roofline.best_by_round(several, {way.name: times[precision, way.name] for way in several}))
        for precision, several in ways.items()
    }
    assert {*best} == {*precisions}
    assert all(1e8 < rate < 1e16 for rate in best.values())  # operations a second, of one core
    assert roofline.measured(roofline.copies(CPU, SMALL), rounds=2) > 0


def test_the_best_way_counts_in_each_round():
    ways = [roofline.Way("a", 10.0, list), roofline.Way("b", 30.0, list)]
    times = {"a": Times((1.0, 2.0)), "b": Times((6.0, 3.0))}
    assert roofline.best_by_round(ways, times) == [10.0, 10.0]


@pytest.mark.slow
def test_scaling(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    sizes: dict[str, Any] = {"sides": (16, 32, 48, 64), "batch_sizes": (1, 4)}
    image = tmp_path / "curves.svg"
    measurements.scaling(["mixer_pico", "mixer_nano"], "fp32", 2, "cpu", image, True, **sizes)
    found = json.loads(capsys.readouterr().out)
    assert {(p["model"], p["side"], p["patches"]) for p in found["rows"]} == {
        (name, side, (side // 4) ** 2) for name in ("mixer_pico", "mixer_nano") for side in (16, 32, 48, 64)
    }
    assert {p["batch"] for p in found["batches"]} == {1, 4}
    assert [each["counted"] for each in found["growth"]] == pytest.approx([1] * len(found["growth"]), abs=0.02)
    assert all(p["images_per_s"] > 0 for p in found["rows"] + found["batches"])
    assert {p["model"] for p in found["best_batches"]} == {"mixer_pico", "mixer_nano"}
    assert "patches^" in "".join(ElementTree.parse(image).getroot().itertext())
    measurements.scaling(["mixer_pico"], "fp32", 2, "cpu", None, False, sides=(16, 32), batch_sizes=(1,))
    assert "mixer_pico, eager: best batch" in capsys.readouterr().out


def test_larger_batches_are_tried_as_long_as_they_fit_into_patience():
    """By the time of the one before; the first is always tried."""
    model = create("mixer_pico", layers=1, num_classes=2)
    engine = Engine(model, Preprocessing(), "eager", "fp32", batch=4, device=CPU)
    for patience, wanted in ((0.0, [1]), (1e6, [1, 2, 4])):
        assert [*scaling.interleaved_batches(engine, (28, 28), (1, 2, 4), 1, patience=patience)] == wanted


def test_growth_is_that_of_the_upper_part():
    def point(patches: int, seconds: float, *rounds: float) -> scaling.Point:
        times = rounds or (seconds, seconds)
        return scaling.Point("a", "eager", "fp32", patches, patches, 1, float(patches), 1 / seconds, 0.0, times)

    [found] = scaling.growth([point(n, max(1.0, n**2 / 64)) for n in (1, 2, 4, 8, 16, 32, 64, 128)])
    assert (found.patches, found.timed) == (8, pytest.approx(2))  # what came before was another matter
    [found] = scaling.growth([point(n, 3 * n**1.5) for n in (4, 1, 16, 2)])
    assert (found.counted, found.timed, found.within) == pytest.approx((1, 1.5, 0))
    # Rounds with powers of 1 and 1.2: their mean is known no better than Student's t of two allows.
    [found] = scaling.growth([point(n, n**1.1, float(n), n**1.2) for n in (1, 2, 4, 8)])
    assert (found.timed, found.within) == pytest.approx((1.1, 12.706 * 0.1))
    assert not scaling.growth([point(1, 1.0)])


def test_the_best_batch_is_the_one_with_the_most_images():
    speeds = {1: 10.0, 2: 30.0, 4: 20.0}
    points = [scaling.Point("a", "eager", "fp32", 28, 49, n, 1.0, speed, 0.0, (1.0,)) for n, speed in speeds.items()]
    assert [point.batch for point in scaling.best_batches(points)] == [2]


leaves_files_open = pytest.mark.filterwarnings(  # as timm does
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of real photographs, of few pixels."""
    for number, photo in enumerate(sorted(PHOTOS.glob("*.jpg")) * 2):
        place = tmp_path / "photos" / "train" / ("one" if number % 2 else "two")
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as opened:
            opened.reduce(4).save(place / f"{number}.jpg")
    return tmp_path / "photos"


@pytest.mark.slow
@leaves_files_open
@pytest.mark.usefixtures("timm")
def test_loading_beside_timm(capsys: pytest.CaptureFixture[str], folder: Path):
    measurements.data(folder, 2, True, amount=loading.Amount(batch=2, warm_up=2, batches=4, alone=2))
    rows = json.loads(capsys.readouterr().out)["rows"]
    ways = {("timm", "files"), ("mlpmixer", "files"), ("mlpmixer", "packed"), ("mlpmixer", "packed at 256")}
    for name in loading.AUGMENTED:
        group = [row for row in rows if row["augmentation"] == name]
        assert {(row["system"], row["engine"]) for row in group} == ways
        assert all(row["images_per_s"] > 0 and row["core_ms"] > 0 for row in group)
        assert [row["speedup"] is None for row in group] == [row["system"] == "timm" for row in group]


@leaves_files_open
@pytest.mark.usefixtures("timm")
def test_both_loaders_give_as_many_bytes(folder: Path):
    split = data.open(folder)["train"]
    ours = loading.ours(split, Augment(policy="rand_augment"), batch_size=4)
    for run in (loading.timms(folder / "train", "rand_augment", 4), ours):
        batch = next(iter(run(0)))
        assert (batch.dtype, tuple(batch.shape)) == (torch.uint8, (4, 3, 224, 224))
        assert 20 < batch.float().mean() < 235
        assert batch.float().std() > 20


@pytest.mark.usefixtures("timm")
def test_files_into_labels_beside_timm(capsys: pytest.CaptureFixture[str], folder: Path):
    command = ["bench", "predict", str(folder), "--models", "mixer_nano:4", "--precision", "fp32", "--images", "11"]
    main([*command, "--rounds", "2", "--quick", "--json"])
    ours, theirs = json.loads(capsys.readouterr().out)["rows"]
    assert (ours["system"], theirs["system"]) == ("mlpmixer", "timm")
    assert ours["images_per_s"] > 0
    assert ours["speedup"] is None
    assert theirs["speedup"][1] <= theirs["speedup"][0] <= theirs["speedup"][2]
    assert theirs["same_label"] >= 0.9  # the same images, in the same order, by the same weights


def test_what_each_needs_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path, says: Says):
    for arguments in (
        ["data"],
        ["train", "photos"],
        ["data", str(PHOTOS), "--rounds", "1"],
        ["data", "fashion_mnist_small"],
        ["predict", str(tmp_path)],
        ["predict", str(tmp_path), "--models", "mixer_s32:1,mixer_b16:1"],
        ["predict", str(tmp_path), "--images", "0"],
        ["scaling", "--precision", "fp32,bf16"],
        ["scaling", "--models", "mixer_s61"],
        ["train", "--image", "a.svg"],
    ):
        with pytest.raises(SystemExit) as end:
            main(["bench", *arguments])
        assert end.value.code == 2
        says.check(capsys.readouterr().err)


@pytest.mark.usefixtures("timm")
def test_too_few_images_to_measure_with(capsys: pytest.CaptureFixture[str], folder: Path, says: Says):
    with pytest.raises(SystemExit):
        main(["bench", "data", str(folder)])
    says.check(capsys.readouterr().err)


def test_what_cannot_be_measured_is_said(capsys: pytest.CaptureFixture[str], says: Says):
    small = ["--models", "mixer_pico:1", "--precision", "fp32", "--rounds", "2", "--baselines", ""]
    for arguments in (
        ["--models", "mixer_b61:2"],
        ["--models", "mixer_b16"],
        ["--models", "mixer_b16:0"],
        ["--baselines", "openvin"],
        ["--precision", "bf61"],
        ["--rounds", "1"],
        [*small, "--image", "/proc/no.svg"],
    ):
        with pytest.raises(SystemExit) as end:
            main(["bench", "infer", *arguments])
        assert end.value.code == 2
        says.check(capsys.readouterr().err)
