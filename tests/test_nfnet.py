"""NFNet: what the paper and its code say of it, and the same numbers as timm's."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import shaken
from torch import Tensor, nn

import mlpmixer
from mlpmixer import create, load, save
from mlpmixer.cli import main
from mlpmixer.engines import rewrites
from mlpmixer.errors import UsageError, WeightsError
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.layers import SameConv2d, same_padding
from mlpmixer.models.measured import measured
from mlpmixer.models.nfnet import FAMILY, GAMMA, SIZES, NFNet, NFNetConfig, ScaledStandardizedConv, SqueezeExcite
from mlpmixer.recipe import Model
from mlpmixer.recipes import RECIPES, find

SMALL: dict[str, Any] = {
    "depths": (1, 2),
    "widths": (32, 64),
    "inner": (16, 32),
    "group_width": 16,
    "image_size": 32,
    "num_classes": 5,
}
# timm's stem grows with its last convolution, so the first stage has its usual width.
AS_TIMM: dict[str, Any] = {**SMALL, "widths": (256, 64), "inner": (128, 32), "gelu": "erf", "kernel_eps": "added"}
TIMM = {"depths": (1, 2), "channels": (256, 64), "group_size": 16, "num_features": 128, "num_classes": 5}


def small(**options: Any) -> NFNet:
    model = create("nfnet_f0", **{**SMALL, **options})
    assert isinstance(model, NFNet)
    return model


def kernels_of(conv: ScaledStandardizedConv, weight: Tensor, gain: Tensor) -> Tensor:
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.gain.copy_(gain)
        return conv.kernel()


def test_parameters_and_multiply_adds_are_the_papers():
    """Table 3 (in millions and 10⁹), and to the number what timm counts; test_cost.py measures what is written down."""
    rows = {row["name"]: (row["params"], row["image_size"][0], round(row["gmacs"], 2)) for row in measured()}
    assert {name: rows[name] for name in SIZES} == {
        "nfnet_f0": (71_489_284, 256, 12.38),
        "nfnet_f1": (132_634_256, 320, 35.54),
        "nfnet_f2": (193_779_228, 352, 62.59),
        "nfnet_f3": (254_924_200, 416, 114.76),
        "nfnet_f4": (316_069_172, 512, 215.24),
        "nfnet_f5": (377_214_144, 544, 289.76),
        "nfnet_f6": (438_359_116, 576, 377.28),
        "nfnet_f4plus": (527_033_076, 512, 367.41),  # the paper: 527 M, 367 G
        "nfnet_f4plus_released": (524_954_484, 512, 333.39),
    }


@pytest.mark.parametrize("gelu", ["erf", "tanh"])
def test_logits_and_files_are_timms(gelu: Any, timm: Any, tmp_path: Path):
    """Both ways, bit for bit; at odd sides too, where padding is uneven and the mean of the skip ends early."""
    peer = shaken(timm.create_model("dm_nfnet_f0", **TIMM))
    for module in peer.modules():
        if hasattr(module, "act_fn"):
            module.act_fn = lambda x, inplace: F.gelu(x, approximate="none" if gelu == "erf" else "tanh")  # noqa: ARG005
    state = peer.state_dict()
    safetensors.torch.save_file(state, tmp_path / "theirs.safetensors")
    model = load(tmp_path / "theirs.safetensors", gelu=gelu)
    assert model.config == dataclasses.replace(create("nfnet_f0", **AS_TIMM).config, gelu=gelu, image_size=(256, 256))
    for side in ((64, 64), (47, 61), (28, 28), (1, 3)):
        images = torch.randn(2, 3, *side)
        with torch.no_grad():
            torch.testing.assert_close(model(images), peer(images), atol=1e-5, rtol=1e-4)
    again = safetensors.torch.load_file(save(model, tmp_path / "ours.safetensors", layout="timm"))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    peer.load_state_dict(again)


def test_our_file_gives_the_same_model(tmp_path: Path):
    model = shaken(small(gelu="erf", dropout=0.1, stochastic_depth=0.2, rescale_branches=True))
    loaded = load(save(model, tmp_path / "m.safetensors"))
    assert loaded.config == model.config
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    larger = load(tmp_path / "m.safetensors", image_size=(45, 36))
    images = torch.randn(2, 3, 45, 36)
    assert torch.equal(larger(images), model(images))
    assert [FAMILY.size_of(config) for config in SIZES.values()] == [*SIZES]


def test_files_are_loaded_strictly(tmp_path: Path):
    """A missing array, one more, one of another shape; and configs that cannot be."""
    model = create("nfnet_f0", **AS_TIMM)
    whole = safetensors.torch.load_file(save(model, tmp_path / "whole.safetensors", layout="timm"))
    gain = "stages.0.0.conv1.gain"
    broken = {
        "missing": {name: array for name, array in whole.items() if name != gain},
        "another": {**whole, "stages.0.0.conv1.scale": torch.ones(3)},
        "misshapen": {**whole, gain: torch.ones(128)},
        "shorter": {**whole, "stages.1.1.skipinit_gain": torch.zeros(1)},
        "gap": {name.replace("stages.1.1", "stages.1.900"): array for name, array in whole.items()},
        "deep": whole | {f"stages.1.{n}.skipinit_gain": torch.zeros(()) for n in range(2, 600)},
        "without stages": {name: array for name, array in whole.items() if "conv2.weight" not in name},
    }
    for name, arrays in broken.items():
        safetensors.torch.save_file(arrays, tmp_path / f"{name}.safetensors")
        with pytest.raises(WeightsError) as caught:
            load(tmp_path / f"{name}.safetensors")
        assert len(str(caught.value).splitlines()) == 1, name
    ours = save(small(), tmp_path / "ours.safetensors")
    with safetensors.safe_open(ours, "pt") as file:
        header = file.metadata()
    for change in (
        {"widths": [32 * 10**9, 64 * 10**9]},
        {"depths": [1, 10**9]},
        {"depths": [0] * 10**5},
        {"inner": [10**15, 10**15]},
        {"group_width": 0},
    ):
        record = json.loads(header["mlpmixer"])
        record["config"] |= change
        arrays = safetensors.torch.load_file(ours)
        safetensors.torch.save_file(arrays, tmp_path / "claims.safetensors", {"mlpmixer": json.dumps(record)})
        with pytest.raises(WeightsError) as caught:
            load(tmp_path / "claims.safetensors")
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 1500
    for options in (
        {"depths": (1, 2, 3)},
        {"depths": (0, 1)},
        {"depths": (), "widths": (), "inner": ()},
        {"widths": (1, 64)},
        {"inner": (16, 50)},
        {"group_width": 0},
        {"dropout": 1.5},
        {"stochastic_depth": -0.1},
    ):
        with pytest.raises(UsageError) as refused:
            small(**options)
        assert len(str(refused.value).splitlines()) == 1, options
    with pytest.raises(UsageError, match="the linen layout is of"):
        save(small(), tmp_path / "m.npz")


@pytest.mark.parametrize("kernel_eps", ["floor", "added"])
def test_kernels_have_mean_zero_and_the_energy_of_their_gain(kernel_eps: Any):
    """And stay as they are when W becomes a·W + c for any a > 0."""
    conv = ScaledStandardizedConv(NFNetConfig(**{**SMALL, "image_size": (32, 32), "kernel_eps": kernel_eps}), 6, 8, 3)
    weight, gain = 30 * torch.randn(8, 6, 3, 3), torch.randn(8)
    kernels = kernels_of(conv, weight, gain)
    torch.testing.assert_close(kernels.mean(dim=(1, 2, 3)), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(kernels.square().sum(dim=(1, 2, 3)), gain.square())
    torch.testing.assert_close(kernels_of(conv, 7 * weight + 3, gain), kernels, atol=1e-5, rtol=1e-4)
    alike = kernels_of(conv, torch.full_like(weight, 0.3), gain)
    torch.testing.assert_close(alike, torch.zeros_like(alike), atol=1e-3, rtol=0)


def test_kernels_follow_the_formula_of_each_code():
    """(W − mean) · gain / √max(N · var, 1e-4); and with timm's constant, √(N · (var + 1e-5))."""
    config = NFNetConfig(**{**SMALL, "image_size": (32, 32)})
    added = ScaledStandardizedConv(dataclasses.replace(config, kernel_eps="added"), 6, 4, 3).double()
    floor = ScaledStandardizedConv(config, 6, 4, 3).double()
    weight, gain = torch.randn(4, 6, 3, 3).double(), torch.randn(4).double()
    weight *= torch.tensor([1, 0.1, 1e-3, 1e-4])[:, None, None, None]  # N · var of the last two is below 1e-4
    variance = weight.var(dim=(1, 2, 3), correction=0, keepdim=True)
    centered = (weight - weight.mean(dim=(1, 2, 3), keepdim=True)) * gain[:, None, None, None]
    torch.testing.assert_close(kernels_of(floor, weight, gain), centered / (54 * variance).clamp(min=1e-4).sqrt())
    torch.testing.assert_close(kernels_of(added, weight, gain), centered / (54 * (variance + 1e-5)).sqrt())


def test_timms_constant_takes_a_percent_of_a_new_kernels_energy():
    """Of one that reads 128 channels, as all 3×3 convolutions of a group width of 128 do."""
    config = NFNetConfig(**{**SMALL, "image_size": (32, 32), "kernel_eps": "added"})
    energy = ScaledStandardizedConv(config, 128, 128, 3).kernel().detach().square().sum(dim=(1, 2, 3))
    assert float(energy.mean()) == pytest.approx(1 - 0.012, abs=0.001)


def test_gamma_makes_gelu_keep_the_variance():
    """By quadrature over N(0, 1): γ is the authors' figure to three digits, for either form."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5 * (x[1] - x[0])
    for form in ("none", "tanh"):
        y = F.gelu(x, approximate=form)
        mean = float((y * density).sum())
        assert float(((y - mean).square() * density).sum()) ** -0.5 == pytest.approx(GAMMA, rel=1e-3)
        if form == "none":
            assert float(((y - mean).square() * density).sum()) ** -0.5 == pytest.approx(1.70093, rel=1e-5)


def test_betas_of_f0():
    """1/√(1 + 0.04 j): j = 0; 1 1; 2 1 2 3 4 5; 6 1 2."""
    with torch.device("meta"):
        model = create("nfnet_f0")
    found = [[round((block.beta**-2 - 1) / 0.04, 9) for block in stage] for stage in model.get_submodule("stages")]  # pyright: ignore
    assert found == [[0], [1, 1], [2, 1, 2, 3, 4, 5], [6, 1, 2]]


def test_a_new_block_is_the_identity_but_the_first_of_its_stage():
    """The skip gain is 0; the logits are those of a network without branches."""
    model = small().eval()
    with torch.no_grad():
        _, seen = model(torch.randn(2, 3, 32, 32), intermediates=True)
        block = model.stages[0][0]  # pyright: ignore[reportIndexIssue] (a list of modules)
        skip = block.skip(seen["stem"], block.activation(seen["stem"]))
    assert torch.equal(seen["stage0/block0"], skip)
    assert torch.equal(seen["stage1/block1"], seen["stage1/block0"])


def test_the_variance_of_the_signal_is_the_expected_one():
    """With g = 1 and random weights, over images of noise: σ² grows by α² with each block."""
    model = create("nfnet_f0", depths=(4,), widths=(256,), inner=(128,), num_classes=0).eval()
    with torch.no_grad():
        for block in model.get_submodule("stages")[0]:  # pyright: ignore
            block.skip_gain.fill_(1)
        _, seen = model(torch.randn(4, 3, 96, 96), intermediates=True)
    variances = [float(seen[f"stage0/block{n}"].var()) for n in range(4)]
    grown = [after - before for before, after in itertools.pairwise(variances)]
    assert float(seen["stem"].var()) == pytest.approx(1, abs=0.2)
    assert variances[0] == pytest.approx(1.04, abs=0.3)
    assert all(0 < more < 0.15 for more in grown), variances


def test_squeeze_and_excitation():
    layer = SqueezeExcite(8)
    nn.init.normal_(layer.fc1.bias)
    nn.init.normal_(layer.fc2.bias)
    x = torch.randn(2, 8, 5, 3)
    hidden = (x.mean(dim=(2, 3)) @ layer.fc1.weight.T + layer.fc1.bias).clamp(min=0)
    gates = 1 / (1 + (-(hidden @ layer.fc2.weight.T + layer.fc2.bias)).exp())
    torch.testing.assert_close(layer(x), 2 * gates[:, :, None, None] * x)


def test_same_padding_puts_the_odd_zero_last():
    assert [same_padding(side, 3, 2) for side in (1, 2, 7, 8, 256)] == [(1, 1), (0, 1), (1, 1), (0, 1), (0, 1)]
    assert [same_padding(side, 3, 1) for side in (1, 8)] == [(1, 1), (1, 1)]
    assert [same_padding(side, 1, 2) for side in (1, 8)] == [(0, 0), (0, 0)]
    conv = SameConv2d(2, 3, 3, 2)
    assert [conv(torch.randn(1, 2, side, side + 1)).shape[2:] for side in (1, 6, 7)] == [(1, 1), (3, 4), (4, 4)]


def test_stochastic_depth_and_dropout():
    """p · i / L in block i, and what stays is not divided by its chance; dropout is before the head, in training."""
    model = small(stochastic_depth=0.4, dropout=0.5)
    drops = [block.drop for stage in model.stages for block in stage]  # pyright: ignore
    assert [drop.p for drop in drops] == pytest.approx([0, 0.4 / 3, 0.8 / 3])
    assert not any(drop.rescale for drop in drops)
    pooled = torch.ones(4, model.num_features, 2, 2)
    assert {*model.train().pool(pooled).unique().tolist()} == {0.0, 2.0}
    assert {*model.eval().pool(pooled).unique().tolist()} == {1.0}


def test_intermediates_have_names():
    model = shaken(small())
    images = torch.randn(2, 3, 32, 40)
    logits, seen = model(images, intermediates=True)
    assert {name: tuple(array.shape) for name, array in seen.items()} == {
        "stem": (2, 16, 8, 10),
        "stage0/block0": (2, 32, 8, 10),
        "stage0": (2, 32, 8, 10),
        "stage1/block0": (2, 64, 4, 5),
        "stage1/block1": (2, 64, 4, 5),
        "stage1": (2, 64, 4, 5),
        "features": (2, 128, 4, 5),
        "pre_logits": (2, 128),
        "logits": (2, 5),
    }
    torch.testing.assert_close(seen["features"].mean(dim=(2, 3)), seen["pre_logits"])
    assert torch.equal(logits, seen["logits"])


@pytest.mark.parametrize("options", [{}, {"kernel_eps": "added", "gelu": "erf"}, {"num_classes": 0}])
def test_the_form_for_inference_has_plain_convolutions(options: dict[str, Any]):
    model = shaken(small(**options))
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    rewritten = rewrites.Rewritten(model, Preprocessing(resize=36, crop=(32, 32)))
    assert not [module for module in rewritten.modules() if isinstance(module, ScaledStandardizedConv)]
    with torch.inference_mode():
        features, _ = rewritten(pixels)
        wanted = model.pool(model.forward_features((pixels.float() / 255 - 0.5) / 0.5))
    torch.testing.assert_close(features, wanted, atol=1e-5, rtol=1e-4)


def test_it_is_listed(capsys: pytest.CaptureFixture[str]):
    main(["models", "nfnet_*"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in mlpmixer.list_models("nfnet_*"))
    assert len(mlpmixer.list_models("nfnet_*")) == 9
    main(["recipes"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in RECIPES if "nfnet" in name)


def test_recipes_say_what_the_paper_says():
    """Its tables 1 and 3, and appendix A."""
    rows = {
        "f0": (192, 5, 0.2, "83.6"),
        "f1": (224, 10, 0.3, "84.7"),
        "f2": (256, 10, 0.4, "85.1"),
        "f3": (320, 15, 0.4, "85.7"),
        "f4": (384, 15, 0.5, "85.9"),
        "f5": (416, 15, 0.5, "86.0"),
        "f6": (448, 15, 0.5, "86.5"),
    }
    activations = {row["name"]: row["activation_mb"] / row["image_size"][0] ** 2 for row in measured()}
    for size, (side, magnitude, dropout, top1) in rows.items():
        recipe = find(f"imagenet_nfnet_{size}")
        optim, augment = recipe.optim, recipe.augment
        assert recipe.model == Model(
            name=f"nfnet_{size}", image_size=(side,), options={"dropout": dropout, "stochastic_depth": 0.25}
        )
        assert (augment.policy, augment.policy_layers, augment.policy_magnitude) == ("rand_augment", 4, magnitude)
        assert (augment.mixup, augment.cutmix, recipe.loss.smoothing) == (0.2, 1.0, 0.1)
        assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.precision) == (360, 4096, "bf16")
        assert optim.lr == 0.1 * 4096 / 256
        assert optim.warmup_steps == round(5 * 1_281_167 / 4096)
        assert (optim.name, optim.momentum, optim.nesterov, optim.weight_decay) == ("sgd", 0.9, True, 2e-5)
        assert (optim.agc, optim.clip, optim.schedule, optim.final_lr_ratio) == (0.01, 0, "cosine", 0)
        assert (optim.ema, optim.ema_warmup) == (0.99999, True)
        assert (optim.sharpness == "sam") == (size == "f6")
        assert recipe.evaluation.resize == side + 32
        tested = SIZES[f"nfnet_{size}"].image_size[0]
        assert recipe.about.expected.startswith(f"{top1} % on ImageNet at {tested} pixels")
        assert 8_000 < activations[f"nfnet_{size}"] * side**2 * recipe.machine.micro_batch <= 16_000
    before, after = find("jft_nfnet_f4plus"), find("finetune_imagenet_nfnet_f4plus")
    assert (before.model.image_size, before.train.batch_size, before.optim.weight_decay) == ((224,), 4096, 1e-6)
    assert (before.augment.policy, before.augment.mixup, before.augment.cutmix, before.optim.ema) == ("none", 0, 0, 0)
    assert (after.train.steps, after.train.batch_size, after.optim.lr) == (15_000, 2048, 0.1)
    assert (after.optim.warmup_steps, after.optim.sharpness, after.optim.rho) == (5_000, "sam", 0.05)
    assert (after.optim.weight_decay, after.optim.ema) == (1e-5, 0.99999)
    assert after.model.options == {"dropout": 0.25, "stochastic_depth": 0.1}
