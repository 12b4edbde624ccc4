"""The paper's studies: their plans, their summaries of results, and whole studies with few steps."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shaken, write_idx
from hypothesis import given
from hypothesis import strategies as st
from messages import Says
from PIL import Image

import mlpmixer
from mlpmixer import data
from mlpmixer.cli import main
from mlpmixer.data import sampling
from mlpmixer.data.loader import all_batches
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.errors import DataError, RunError, UsageError
from mlpmixer.evaluation.card import Card, DataRecord, ModelRecord
from mlpmixer.experiments import (
    STUDIES,
    base_recipes,
    complexity,
    data_scale,
    find,
    paper,
    pareto,
    permutation,
    relatives,
    throughput,
    transfer,
    vtab,
)
from mlpmixer.experiments.cost import costs
from mlpmixer.experiments.permutation import Permutation, permuted
from mlpmixer.experiments.study import (
    Claim,
    FinishedRun,
    Measurement,
    Outcome,
    PlannedRun,
    Scale,
    Study,
    finish,
    group_by_cell,
    is_equivalent,
    is_greater,
    locate_data,
    mean_ci,
    run_study,
    with_changes,
)
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.metric import Metric
from mlpmixer.models import FAMILIES, describe, family_name
from mlpmixer.models.measure import measure
from mlpmixer.models.mixer import Mixer
from mlpmixer.models.operators import OPERATORS
from mlpmixer.recipes import check, toml
from mlpmixer.run.folder import RunFolder

FEW = {
    "train.steps": 2,
    "train.batch_size": 8,
    "optim.warmup_steps": 0,
    "machine.workers": 0,
    "machine.device": "cpu",
    "machine.log_every": 1,
}
TRAINING = [name for name in STUDIES if isinstance(find(name), Study)]


@pytest.fixture(autouse=True)
def _quick_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BATCHES", (1,))
    monkeypatch.setattr(transfer, "ROUNDS", 2)


def training(name: str) -> Study:
    study = find(name)
    assert isinstance(study, Study)
    return study


class TestPermutation:
    @given(st.sampled_from(["patches", "pixels"]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
    def test_pixels_change_places_and_nothing_else(self, kind: Any, rows: int, columns: int, patch: int):
        images = torch.arange(2 * 3 * rows * columns * patch**2).view(2, 3, rows * patch, columns * patch)
        found = Permutation(kind, patch)(images)
        assert found.shape == images.shape
        assert torch.equal(found.flatten(2).sort().values, images.flatten(2))
        order = found[0, 0].flatten()
        assert torch.equal(found.flatten(2), images.flatten(2)[..., order])  # all channels, all images alike

    def test_patches_stay_whole(self):
        numbers = torch.arange(64).view(1, 1, 8, 8).expand(1, 3, 8, 8) // 1
        found = Permutation("patches", 4)(numbers)[0, 0]
        sources = [sorted(found[r : r + 4, c : c + 4].flatten().tolist()) for r in (0, 4) for c in (0, 4)]
        whole = [sorted(numbers[0, 0, r : r + 4, c : c + 4].flatten().tolist()) for r in (0, 4) for c in (0, 4)]
        assert sorted(sources) == sorted(whole)
        assert not torch.equal(found, numbers[0, 0])

    def test_its_name_says_which(self):
        assert str(Permutation("patches", 4)) == "permutation of patches of 4×4"
        assert str(Permutation("pixels")) == "permutation of pixels"

    def test_images_that_cannot_be_cut(self, says: Says):
        with says(DataError):
            Permutation("patches", 3)(torch.zeros(1, 3, 8, 8))

    def test_a_mixer_with_permuted_weights_computes_the_same(self):
        model = shaken(mlpmixer.create("mixer_nano", num_classes=5))
        assert isinstance(model, Mixer)
        images = torch.randn(3, 3, 32, 32)
        moved = Permutation("patches", 4)(images)
        torch.testing.assert_close(permuted(model).eval()(moved), model(images), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model(moved), model(images), atol=1e-2)

    def test_only_a_plain_mixer_can_be_permuted(self, says: Says):
        variants: list[dict[str, Any]] = [{"groups": 2}, {"untied": True}, {"pyramid": (1,)}]
        for options in [*variants, {"groups": 2, "group_projection": True}]:
            model = mlpmixer.create("mixer_nano", **options)
            assert isinstance(model, Mixer)
            with says(UsageError):
                permuted(model)


class TestTransforms:
    """A study's own transform of images, which reaches training and evaluation and stands in no recipe."""

    def test_every_prepared_image_is_transformed(self, clothes: Path):
        split = data.open(clothes)["test"]
        how = Preprocessing(resize=28, crop=(28, 28))
        ready = partial(prepare, how=how)
        for workers in (0, 1):
            plain, moved = (
                torch.cat([batch.images for batch in batches])
                for batches in (
                    all_batches(split, ready, batch_size=7, workers=workers),
                    all_batches(split, ready, batch_size=7, workers=workers, transform=Permutation("pixels")),
                )
            )
            assert torch.equal(moved, Permutation("pixels")(plain))
            assert torch.equal(normalize(moved, how), Permutation("pixels")(normalize(plain, how)))

    def test_a_run_notes_it_and_goes_on_with_it_alone(self, clothes: Path, tmp_path: Path, says: Says):
        changes = {**FEW, "data.source": str(clothes), "data.classes": "Bag,Coat", "model.options.layers": 1}
        (plan,) = with_changes([permutation.plan_runs("tiny")[2]], changes)
        assert plan.transform == Permutation("patches", 4)
        finished = finish(plan, tmp_path, quiet=True)
        assert finished.card.transform == "permutation of patches of 4×4"
        assert not any("transform" in warning for warning in finished.card.warnings)
        without = mlpmixer.evaluate(finished.folder, device="cpu", workers=0)
        assert "the model was trained with the transform permutation of patches of 4×4" in without.warnings[-1]
        # The other card does not take the place of the run's own.
        assert finish(plan, tmp_path, quiet=True).card.data.digest == finished.card.data.digest
        (finished.folder / "result.json").unlink()
        with says(RunError):
            mlpmixer.fit(plan.recipe, finished.folder, quiet=True)


def test_plans_make_sense():
    """Each run has a folder of its own and a recipe that is allowed."""
    scales: tuple[Scale, ...] = ("tiny", "small", "paper")
    for name, scale in product(TRAINING, scales):
        plans = training(name).plan_runs(scale)
        assert len({plan.folder for plan in plans}) == len(plans), (name, scale)
        for plan in plans:
            check.check(plan.recipe)
            assert "/" not in plan.folder


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "permutation"))
        for name in TRAINING
        if name not in ("table2", "pareto")
    ],
)
def test_plans_have_a_cost(name: str):
    found, rate = costs(training(name), "paper")
    assert rate == 330e12
    assert all(one.flops > 1e15 and one.hours > 0 and one.disk > 1e8 for one in found)


def test_each_size_learns_by_its_row_of_table_4():
    """Also in studies that are not of sizes, and what is not a Mixer."""
    for name in ("data-scale", "model-scale", "permutation", "ablations"):
        for plan in training(name).plan_runs("paper"):
            model, recipe = plan.recipe.model, plan.recipe
            assert model.options["head_bias"] == -10.0
            assert recipe.loss.kind == "sigmoid"
            assert recipe.optim.lr == (0.001 if model.name.split("_")[1][0] in "lh" else 0.003), plan.folder
            assert plan.few_shot_source == ("" if plan.cell.get("network") == "Mixer, exactly" else "imagenet")


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST with few images, as its own files."""
    folder = tmp_path_factory.mktemp("clothes")
    whole = data.open("fashion_mnist_small")
    for split, stem, count in (("train", "train", 16), ("test", "t10k", 4)):
        chosen = sampling.shots(whole[split].labels, count, seed=0)
        write_idx(folder / f"{stem}-images-idx3-ubyte", np.stack([np.asarray(whole[split].read(i)) for i in chosen]))
        write_idx(folder / f"{stem}-labels-idx1-ubyte", whole[split].labels[chosen])
    return folder


def test_a_study_by_its_command(
    clothes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """`mixer reproduce` trains, evaluates and tells; again, it trains nothing; `mixer report` makes a page of it."""
    monkeypatch.setitem(base_recipes.SEEDS, "tiny", (0,))
    folder = tmp_path / "study"
    changes = {**FEW, "data.source": clothes, "data.classes": "Bag,Coat", "model.options.layers": 1}
    flags = [f"--{line}={value}" for line, value in changes.items() if line != "machine.device"]
    command = ["reproduce", "resolution", "--device", "cpu", "--folder", str(folder), *flags]
    main([*command, "--quiet"])
    first = capsys.readouterr()
    assert "run 5 of 5: 42 pixels, resample, seed 0" in first.err
    assert "Here it cannot be decided" in first.out  # one seed
    record = json.loads((folder / "resolution.study.json").read_text())
    assert len(record["runs"]) == 5
    assert all(RunFolder(folder / run).result() is not None for run in record["runs"])
    main([*command, "--json"])
    again = capsys.readouterr()
    assert again.err == ""  # nothing was run again
    assert json.loads(again.out)["rows"] == record["rows"]
    main(["report", str(folder), "--output", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(text in page for text in ("Study: resolution, tiny", "cannot be decided", *record["rows"][-1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    # (table2 is table3 at this scale, and model-scale has the runs of pareto.)
    "name",
    [name for name in TRAINING if name not in ("table2", "model-scale", "vtab", "resolution", "relatives")],
)
def test_a_whole_study_with_few_steps(name: str, clothes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(base_recipes.SEEDS, "tiny", (0,))
    study = training(name)
    changes = {**FEW, "data.source": str(clothes), "evaluation.every_epochs": 1000.0}
    changes |= {"data.shots": 5} if name == "table3" else {"data.classes": "Bag,Coat,Sandal"}
    if name not in ("ablations", "permutation"):  # a pyramid needs its layers, and a BiT has none
        changes |= {"model.options.layers": 1}
    thrifty = replace(study, plan_runs=lambda scale: thrifty_plans(name, study.plan_runs(scale)))
    outcome = run_study(thrifty, "tiny", tmp_path / "study", changes=changes, quiet=True)
    assert all(len(row) == len(outcome.columns) for row in outcome.rows)
    record = json.loads((tmp_path / "study" / f"{name}.study.json").read_text())
    assert record["rows"] == [[*row] for row in outcome.rows]
    assert len(record["runs"]) >= len(thrifty.plan_runs("tiny"))
    for run in record["runs"]:
        assert RunFolder(tmp_path / "study" / run).result() is not None
    lines: list[str] = []
    again = run_study(thrifty, "tiny", tmp_path / "study", changes=changes, quiet=True, log=lines.append)
    assert again.rows == outcome.rows or name in ("pareto", "table3")  # which measure throughput anew
    assert lines == []  # nothing was run again


@pytest.mark.slow
def test_relatives_in_miniature(clothes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The floor, the Mixer, and one whose running averages are learned as well; each with both orders of patches."""
    monkeypatch.setitem(relatives.SEEDS, "tiny", (0,))
    study = training("relatives")
    few = ("mixer", "lambda", "identity")
    plans = [plan for plan in study.plan_runs("tiny") if plan.cell["token mixing"] in few]
    changes = {**FEW, "data.source": str(clothes), "data.classes": "Bag,Coat", "model.options.layers": 1}
    one = replace(study, plan_runs=lambda _scale: plans)
    outcome = run_study(one, "tiny", tmp_path, changes=changes, quiet=True)
    rows = {row[0]: dict(zip(outcome.columns, row, strict=True)) for row in outcome.rows}
    assert rows.keys() == {*few}
    assert [rows[name]["growth"] for name in few] == ["1.00", "1.00", "–"]
    assert ["±" in rows[name]["growth of time"] for name in few] == [True, True, False]
    statements = [claim.statement for claim in outcome.claims]
    assert "The cost of lambda grows linearly with the patches." in statements
    assert "mixer learns as well from patches in another order." in statements
    assert "lambda loses by another order of the patches." in statements


def test_cost_of_relatives_against_patches():
    """As `LINEAR` says, of the network of the scale tiny."""
    usual = relatives.MODELS["tiny"]
    models = {name: replace(usual, options={**usual.options, "token_operator": name}) for name in OPERATORS}
    for name, model in models.items():
        if name != relatives.FLOOR:
            assert (relatives.growth(model) == pytest.approx(1, abs=0.02)) == (name in relatives.LINEAR), name
    few = {name: models[name] for name in ("mixer", "halo", "lambda_table")}
    timed = relatives.growth_of_time(few, torch.device("cpu"), rounds=2)
    assert timed.keys() == few.keys()
    assert all(math.isfinite(power) and 0 <= within < math.inf for power, within in timed.values())


def thrifty_plans(name: str, plans: list[PlannedRun]) -> list[PlannedRun]:
    """Without BiT, the slowest, or with a small one where the study needs it."""
    if name != "permutation":
        return [plan for plan in plans if not plan.recipe.model.name.startswith("bit_")]
    units = {"model.options.units": (1,)}
    return [
        replace(plan, recipe=toml.change(plan.recipe, units)) if plan.recipe.model.name.startswith("bit_") else plan
        for plan in plans
    ]


def test_every_study_summarizes_its_runs(tmp_path: Path):
    """A table as wide as its head, and claims that are decided, from made-up results."""
    run = trained(tmp_path)
    for name in TRAINING:
        study = training(name)

        def results(plans: list[PlannedRun]) -> list[FinishedRun]:
            cells = [plan.cell for plan in plans]
            shots = {f"few_shot_{count}": 0.4 + 0.01 * number for number, count in enumerate((1, 5, 10, 25))}
            return [
                replace(
                    run,
                    plan=plan,
                    card=card_of(
                        parameters=1000 + number,
                        top1=0.5 + 0.01 * cells.index(plan.cell) + 0.0001 * plan.recipe.train.seed,
                        **shots,
                    ),
                    curve=((1.0, 0.5), (2.0, 0.6)),
                    losses=(1.0, 0.5),
                    hours=1.0 + number,
                )
                for number, plan in enumerate(plans)
            ]

        finished = results(study.plan_runs("tiny"))
        finished += results(study.follow_up("tiny", finished))
        outcome = study.summarize(finished)
        assert outcome.rows, name
        assert all(len(row) == len(outcome.columns) for row in outcome.rows), name
        assert outcome.claims, name
        assert any(claim.holds is not None for claim in outcome.claims), name


def test_a_new_study_is_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    module = ModuleType("toy_study")
    outcome = Outcome(columns=("a",), rows=[("7",)], claims=[Claim("Seven is seven.", True, "it is")])
    module.__dict__["STUDY"] = Measurement("toy", "A toy.", "nowhere", lambda _scale, _device: outcome, lambda _: ["7"])
    monkeypatch.setitem(sys.modules, "toy_study", module)
    monkeypatch.setitem(STUDIES, "toy", ("toy_study", "STUDY", "is seven seven?"))
    main(["reproduce"])
    assert "is seven seven?" in capsys.readouterr().out
    main(["reproduce", "toy", "--device", "cpu", "--folder", str(tmp_path)])
    assert "Seven is seven. Here it holds: it is." in capsys.readouterr().out


@pytest.mark.slow
def test_table_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["reproduce", "table1", "--folder", str(tmp_path), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert [row[-1] for row in record["rows"]] == ["19", "18", "60", "59", "206", "207", "431"]
    assert record["claims"][0]["holds"] is True


@pytest.mark.slow
def test_complexity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(complexity.SIDES, "tiny", (96, 160, 256, 384))
    monkeypatch.setitem(complexity.ROUNDS, "tiny", 2)
    main(["reproduce", "complexity", "--folder", str(tmp_path), "--device", "cpu"])
    out = capsys.readouterr().out
    assert "The cost of mixer_s32 grows linearly with the patches. Here it holds" in out
    assert "its operations grow with the power 1.00" in out


class TestFewShots:
    """Those of another set than the one that was learnt from."""

    def test_once_and_kept(self, clothes: Path, tmp_path: Path):
        (tmp_path / "sets").mkdir()
        (tmp_path / "sets" / "imagenet").symlink_to(clothes)
        changes = {
            **FEW,
            "data.source": str(clothes),
            "data.classes": "Sneaker,Bag,Sandal",
            "evaluation.every_epochs": 1000.0,
        }
        study = training("ablations")
        plan = replace(study.plan_runs("tiny")[0], few_shot_source="imagenet")
        one = replace(study, plan_runs=lambda _scale: [plan])
        outcome = run_study(one, "tiny", tmp_path / "study", changes=changes, data=tmp_path / "sets", quiet=True)
        kept = json.loads((tmp_path / "study" / "plain, seed 0" / "few_shots.json").read_text())
        assert kept["data"]["classes"] == 10
        assert outcome.rows[0][3] == mean_ci([kept["metrics"]["few_shot_5"]["value"]])
        kept["metrics"]["few_shot_5"]["value"] = 0.125
        (tmp_path / "study" / "plain, seed 0" / "few_shots.json").write_text(json.dumps(kept))
        again = run_study(one, "tiny", tmp_path / "study", changes=changes, data=tmp_path / "sets", quiet=True)
        assert again.rows[0][3] == "12.50"

    def test_a_set_that_is_not_there_is_said_before_anything_is_trained(self, tmp_path: Path, says: Says):
        study = training("ablations")
        plan = replace(study.plan_runs("tiny")[0], few_shot_source="imagenet")
        one = replace(study, plan_runs=lambda _scale: [plan])
        with says(DataError):
            run_study(one, "tiny", tmp_path / "study", quiet=True)
        assert not [*(tmp_path / "study").iterdir()]


class TestChanges:
    """Lines that are set in every run of a study."""

    def test_not_those_that_the_study_sets(self, says: Says):
        """Runs that are one and the same would count as several, and agree perfectly; others would be misnamed."""
        for name, line, value in (
            ("permutation", "train.seed", 7),
            ("table3", "optim.lr", 0.5),
            ("data-scale", "data.share", 0.5),
            ("permutation", "augment.cutmix", 1.0),
            ("resolution", "model.image_size", "48"),
        ):
            study = training(name)
            with says(UsageError):
                with_changes(study.plan_runs("small"), {line: value}, study.fixed)

    def test_others_reach_all(self):
        for name in TRAINING:
            study = training(name)
            plans = with_changes(study.plan_runs("small"), {"train.steps": 3, "machine.workers": 0}, study.fixed)
            assert all((plan.recipe.train.steps, plan.recipe.machine.workers) == (3, 0) for plan in plans), name

    def test_first_weights_follow_too(self, clothes: Path, tmp_path: Path):
        changes = {"data.source": str(clothes), "model.options.layers": 1}
        *_, first, moved = with_changes(permutation.plan_runs("tiny"), changes)
        models = []
        for plan in (moved, first):
            assert plan.weights is not None
            model = mlpmixer.load(plan.weights(tmp_path, plan.recipe))
            assert isinstance(model, Mixer)
            assert len(model.blocks) == 1
            models.append(model.eval())
        assert (first.transform, moved.transform) == (None, Permutation("patches", 4))
        images = torch.randn(2, 3, 28, 28)
        torch.testing.assert_close(
            models[0](Permutation("patches", 4)(images)), models[1](images), rtol=1e-4, atol=1e-5
        )


class TestSummaries:
    def test_over_seeds(self):
        assert mean_ci([0.5]) == "50.00"
        assert mean_ci([0.5, 0.6, 0.7]) == "60.00 ± 24.84"  # 4.303 · 10 / √3

    def test_apart_needs_more_than_one_seed(self):
        assert is_greater([0.5], [0.9]) is None
        assert is_greater([0.5, 0.51], [0.9, 0.91]) is True
        assert is_greater([0.9, 0.91], [0.5, 0.51]) is False
        assert is_greater([0.5, 0.9], [0.6, 0.8]) is None

    def test_alike_needs_evidence(self):
        """That no difference was seen is not enough."""
        assert is_equivalent([0.5, 0.6], [0.9, 0.3], within=0.02) is None
        assert is_equivalent([0.5], [0.5], within=0.02) is None
        assert is_equivalent([0.5, 0.6, 0.7], [0.501, 0.6, 0.699], within=0.02) is True
        assert is_equivalent([0.5, 0.5, 0.5], [0.6, 0.61, 0.6], within=0.02) is False

    def test_permutation(self, tmp_path: Path):
        """Figures like the paper's become claims like the paper's."""
        top1 = {
            ("Mixer", "original"): 0.80,
            ("Mixer", "patches"): 0.80,
            ("Mixer", "pixels"): 0.45,
            ("ResNet", "original"): 0.80,
            ("ResNet", "patches"): 0.40,
            ("ResNet", "pixels"): 0.20,
        }
        finished = []
        for plan in permutation.plan_runs("tiny"):
            key = (plan.cell["network"], plan.cell["input"])
            noise = 0.001 * plan.recipe.train.seed * (-1 if key[1] == "patches" else 1)
            card = card_of(top1=top1.get(key, 0.5) + noise)
            finished.append(FinishedRun(plan, tmp_path, card, losses=[1.0, 0.9]))
        outcome = permutation.summarize(finished)
        assert [claim.holds for claim in outcome.claims] == [True, True, True, True]
        assert outcome.rows[2][3].startswith("43.")

    def test_data_scale(self, tmp_path: Path):
        finished = []
        for plan in data_scale.plan_runs("tiny"):
            gain = {"Mixer": 0.3, "ViT": 0.2, "BiT": 0.1}[plan.cell["network"]]
            value = 0.5 + gain * data_scale.SHARES[plan.cell["data"]] + 0.001 * plan.recipe.train.seed
            finished.append(FinishedRun(plan, tmp_path, card_of(top1=value, few_shot_5=value / 2)))
        outcome = data_scale.summarize(finished)
        assert [claim.holds for claim in outcome.claims] == [True, False]
        assert outcome.rows[0][0] == "Mixer"
        assert len(outcome.rows[0]) == len(outcome.columns) == 9
        of_few_shots = [replace(one, plan=replace(one.plan, few_shot_source="imagenet")) for one in finished]
        assert [claim.evidence.split(", ")[-1][:15] for claim in data_scale.summarize(of_few_shots).claims] == [
            "5-shot accuracy",
            "5-shot accuracy",
        ]


def test_seeds_of_a_cell_belong_together(tmp_path: Path):
    plans = [
        PlannedRun({"a": a}, toml.change(permutation.plan_runs("tiny")[0].recipe, {"train.seed": s}))
        for a in "xy"
        for s in (0, 1)
    ]
    finished = [FinishedRun(plan, tmp_path, card_of()) for plan in plans]
    assert {dict(key)["a"]: len(runs) for key, runs in group_by_cell(finished).items()} == {"x": 2, "y": 2}


def test_the_list_and_a_dry_run(capsys: pytest.CaptureFixture[str]):
    main(["reproduce"])
    out = capsys.readouterr().out
    assert all(name in out for name in STUDIES)
    main(["reproduce", "data-scale", "--scale", "paper", "--dry-run"])
    out = capsys.readouterr().out
    assert "BiT-R152x2, 3 %, seed 0" in out
    rows = [line.split() for line in out[out.index(" runs ") :].splitlines() if re.match(r" \w+ +\d+ ", line)]
    assert [row[:2] for row in rows][-1] == ["all", "28"]
    assert sum(int(row[1]) for row in rows[:-1]) == 28
    hours = [float(row[3].replace(",", "")) for row in rows]
    assert sum(hours[:-1]) == pytest.approx(hours[-1], abs=0.1)
    main(["reproduce", "permutation", "--scale", "paper", "--dry-run", "--json", "--data.source", "imagenet"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["images"] < 10e6


@pytest.mark.slow
def test_a_dry_run_of_table_2(capsys: pytest.CaptureFixture[str]):
    """It names what each run begins with, and the systems that have none."""
    main(["reproduce", "table2", "--scale", "paper", "--dry-run"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("HaloNet-H4", "NFNet-F4+", "MPL", "ALIGN"))
    assert all(name in out for name in (" – ", "this study's", "mixer_l16.imagenet21k", "vit_l16.imagenet21k"))


def test_a_mixer_that_is_tiled_costs_what_its_new_tiles_cost():
    study = training("table2")
    plans = [
        plan
        for plan in study.plan_runs("paper")
        if plan.cell["model"].startswith("Mixer-L/16") and plan.cell["task"] == "imagenet"
    ]
    one = replace(study, plan_runs=lambda _scale: plans[:1], follow_up=lambda _scale, _finished: [])
    [cost] = costs(one, "paper")[0]
    assert cost.flops == pytest.approx(3 * cost.images * paper.COSTS["mixer_l16", 448].gmacs * 2e9, rel=1e-4)


def test_a_dry_run_of_what_only_measures(capsys: pytest.CaptureFixture[str]):
    for name in ("throughput", "complexity", "table1"):
        main(["reproduce", name, "--dry-run"])
        out = capsys.readouterr().out
        assert "mixer_s32" in out
        assert "nothing is trained" in out


def test_mistakes_get_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, says: Says):
    for arguments in (["permutatoin"], ["permutation", "--train.sepochs", "3"]):
        with pytest.raises(SystemExit) as end:
            main(["reproduce", *arguments, "--folder", str(tmp_path)])
        assert end.value.code == 2
        err = capsys.readouterr().err
        says.check(err)
        assert err.count("\n") == 1


def test_throughput_at_each_batch_size_and_the_best(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(throughput.MODELS, "tiny", ("mixer_pico", "isotropic_pico"))
    monkeypatch.setitem(throughput.BATCHES, "tiny", (1, 2))
    outcome = throughput.compare("tiny", torch.device("cpu"))
    rows = [dict(zip(outcome.columns, row, strict=True)) for row in outcome.rows]
    assert {row["model"] for row in rows} == {"mixer_pico", "isotropic_pico"}
    for row in rows:
        at_each = [float(row[name].replace(",", "")) for name in ("batch 1", "batch 2")]
        assert float(row["images/s, best"].replace(",", "")) == max(at_each)


def test_throughput_is_of_all_families():
    for scale in ("tiny", "small", "paper"):
        assert {family_name(name) for name in throughput.MODELS[scale]} == {*FAMILIES}


def card_of(parameters: int = 1, **metrics: float) -> Card:
    data = DataRecord(source="clothes", split="test", title="test", count=10, classes=3)
    return Card(
        model=ModelRecord(name="mixer_pico", parameters=parameters, image_size=(32, 32), classes=3),
        data=data,
        protocol="own",
        preprocessing=Preprocessing(),
        engine="eager, fp32",
        metrics={key: Metric(name=key, value=value) for key, value in metrics.items()},
    )


def trained(folder: Path) -> FinishedRun:
    """A finished run with weights, though they learnt nothing."""
    model = mlpmixer.create("mixer_pico", num_classes=3)
    run = RunFolder(folder / "a run")
    run.path.mkdir(exist_ok=True)
    mlpmixer.save(model, run.weights)
    return FinishedRun(transfer.TABLE3.plan_runs("tiny")[0], run.path, card_of(top1=0.75), val=0.7)


class TestTransfer:
    """Which learning rate is taken, with which seeds, and what the table says of it."""

    def finished(self, tmp_path: Path) -> list[FinishedRun]:
        """lr 0.03 is best on val and on test, but for the first model's test."""
        first = transfer.plan_runs(transfer.entries("tiny", (), ()))
        run, found = trained(tmp_path), []
        for plan in first:
            rate = plan.cell.get("lr", "")
            val = {"lr 0.01": 0.5, "lr 0.03": 0.9, "lr 0.1": 0.7, "lr 0.001": 0.4, "lr 0.003": 0.3}.get(rate, 0.0)
            found.append(replace(run, plan=plan, card=card_of(top1=1 - val), val=val, hours=2.0))
        return found

    def test_the_validation_split_picks_and_other_seeds_follow(self, tmp_path: Path):
        finished = self.finished(tmp_path)
        more = transfer.follow_up("tiny", finished)
        assert len(more) == 2 * 6
        assert {plan.recipe.train.seed for plan in more} == {1, 2}
        assert {plan.cell["lr"] for plan in more if "pre-trained" in plan.cell["model"]} == {"lr 0.03"}
        assert {plan.cell["lr"] for plan in more if "scratch" in plan.cell["model"]} == {"lr 0.001"}
        assert len({plan.folder for plan in [*(one.plan for one in finished), *more]}) == len(finished) + len(more)

    def test_test_accuracies_are_of_the_picked_rate_and_all_seeds(self, tmp_path: Path):
        finished = self.finished(tmp_path)
        finished += [
            replace(finished[0], plan=plan, card=card_of(top1=0.2), val=1.0)
            for plan in transfer.follow_up("tiny", finished)
        ]
        found = transfer.scores(finished, lambda one: one.top1)
        assert found["Mixer, pre-trained", "the task"] == pytest.approx([0.1, 0.2, 0.2])
        outcome = transfer.summarize(finished, "", {})
        row = dict(zip(outcome.columns, outcome.rows[0], strict=True))
        assert row["model"] == "Mixer, pre-trained"
        assert row["the task, %"] == mean_ci([0.1, 0.2, 0.2])
        assert row["hours of pre-training"] == "2.00"
        assert float(row["images/s"].replace(",", "")) > 0
        assert outcome.rows[1][outcome.columns.index("hours of pre-training")] == "–"
        assert [claim.holds for claim in outcome.claims] == [False, False, False]

    def test_beside_the_paper(self, tmp_path: Path):
        """ImageNet alone was run: the paper's figure stands beside it, and the mean says that it is of one."""
        plans = [p for p in transfer.TABLE3.plan_runs("paper") if p.cell["model"].startswith("Mixer-B/16, ImageNet,")]
        tasks = {plan.cell["task"] for plan in plans}
        assert tasks == {"pre-training", *transfer.FIVE}
        run = trained(tmp_path)
        finished = [
            replace(run, plan=plan)
            for plan in plans
            if plan.cell["task"] in ("imagenet", "cifar10") and plan.cell["lr"] == "lr 0.01"
        ]
        outcome = transfer.TABLE3.summarize(finished)
        row = dict(zip(outcome.columns, outcome.rows[0], strict=True))
        assert (row["ImageNet, paper"], row["Avg. 5, paper"]) == ("76.44 (-1.44)", "88.33")
        assert (row["images/s/core, paper"], row["core-days, paper"]) == ("1,384", "10")
        assert row["mean, %"] == "75.00 (of 2 of 5)"
        whole = [replace(run, plan=plan, card=card_of(top1=0.9)) for plan in plans]
        assert transfer.TABLE3.summarize(whole).rows[0][-3] == "88.33 (+1.67)"

    def test_all_systems_stand_in_table_2(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(transfer, "images_per_second", lambda *_: 7.0)  # some have a billion parameters
        monkeypatch.setattr(transfer, "create", lambda *_, **__: None)
        plans = [p for p in transfer.TABLE2.plan_runs("paper") if p.cell["model"].startswith("Mixer-H")]
        outcome = transfer.TABLE2.summarize([replace(trained(tmp_path), plan=plan) for plan in plans])
        first, *others = (dict(zip(outcome.columns, row, strict=True)) for row in outcome.rows)
        assert first["model"] == "Mixer-H/14, JFT-300M, 14 epochs at 448"
        assert (first["parameters"], first["GMAC"], first["memory, MB"]) == ("589,723,368", "645.02", "2,858")
        assert [row["model"] for row in others] == [
            f"{row.said}, {row.data}" for row in (*paper.TABLE_2, *paper.OTHERS) if row.model != "mixer_h14"
        ]
        vit = next(row for row in others if row["model"] == "ViT-H/14, JFT-300M")
        assert (vit["imagenet, %"], vit["images/s"], vit["GMAC"]) == ("–", "7", "1016.72")
        last = others[-1]
        assert (last["model"], last["ImageNet, paper"], last["VTAB, paper"], last["core-days, paper"]) == (
            "ALIGN, weakly labeled",
            "88.64",
            "79.99",
            "14,820",
        )

    def test_at_small_scales_they_stand_without_speed(self, tmp_path: Path):
        finished = self.finished(tmp_path)
        outcome = transfer.TABLE2.summarize(finished)
        rows = [dict(zip(outcome.columns, row, strict=True)) for row in outcome.rows]
        ours, theirs = rows[: -len(paper.TABLE_2 + paper.OTHERS)], rows[-len(paper.TABLE_2 + paper.OTHERS) :]
        assert ours[0]["model"] == "Mixer, pre-trained"
        assert (ours[0]["parameters"], ours[0]["ImageNet, paper"]) == (f"{measure('mixer_pico').params:,}", "–")
        assert {row["images/s"] for row in theirs} == {"–"}
        assert (theirs[1]["model"], theirs[1]["ImageNet, paper"]) == ("Mixer-L/16, ImageNet-21k", "84.15")
        assert (theirs[1]["VTAB, paper"], theirs[1]["core-days, paper"]) == ("74.95", "410")

    @pytest.mark.slow
    def test_what_table_2_says_of_cost(self):
        """Mixers as their tiles make them: K² times as many hidden units for K² times as many tokens."""
        for (name, size), cost in paper.COSTS.items():
            tiles = (size // 224) ** 2
            wider = {"token_hidden": describe(name).dimensions()["token_hidden"] * tiles} if "mixer" in name else {}
            found = measure(name, image_size=size, **wider)
            assert (found.params, round(found.gmacs, 3), round(found.activation_mb, 1)) == (
                cost.params,
                cost.gmacs,
                cost.activation_mb,
            ), name

    @pytest.mark.parametrize(("study", "shape"), [("table2", "stretch"), ("table3", "short_side")])
    def test_as_the_paper_measures_and_searches(self, study: str, shape: str):
        plans = [plan for plan in training(study).plan_runs("paper") if "lr" in plan.cell]
        by_bits_rule = [plan for plan in plans if "BiT" in plan.cell["model"] and "at 480" in plan.cell["model"]]
        assert {plan.recipe.evaluation.shape for plan in plans if plan not in by_bits_rule} == {shape}
        for network, lowest in (("Mixer", 0.003), ("ViT", 0.001)):
            of_pets = [
                one.recipe.optim.lr for one in plans if one.cell["task"] == "pets" and network in one.cell["model"]
            ]
            assert (min(of_pets), len({*of_pets})) == (lowest, 4)
        assert {plan.recipe.optim.lr for plan in by_bits_rule} == {0.003}
        sides = {plan.cell["task"]: (plan.recipe.model.image_size, plan.recipe.train.steps) for plan in by_bits_rule}
        assert sides["imagenet"] == ((480,), 20_000)
        assert sides["cifar10"] == sides["cifar100"] == ((128,), 10_000)
        assert sides["pets"] == sides["flowers"] == ((480,), 500)

    def test_real_labels_have_their_columns(self, tmp_path: Path):
        (tmp_path / "imagenet").mkdir()
        plans = [p for p in transfer.TABLE3.plan_runs("paper") if p.cell["model"].startswith("Mixer-B/16, ImageNet,")]
        plans = [plan for plan in plans if plan.cell["task"] == "imagenet" and plan.cell["lr"] == "lr 0.01"]
        assert [plan.real for plan in locate_data(plans, tmp_path, None)] == [None]
        (tmp_path / "real.json").write_text("[]")
        [plan] = locate_data(plans, tmp_path, None)
        assert plan.real == tmp_path / "real.json"
        finished = [replace(trained(tmp_path), plan=plan, card=card_of(top1=0.75, real=0.83))]
        outcome = transfer.TABLE3.summarize(finished)
        row = dict(zip(outcome.columns, outcome.rows[0], strict=True))
        assert row["ReaL, %"] == "83.00"
        assert row["ReaL, paper"] == "82.36 (+0.64)"

    @pytest.mark.parametrize("study", ["table2", "table3"])
    def test_what_is_fine_tuned_at_two_sizes_is_pre_trained_once(self, study: str):
        """Four pre-trainings were planned twice: 8,366 of 35,190 hours."""
        plans = training(study).plan_runs("paper")
        first = {plan.folder: plan for plan in plans if plan.cell["task"] == "pre-training"}
        assert len({repr(plan.recipe) for plan in first.values()}) == len(first)
        tuned = [plan for plan in plans if plan.weights is not None]
        for plan in tuned:
            assert plan.weights is not None
            begins_with = first[str(plan.weights(Path(), plan.recipe))]
            assert begins_with.recipe.model.name == plan.recipe.model.name
            assert begins_with.cell["model"].split(" at ")[0] == plan.cell["model"].split(" at ")[0]

    def test_its_hours_stand_at_both_sizes(self, tmp_path: Path):
        run = trained(tmp_path)
        plans = [p for p in transfer.TABLE3.plan_runs("paper") if p.cell["model"].startswith("Mixer-H/14")]
        finished = [
            replace(run, plan=plan, hours=9.5 if plan.cell["task"] == "pre-training" else 0.1) for plan in plans
        ]
        outcome = transfer.TABLE3.summarize(finished)
        assert [row[outcome.columns.index("hours of pre-training")] for row in outcome.rows] == ["9.50", "9.50"]
        assert [row[0] for row in outcome.rows] == [
            "Mixer-H/14, JFT-300M, 14 epochs",
            "Mixer-H/14, JFT-300M, 14 epochs at 448",
        ]

    def test_every_row_of_the_tables_is_planned(self):
        for table, study in ((paper.TABLE_2, "table2"), (paper.TABLE_3, "table3")):
            planned = training(study).plan_runs("paper")
            models = {plan.cell["model"] for plan in planned}
            assert len(models) == len(table)
            for plan in planned:
                assert plan.recipe.model.name == next(
                    row.model for row in table if plan.cell["model"].startswith(f"{row.said}, {row.data}")
                )
                assert (plan.weights is None) == (
                    plan.cell["task"] == "pre-training" or bool(plan.recipe.model.weights.split(".")[1])
                )


class TestPareto:
    def test_what_loses_to_no_other(self):
        points = {"fast": (0.5, 100.0), "good": (0.9, 10.0), "bad": (0.4, 50.0), "twin": (0.5, 100.0)}
        assert pareto.frontier(points) == ["fast", "good", "twin"]

    def test_of_the_papers_own_table(self, tmp_path: Path):
        run = trained(tmp_path)
        finished = [replace(run, plan=plan, hours=1.0) for plan in pareto.plan_runs("tiny")]
        best = "HaloNet-H4, ImageNet-21k; NFNet-F4+, JFT-300M; Mixer-H/14, JFT-300M; MPL, weakly labeled"
        outcome = pareto.summarize(finished)
        assert f"of the models of Table 2, {best} are on the frontier" in outcome.paper
        rows = {row[0]: row[1:] for row in outcome.rows}
        assert rows["ViT-H/14, JFT-300M"] == (*["–"] * 5, "88.55", "2,300", "no", "15", "no")
        assert rows["NFNet-F4+, JFT-300M"] == (*["–"] * 5, "89.2", "1,860", "yes", "46", "yes")
        assert rows["MPL, weakly labeled"][5:] == ("90.0", "20,480", "yes", "–", "–")
        assert {*pareto.SYSTEMS} <= {*rows}

    def test_its_runs_at_each_scale(self):
        assert [plan.folder for plan in pareto.plan_runs("small")] == [
            plan.folder for plan in training("model-scale").plan_runs("small")
        ]
        assert [plan.folder for plan in pareto.plan_runs("paper")] == [
            plan.folder for plan in training("table2").plan_runs("paper")
        ]
        assert training("pareto").runs_of == {"tiny": "model-scale", "small": "model-scale", "paper": "table2"}

    def test_of_fine_tuned_ones(self, tmp_path: Path):
        """Pre-trained here, at different cost; the cheaper is as good, so the other is not on that frontier."""
        plans = [plan for plan in pareto.plan_runs("paper") if plan.cell["model"].startswith(("Mixer-H", "ViT-H"))]
        run = trained(tmp_path)
        finished = [
            replace(run, plan=plan, hours=3.0 if plan.cell["model"].startswith("ViT") else 2.0)
            for plan in plans
            if plan.cell["task"] in ("pre-training", "imagenet")
        ]
        outcome = pareto.summarize(finished)
        assert [(row[0].split(",")[0], row[2], row[3], row[6]) for row in outcome.rows[:2]] == [
            ("Mixer-H/14", "2.00", "yes", "87.94"),
            ("ViT-H/14", "3.00", "no", "88.55"),
        ]
        assert len(outcome.rows) == len(pareto.SYSTEMS)
        assert outcome.claims[0].holds is True


class TestVtab:
    @pytest.mark.slow
    def test_what_is_there_is_run_and_the_rest_is_named(
        self, clothes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        """Two of the tasks, one as lists and one as folders; 800 images pick, 1,000 count."""
        monkeypatch.setattr(vtab, "GRID", (0.003,))
        opened = data.open(clothes)
        for task in ("dtd", "kitti"):
            for split, name in (("train", "train800"), ("test", "val200"), ("test", "test")):
                lines = []
                for number in range(0, len(opened[split]), 2):
                    label = int(opened[split].labels[number]) % 4
                    place = Path("train" if name == "train800" else name) / str(label) / f"{number}.png"
                    path = tmp_path / "vtab" / task / (place if task == "kitti" else f"{name}-{number}.png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(np.asarray(opened[split].read(number))).save(path)
                    lines.append(f"{path.relative_to(tmp_path / 'vtab' / task)} {label}")
                if task == "dtd":
                    (tmp_path / "vtab" / task / f"{name}.txt").write_text("\n".join(lines))
        (tmp_path / "vtab" / "kitti" / "val200").rename(tmp_path / "vtab" / "kitti" / "val")
        mlpmixer.save(_with_classes(tmp_path / "clothes.safetensors"), tmp_path / "start.safetensors")
        few = [f"--{key}={value}" for key, value in FEW.items()]
        main(
            [
                *("reproduce", "vtab", "--data", str(tmp_path / "vtab"), "--folder", str(tmp_path / "runs"), "--quiet"),
                *(*few, f"--model.weights={tmp_path / 'start.safetensors'}"),
            ]
        )
        seen = capsys.readouterr()
        assert "skipped, since there is no data: caltech101, cifar, oxford_flowers102" in seen.err
        assert "mean of 2 of 19" in seen.out
        assert "Here it does not hold: missing: caltech101" in seen.out
        record = json.loads((tmp_path / "runs" / "vtab.study.json").read_text())
        assert len(record["runs"]) == 2 + 2
        whole = json.loads((tmp_path / "runs" / "dtd, all 1,000, seed 0" / "picks.json").read_text())
        assert whole["train"]["count"] == 80 + 20

    def test_all_of_them(self, tmp_path: Path):
        finished = [FinishedRun(plan, tmp_path, card_of(top1=0.5), val=0.5) for plan in vtab.plan_runs("tiny")]
        finished += [FinishedRun(plan, tmp_path, card_of(top1=0.7)) for plan in vtab.follow_up("tiny", finished)]
        outcome = vtab.summarize(finished)
        assert outcome.rows[-1] == ("mean of all 19", "all", "70.00", "")
        assert outcome.claims[0].holds is True
        assert [
            sum(task.kind == kind for task in vtab.VTAB.values()) for kind in ("natural", "specialised", "structured")
        ] == [
            7,
            4,
            8,
        ]

    def test_nothing_there(self, tmp_path: Path, says: Says):
        with says(DataError):
            run_study(training("vtab"), "tiny", tmp_path / "runs", data=tmp_path)


def _with_classes(path: Path) -> Any:
    return mlpmixer.load(mlpmixer.save(mlpmixer.create("mixer_nano", num_classes=3, layers=1), path))
