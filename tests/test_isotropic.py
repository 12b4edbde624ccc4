"""The isotropic network: what each operator costs in it, and that all of the package works with each."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shaken
from messages import Says
from torch import Tensor

import mlpmixer
from mlpmixer.data.preprocess import normalize
from mlpmixer.engines import rewrites
from mlpmixer.engines.engine import Engine
from mlpmixer.errors import BrokenFile, UsageError
from mlpmixer.metadata import Preprocessing
from mlpmixer.models import describe, family
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.isotropic import Isotropic
from mlpmixer.models.measure import counted, measure
from mlpmixer.models.mixer import Mixer
from mlpmixer.models.operators import OPERATORS
from mlpmixer.weights.adapters import change_resolution
from mlpmixer.weights.adapters.isotropic import FOLLOW

HOW = Preprocessing(resize=16, crop=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
close = torch.testing.assert_close


def small(operator: str, **options: Any) -> Classifier:
    """4×4 patches, 2 layers, all of its weights shaken."""
    sizes = {"image_size": 16, "layers": 2, "channels": 32, "token_hidden": 6, "channel_hidden": 16, "num_classes": 5}
    options = {"block": 2, "halo": 1, "window": 3, "scope": 7, "keys": 4, "heads": 4, **sizes, **options}
    return shaken(mlpmixer.create("isotropic_nano", token_operator=operator, **options))


@cache
def cost(operator: str) -> tuple[float, int]:
    """Of one layer: 10⁹ multiply-adds, and parameters."""
    return counted("isotropic_s16", token_operator=operator, layers=1)


class TestCosts:
    """Section by section of the sheet: S/16, C 512, S 196 = 14×14 patches, 8 layers, 1000 classes."""

    def test_parameters(self):
        floor = 17_721_832
        wanted = {
            "mixer": 100_804,
            "attention": 789_888,
            "halo": 789_632,
            "sasa": 790_016,
            "lambda": 115_360,
            "lambda_table": 118_544,
            "involution": 268_064,
            "random": 831_616,
            "factorized_random": 549_376,
            "dense": 798_976,
            "depthwise": 25_600,
            "identity": 0,
            # Not in the literature's tables: 3C² + d·(rows + columns).
            "factorized_dense": 3 * 512**2 + 64 * 28,
        }
        assert {name: cost(name)[1] - cost("identity")[1] for name in OPERATORS} == wanted
        for name in ("identity", "lambda"):
            assert counted("isotropic_s16", token_operator=name)[1] == floor + 8 * wanted[name]

    def test_multiply_adds(self):
        S, C, N, k = 196, 512, 14, 7  # noqa: N806 (the papers' symbols)
        w = 7 + 2 * 3  # of halo
        keys, v, queries, r = 16, 128, 4, 23  # of lambda layers
        of_lambda = S * C * (queries * keys + keys + v) + S * keys * v * (1 + 2 * queries)
        of_random = 2 * S * C**2 + S**2 * C
        wanted = {
            "mixer": 2 * S * 256 * C,
            # Of a table of offsets each query meets those to its keys, N or w of 2N − 1 or 2w − 1 numbers a side.
            "attention": 3 * S * C**2 + 2 * S**2 * C + 2 * S * N * C,
            "halo": 3 * S * C**2 + 2 * S * w**2 * C + 2 * S * w * C,
            "sasa": 3 * S * C**2 + 2 * S * k**2 * C + S * k * C,
            "lambda": of_lambda + S * keys * v * r**2,
            "lambda_table": of_lambda + S * keys * v * S,
            "involution": S * (C**2 // 4 + k**2 * C**2 // 64 + k**2 * C),
            "random": of_random,
            "factorized_random": of_random + 8 * 8 * S**2,
            "dense": 3 * S * C**2 + 2 * S**2 * C,
            "factorized_dense": 3 * S * C**2 + S**2 * C + S * C * 2 * N,
            "depthwise": S * k**2 * C,
            "identity": 0,
        }
        stem, channel_mixing, head = S * 16 * 16 * 3 * C, 8 * S * C**2, C * 1000
        for name, of_layer in wanted.items():
            assert round(cost(name)[0] * 1e9) == stem + of_layer + channel_mixing + head, name

    def test_which_operators_cost_as_much_for_each_patch_of_a_larger_image(self):
        """Multiply-adds of the operators of one layer, for 4 times as many patches."""
        linear = {"mixer", "halo", "sasa", "lambda", "involution", "depthwise", "identity"}
        for name in OPERATORS:
            larger, floor = (
                counted("isotropic_s16", token_operator=operator, image_size=448, layers=1)[0]
                for operator in (name, "identity")
            )
            of_224, of_448 = cost(name)[0] - cost("identity")[0], larger - floor
            assert (of_448 == pytest.approx(4 * of_224)) == (name in linear), name

    def test_measured_like_any_model(self):
        one = measure("isotropic_pico", token_operator="involution")
        assert (one.tokens, one.params_without_head) == (49, one.params - 65_000)


class TestModel:
    def test_with_the_mixers_operator_it_is_the_mixer(self):
        model = shaken(mlpmixer.create("mixer_nano", num_classes=5))
        assert isinstance(model, Mixer)
        same = mlpmixer.create("isotropic_nano", num_classes=5).eval()
        same.load_state_dict(model.state_dict())
        images = torch.randn(3, 3, 32, 32)
        (logits, found), (wanted, there) = same(images, intermediates=True), model(images, intermediates=True)
        close(logits, wanted, rtol=1e-5, atol=1e-5)
        hidden = {f"block{layer}/token_hidden" for layer in range(8)}
        assert list(found) == [name for name in there if name not in hidden]
        for name in found:
            close(found[name], there[name], rtol=1e-4, atol=1e-5)

    def test_first_weights_are_the_mixers(self):
        """The same draws in the same order, so a comparison begins with the same stem and channel mixing."""
        torch.manual_seed(3)
        model = mlpmixer.create("mixer_pico")
        torch.manual_seed(3)
        same = mlpmixer.create("isotropic_pico").state_dict()
        assert all(torch.equal(same[name], array) for name, array in model.state_dict().items())

    def test_what_there_is_inside(self):
        for name in OPERATORS:
            _, found = small(name)(torch.randn(2, 3, 16, 16), intermediates=True)
            parts = [
                part for i in (0, 1) for part in (f"block{i}/token_mixing", f"block{i}/channel_mixing", f"block{i}")
            ]
            assert list(found) == ["stem", *parts, "tokens", "pre_logits", "logits"]
            assert found["block1/token_mixing"].shape == found["tokens"].shape == (2, 16, 32)
            torch.testing.assert_close(found["tokens"].mean(1), found["pre_logits"])

    def test_dropout_and_stochastic_depth_leave_branches_out(self):
        options = {"stochastic_depth": 1.0, "dropout": 0.5}
        model = small("depthwise", **options).train()
        _, found = model(torch.randn(2, 3, 16, 16), intermediates=True)
        assert torch.equal(found["block1"], found["block0"])
        assert not torch.equal(found["block0"], found["stem"])  # the first layer is never skipped
        close(small("depthwise", **options).eval()(torch.zeros(1, 3, 16, 16)).shape, torch.Size([1, 5]))

    def test_what_cannot_be(self, says: Says):
        wrong: list[dict[str, Any]] = [
            {"token_operator": "convolution"},
            {"halo": -1},
            {"token_hidden": 0},
            {"stochastic_depth": 2.0},
        ]
        for options in wrong:
            with says(UsageError):
                describe("isotropic_pico", **options)


class TestFiles:
    def test_each_comes_back_bit_for_bit(self, tmp_path: Path):
        for name in OPERATORS:
            model = small(name, learned=False)
            loaded = mlpmixer.load(mlpmixer.save(model, tmp_path / f"{name}.safetensors"))
            assert isinstance(loaded, Isotropic)
            assert loaded.config == model.config
            before, after = model.state_dict(), loaded.state_dict()
            assert before.keys() == after.keys(), name
            assert all(torch.equal(array, after[key]) for key, array in before.items()), name
            images = torch.randn(2, 3, 16, 16)
            assert torch.equal(loaded(images), model(images)), name

    def test_a_file_of_another_operator(self, tmp_path: Path, says: Says):
        file = mlpmixer.save(small("attention"), tmp_path / "one.safetensors")
        with says(mlpmixer.errors.KeyMismatch):
            mlpmixer.load(file, token_operator="lambda_table")

    def test_no_layout_of_others_has_it(self, tmp_path: Path, says: Says):
        with says(UsageError):
            mlpmixer.save(small("mixer"), tmp_path / "one.pth")

    @pytest.mark.parametrize(
        "claims",
        [
            {"token_operator": "nothing"},
            {"layers": 10**9},
            {"heads": 0},
            {"rank": 10**30},
            {"image_size": [10**9, 10**9]},
            {"keys": "many"},
            {"operator": "mixer"},
        ],
    )
    def test_a_header_that_lies(self, claims: dict[str, Any], tmp_path: Path):
        """One line, and no memory for what is claimed."""
        import safetensors.torch

        file = mlpmixer.save(small("factorized_random"), tmp_path / "one.safetensors")
        with safetensors.safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        about = json.loads(metadata["mlpmixer"])
        about["config"] |= claims
        arrays = safetensors.torch.load_file(file)
        safetensors.torch.save_file(arrays, file, metadata | {"mlpmixer": json.dumps(about)})
        with pytest.raises(BrokenFile) as caught:
            mlpmixer.load(file)
        assert "\n" not in str(caught.value)


class TestResolution:
    def test_each_runs_at_another_size_or_says_that_it_cannot(self, tmp_path: Path, says: Says):
        for name in OPERATORS:
            model = small(name)
            file = mlpmixer.save(model, tmp_path / f"{name}.safetensors")
            if name not in ("mixer", *FOLLOW):
                with says(UsageError):
                    mlpmixer.load(file, image_size=32)
                continue
            larger = mlpmixer.load(file, image_size=(24, 32))
            assert larger(torch.randn(2, 3, 24, 32)).shape == (2, 5), name
            assert torch.equal(
                mlpmixer.load(file, image_size=16)(torch.ones(1, 3, 16, 16)), model(torch.ones(1, 3, 16, 16))
            )

    def test_as_a_mixers(self):
        """Both schemes."""
        options: dict[str, Any] = {
            "image_size": 16,
            "layers": 2,
            "channels": 8,
            "token_hidden": 6,
            "channel_hidden": 16,
        }
        mixer = shaken(mlpmixer.create("mixer_nano", **options))
        ours = mlpmixer.create("isotropic_nano", **options)
        ours.load_state_dict(mixer.state_dict())
        for scheme in ("resample", "tiles"):
            wanted, of_mixer = change_resolution(family("mixer"), mixer.state_dict(), mixer.config, (32, 32), scheme)
            found, config = change_resolution(family("isotropic"), ours.state_dict(), ours.config, (32, 32), scheme)
            assert all(torch.equal(found[name], array) for name, array in wanted.items())
            assert config.token_hidden == of_mixer.token_hidden  # pyright: ignore[reportAttributeAccessIssue]

    def test_tables_that_are_the_same_everywhere_stay_so(self):
        """For a constant image, then, each token is what it was: sums over more tokens are scaled."""
        for name in ("attention", "lambda_table"):
            model = small(name)
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    if "positions" in key:
                        parameter.copy_(parameter[:1, :1].clone() if name == "lambda_table" else parameter[:1].clone())
            larger = at(model, (32, 48))
            _, small_found = model(torch.ones(1, 3, 16, 16), intermediates=True)
            _, found = larger(torch.ones(1, 3, 32, 48), intermediates=True)
            close(found["tokens"], small_found["tokens"][:, :1].expand_as(found["tokens"]), rtol=1e-4, atol=1e-4)

    def test_tiles_are_of_token_mixing_by_an_mlp(self, says: Says):
        model = small("attention")
        with says(UsageError):
            change_resolution(family("isotropic"), model.state_dict(), model.config, (32, 32), "tiles")


def at(model: Classifier, size: tuple[int, int]) -> Classifier:
    state, config = change_resolution(family("isotropic"), model.state_dict(), model.config, size, "resample")
    changed = family("isotropic").build(config)
    changed.load_state_dict(state)
    return changed.eval()


def pixels(images: int = 3) -> Tensor:
    return torch.randint(0, 256, (images, 3, 16, 16), dtype=torch.uint8)


def distance(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def test_a_rewritten_network_is_the_same_function():
    images = pixels()
    for name in OPERATORS:
        model = small(name)
        with torch.inference_mode():
            wanted = model(normalize(images, HOW))
        found = rewrites.Rewritten(model, HOW)(images)[1]
        assert distance(found, wanted) < 1e-4, name
    assert "BatchNorm" not in repr(rewrites.Rewritten(small("involution"), HOW))


@pytest.mark.parametrize(
    ("engine", "operators"),
    [
        ("eager", (*OPERATORS,)),
        ("onnx", ("sasa", "lambda")),
        pytest.param("onnx", (*OPERATORS,), marks=pytest.mark.slow),
        pytest.param("openvino", (*OPERATORS,), marks=pytest.mark.slow),
    ],
)
def test_engines_answer_as_the_model(engine: str, operators: tuple[str, ...]):
    if engine in ("onnx", "openvino"):
        pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    images, cpu = pixels(), torch.device("cpu")
    for name in operators:
        model = small(name)
        with torch.inference_mode():
            wanted = model(normalize(images, HOW))
        for precision, within in (("fp32", 1e-4), ("bf16", 0.05)):
            if engine == "onnx" and precision == "bf16":
                continue
            found = Engine(model, HOW, engine, precision, batch=3, device=cpu)(images).logits
            assert distance(found, wanted) < within, (name, precision)
