"""The paper's studies: their plans, what they make of figures, and whole ones with few steps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shaken, write_idx
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mlpmixer
from mlpmixer import data
from mlpmixer.cli import main
from mlpmixer.data import sampling
from mlpmixer.data.preprocess import normalize
from mlpmixer.data.scramble import scrambled
from mlpmixer.errors import DataError, RecipeError, UsageError
from mlpmixer.evaluation.card import Card, DataRecord, ModelRecord
from mlpmixer.experiments import STUDIES, data_scale, find, paper, pareto, permutation, table2, table3, transfer, vtab
from mlpmixer.experiments.cost import costs
from mlpmixer.experiments.permuted import permuted
from mlpmixer.experiments.study import (
    Done,
    Measurement,
    Plan,
    Study,
    alike,
    apart,
    carry_out,
    cells,
    changed,
    over_seeds,
    placed,
)
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.metrics.metric import Metric
from mlpmixer.models.mixer import Mixer
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


def training(name: str) -> Study:
    study = find(name)
    assert isinstance(study, Study)
    return study


class TestScrambled:
    @given(
        st.sampled_from(["patches", "pixels"]),
        st.integers(1, 4),
        st.integers(1, 4),
        st.integers(1, 5),
    )
    def test_pixels_change_places_and_nothing_else(self, kind: Any, rows: int, columns: int, patch: int):
        how = Preprocessing(scramble=kind, scramble_patch=patch)
        images = torch.arange(2 * 3 * rows * columns * patch**2).view(2, 3, rows * patch, columns * patch)
        found = scrambled(images, how)
        assert found.shape == images.shape
        assert torch.equal(found.flatten(2).sort().values, images.flatten(2))
        order = found[0, 0].flatten()
        assert torch.equal(found.flatten(2), images.flatten(2)[..., order])  # all channels, all images alike

    def test_patches_stay_whole(self):
        how = Preprocessing(scramble="patches", scramble_patch=4)
        numbers = torch.arange(64).view(1, 1, 8, 8).expand(1, 3, 8, 8) // 1
        found = scrambled(numbers, how)[0, 0]
        sources = [sorted(found[r : r + 4, c : c + 4].flatten().tolist()) for r in (0, 4) for c in (0, 4)]
        whole = [sorted(numbers[0, 0, r : r + 4, c : c + 4].flatten().tolist()) for r in (0, 4) for c in (0, 4)]
        assert sorted(sources) == sorted(whole)
        assert not torch.equal(found, numbers[0, 0])

    def test_it_is_part_of_the_input(self):
        pixels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
        plain = Preprocessing(crop=(8, 8))
        how = replace(plain, scramble="pixels")
        assert torch.equal(normalize(pixels, how), scrambled(normalize(pixels, plain), how))

    def test_what_cannot_be(self):
        with pytest.raises(DataError, match="cannot be cut into patches of 3"):
            scrambled(torch.zeros(1, 3, 8, 8), Preprocessing(scramble="patches", scramble_patch=3))
        recipe = permutation.plans("tiny")[2].recipe
        with pytest.raises(RecipeError, match="cutmix"):
            check.check(toml.change(recipe, {"evaluation.scramble": "pixels", "augment.cutmix": 1.0}))


class TestPermuted:
    def test_it_sees_in_scrambled_images_what_the_other_sees(self):
        model = shaken(mlpmixer.create("mixer_nano", num_classes=5))
        assert isinstance(model, Mixer)
        model.metadata = ModelInfo(preprocessing=Preprocessing.usual((32, 32)))
        other = permuted(model)
        images = torch.randn(3, 3, 32, 32)
        moved = scrambled(images, other.metadata.preprocessing)
        torch.testing.assert_close(other.eval()(moved), model(images), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model(moved), model(images), atol=1e-2)

    def test_only_the_plain_one(self):
        model = mlpmixer.create("mixer_nano", groups=2)
        assert isinstance(model, Mixer)
        with pytest.raises(UsageError, match="only the plain Mixer"):
            permuted(model)


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_plans_make_sense(name: str, scale: Any):
    """Each run has a folder of its own, a recipe that is allowed, and a cost."""
    plans = training(name).plans(scale)
    assert len({plan.folder for plan in plans}) == len(plans)
    for plan in plans:
        check.check(plan.recipe)
        assert "/" not in plan.folder
    if scale == "paper" and name not in ("table2", "pareto"):
        found, rate = costs(training(name), scale)
        assert rate == 330e12
        assert all(one.flops > 1e15 and one.hours > 0 and one.disk > 1e8 for one in found)


def test_each_size_learns_by_its_row_of_table_4():
    """Also in studies that are not of sizes, and what is not a Mixer."""
    for name in ("data-scale", "model-scale", "permutation", "ablations"):
        for plan in training(name).plans("paper"):
            model, recipe = plan.recipe.model, plan.recipe
            assert model.options["head_bias"] == -10.0
            assert recipe.loss.kind == "sigmoid"
            assert recipe.optim.lr == (0.001 if model.name.split("_")[1][0] in "lh" else 0.003), plan.folder
            assert plan.few_of == ("" if plan.cell.get("network") == "Mixer, exactly" else "imagenet")


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST with few images, as its own files."""
    folder = tmp_path_factory.mktemp("clothes")
    whole = data.open("fashion_mnist_small")
    for split, stem, count in (("train", "train", 40), ("test", "t10k", 10)):
        chosen = sampling.shots(whole[split].labels, count, seed=0)
        write_idx(folder / f"{stem}-images-idx3-ubyte", np.stack([np.asarray(whole[split].read(i)) for i in chosen]))
        write_idx(folder / f"{stem}-labels-idx1-ubyte", whole[split].labels[chosen])
    return folder


@pytest.mark.parametrize("name", [name for name in TRAINING if name not in ("table2", "model-scale", "vtab")])
def test_a_whole_study_with_few_steps(name: str, clothes: Path, tmp_path: Path):
    study = training(name)
    # (table2 is table3 at this scale, and model-scale has the runs of pareto.)
    changes = {**FEW, "data.source": str(clothes), "evaluation.every_epochs": 1000.0}
    if name == "table3":
        changes |= {"data.shots": 5}
    without = () if name == "permutation" else ("BiT",)  # the slowest, where it can be done without
    thrifty = replace(
        study,
        plans=lambda scale: [
            plan
            for plan in study.plans(scale)
            if plan.recipe.train.seed < 1 and not next(iter(plan.cell.values())).startswith(without)
        ],
    )
    told = carry_out(thrifty, "tiny", tmp_path / "study", changes=changes, quiet=True)
    assert all(len(row) == len(told.columns) for row in told.rows)
    record = json.loads((tmp_path / "study" / f"{name}.study.json").read_text())
    assert record["rows"] == [[*row] for row in told.rows]
    assert len(record["runs"]) >= len(thrifty.plans("tiny"))
    for run in record["runs"]:
        assert RunFolder(tmp_path / "study" / run).result() is not None
    lines: list[str] = []
    again = carry_out(thrifty, "tiny", tmp_path / "study", changes=changes, quiet=True, say=lines.append)
    assert again.rows == told.rows or name in ("pareto", "table3")  # which measure speed anew
    assert lines == []  # nothing was run again


def test_table_1_and_complexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["reproduce", "table1", "--folder", str(tmp_path / "one"), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert [row[-1] for row in record["rows"]] == ["19", "18", "60", "59", "206", "207", "431"]
    assert record["findings"][0]["holds"] is True
    main(["reproduce", "complexity", "--folder", str(tmp_path / "two"), "--device", "cpu"])
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
        one = replace(study, plans=lambda scale: [replace(plan, few_of="imagenet") for plan in study.plans(scale)[:1]])
        told = carry_out(one, "tiny", tmp_path / "study", changes=changes, data=tmp_path / "sets", quiet=True)
        kept = json.loads((tmp_path / "study" / "as it is, seed 0" / "few_shots.json").read_text())
        assert kept["data"]["classes"] == 10
        assert told.rows[0][3] == over_seeds([kept["metrics"]["few_shot_5"]["value"]])
        kept["metrics"]["few_shot_5"]["value"] = 0.125
        (tmp_path / "study" / "as it is, seed 0" / "few_shots.json").write_text(json.dumps(kept))
        again = carry_out(one, "tiny", tmp_path / "study", changes=changes, data=tmp_path / "sets", quiet=True)
        assert again.rows[0][3] == "12.50"

    def test_a_set_that_is_not_there_is_said_before_anything_is_trained(self, tmp_path: Path):
        study = training("ablations")
        one = replace(study, plans=lambda scale: [replace(plan, few_of="imagenet") for plan in study.plans(scale)])
        with pytest.raises(DataError, match="there is no data set 'imagenet'"):
            carry_out(one, "tiny", tmp_path / "study", quiet=True)
        assert not [*(tmp_path / "study").iterdir()]


class TestChanges:
    """Lines that are set in every run of a study."""

    @pytest.mark.parametrize(
        ("name", "line", "value"),
        [
            ("permutation", "train.seed", 7),
            ("table3", "optim.lr", 0.5),
            ("data-scale", "data.share", 0.5),
            ("permutation", "evaluation.scramble", "pixels"),
            ("resolution", "model.image_size", "48"),
        ],
    )
    def test_not_those_that_its_runs_differ_in(self, name: str, line: str, value: Any):
        """Runs that are one and the same would count as several, and agree perfectly; others would be misnamed."""
        study = training(name)
        with pytest.raises(UsageError, match=f"{line} is what the runs of this study differ in"):
            changed(study.plans("small"), {line: value}, study.varies)

    @pytest.mark.parametrize("name", TRAINING)
    def test_others_reach_all(self, name: str):
        study = training(name)
        plans = changed(study.plans("small"), {"train.steps": 3, "machine.workers": 0}, study.varies)
        assert all((plan.recipe.train.steps, plan.recipe.machine.workers) == (3, 0) for plan in plans)

    def test_first_weights_follow_too(self, clothes: Path, tmp_path: Path):
        changes = {"data.source": str(clothes), "model.options.layers": 1}
        *_, first, moved = changed(permutation.plans("tiny"), changes)
        for plan in (moved, first):
            assert plan.weights is not None
            model = mlpmixer.load(plan.weights(tmp_path, plan.recipe))
            assert isinstance(model, Mixer)
            assert len(model.blocks) == 1
            assert model.metadata.preprocessing.scramble == ("patches" if plan is moved else "none")


class TestTelling:
    def test_over_seeds(self):
        assert over_seeds([0.5]) == "50.00"
        assert over_seeds([0.5, 0.6, 0.7]) == "60.00 ± 24.84"  # 4.303 · 10 / √3

    def test_apart_needs_more_than_one_seed(self):
        assert apart([0.5], [0.9]) is None
        assert apart([0.5, 0.51], [0.9, 0.91]) is True
        assert apart([0.9, 0.91], [0.5, 0.51]) is False
        assert apart([0.5, 0.9], [0.6, 0.8]) is None

    def test_alike_needs_evidence(self):
        """That no difference was seen is not enough."""
        assert alike([0.5, 0.6], [0.9, 0.3], within=0.02) is None
        assert alike([0.5], [0.5], within=0.02) is None
        assert alike([0.5, 0.6, 0.7], [0.501, 0.6, 0.699], within=0.02) is True
        assert alike([0.5, 0.5, 0.5], [0.6, 0.61, 0.6], within=0.02) is False

    def test_permutation(self, tmp_path: Path):
        """Figures like the paper's become findings like the paper's."""
        top1 = {
            ("Mixer", "original"): 0.80,
            ("Mixer", "patches"): 0.80,
            ("Mixer", "pixels"): 0.45,
            ("ResNet", "original"): 0.80,
            ("ResNet", "patches"): 0.40,
            ("ResNet", "pixels"): 0.20,
        }
        done = []
        for plan in permutation.plans("tiny"):
            key = (plan.cell["network"], plan.cell["input"])
            noise = 0.001 * plan.recipe.train.seed * (-1 if key[1] == "patches" else 1)
            card = card_of(top1=top1.get(key, 0.5) + noise)
            done.append(Done(plan, tmp_path, card, losses=[1.0, 0.9]))
        told = permutation.tell(done)
        assert [finding.holds for finding in told.findings] == [True, True, True, True]
        assert told.rows[2][3].startswith("43.")

    def test_data_scale(self, tmp_path: Path):
        done = []
        for plan in data_scale.plans("tiny"):
            gain = {"Mixer": 0.3, "ViT": 0.2, "BiT": 0.1}[plan.cell["network"]]
            value = 0.5 + gain * data_scale.SHARES[plan.cell["data"]] + 0.001 * plan.recipe.train.seed
            done.append(Done(plan, tmp_path, card_of(top1=value, few_shot_5=value / 2)))
        told = data_scale.tell(done)
        assert [finding.holds for finding in told.findings] == [True, False]
        assert told.rows[0][0] == "Mixer"
        assert len(told.rows[0]) == len(told.columns) == 9
        of_few_shots = [replace(one, plan=replace(one.plan, few_of="imagenet")) for one in done]
        assert [finding.why.split(", ")[-1][:15] for finding in data_scale.tell(of_few_shots).findings] == [
            "5-shot accuracy",
            "5-shot accuracy",
        ]


def test_seeds_of_a_cell_belong_together(tmp_path: Path):
    plans = [
        Plan({"a": a}, toml.change(permutation.plans("tiny")[0].recipe, {"train.seed": s}))
        for a in "xy"
        for s in (0, 1)
    ]
    done = [Done(plan, tmp_path, card_of()) for plan in plans]
    assert {dict(key)["a"]: len(runs) for key, runs in cells(done).items()} == {"x": 2, "y": 2}


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["permutatoin"], "no study is called 'permutatoin'; did you mean 'permutation'?"),
        (["permutation", "--train.sepochs", "3"], "a recipe has no 'train.sepochs'; did you mean 'train.epochs'?"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit) as end:
        main(["reproduce", *arguments, "--folder", str(tmp_path)])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("mixer: ")
    assert message in err
    assert err.count("\n") == 1


def test_measurements_have_no_runs():
    assert all(
        costs(study, "paper") == ([], 330e12) for name in STUDIES if isinstance(study := find(name), Measurement)
    )


def card_of(**metrics: float) -> Card:
    data = DataRecord(source="clothes", split="test", title="test", count=10, classes=3)
    return Card(
        model=ModelRecord(name="mixer_pico", parameters=1, image_size=(32, 32), classes=3),
        data=data,
        protocol="own",
        preprocessing=Preprocessing(),
        engine="eager, fp32",
        metrics={key: Metric(name=key, value=value) for key, value in metrics.items()},
    )


def trained(folder: Path) -> Done:
    """A finished run with weights, though they learnt nothing."""
    model = mlpmixer.create("mixer_pico", num_classes=3)
    run = RunFolder(folder / "a run")
    run.path.mkdir(exist_ok=True)
    mlpmixer.save(model, run.weights)
    return Done(table3.plans("tiny")[0], run.path, card_of(top1=0.75), val=0.7)


class TestTransfer:
    """Which learning rate is taken, with which seeds, and what the table says of it."""

    def done(self, tmp_path: Path) -> list[Done]:
        """lr 0.03 is best on val and on test, but for the first model's test."""
        first = transfer.plans(transfer.entries("tiny", (), ()))
        run, found = trained(tmp_path), []
        for plan in first:
            rate = plan.cell.get("lr", "")
            val = {"lr 0.01": 0.5, "lr 0.03": 0.9, "lr 0.1": 0.7, "lr 0.001": 0.4, "lr 0.003": 0.3}.get(rate, 0.0)
            found.append(replace(run, plan=plan, card=card_of(top1=1 - val), val=val, hours=2.0))
        return found

    def test_the_dev_split_picks_and_other_seeds_follow(self, tmp_path: Path):
        done = self.done(tmp_path)
        more = transfer.then(done)
        assert len(more) == 2 * 6
        assert {plan.recipe.train.seed for plan in more} == {1, 2}
        assert {plan.cell["lr"] for plan in more if "pre-trained" in plan.cell["model"]} == {"lr 0.03"}
        assert {plan.cell["lr"] for plan in more if "scratch" in plan.cell["model"]} == {"lr 0.001"}
        assert len({plan.folder for plan in [*(one.plan for one in done), *more]}) == len(done) + len(more)

    def test_test_accuracies_are_of_the_picked_rate_and_all_seeds(self, tmp_path: Path):
        done = self.done(tmp_path)
        done += [replace(done[0], plan=plan, card=card_of(top1=0.2), val=1.0) for plan in transfer.then(done)]
        found = transfer.scores(done, lambda one: one.top1)
        assert found["Mixer, pre-trained", "the task"] == pytest.approx([0.1, 0.2, 0.2])
        told = transfer.tell(done, "", {})
        row = dict(zip(told.columns, told.rows[0], strict=True))
        assert row["model"] == "Mixer, pre-trained"
        assert row["the task, %"] == over_seeds([0.1, 0.2, 0.2])
        assert row["hours of pre-training"] == "2.00"
        assert float(row["images/s"].replace(",", "")) > 0
        assert told.rows[1][told.columns.index("hours of pre-training")] == "–"
        assert [finding.holds for finding in told.findings] == [False, False, False]

    def test_beside_the_paper(self, tmp_path: Path):
        """ImageNet alone was run: the paper's figure stands beside it, and the mean says that it is of one."""
        plans = [p for p in table3.plans("paper") if p.cell["model"].startswith("Mixer-B/16, ImageNet,")]
        tasks = {plan.cell["task"] for plan in plans}
        assert tasks == {"pre-training", *transfer.FIVE}
        run = trained(tmp_path)
        done = [
            replace(run, plan=plan)
            for plan in plans
            if plan.cell["task"] in ("imagenet", "cifar10") and plan.cell["lr"] == "lr 0.01"
        ]
        told = table3.tell(done)
        row = dict(zip(told.columns, told.rows[0], strict=True))
        assert (row["ImageNet, paper"], row["Avg. 5, paper"]) == ("76.44 (-1.44)", "88.33")
        assert (row["images/s/core, paper"], row["core-days, paper"]) == ("1,384", "10")
        assert row["mean, %"] == "75.00 (of 2 of 5)"
        whole = [replace(run, plan=plan, card=card_of(top1=0.9)) for plan in plans]
        assert table3.tell(whole).rows[0][-3] == "88.33 (+1.67)"

    def test_models_of_others_stand_in_table_2(self, tmp_path: Path):
        plans = [p for p in table2.plans("paper") if p.cell["model"].startswith("Mixer-H")]
        told = table2.tell([replace(trained(tmp_path), plan=plan) for plan in plans])
        last = dict(zip(told.columns, told.rows[-1], strict=True))
        assert (last["model"], last["ImageNet, paper"], last["core-days, paper"]) == (
            "ALIGN, weakly labeled",
            "88.64",
            "14,820",
        )
        assert len(told.rows) == 1 + len(paper.OTHERS)

    @pytest.mark.parametrize(("study", "shape"), [("table2", "stretch"), ("table3", "short_side")])
    def test_as_the_paper_measures_and_searches(self, study: str, shape: str):
        plans = [plan for plan in training(study).plans("paper") if "lr" in plan.cell]
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
        plans = [p for p in table3.plans("paper") if p.cell["model"].startswith("Mixer-B/16, ImageNet,")]
        plans = [plan for plan in plans if plan.cell["task"] == "imagenet" and plan.cell["lr"] == "lr 0.01"]
        assert [plan.real for plan in placed(plans, tmp_path, None)] == [None]
        (tmp_path / "real.json").write_text("[]")
        [plan] = placed(plans, tmp_path, None)
        assert plan.real == tmp_path / "real.json"
        done = [replace(trained(tmp_path), plan=plan, card=card_of(top1=0.75, real=0.83))]
        told = table3.tell(done)
        row = dict(zip(told.columns, told.rows[0], strict=True))
        assert row["ReaL, %"] == "83.00"
        assert row["ReaL, paper"] == "82.36 (+0.64)"

    @pytest.mark.parametrize("study", ["table2", "table3"])
    def test_what_is_tuned_at_two_sizes_is_pre_trained_once(self, study: str):
        """Four pre-trainings were planned twice: 8,366 of 35,190 hours."""
        plans = training(study).plans("paper")
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
        plans = [p for p in table3.plans("paper") if p.cell["model"].startswith("Mixer-H/14")]
        done = [replace(run, plan=plan, hours=9.5 if plan.cell["task"] == "pre-training" else 0.1) for plan in plans]
        told = table3.tell(done)
        assert [row[told.columns.index("hours of pre-training")] for row in told.rows] == ["9.50", "9.50"]
        assert [row[0] for row in told.rows] == [
            "Mixer-H/14, JFT-300M, 14 epochs",
            "Mixer-H/14, JFT-300M, 14 epochs at 448",
        ]

    def test_every_row_of_the_tables_is_planned(self):
        for table, study in ((paper.TABLE_2, "table2"), (paper.TABLE_3, "table3")):
            planned = training(study).plans("paper")
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
        done = [replace(run, plan=plan, hours=1.0) for plan in pareto.plans("tiny")]
        best = "Mixer-H/14 (JFT-300M), HaloNet-H4 (ImageNet-21k), NFNet-F4+ (JFT-300M), MPL (weakly labeled)"
        assert f"of the models of Table 2, {best} are on the frontier" in pareto.tell(done).paper

    def test_its_runs_at_each_scale(self):
        assert [plan.folder for plan in pareto.plans("small")] == [
            plan.folder for plan in training("model-scale").plans("small")
        ]
        assert [plan.folder for plan in pareto.plans("paper")] == [
            plan.folder for plan in training("table2").plans("paper")
        ]
        assert training("pareto").runs_of == {"tiny": "model-scale", "small": "model-scale", "paper": "table2"}

    def test_of_fine_tuned_ones(self, tmp_path: Path):
        """Pre-trained here, at different cost; the cheaper is as good, so the other is not on that frontier."""
        plans = [plan for plan in pareto.plans("paper") if plan.cell["model"].startswith(("Mixer-H", "ViT-H"))]
        run = trained(tmp_path)
        done = [
            replace(run, plan=plan, hours=3.0 if plan.cell["model"].startswith("ViT") else 2.0)
            for plan in plans
            if plan.cell["task"] in ("pre-training", "imagenet")
        ]
        told = pareto.tell(done)
        assert [(row[0].split(",")[0], row[2], row[3]) for row in told.rows] == [
            ("Mixer-H/14", "2.00", "yes"),
            ("ViT-H/14", "3.00", "no"),
        ]
        assert told.findings[0].holds is True


class TestVtab:
    def test_what_is_there_is_run_and_the_rest_is_named(
        self, clothes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        """Two of the tasks, one as lists and one as folders; 800 images pick, 1,000 count."""
        opened = data.open(clothes)
        for task in ("dtd", "kitti"):
            for split, name in (("train", "train800"), ("test", "val200"), ("test", "test")):
                lines = []
                for number in range(0, len(opened[split]), 5):
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
        assert "left out, since there is no data: caltech101, cifar, oxford_flowers102" in seen.err
        assert "mean of 2 of 19" in seen.out
        assert "Here it does not hold: missing: caltech101" in seen.out
        record = json.loads((tmp_path / "runs" / "vtab.study.json").read_text())
        assert len(record["runs"]) == 2 * 3 + 2
        whole = json.loads((tmp_path / "runs" / "dtd, all 1,000, seed 0" / "picks.json").read_text())
        assert whole["train"]["count"] == 80 + 20

    def test_all_of_them(self, tmp_path: Path):
        done = [Done(plan, tmp_path, card_of(top1=0.5), val=0.5) for plan in vtab.plans("tiny")]
        done += [Done(plan, tmp_path, card_of(top1=0.7)) for plan in vtab.then("tiny", done)]
        told = vtab.tell(done)
        assert told.rows[-1] == ("mean of all 19", "all", "70.00", "")
        assert told.findings[0].holds is True
        assert [
            sum(task.kind == kind for task in vtab.VTAB.values()) for kind in ("natural", "specialised", "structured")
        ] == [
            7,
            4,
            8,
        ]

    def test_nothing_there(self, tmp_path: Path):
        with pytest.raises(DataError, match="none of the data sets of vtab is in"):
            carry_out(training("vtab"), "tiny", tmp_path / "runs", data=tmp_path)


def _with_classes(path: Path) -> Any:
    return mlpmixer.load(mlpmixer.save(mlpmixer.create("mixer_nano", num_classes=3), path))
