"""Batch normalization: statistics of a batch in training, running averages that are saved, averaged and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import shaken
from jaxtyping import Float
from torch import Tensor, nn

import mlpmixer
from mlpmixer.errors import BrokenFile, KeyMismatch
from mlpmixer.models import FAMILIES, Row
from mlpmixer.models.batch_norm import BatchNorm, ConvNorm
from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record
from mlpmixer.models.family import Family
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
