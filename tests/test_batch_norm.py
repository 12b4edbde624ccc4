"""Batch normalization: statistics of a batch in training, running averages that are saved, averaged and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import shaken
from jaxtyping import Float
from torch import Tensor, nn

import mlpmixer
from mlpmixer.data.loader import Batch
from mlpmixer.data.preprocess import normalize
from mlpmixer.engines.rewrites import Rewritten
from mlpmixer.errors import BrokenFile, KeyMismatch, UsageError
from mlpmixer.machine.distributed import Group
from mlpmixer.models import FAMILIES, Row
from mlpmixer.models.batch_norm import BatchNorm, ConvNorm
from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record
from mlpmixer.models.family import Family
from mlpmixer.recipe import Model, Recipe
from mlpmixer.recipes import find, toml
from mlpmixer.train.plan import init_model
from mlpmixer.train.step import TrainStep
from mlpmixer.weights.adapters import Adapter
from mlpmixer.weights.layouts import SAME, Layout, batch_norm, both, line

# A family of two convolutions.


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ClassifierConfig):
    channels: int


class Toy(Classifier[ToyConfig]):
    def __init__(self, config: ToyConfig, name: str = "convs"):
        super().__init__(config, name, num_features=config.channels)
        self.stem = self.layer(config.in_channels, stride=4)
        self.stages = nn.ModuleList([nn.ModuleList([self.layer(config.channels, stride=2)])])
        self.head = head(config.channels, config.num_classes, config.head_bias)

    def layer(self, in_channels: int, stride: int) -> ConvNorm:
        channels = self.config.channels
        conv = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        return ConvNorm(conv, BatchNorm(channels), F.relu)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B C h w"]:
        x = record(intermediates, "stem", self.stem(images))
        return record(intermediates, "stage0", self.stages.get_submodule("0.0")(x))

    def pool(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C"]:
        return features.mean(dim=(2, 3))


FAMILY = Family(
    name="convs",
    title="Convs",
    config=ToyConfig,
    model=Toy,
    sizes={"convs_small": ToyConfig(channels=8, image_size=(28, 28), num_classes=3)},
    layers=lambda _: 1,
    stages=lambda _: ["stage0"],
    mean_of=lambda _: "stage0",
    adapter=__name__,
)

LAYOUT = Layout(
    "timm",
    [
        line("stem.conv.weight", "conv1.weight", SAME),
        *batch_norm("stem.norm", "bn1"),
        line("stages.{i}.{j}.conv.weight", "layer{i+1}.{j}.conv.weight", SAME),
        *batch_norm("stages.{i}.{j}.norm", "layer{i+1}.{j}.bn"),
        *both("head", "fc"),
    ],
    marks=("conv1.weight", "bn1.running_mean"),
)
ADAPTER = Adapter(
    (LAYOUT,),
    lambda _layout, shapes, _hints: ToyConfig(
        channels=len(shapes["stem.norm.weight"]), image_size=(28, 28), num_classes=len(shapes["head.bias"])
    ),
    lambda state, config, _size, _scheme: (state, config),
)


@pytest.fixture(autouse=True, scope="module")
def _listed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "convs", Row(__name__, ("convs_small",)))
        yield


@pytest.fixture
def model() -> Classifier:
    return shaken(mlpmixer.create("convs_small")).eval()


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return toml.change(
        replace(find("fashion_mnist"), model=Model(name="convs_small")),
        {
            "data.classes": "Bag,Coat",
            "data.shots": 60,
            "data.test": "",
            "optim.lr": 0.01,
            "optim.warmup_steps": 2,
            "train.steps": 6,
            "train.batch_size": 20,
            "machine.workers": 0,
            "machine.save_every": 3,
            "machine.log_every": 1,
        },
    )


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("convs") / "run"
    mlpmixer.fit(toml.change(recipe, {"optim.ema": 0.5}), folder, quiet=True)
    return folder


class TestFiles:
    @pytest.mark.parametrize("name", ["own.safetensors", "theirs.pth"])
    def test_running_averages_come_back_bit_for_bit(self, name: str, model: Classifier, tmp_path: Path):
        loaded = mlpmixer.load(mlpmixer.save(model, tmp_path / name))
        assert all(torch.equal(a, b) for a, b in zip(loaded.buffers(), model.buffers(), strict=True))
        images = torch.randn(2, 3, 28, 28)
        assert torch.equal(loaded(images), model(images))

    @pytest.mark.parametrize("ending", ["pth", "safetensors"])
    def test_pytorchs_counters_of_batches_are_not_read(self, ending: str, model: Classifier, tmp_path: Path):
        file, counted = tmp_path / f"file.{ending}", tmp_path / f"counted.{ending}"
        arrays = self.arrays(mlpmixer.save(model, file, layout="timm"))
        count = torch.tensor(7)
        self.write(arrays | {f"{name}.num_batches_tracked": count.clone() for name in ("bn1", "layer1.0.bn")}, counted)
        again = mlpmixer.save(mlpmixer.load(counted), tmp_path / f"again.{ending}", layout="timm")
        assert {name: (a.dtype, a.tolist()) for name, a in self.arrays(again).items()} == {
            name: (a.dtype, a.tolist()) for name, a in arrays.items()
        }
        self.write(arrays | {"fc.num_batches_tracked": count}, counted)
        with pytest.raises(KeyMismatch, match=r"the file has fc\.num_batches_tracked"):
            mlpmixer.load(counted)
        self.write(arrays | {"bn1.running_var": count}, counted)
        with pytest.raises(BrokenFile, match=r"holds bn1\.running_var as"):
            mlpmixer.load(counted)

    def test_what_is_no_set_of_running_averages_is_refused(self, model: Classifier, tmp_path: Path):
        file = mlpmixer.save(model, tmp_path / "file.pth")
        arrays = self.arrays(file)
        for wrong, words in (
            ({"bn1.running_var": -arrays["bn1.running_var"]}, "a variance below zero in bn1.running_var"),
            ({"bn1.running_mean": arrays["bn1.running_mean"] * torch.nan}, "NaN or infinite numbers in bn1"),
            ({"bn1.running_mean": torch.zeros(7)}, "bn1.running_mean is 7 in the file and 8 in the model"),
        ):
            self.write(arrays | wrong, file)
            with pytest.raises((BrokenFile, KeyMismatch), match=words):
                mlpmixer.load(file)
        del arrays["layer1.0.bn.running_var"]
        self.write(arrays, file)
        with pytest.raises(KeyMismatch, match=r"the model has layer1\.0\.bn\.running_var 8 that the file lacks"):
            mlpmixer.load(file)

    @staticmethod
    def arrays(file: Path) -> dict[str, Tensor]:
        return torch.load(file) if file.suffix == ".pth" else safetensors.torch.load_file(file)

    @staticmethod
    def write(arrays: dict[str, Tensor], file: Path) -> None:
        torch.save(arrays, file) if file.suffix == ".pth" else safetensors.torch.save_file(arrays, file)


class TestTraining:
    """The toy, on clothes."""

    def test_a_run_that_is_resumed_ends_with_the_same_bytes(self, recipe: Recipe, run: Path, tmp_path: Path):
        shutil.copytree(run, folder := tmp_path / "run")
        for left in ("result.json", "weights.safetensors"):
            (folder / left).unlink()
        shutil.rmtree(folder / "checkpoints" / "step-000000006")
        mlpmixer.fit(toml.change(recipe, {"optim.ema": 0.5}), folder, quiet=True)
        assert (folder / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
        var = mlpmixer.load(run).get_buffer("stem.norm.running_var")
        assert not torch.equal(var, torch.ones_like(var))

    def test_parts_of_a_batch_are_normalized_each_by_itself_and_a_line_says_so(
        self, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        how = {"machine.micro_batch": 5, "train.steps": 1, "data.val": ""}
        mlpmixer.fit(toml.change(recipe, how), tmp_path, quiet=True)
        said = " ".join(capsys.readouterr().err.split())
        assert "convs_small normalizes over the images of a forward pass: machine.micro_batch 5 makes that 5 of" in said

    def test_the_average_of_weights_is_one_of_running_averages_too(self, recipe: Recipe):
        step = self.step(recipe, {"optim.ema": 0.75})
        name, before = "stem.norm.running_var", torch.ones(8)
        step.step(0, [self.batch(20)])
        own = step.model.get_buffer(name).clone()
        assert not torch.equal(own, before)
        with step.averaged():
            torch.testing.assert_close(step.model.get_buffer(name), 0.75 * before + 0.25 * own)
        assert torch.equal(step.model.get_buffer(name), own)
        assert name in step.state_dict()["average"]

    def test_the_second_pass_of_sam_leaves_running_averages_alone(self, recipe: Recipe):
        plain, sam = self.step(recipe), self.step(recipe, {"optim.sharpness": "sam"})
        for step in (plain, sam):
            step.step(0, [self.batch(20)])
        assert all(torch.equal(a, b) for a, b in zip(plain.model.buffers(), sam.model.buffers(), strict=True))
        assert not torch.equal(plain.model.get_parameter("head.bias"), sam.model.get_parameter("head.bias"))

    def test_running_averages_stay_in_float32(self, recipe: Recipe):
        wide, half = self.step(recipe), self.step(recipe, {"train.precision": "bf16"})
        for step in (wide, half):
            step.step(0, [self.batch(20)])
        for a, b in zip(wide.model.buffers(), half.model.buffers(), strict=True):
            assert b.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.01)

    @staticmethod
    def step(recipe: Recipe, changes: dict[str, Any] | None = None) -> TrainStep:
        recipe = toml.change(recipe, {"train.precision": "fp32", **(changes or {})})
        torch.manual_seed(0)
        return TrainStep(recipe, init_model(recipe, ("Bag", "Coat")), 10, Group(torch.device("cpu")))

    @staticmethod
    def batch(count: int) -> Batch:
        torch.manual_seed(0)
        images = torch.randint(0, 256, (count, 3, 28, 28), dtype=torch.uint8)
        return Batch(images, torch.arange(count) % 2, torch.arange(count))


class TestNorm:
    def test_one_value_of_each_channel_is_too_few(self):
        norm = BatchNorm(4)
        with pytest.raises(UsageError, match="cannot train on one value of each channel"):
            norm(torch.zeros(1, 4, 1, 1))
        assert norm.eval()(torch.zeros(1, 4, 1, 1)).shape == (1, 4, 1, 1)

    def test_statistics_over_several_devices(self):
        """Two devices with the same images are one with all of them twice."""
        one, two = BatchNorm(4), BatchNorm(4)
        two.sum_over_devices = lambda values: 2 * values
        images = 5 + torch.randn(3, 4, 2, 2)
        torch.testing.assert_close(two(images), one(torch.cat([images, images]))[:3])
        torch.testing.assert_close(two.running_mean, one.running_mean)
        torch.testing.assert_close(two.running_var, one.running_var)


class TestEngines:
    """Running averages become a part of the convolutions."""

    def test_norms_are_folded_before_numbers_are_rounded(self, model: Classifier):
        how = model.metadata.preprocessing
        pixels = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
        with torch.inference_mode():
            wanted = model(normalize(pixels, how))
        for dtype, off in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
            network = Rewritten(model, how, dtype)
            assert not any(isinstance(layer, BatchNorm) for layer in network.modules())
            with torch.inference_mode():
                assert float((network(pixels)[1] - wanted).abs().max()) <= off * float(wanted.std())
        assert any(isinstance(layer, BatchNorm) for layer in model.modules())
