"""ResNet-50 and its relatives: counts of the literature, others' numbers and files, images of any size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from conftest import shaken
from messages import Says

import mlpmixer
from mlpmixer import create, load, save
from mlpmixer.errors import KeyMismatch, UsageError
from mlpmixer.evaluation.evaluate import evaluate
from mlpmixer.export.export import export
from mlpmixer.export.formats import FORMATS
from mlpmixer.models import resnet
from mlpmixer.models.batch_norm import BatchNorm
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.measure import counted
from mlpmixer.models.measured import measured
from mlpmixer.recipe import Model
from mlpmixer.recipes import find, toml
from mlpmixer.report.report import report
from mlpmixer.weights.adapters.resnet import change_resolution

# Parameters and GMAC at 224 pixels. That `measured` is right, test_cost.py says.
COUNTS = {
    "resnet50": (25_557_032, 4.089),
    "sasa_resnet50": (18_038_632, 3.403),  # the paper says 7.0 G and 8.2 G for convolutions, each counted twice
    "botnet50": (20_852_008, 4.021),
    "lambda_resnet50": (14_995_848, 6.576),  # d-li14's count, too
    "rednet50": (15_540_806, 2.649),  # its authors count 2.71, with all that is no product
    "depthwise_resnet50": (14_273_768, 2.252),  # parameters of resnet50 less 9c² − 9c for each unit
}
SMALL: dict[str, Any] = {"units": (1, 2), "operator_units": (), "channels": 32, "num_classes": 5}
OPERATORS = get_args(resnet.OperatorName)


def small(operator: str, **options: Any) -> Classifier:
    stem = "involution" if operator == "involution" else "7x7"
    return shaken(create("resnet50", operator=operator, **{"image_size": 32, "stem": stem, **SMALL, **options}))


def test_counts():
    found = {row["name"]: (row["params"], round(row["gmacs"], 3)) for row in measured() if row["name"] in COUNTS}
    assert found == COUNTS
    gmacs, params = counted("lambda_resnet50", depth=4, window=7)
    assert (params, round(gmacs, 3)) == (16_040_616, 4.391)


def test_a_unit_starts_as_the_identity_or_not():
    for zero_init in (True, False):
        model = create("resnet50", image_size=32, zero_init=zero_init, **SMALL).eval()
        x = torch.randn(1, 256, 4, 4).relu()
        unit = model.get_submodule("stages.1.1")
        assert torch.equal(unit(x), x) == zero_init


def test_images_of_any_size_where_the_operator_takes_any(says: Says):
    failures = []
    for operator in OPERATORS:
        model = small(operator)
        for size in ((32, 32), (45, 70)):  # odd at each stage
            images = torch.randn(2, 3, *size)
            if operator in resnet.OF_ONE_SIZE and size != (32, 32):
                with says(UsageError):
                    model(images)
                model = small(operator, image_size=size)
            features = model.forward_features(images)
            if features.shape != (2, 256, -(-size[0] // 8), -(-size[1] // 8)) or not features.isfinite().all():
                failures.append((operator, size))
    assert not failures


def test_intermediates():
    model = small("lambda")
    logits, seen = model(torch.randn(2, 3, 32, 32), intermediates=True)
    assert [*seen] == [
        "stem",
        "stage0/unit0",
        "stage0",
        "stage1/unit0",
        "stage1/unit1",
        "stage1",
        "pre_logits",
        "logits",
    ]
    assert torch.equal(seen["stage1"].mean(dim=(2, 3)), seen["pre_logits"])
    assert logits is seen["logits"]


def test_simplified_is_the_same_function():
    failures = []
    for operator in OPERATORS:
        model, images = small(operator), torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            wanted = model(images, intermediates=True)[1]["pre_logits"]
            simple = model.simplified()
            norms = [
                name for name, part in simple.named_modules() if name.endswith(".norm") and type(part) is BatchNorm
            ]
            if norms or not torch.allclose(simple(images), wanted, atol=1e-4, rtol=1e-4):
                failures.append(operator)
    assert not failures


def test_what_no_resnet_is(says: Says):
    for options in (
        {"units": ()},
        {"units": (1, 0)},
        {"channels": 0},
        {"operator_units": (1,)},
        {"operator_units": (1, -1)},
        {"window": 7},
        {"operator": "sasa", "window": 4},
        {"operator": "sasa", "channels": 40},
        {"operator": "involution", "stem": "involution", "channels": 48},
        {"stem": "tiered", "channels": 12},
        {"depth": 2},
    ):
        with says(UsageError):
            create("resnet50", **{**SMALL, **options})


def test_own_files_come_back_bit_for_bit(tmp_path: Path):
    failures = []
    for operator in OPERATORS:
        model = small(operator)
        loaded = load(save(model, tmp_path / f"{operator}.safetensors"))
        state = loaded.state_dict()
        same = all(torch.equal(state[name], array) for name, array in model.state_dict().items())
        if loaded.config != model.config or not same or loaded.training:
            failures.append(operator)
    assert not failures


def test_foreign_layouts_have_no_place_for_some(tmp_path: Path, says: Says):
    for model in (
        small("sasa"),
        small("involution"),
        small("depthwise"),
        small("lambda", depth=2, stem="tiered"),
        small("attention"),  # with this stem, a file is told by its fourth stage
    ):
        with says(UsageError):
            save(model, tmp_path / "model.pth")


def test_strict_loading(tmp_path: Path, says: Says):
    state = safetensors.torch.load_file(save(small("convolution"), tmp_path / "m.safetensors", layout="timm"))
    for change in (
        {"layer1.0.bn2.running_var": None},
        {"layer2.1.conv2.weight": torch.zeros(64, 32, 3, 3)},  # of groups
        {"layer1.0.se.fc1.weight": torch.zeros(8, 128, 1, 1)},
        {"layer2.0.conv1.weight": None, "layer2.1.conv1.weight": None},
        {"conv1.weight": torch.zeros(32, 3, 7)},
    ):
        broken = {name: array for name, array in {**state, **change}.items() if array is not None}
        safetensors.torch.save_file(broken, tmp_path / "broken.safetensors")
        with says(KeyMismatch):
            load(tmp_path / "broken.safetensors")


def test_another_image_size(tmp_path: Path, says: Says):
    """Convolutions and windows take any; tables of relative positions are resampled, and stay at the same size."""
    failures = []
    for operator in OPERATORS:
        model = small(operator, image_size=64)
        file = save(model, tmp_path / f"{operator}.safetensors")
        for size in ((64, 64), (96, 64), (45, 50)):
            loaded = load(file, image_size=size)
            same = [torch.equal(array, model.state_dict()[name]) for name, array in loaded.state_dict().items()]
            kept = operator not in resnet.OF_ONE_SIZE or size == (64, 64)
            if loaded.config.image_size != size or all(same) != kept:
                failures.append((operator, size))
            loaded(torch.randn(1, 3, *size))
        if operator in resnet.OF_ONE_SIZE:
            with says(UsageError):
                load(file, image_size=128, resize="tiles")
    assert not failures


def test_resampled_tables_mean_the_same():
    """Logits that fall with the distance still do, in pixels of the image; a lambda of equal values stays as it is."""
    model = small("attention", image_size=64)
    offsets = torch.arange(-15.0, 16.0)
    state = {**model.state_dict(), "stages.0.0.mix.operator.positions.row": offsets[:, None].expand(31, 8).clone()}
    changed, _ = change_resolution(state, model.config, (128, 64), "resample")
    rows = changed["stages.0.0.mix.operator.positions.row"][:, 0]
    assert rows.shape == (63,)
    torch.testing.assert_close(rows[4:-4].diff(), torch.full((54,), 0.5), atol=0.02, rtol=0)
    model = small("lambda_table", image_size=64)
    table = torch.ones(31, 31, 16, 1)
    state = {**model.state_dict(), "stages.0.0.mix.operator.positions.table": table}
    changed, _ = change_resolution(state, model.config, (128, 64), "resample")
    resized = changed["stages.0.0.mix.operator.positions.table"]
    assert resized.shape == (63, 31, 16, 1)
    torch.testing.assert_close(resized, torch.full_like(resized, 0.5))


def test_timm_and_torchvision_agree(timm: Any, tmp_path: Path):
    from torchvision.models.resnet import Bottleneck, ResNet

    model = small("convolution", units=(1, 2, 1, 1), channels=64)
    file = save(model, tmp_path / "model.pth")
    state = torch.load(file, weights_only=True)
    theirs = {
        "timm": timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (1, 2, 1, 1), num_classes=5),
        "torchvision": ResNet(Bottleneck, [1, 2, 1, 1], num_classes=5),
    }
    for side in (64, 50):
        images = torch.randn(2, 3, side, side)
        with torch.no_grad():
            got = model(images)
            for name, peer in theirs.items():
                peer.load_state_dict(state)  # strictly, though there are no counters of batches
                expected = peer.eval()(images)
                assert float(expected.abs().max()) > 0.1
                torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4, msg=name)


def test_a_file_of_theirs_comes_back_bit_for_bit(timm: Any, tmp_path: Path):
    """A whole model, so its depth counts, too."""
    from torchvision.models import resnet50

    state = shaken(timm.create_model("resnet50", num_classes=13)).state_dict()
    with torch.device("meta"):
        assert {name: array.shape for name, array in resnet50(num_classes=13).state_dict().items()} == {
            name: array.shape for name, array in state.items()
        }
    safetensors.torch.save_file(state, tmp_path / "first.safetensors")
    model = load(tmp_path / "first.safetensors")
    assert (model.name, model.config.num_classes) == ("resnet50", 13)
    again = safetensors.torch.load_file(save(model, tmp_path / "second.safetensors", layout="timm"))
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[key], value) for key, value in kept.items())


# timm's nets of 26 layers, two units in each stage: the second of the third and both of the last have the operator.
OTHERS: dict[str, dict[str, Any]] = {
    "botnet26t_256": {"operator": "attention", "image_size": 256},
    "lambda_resnet26t": {"operator": "lambda", "window": 9},
    "lambda_resnet26rpt_256": {"operator": "lambda_table", "image_size": 256},
}


@pytest.mark.parametrize("theirs", OTHERS)
def test_nets_of_timm_with_other_operators(theirs: str, timm: Any, tmp_path: Path):
    peer = shaken(timm.create_model(theirs, num_classes=5))
    state = peer.state_dict()
    safetensors.torch.save_file(state, tmp_path / "first.safetensors")
    model = load(tmp_path / "first.safetensors")
    units = {"units": (2, 2, 2, 2), "operator_units": (0, 0, 1, 2), "stem": "tiered"}
    assert model.config == create("resnet50", num_classes=5, **units, **OTHERS[theirs]).config
    images = torch.randn(1, 3, *model.config.image_size)
    with torch.no_grad():
        expected, got = peer(images), model(images)
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    again = safetensors.torch.load_file(save(model, tmp_path / "second.safetensors", layout="timm"))
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[key], value) for key, value in kept.items())


def test_timm_loads_a_botnet(timm: Any, tmp_path: Path):  # noqa: ARG001 (brings torchvision)
    """With the stem of ResNet-50, as the paper has it; timm lists no such net, but its parts build one."""
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

    options = {"units": (1, 1, 1, 2), "operator_units": (0, 0, 0, 2), "image_size": 64}
    model = shaken(create("botnet50", num_classes=5, **options))
    blocks = [
        ByoBlockCfg(type="self_attn" if stage == 3 else "bottle", d=units, c=256 * 2**stage, s=s, gs=0, br=0.25)
        for stage, (units, s) in enumerate(zip((1, 1, 1, 2), (1, 2, 2, 2), strict=True))
    ]
    how = ByoModelCfg(
        blocks=tuple(blocks), stem_type="7x7", stem_pool="maxpool", stem_chs=64, self_attn_layer="bottleneck",
        fixed_input_size=True, self_attn_kwargs={},
    )  # fmt: skip
    peer = ByobNet(how, num_classes=5, img_size=64)
    file = save(model, tmp_path / "model.pth")
    peer.load_state_dict(torch.load(file, weights_only=True))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(peer.eval()(images), model(images), atol=1e-4, rtol=1e-4)
    assert load(file).config == model.config


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["attention", "lambda"])
def test_a_run_is_evaluated_exported_and_reported(operator: str, tmp_path: Path):
    options = {"operator": operator, "units": (1, 1), "channels": 16}
    recipe = toml.change(
        replace(find("fashion_mnist"), model=Model(name="resnet50", image_size=(28,), options=options)),
        {
            **{"data.classes": "Bag,Coat", "data.shots": 60, "train.steps": 30, "train.batch_size": 16},
            **{"optim.lr": 0.003, "optim.warmup_steps": 2, "machine.workers": 0},
        },
    )
    mlpmixer.fit(recipe, tmp_path / "run", quiet=True)
    assert evaluate(tmp_path / "run", train_images=0, workers=0)["top1"].value > 0.8
    for to in ("onnx", "openvino", "pt2", "safetensors"):  # each refuses what does not answer as the model does
        export(tmp_path / "run", to, output=tmp_path / f"file{FORMATS[to].endings[0]}", count=20)
    assert "resnet50" in report([tmp_path / "run"], tmp_path / "page.html").page.read_text(encoding="utf-8")
