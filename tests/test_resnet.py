"""ResNet-50 and its relatives: counts of the literature, others' numbers and files, images of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from conftest import shaken

from mlpmixer import create, load, save
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.measure import counted

# Parameters and GMAC at 224 pixels.
COUNTS = {
    "resnet50": (25_557_032, 4.089),
    "depthwise_resnet50": (14_273_768, 2.252),  # those of resnet50 less 9c² − 9c for each unit
}
SMALL: dict[str, Any] = {"units": (2, 1), "channels": 16, "num_classes": 5, "image_size": 32}


def small(name: str, **options: Any) -> Classifier:
    return shaken(create(name, **{**SMALL, **options}))


def test_counts():
    found = {name: counted(name) for name in COUNTS}
    assert {name: (params, round(gmacs, 3)) for name, (gmacs, params) in found.items()} == COUNTS


def test_a_unit_starts_as_the_identity_or_not():
    for zero_init in (True, False):
        model = create("resnet50", **SMALL, zero_init=zero_init).eval()
        x = torch.randn(1, 64, 8, 8).relu()
        unit = model.get_submodule("stages.0.1")
        assert torch.equal(unit(x), x) == zero_init


def test_timm_and_torchvision_agree(timm: Any, tmp_path: Path):
    from torchvision.models import resnet

    model = small("resnet50", units=(1, 2, 1, 1), channels=64)
    file = save(model, tmp_path / "model.pth")
    state = torch.load(file, weights_only=True)
    theirs = {
        "timm": timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (1, 2, 1, 1), num_classes=5),
        "torchvision": resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], num_classes=5),
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
