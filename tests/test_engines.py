"""Engines: the same answers as the model that is written to be read, in all numbers that they know."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import shaken
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Says
from torch import Tensor

import mlpmixer
from mlpmixer import data, packages
from mlpmixer.cli import main
from mlpmixer.data.preprocess import normalize
from mlpmixer.engines import fastest, kernels, rewrites
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.table import ENGINES, EngineSpec, Run, Setup
from mlpmixer.errors import UsageError
from mlpmixer.kernels.forward import as_numbers
from mlpmixer.kernels.library import library
from mlpmixer.metadata import Kind, LayerPrecision, Preprocessing, Range
from mlpmixer.models.bit import BiT
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import MeanOfNormed, Mixer, MixerBlock
from mlpmixer.models.operators import OPERATORS

missing = library("forward")
needs_kernels = pytest.mark.skipif(not isinstance(missing, ctypes.CDLL), reason=f"no kernels here: {missing}")
CPU = torch.device("cpu")
HOW = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def mixer(name: str = "mixer_nano", **options: Any) -> Mixer:
    model = shaken(mlpmixer.create(name, **{"num_classes": 10, **options}))
    assert isinstance(model, Mixer)
    return model


def pixels_for(model: Classifier, images: int) -> Tensor:
    return torch.randint(0, 256, (images, 3, *model.config.image_size), dtype=torch.uint8)


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def answers(model: Classifier, pixels: Tensor, how: Preprocessing = HOW) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        logits, seen = model(normalize(pixels, how), intermediates=True)
    return seen["pre_logits"], logits


# Rewrites


# Of the other families, one each, and a ResNet with each of the other operators.
RESNET: dict[str, Any] = {"units": (1, 1), "channels": 32, "image_size": 64}
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("vit_ti32", {"layers": 2, "pool": "token"}),
    ("bit_r50x1", {"units": (1, 1), "image_size": 64}),
    ("efficientnet_b0", {"width": 0.25, "depth": 0.5, "image_size": 64}),
    ("nfnet_f0", {"depths": (1, 1), "widths": (32, 64), "inner": (16, 32), "image_size": 33}),
    ("halonet_h1", {"units": (1, 1), "image_size": 36, "conv_stages": 1}),
    ("resnet50", RESNET),
    ("depthwise_resnet50", RESNET),
    ("sasa_resnet50", {**RESNET, "image_size": 32}),
    ("botnet50", {**RESNET, "operator_units": (0, 1)}),
    ("lambda_resnet50", {**RESNET, "window": 7}),
    ("resnet50", {**RESNET, "operator": "lambda_table", "image_size": 32}),
    ("rednet50", RESNET),
]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixer_nano", {}),
        ("mixer_nano", {"image_size": (30, 42)}),  # is padded, so the stem cannot take bytes
        ("mixer_nano", {"groups": 2, "group_projection": True}),
        ("mixer_nano", {"untied": True, "layers": 2}),
        ("mixer_nano", {"pyramid": (2,)}),
        ("mixer_nano", {"num_classes": 0}),
        ("vit_ti32", {"layers": 2, "pool": "mean", "representation": 32}),
        *OTHERS,
    ],
)
@pytest.mark.parametrize("in_rows", [False, True])
def test_a_rewritten_model_is_the_same_function(name: str, options: dict[str, Any], in_rows: bool):
    model = shaken(mlpmixer.create(name, **{"num_classes": 10, **options}))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pixels = pixels_for(model, 3)
    features, logits = answers(model, pixels)
    found = rewrites.Rewritten(model, HOW, in_rows=in_rows)(pixels)
    assert distance(found[0], features) < 1e-4
    assert found[1].shape == (3, model.config.num_classes)
    if model.config.num_classes:
        assert distance(found[1], logits) < 1e-4
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())  # stayed as it was


def test_what_is_folded_is_gone():
    rewritten = rewrites.Rewritten(mixer(), HOW)
    norms = [module for module in rewritten.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [norm.weight is None for norm in norms] == [False, True] * 8 + [False]
    assert isinstance(rewritten.normalize, torch.nn.Identity)
    convolutions = rewrites.Rewritten(shaken(mlpmixer.create("bit_r50x1", units=(1,), num_classes=3)), HOW)
    assert isinstance(cast(BiT, convolutions.body).stem, torch.nn.Conv2d)
    assert type(cast(BiT, convolutions.body).stem) is torch.nn.Conv2d


def test_a_rounded_stem_keeps_the_mean_of_its_images():
    """Bytes are far from zero: what rounding does to their mean must not reach the table of tokens."""
    model = mixer()
    gray = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    body = rewrites.Rewritten(model, Preprocessing(), torch.bfloat16).body
    stem = cast(MeanOfNormed, body).stem.float()
    wanted = model.stem(normalize(gray, Preprocessing()))
    bias_only = model.stem.patches.bias.abs().max().item()  # pyright: ignore[reportOptionalMemberAccess]
    assert (stem(gray.float()) - wanted).abs().max() < 0.02 + 0.01 * bias_only


# Our kernels


@needs_kernels
@pytest.mark.parametrize(
    ("name", "images", "options"),
    [
        ("mixer_pico", 3, {"image_size": 28}),  # 49 tokens: no whole words of bfloat16
        ("mixer_nano", 1, {"gelu": "erf"}),  # 96 channels: one panel and a half
        ("mixer_nano", 2, {"image_size": (20, 12), "channels": 16, "token_hidden": 16, "channel_hidden": 48}),
        ("mixer_nano", 9, {"num_classes": 0}),
        ("mixer_nano", 5, {"num_classes": 77, "in_channels": 3}),
        ("mixer_s32", 1, {"layers": 1}),  # few rows: threads share the columns
        ("mixer_s32", 9, {"layers": 2}),
        ("mixer_b16", 3, {"layers": 1}),  # hidden tables in several pieces
    ],
)
def test_kernels_answer_as_the_model(name: str, images: int, options: dict[str, Any]):
    model = mixer(name, **options)
    pixels = pixels_for(model, images)
    features, logits = answers(model, pixels)
    for precision, within in (("fp32", 1e-4), ("bf16", 0.02)):
        found = Engine(model, HOW, "kernels", precision, batch=images, device=CPU)(pixels)
        assert distance(found.features, features) < within
        assert found.logits.shape == logits.shape if model.config.num_classes else found.logits.shape == (images, 0)
        if model.config.num_classes:
            assert distance(found.logits, logits) < within


@needs_kernels
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    patch=st.integers(1, 5),
    channels=st.integers(1, 9),
    token_hidden=st.integers(1, 5),
    channel_hidden=st.integers(1, 12),
    classes=st.integers(1, 70),
    images=st.integers(1, 5),
    threads=st.integers(1, 3),
)
@settings(max_examples=40)
def test_kernels_take_any_shape(
    rows: int,
    columns: int,
    patch: int,
    channels: int,
    token_hidden: int,
    channel_hidden: int,
    classes: int,
    images: int,
    threads: int,
):
    options: dict[str, Any] = {
        "channels": 16 * channels,
        "token_hidden": 16 * token_hidden,
        "channel_hidden": 16 * channel_hidden,
    }
    size = (rows * patch, columns * patch)
    model = mixer(layers=2, patch_size=patch, image_size=size, num_classes=classes, **options)
    pixels = pixels_for(model, images)
    had = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = Engine(model, HOW, "kernels", "fp32", batch=images, device=CPU)(pixels)
        small = Engine(model, HOW, "kernels", "bf16", batch=images, device=CPU)(pixels)
    finally:
        torch.set_num_threads(had)
    logits = answers(model, pixels)[1]
    torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=2e-4 * logits.abs().max().item())
    torch.testing.assert_close(small.logits, logits, rtol=0.1, atol=0.1 * logits.abs().max().item())


@needs_kernels
@pytest.mark.parametrize("gelu", ["tanh", "erf"])
@pytest.mark.parametrize("furthest", [0.01, 1.0, 6.0, 40.0])
def test_the_gelu_is_right_near_zero_and_far_away(gelu: str, furthest: float):
    """A Mixer that does nothing but apply the GELU to a row of numbers."""
    model = mixer(gelu=gelu, layers=1, channels=32, token_hidden=16, channel_hidden=32)
    values = torch.linspace(-furthest, furthest, 32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float("norm" in name and name.endswith("weight")))
        last = cast(MixerBlock, model.blocks[0]).channel_mixing
        last.fc1.bias.copy_(values)
        last.fc2.weight.copy_(torch.eye(32))
    pixels = pixels_for(model, 1)
    wanted = F.layer_norm(F.gelu(values, approximate="none" if gelu == "erf" else "tanh"), (32,), eps=1e-6)
    tolerances: dict[Kind, float] = {"fp32": 1e-5, "bf16": 5e-3}
    for kind, within in tolerances.items():
        features, _ = kernels.forward(model, HOW, kind)(pixels)
        torch.testing.assert_close(features[0], wanted, rtol=within, atol=within)


@needs_kernels
def test_bytes_are_computed_as_written_down():
    """int8 against the same arithmetic in float64: rounded weights, rounded activations, exact sums."""
    model = mixer("mixer_nano", layers=2, image_size=(20, 28))  # 35 tokens: no whole words of bytes
    pixels = pixels_for(model, 4)
    layer_precisions = [
        LayerPrecision("int8", Range(-3.5, 4.0), Range(-0.2, 3.0)),
        LayerPrecision("int8", Range(-4.0, 4.0), Range(-0.17, 2.5)),
    ] * 2
    features, _ = kernels.forward(model, HOW, "int8", layer_precisions)(pixels)
    off = distance(features, answers(model, pixels)[0])  # what bytes cost
    assert (
        distance(features, _in_bytes(model, pixels, layer_precisions)) < off / 5
    )  # (values between two bytes go either way)
    mixed = [layer_precisions[0], LayerPrecision("bf16"), LayerPrecision("fp32"), layer_precisions[3]]
    features, _ = kernels.forward(model, HOW, "bf16", mixed)(pixels)
    assert distance(features, _in_bytes(model, pixels, mixed)) < off / 5


@torch.no_grad()
def _in_bytes(model: Mixer, pixels: Tensor, layer_precisions: list[LayerPrecision]) -> Tensor:
    """Features of a model whose int8 halves are rounded as they should be; other halves are exact, and so is the stem
    unless all is in bytes."""
    parts = kernels.parts(model, HOW)

    def rounded(table: Tensor, layer: LayerPrecision, which: Range) -> Tensor:
        if layer.kind != "int8":
            return table
        return ((table / which.scale + which.zero).round().clamp(0, 255) - which.zero) * which.scale

    def weight(w: Tensor, layer: LayerPrecision) -> Tensor:
        values, scale = as_numbers(w, "int8" if layer.kind == "int8" else "fp32")
        return values.double() * scale.double()[:, None]

    stem, scale = as_numbers(parts.stem, "int8" if all(layer.kind == "int8" for layer in layer_precisions) else "fp32")
    patches = F.unfold(pixels.double(), parts.patch, stride=parts.patch).transpose(1, 2)
    x = (patches - parts.shift) @ (stem.double() * scale[:, None]).T + parts.stem_bias
    for i, (half, layer) in enumerate(zip(parts.halves, layer_precisions, strict=True)):
        normed = F.layer_norm(x, x.shape[2:], half.gamma.double(), half.beta.double(), eps=1e-6)
        normed = rounded(normed, layer, layer.normed)
        normed = normed.transpose(1, 2) if i % 2 == 0 else normed
        active = F.gelu(normed @ weight(half.w1, layer).T + half.b1, approximate="tanh")
        y = rounded(active, layer, layer.active) @ weight(half.w2, layer).T + half.b2
        x = x + (y.transpose(1, 2) if i % 2 == 0 else y)
    return F.layer_norm(x, x.shape[2:], parts.gamma.double(), parts.beta.double(), eps=1e-6).mean(dim=1).float()


@needs_kernels
def test_an_image_gets_the_same_numbers_whatever_is_beside_it():
    """Few rows and many are computed in different ways, and add up in the same order, even hidden tables in pieces."""
    sizes = {"layers": 1, "image_size": 56, "patch_size": 8, "channels": 32, "token_hidden": 16, "channel_hidden": 2064}
    model = mixer("mixer_nano", **sizes)
    pixels = pixels_for(model, 12)
    for precision in ("fp32", "bf16"):
        run = Engine(model, HOW, "kernels", precision, batch=12, device=CPU)
        alone = [run(image[None]) for image in pixels]
        for count in (2, 3, 5, 12):
            for start in range(0, 12, count):
                found = run(pixels[start : start + count])
                for one, features, logits in zip(alone[start:], found.features, found.logits, strict=False):
                    assert torch.equal(one.features[0], features)
                    assert torch.equal(one.logits[0], logits)


@needs_kernels
def test_equal_input_gives_equal_output_from_any_thread():
    model = mixer()
    ours = Engine(model, HOW, "kernels", "bf16", batch=8, device=CPU)
    pixels = pixels_for(model, 20)
    first = ours(pixels)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: ours(pixels), range(12)):
            assert torch.equal(found.logits, first.logits)
            assert torch.equal(found.features, first.features)


# Engines on real images


@pytest.fixture(scope="module")
def trained() -> Mixer:
    model = mlpmixer.load("mixer_cifar10", dtype=torch.float32)
    assert isinstance(model, Mixer)
    return model


@pytest.fixture(scope="module")
def clothes() -> Tensor:
    split = data.open("fashion_mnist_small")["test"]
    images = torch.stack([torch.from_numpy(np.array(split.read(i))) for i in range(200)])
    return F.pad(images[:, None].expand(-1, 3, -1, -1), (2, 2, 2, 2)).contiguous()


@pytest.fixture(scope="module")
def wanted(trained: Mixer, clothes: Tensor) -> Tensor:
    return answers(trained, clothes, trained.metadata.preprocessing)[1]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("eager", "fp32"),
        ("eager", "bf16"),
        ("kernels", "fp32"),
        ("kernels", "bf16"),
        ("openvino", "fp32"),
        ("onnx", "fp32"),
    ],
)
def test_engines_agree_on_real_images(trained: Mixer, clothes: Tensor, wanted: Tensor, name: str, precision: str):
    if name == "kernels" and not isinstance(missing, ctypes.CDLL):
        pytest.skip(f"no kernels here: {missing}")
    if packages.missing(*ENGINES[name].packages):
        pytest.skip(f"{name} is not installed")
    how = trained.metadata.preprocessing
    found = Engine(trained, how, name, precision, batch=128, device=CPU)(clothes).logits  # (the last batch is not full)
    assert (found - wanted).abs().max() < (1e-3 if precision == "fp32" else 0.15)
    first, second = wanted.topk(2).values.T
    clear = first - second > 0.1
    assert clear.double().mean() > 0.9
    assert torch.equal(found[clear].argmax(dim=1), wanted[clear].argmax(dim=1))


@pytest.mark.slow
@pytest.mark.parametrize("engine_name", ["onnx", "openvino"])
def test_other_families_in_engines_that_convert(engine_name: str):
    """Token operators in one network: tests/test_isotropic.py."""
    if packages.missing(*ENGINES[engine_name].packages):
        pytest.skip(f"{engine_name} is not installed")
    failures = []
    for name, options in OTHERS:
        model = shaken(mlpmixer.create(name, num_classes=10, **options))
        pixels = pixels_for(model, 3)
        found = Engine(model, HOW, engine_name, "fp32", batch=3, device=CPU)(pixels)
        off = distance(found.logits, answers(model, pixels)[1])
        if not off < 1e-4:
            failures.append((name, options, off))
    assert not failures


COMPILED = """
import ast, sys, torch, mlpmixer
from mlpmixer.data.preprocess import normalize
from mlpmixer.engines.engine import Engine
from mlpmixer.metadata import Preprocessing
how, failures = Preprocessing(), []
for name, options in ast.literal_eval(sys.argv[1]):
    torch._dynamo.reset()
    model = mlpmixer.create(name, num_classes=4, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    pixels = torch.randint(0, 256, (5, 3, *model.config.image_size), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = model(normalize(pixels, how))
    found = Engine(model, how, "compiled", "fp32", batch=4, device=torch.device("cpu"))(pixels)
    off = float((found.logits - wanted).norm() / wanted.norm())
    if not off < 1e-4:
        failures.append((name, options, off))
assert not failures, failures
"""


def compiled(cases: list[tuple[str, dict[str, Any]]]) -> None:
    """In a process of its own, where types are not checked: the checks do not compile."""
    quick = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_VEC_ISA_OK": "1"}  # no pool, no trial of the compiler
    subprocess.run([sys.executable, "-c", COMPILED, repr(cases)], env={**os.environ, **quick}, check=True)


@pytest.mark.parametrize(
    "others", [pytest.param(OTHERS[:1], marks=pytest.mark.slow), pytest.param(OTHERS[1:], marks=pytest.mark.thorough)]
)
def test_a_compiled_model_is_the_same_function(others: list[tuple[str, dict[str, Any]]]):
    compiled([("mixer_pico", {"layers": 1, "image_size": 16}), *others])


@pytest.mark.thorough
def test_a_compiled_token_operator_is_the_same_function():
    sizes = {"layers": 1, "image_size": 16, "channels": 32, "channel_hidden": 64, "scope": 7}
    compiled([("isotropic_pico", {"token_operator": operator, **sizes}) for operator in OPERATORS])


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_nobody_is_told_what_is_converted():
    code = (
        "import mlpmixer.engines.openvino, sys, openvino, openvino.tools.ovc.telemetry_utils as used\n"
        "assert 'telemetry_stub' in used.tm.__name__, used.tm"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["mixer_pico", "vit_ti32"])
def test_weights_of_two_bytes_run_in_any_engine(name: str):
    model = shaken(mlpmixer.create(name, layers=1, num_classes=4)).bfloat16()
    pixels = pixels_for(model, 2)
    wanted = answers(copy.deepcopy(model).float(), pixels)[1]
    for engine_name in ("eager", *(["onnx"] if find_spec("onnxruntime") else [])):
        found = Engine(model, HOW, engine_name, "fp32", batch=2, device=CPU)(pixels)
        assert distance(found.logits, wanted) < 1e-3


# The table


class Clock:
    """Seconds that pass only as fakes take them, and one for each look at it."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@dataclasses.dataclass
class Fake:
    """An engine that takes so many seconds for a batch. `off`: what is wrong with its features."""

    clock: Clock
    seconds: float
    off: float = 0.0
    built: int = 0

    def why_not(self, setup: Setup) -> str | None:
        return "it is for real models only" if setup.model.config.num_classes == 77 else None

    def build(self, setup: Setup) -> Run:
        self.built += 1
        network = rewrites.Rewritten(setup.model, setup.how)

        def run(pixels: Tensor) -> tuple[Tensor, Tensor]:
            self.clock.now += self.seconds
            features, logits = network(pixels)
            return features + self.off, logits

        return run


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Fake]:
    """The only engines that auto may choose: a slow, a swift, and a swifter one whose answers are wrong."""
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path))
    clock = Clock()
    made = {"slow": Fake(clock, 3), "swift": Fake(clock, 1), "faulty": Fake(clock, 0, off=1)}
    for name in [*ENGINES]:
        monkeypatch.setitem(ENGINES, name, dataclasses.replace(ENGINES[name], auto=False))
    for name, fake in made.items():
        monkeypatch.setitem(sys.modules, f"fake_{name}", fake)
        monkeypatch.setitem(ENGINES, name, EngineSpec(f"fake_{name}", {"cpu": ("fp32", "int8")}))
    return made


def chosen(fakes: dict[str, Fake], **asked: Any) -> fastest.Choice:
    return fastest.start(
        mixer("mixer_pico", layers=1, image_size=8), HOW, clock=fakes["slow"].clock, **{"precision": "fp32", **asked}
    )[1]


def test_the_fastest_is_measured_once(fakes: dict[str, Fake]):
    assert str(chosen(fakes, measure=False)) == "slow, fp32 (usually the fastest on a cpu; not measured)"
    assert [fake.built for fake in fakes.values()] == [1, 0, 0]
    assert str(chosen(fakes)) == "swift, fp32 (16 images/s here; slow fp32 8)"  # 32 images in 2 seconds and in 4
    assert [fake.built for fake in fakes.values()] == [2, 2, 1]
    assert str(chosen(fakes, measure=False)) == "swift, fp32 (16 images/s here; slow fp32 8)"
    assert [fake.built for fake in fakes.values()] == [2, 3, 1]
    assert str(chosen(fakes, batch=8)) == "swift, fp32 (4 images/s here; slow fp32 2)"


def test_a_damaged_memory_is_measured_again(fakes: dict[str, Fake], tmp_path: Path):
    found = ["[[", "", "5", "null", "{}", "[]", "[[1, 2]]", "[" * 100_000, '[["slow", "fp32", ' + "1" * 5000 + "]]"]
    found += ['[["evil", "fp99", 9.0]]', '[["slow", "fp99", 9.0]]', '[["slow", "fp32", "9"]]', '[[[], "fp32", 9.0]]']
    rates = ("1e999", "NaN", "-1.0", "0.0", "true")
    found += [f'[["slow", "fp32", {rate}], ["swift", "fp32", 1.0]]' for rate in rates]
    found += [" " * 100_000 + '[["slow", "fp32", 9.0]]']
    chosen(fakes)
    [memory] = (tmp_path / "engines").iterdir()
    whole = memory.read_text()
    failures = []
    for text in found:
        memory.write_text(text)
        if chosen(fakes).engine != "swift" or memory.read_text() != whole:
            failures.append(text[:80])
    assert not failures


def test_rates_that_others_could_have_written_are_measured_again(fakes: dict[str, Fake], tmp_path: Path):
    chosen(fakes)
    [memory] = (tmp_path / "engines").iterdir()
    for place in (memory, memory.parent):
        chosen(fakes)
        before = fakes["faulty"].built
        place.chmod(0o777)
        chosen(fakes)
        assert fakes["faulty"].built == before + 1
        place.chmod(0o755)


@pytest.mark.usefixtures("fakes")
def test_what_cannot_be_is_said(says: Says):
    few, many = mixer("mixer_pico", layers=1), mixer("mixer_pico", layers=1, num_classes=77)
    cases: list[tuple[Classifier, dict[str, Any]]] = [
        (few, {"engine": "onx"}),
        (few, {"precision": "fp4"}),
        (few, {"precision": "fp8"}),
        (many, {}),
        (many, {"engine": "swift", "precision": "auto"}),
        (few, {"engine": "onnx", "precision": "bf16"}),
        (few, {"engine": "triton", "precision": "auto"}),
    ]
    for model, asked in cases:
        with says(UsageError) as error:
            fastest.start(model, HOW, **{"precision": "fp32", **asked})
        assert "auto:" not in str(error.value)


@pytest.mark.usefixtures("fakes")
def test_why_kernels_cannot_is_said():
    vit = shaken(mlpmixer.create("vit_ti32", layers=1, num_classes=2))
    reason = "not quantized" if isinstance(missing, ctypes.CDLL) else str(missing)
    with pytest.raises(UsageError) as error:
        fastest.start(mixer("mixer_pico", layers=1), HOW, engine="kernels", precision="int8")
    assert reason in str(error.value)
    with pytest.raises(UsageError) as error:
        fastest.start(vit, HOW, engine="kernels", precision="auto")
    assert "the engine kernels cannot run this model here: they run plain" in str(error.value)


def test_kernels_say_what_they_do_not_know():
    cases = [
        ({"untied": True}, "plain"),
        ({"channels": 40}, "multiples of 16"),
        ({"image_size": 30}, "multiples of the"),
    ]
    for options, says in cases:
        assert says in (kernels.unsupported(mixer("mixer_pico", layers=1, **options)) or "")
    assert "Mixers only" in (kernels.unsupported(mlpmixer.create("vit_ti32", layers=1)) or "")


def test_an_engine_is_a_file_and_a_row(
    monkeypatch: pytest.MonkeyPatch, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], says: Says
):
    """docs/extending/engine.md in code; the file is tests/toy_engine.py."""
    row = EngineSpec("toy_engine", {"cpu": ("fp32",)})
    monkeypatch.setitem(ENGINES, "toy", row)
    wanted = mlpmixer.Predictor("mixer_clothing", engine="eager", precision="fp32")(photos)
    toy = mlpmixer.Predictor("mixer_clothing", engine="toy")
    assert str(toy.choice) == "toy, fp32 (the only one here)"
    for found, other in zip(toy(photos), wanted, strict=True):
        assert found.label == other.label
        assert found.score == pytest.approx(other.score, abs=1e-4)

    for photo in photos:
        (tmp_path / "data" / photo.stem).mkdir(parents=True)
        (tmp_path / "data" / photo.stem / photo.name).write_bytes(photo.read_bytes())
    options: dict[str, Any] = {"train_images": 0, "workers": 0, "precision": "fp32"}
    cards = [
        mlpmixer.evaluate("mixer_clothing", tmp_path / "data", engine=name, **options) for name in ("toy", "eager")
    ]
    assert cards[0].engine == "toy, fp32"
    assert cards[0]["top1"] == cards[1]["top1"]

    main(["predict", str(photos[0]), "--weights", "mixer_clothing", "--engine", "toy", "--json"])
    assert json.loads(capsys.readouterr().out)["label"] == wanted[0].label
    command = ["evaluate", "mixer_clothing", "--data", str(tmp_path / "data"), "--train-images", "0", "--workers", "0"]
    main([*command, "--engine", "toy", "--json"])
    assert json.loads(capsys.readouterr().out)["engine"] == "toy, fp32"
    for name in ("predict", "evaluate"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert ",toy}" in capsys.readouterr().out

    with says(UsageError):
        mlpmixer.Predictor(mlpmixer.create("mixer_s32", num_classes=2, layers=1, image_size=512), engine="toy")
    monkeypatch.setitem(ENGINES, "toy", dataclasses.replace(row, packages=("no_such_package",)))
    with says(UsageError):
        mlpmixer.Predictor("mixer_clothing", engine="toy")
