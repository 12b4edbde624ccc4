"""EfficientNet: the counts of its sizes, timm's numbers from the same weights, and files both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import noted, shaken
from in_processes import together

import mlpmixer
from mlpmixer.errors import BrokenFile, KeyMismatch, UsageError
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.efficientnet import SIZES, Conv, EfficientNetConfig, MBConv, Stage
from mlpmixer.models.measured import MEASURED
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml

PARAMETERS = {
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet_b6_wide": 316_649_180,  # Meta Pseudo Labels says 390 M
    "efficientnet_l2": 480_309_308,
}
SMALL: dict[str, Any] = {"width": 0.25, "depth": 0.5, "image_size": 64, "num_classes": 5}


def small(**options: Any) -> Classifier:
    return shaken(mlpmixer.create("efficientnet_b0", **{**SMALL, **options}))


def count(name: str, **options: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in mlpmixer.create(name, **options).parameters())


class TestTheNetwork:
    def test_parameters(self):
        """measured.json is measured again in test_cost.py."""
        assert {row["name"]: row["params"] for row in json.loads(MEASURED.read_text()) if row["name"] in SIZES} == (
            PARAMETERS
        )
        assert count("efficientnet_b0") == PARAMETERS["efficientnet_b0"]

    @pytest.mark.slow
    def test_parameters_of_the_largest(self, timm: Any):
        for name in PARAMETERS:
            assert count(name) == PARAMETERS[name], name
            if name != "efficientnet_b6_wide":
                with torch.device("meta"):
                    peer = timm.create_model(f"tf_{name}")
                assert sum(p.numel() for p in peer.parameters()) == PARAMETERS[name], name

    def test_aligns_trunk_has_no_last_convolution(self):
        with torch.device("meta"):
            trunk = mlpmixer.create("efficientnet_l2", top=False, num_classes=0)
        assert trunk.num_features == 1376
        assert sum(p.numel() for p in trunk.parameters()) == 467_219_796

    def test_width_and_depth_scale_b0(self):
        assert SIZES["efficientnet_b0"].blocks == (1, 2, 2, 3, 3, 4, 1)
        assert SIZES["efficientnet_b7"].blocks == (4, 7, 7, 10, 10, 13, 4)
        widths = [SIZES["efficientnet_b2"].scaled(channels) for channels in (32, 16, 24, 40, 80, 112, 192, 320, 1280)]
        assert widths == [32, 16, 24, 48, 88, 120, 208, 352, 1408]
        assert EfficientNetConfig(width=0.35, depth=1.0).scaled(32) == 16  # 8 would be far below 11.2

    def test_the_odd_zeros_are_at_the_end(self):
        """TensorFlow's rule, written out for each kernel that has a stride."""
        for kernel, side, before, after in ((3, 6, 0, 1), (3, 7, 1, 1), (5, 6, 1, 2), (5, 7, 2, 2), (3, 1, 1, 1)):
            conv, image = Conv(2, 3, kernel, stride=2), torch.randn(1, 2, side, 7)
            around = (kernel // 2, kernel // 2, before, after)  # 7 columns are odd
            found = conv(image)
            assert found.shape[2:] == ((side + 1) // 2, 4)
            torch.testing.assert_close(found, F.conv2d(F.pad(image, around), conv.weight, stride=2))

    def test_a_block_adds_what_keeps_its_shape(self):
        stage = Stage(3, 1, 6, 8, 1)
        x = torch.randn(2, 8, 4, 4)
        block = MBConv(8, 8, stage, 1, 0.0).eval()
        torch.nn.init.zeros_(block.get_parameter("project.norm.weight"))
        assert torch.equal(block(x), x)
        block = MBConv(8, 16, stage, 1, 0.0).eval()
        torch.nn.init.zeros_(block.get_parameter("project.norm.weight"))
        assert not block(x).any()

    def test_what_is_left_to_chance(self):
        model = mlpmixer.create("efficientnet_b0", width=0.25, stochastic_depth=0.2, dropout=0.3, num_classes=5)
        blocks = [block for block in model.modules() if isinstance(block, MBConv)]
        assert [block.stochastic_depth.p for block in blocks] == pytest.approx([0.2 * i / 16 for i in range(16)])
        features = torch.ones(4, model.num_features, 2, 2)
        assert {round(value, 5) for value in model.pool(features).unique().tolist()} == {0.0, round(1 / 0.7, 5)}
        assert torch.equal(model.eval().pool(features), features[:, :, 0, 0])

    def test_intermediates(self):
        model = small()
        logits, found = model(torch.randn(2, 3, 50, 33), intermediates=True)  # any size
        assert [*found][:3] == ["stem", "stage0/block0", "stage0"]
        assert [*found][-4:] == ["stage6", "features", "pre_logits", "logits"]
        assert found["features"].shape == (2, model.num_features, 2, 2)
        torch.testing.assert_close(found["features"].mean(dim=(2, 3)), found["pre_logits"])
        assert logits.shape == (2, 5)

    def test_configs_that_cannot_be(self):
        for option, value in (("width", 0.0), ("depth", float("inf")), ("width", float("nan")), ("dropout", 1.5)):
            with pytest.raises(UsageError, match=f"{option} must be"):
                small(**{option: value})


class TestFiles:
    def test_timm_computes_the_same(self, timm: Any, tmp_path: Path):
        """In TensorFlow's variant and in PyTorch's, at even sides and at odd ones."""
        model = shaken(mlpmixer.create("efficientnet_b0"))
        file = mlpmixer.save(model, tmp_path / "model.pth")
        for theirs, tensorflow in (("tf_efficientnet_b0", True), ("efficientnet_b0", False)):
            peer, model = timm.create_model(theirs).eval(), mlpmixer.load(file, tensorflow=tensorflow)
            timm.models.load_checkpoint(peer, str(file))
            for size in ((64, 64), (75, 50)):
                images = torch.randn(2, 3, *size)
                with torch.no_grad():
                    found, wanted = model(images), peer(images)
                assert float(wanted.std()) > 0.1
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)

    def test_timms_file_comes_back_bit_for_bit(self, timm: Any, tmp_path: Path):
        peer = shaken(timm.models.efficientnet._gen_efficientnet("peer", 0.5, 0.4, num_classes=7))
        arrays = {name: array.contiguous() for name, array in peer.state_dict().items()}
        safetensors.torch.save_file(arrays, tmp_path / "theirs.safetensors")
        model = mlpmixer.load(tmp_path / "theirs.safetensors")
        assert model.name == "efficientnet"
        again = safetensors.torch.load_file(mlpmixer.save(model, tmp_path / "again.safetensors", layout="timm"))
        assert [*arrays.keys() - again.keys()] == [name for name in arrays.keys() - again.keys() if "num_batch" in name]
        assert all(torch.equal(array, arrays[name]) for name, array in again.items())

    @pytest.mark.parametrize(
        "options",
        [
            {"width": 1.1, "depth": 1.2, "num_classes": 3},  # B2, which the file tells
            {"width": 0.3, "depth": 0.3, "num_classes": 3, "in_channels": 1},
            {"width": 0.5, "depth": 0.1, "num_classes": 3, "top": False},
        ],
    )
    @pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
    def test_its_shapes_tell_the_config(self, options: dict[str, Any], name: str, tmp_path: Path):
        model = small(**options)
        loaded = mlpmixer.load(mlpmixer.save(model, tmp_path / name))
        if name.endswith("pth"):
            expected = ("efficientnet_b2", (260, 260)) if options["width"] == 1.1 else ("efficientnet", (224, 224))
            assert (loaded.name, loaded.config.image_size) == expected
        arrays = loaded.state_dict()
        assert arrays.keys() == model.state_dict().keys()
        assert all(torch.equal(arrays[name], array) for name, array in model.state_dict().items())
        images = torch.randn(1, model.config.in_channels, 64, 64)
        assert torch.equal(loaded(images), model(images))

    def test_any_image_size(self, tmp_path: Path):
        file = mlpmixer.save(model := small(), tmp_path / "model.safetensors")
        loaded = mlpmixer.load(file, image_size=(40, 56))
        assert loaded.metadata.preprocessing.crop == (40, 56)
        images = torch.randn(1, 3, 40, 56)
        assert torch.equal(loaded(images), model(images))

    def test_files_that_are_wrong(self, tmp_path: Path):
        file = mlpmixer.save(small(), tmp_path / "model.pth")
        arrays = torch.load(file)
        for name, array, words in (
            ("blocks.2.0.conv_pwl.weight", None, r"lacks or misshapes stages\.2\.0\.project\.conv\.weight"),
            ("conv_stem.weight", torch.zeros(9, 3, 3, 3), r"lacks or misshapes stem\.conv\.weight"),
            ("blocks.3.7.conv_dw.weight", torch.zeros(8), r"lacks or misshapes stages\.3"),
            ("blocks.1.0.bn3.running_var", None, r"the model has blocks\.1\.0\.bn3\.running_var 8 that the file lacks"),
            ("blocks.1.0.bn3.bias", torch.zeros(7), r"blocks\.1\.0\.bn3\.bias is 7 in the file and 8 in the model"),
            (
                "blocks.7.0.conv_dw.weight",
                torch.zeros(8),
                r"the file has blocks\.7\.0\.conv_dw\.weight 8 that the model",
            ),
        ):
            wrong = {**arrays, name: array}
            torch.save({name: array for name, array in wrong.items() if array is not None}, file)
            with pytest.raises(KeyMismatch, match=words) as found:
                mlpmixer.load(file)
            assert "\n" not in str(found.value)

    def test_a_file_that_claims_too_much_costs_nothing(self, tmp_path: Path):
        file = mlpmixer.save(small(), tmp_path / "model.safetensors")
        whole = file.read_bytes()
        for field, value, error, words in (
            ("depth", "99.0", BrokenFile, "claims 1,584 layers"),
            ("depth", "1e9", BrokenFile, "invalid header: depth must be above 0"),
            ("width", "100.0", KeyMismatch, "does not fit efficientnet"),
        ):
            was, now = (f'\\"{field}\\": {number}'.encode() for number in (SMALL[field], value))
            changed = whole.replace(was, now)
            assert changed != whole
            length = int.from_bytes(whole[:8], "little") + len(changed) - len(whole)
            file.write_bytes(length.to_bytes(8, "little") + changed[8:])
            with pytest.raises(error, match=words):
                mlpmixer.load(file)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return toml.change(
        Recipe(name="small"),
        {
            "model.name": "efficientnet_b0",
            "model.image_size": 28,
            **{f"model.options.{name}": value for name, value in {"width": 0.25, "depth": 0.1}.items()},
            "model.options.norm_momentum": 0.3,
            "data.source": "fashion_mnist_small",
            "data.classes": "Bag,Coat",
            "data.shots": 60,
            "data.val": "5%",
            "data.test": "",
            "augment.crop": "pad",
            "optim.name": "sgd",
            "optim.lr": 0.1,
            "optim.ema": 0.5,
            "train.steps": 4,
            "train.batch_size": 16,
            "train.precision": "fp32",
            "machine.workers": 0,
            "machine.save_every": 2,
            "machine.log_every": 1,
        },
    )


class TestTraining:
    def test_it_learns(self):
        model = mlpmixer.create("efficientnet_b0", **{**SMALL, "image_size": 32}, norm_momentum=0.5)
        images, labels = torch.randn(10, 3, 32, 32), torch.arange(10) % 5
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(20):
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert (model.eval()(images).argmax(1) == labels).all()  # by running averages, too

    @pytest.mark.slow
    @pytest.mark.parametrize("sharpness", ["none", "sam"])
    def test_two_devices_learn_what_one_does(self, sharpness: str, recipe: Recipe, tmp_path: Path):
        """Each has half of a batch, and all have the statistics of the whole."""
        recipe = toml.change(recipe, {"optim.sharpness": sharpness})
        mlpmixer.fit(recipe, tmp_path / "one", quiet=True)
        ways = [tmp_path / way for way in ("ddp", "fsdp")]
        together(2, [(toml.change(recipe, {"machine.parallel": way.name}), way) for way in ways])
        one = mlpmixer.load(tmp_path / "one").state_dict()
        for way in ways:
            for line, wanted in zip(noted(way), noted(tmp_path / "one"), strict=True):
                losses = [json.loads(text).get("loss", 0.0) for text in (line, wanted)]
                assert losses[0] == pytest.approx(losses[1], abs=2e-5), (way, line)
            for name, array in mlpmixer.load(way).state_dict().items():
                torch.testing.assert_close(array, one[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
