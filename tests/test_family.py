"""A new model family: one module and one row in `models.FAMILIES`, and all of the package works with it.

docs/extending/model-family.md tells the same in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from messages import Says
from torch import Tensor

import mlpmixer
from mlpmixer.cli import main
from mlpmixer.errors import BrokenFile, UsageError
from mlpmixer.evaluation.evaluate import evaluate
from mlpmixer.export.export import export
from mlpmixer.models import FAMILIES, Row
from mlpmixer.models.classifier import Classifier, ClassifierConfig, Intermediates, head, record
from mlpmixer.models.family import Family
from mlpmixer.models.layers import PatchStem, grid
from mlpmixer.recipe import Model
from mlpmixer.recipes import find, toml
from mlpmixer.report.report import report

# The whole family. Elsewhere it would be a file of its own, src/mlpmixer/models/toy.py.


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ClassifierConfig):
    patch_size: int
    channels: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("patch_size", "channels")


class Toy(Classifier[ToyConfig]):
    """Patches, one linear map, ReLU, mean. Its intermediates: `stem`, `block0`, `pre_logits`, `logits`."""

    def __init__(self, config: ToyConfig, name: str = "toy"):
        super().__init__(config, name, num_features=config.channels)
        self.stem = PatchStem(config.in_channels, config.channels, config.patch_size, config.image_size)
        self.head = head(self.num_features, config.num_classes, config.head_bias)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Float[Tensor, "B S C"]:
        self.check(images)
        x = record(intermediates, "stem", self.stem(images))
        return record(intermediates, "block0", F.relu(x))


FAMILY = Family(
    name="toy",
    title="Toy",
    config=ToyConfig,
    model=Toy,
    sizes={"toy_small": ToyConfig(patch_size=7, channels=16, image_size=(28, 28))},
    layers=lambda _: 1,
    grids=lambda config: [grid(config.image_size, config.patch_size)],
    mean_of=lambda _: "block0",
)

# That was it. The row:


@pytest.fixture(autouse=True, scope="module")
def _listed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", Row(__name__, ("toy_small",)))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two classes of clothes."""
    recipe = toml.change(
        replace(find("fashion_mnist"), model=Model(name="toy_small")),
        {
            "data.classes": "Bag,Coat",
            "data.shots": 60,
            "optim.lr": 0.01,
            "optim.warmup_steps": 2,
            "train.steps": 30,
            "machine.workers": 0,
        },
    )
    folder = tmp_path_factory.mktemp("toy") / "run"
    mlpmixer.fit(recipe, folder, quiet=True)
    return folder


def test_it_is_created_by_name(capsys: pytest.CaptureFixture[str]):
    assert mlpmixer.list_models("toy_*") == ["toy_small"]
    model = mlpmixer.create("Toy-Small", num_classes=3, image_size=14, channels=8)
    assert model.config == ToyConfig(patch_size=7, channels=8, image_size=(14, 14), num_classes=3)
    assert model(torch.zeros(2, 3, 14, 14)).shape == (2, 3)
    main(["models", "toy_small", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["dimensions"], row["tokens"]) == ({"patch_size": 7, "channels": 16}, 16)


def test_it_is_saved_and_loaded(tmp_path: Path):
    model = mlpmixer.create("toy_small", num_classes=3)
    torch.nn.init.normal_(model.get_parameter("head.weight"))
    loaded = mlpmixer.load(mlpmixer.save(model, tmp_path / "toy.safetensors", classes=["a", "b", "c"]))
    assert (type(loaded), loaded.name, loaded.config) == (Toy, "toy_small", model.config)
    images = torch.randn(2, 3, 28, 28)
    assert torch.equal(loaded(images), model(images))


def test_it_learns_and_is_evaluated(run: Path):
    card = evaluate(run, train_images=0, workers=0)
    assert card["top1"].value > 0.8


def test_it_predicts(run: Path):
    found = mlpmixer.Predictor(run)(torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8))
    assert found.label in ("Bag", "Coat")


@pytest.mark.parametrize("to", ["onnx", "pt2", "safetensors"])
def test_it_is_exported(to: str, run: Path, tmp_path: Path):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    export(run, to, output=tmp_path / f"toy.{to}", count=20)  # refuses what does not answer as the model does
    assert (tmp_path / f"toy.{to}").is_file()


def test_it_is_in_a_report(run: Path, tmp_path: Path):
    html = report([run], tmp_path / "page.html").page.read_text(encoding="utf-8")
    assert "toy_small" in html
    assert "Effective receptive fields" in html


def test_without_an_adapter_it_has_its_own_format_and_its_own_size(tmp_path: Path, says: Says):
    model = mlpmixer.create("toy_small", num_classes=3)
    with says(UsageError):
        mlpmixer.save(model, tmp_path / "toy.pth")
    file = mlpmixer.save(model, tmp_path / "toy.safetensors")
    with says(UsageError):
        mlpmixer.load(file, image_size=56)


def test_a_family_that_is_in_no_row_has_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says):
    model = mlpmixer.create("toy_small", num_classes=3)
    file = mlpmixer.save(model, tmp_path / "toy.safetensors")
    monkeypatch.delitem(FAMILIES, "toy")
    with says(BrokenFile):
        mlpmixer.load(file)
    with says(UsageError):
        mlpmixer.save(model, tmp_path / "again.safetensors")
