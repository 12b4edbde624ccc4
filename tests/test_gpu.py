"""GPU kernels: their function through Triton's interpreter, their machine code through its compiler, both without a
GPU; and the engine where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shaken
from messages import Says

import mlpmixer
from mlpmixer.data.preprocess import normalize
from mlpmixer.engines import fastest, triton
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.table import Setup, why_not
from mlpmixer.errors import UsageError
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer

ROOT = Path(__file__).parent.parent
CUDA = torch.device("cuda")
HOW = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
SHARED = 227 * 1024  # bytes that a program may have on a Hopper GPU

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_hopper = pytest.mark.skipif(
    not hopper or find_spec("triton") is None, reason="there is no Hopper GPU here, or no triton"
)


def mixer(name: str = "mixer_nano", **options: Any) -> Mixer:
    model = shaken(mlpmixer.create(name, **{"num_classes": 10, **options}))
    assert isinstance(model, Mixer)
    return model


def interpreted(place: Path, *arguments: str) -> dict[str, float]:
    """In a process of its own: Triton reads the variable once, when it is imported."""
    variables = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(place)}
    script = [sys.executable, str(ROOT / "tests" / "gpu_interpreted.py"), *arguments]
    done = subprocess.run(script, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def too_far(distances: dict[str, float]) -> dict[str, float]:
    """The interpreter cuts off where the GPU rounds: that costs up to 2⁻⁸ in bfloat16 and 2⁻³ in 8 bits."""
    far = {}
    for name, distance in distances.items():
        if name.startswith("mixer"):
            within = 0.08 if "fp8" in name else 0.008
        elif name in ("mean", "rate", "mean of normed", "patches"):
            within = 1e-6
        else:
            within = 0.12 if "8 bits" in name or "active bytes" in name else 0.012
        if not distance < within:
            far[name] = distance
    return far


@pytest.mark.slow
@needs_triton
def test_kernels_and_networks_compute_what_they_should(tmp_path: Path):
    distances = interpreted(tmp_path)
    assert len([name for name in distances if name.startswith("mixer")]) == 8
    assert len(distances) == 8 + 16
    assert not too_far(distances)


@needs_triton
@pytest.mark.slow
def test_they_do_whatever_way_their_work_is_cut(tmp_path: Path):
    distances = interpreted(tmp_path, "all")
    assert len([name for name in distances if name.startswith("mixer")]) == 20
    assert len(distances) == 20 + 26
    assert not too_far(distances)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "count"),
    [(("tokens", "product"), 4), (("product8", "others"), 9)],
    ids=lambda value: " and ".join(value) if isinstance(value, tuple) else "",
)
def test_kernels_compile_for_hopper(which: tuple[str, ...], count: int, tmp_path: Path):
    """For its matrix units, within its registers and its shared memory; no GPU is needed for that."""
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu_compile.py"), *which, "--first", "--json"]
    variables = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    variables.pop("TRITON_INTERPRET", None)
    done = subprocess.run(script, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == count
    for each in found:
        assert each["stack"] <= 80, each  # next to nothing spills: a few addresses
        assert each["shared"] <= SHARED, each
        if "product" in each["name"] or "token mixing" in each["name"]:
            matrix = each["instructions"].get("QGMMA" if "fp8" in each["name"] else "HGMMA", 0)
            assert matrix > each["waits"] > 0, each  # no waiting after every instruction
            assert each["instructions"].get("UTMALDG"), each  # tiles come through the copy engine
            assert "HMMA" not in each["instructions"], each


def setup(model: Classifier) -> Setup:
    return Setup(model, HOW, "bf16", 4, CUDA)


def test_the_engine_says_what_it_does_not_know():
    cases = [
        ({"untied": True}, "plain"),
        ({"channels": 40}, "multiples of 16"),
        ({"image_size": 30}, "multiples of the"),
        ({"image_size": 96}, "up to 256 patches"),
    ]
    for options, says in cases:
        assert says in (triton.why_not(setup(mixer("mixer_pico", layers=1, **options))) or "")
    assert "Mixers only" in (triton.why_not(setup(mlpmixer.create("vit_ti32", layers=1))) or "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_engine_says_so(says: Says):
    model = mixer("mixer_pico", layers=1)
    reason = why_not("triton", setup(model)) or ""
    assert ("NVIDIA" if find_spec("triton") else "pip install 'mlpmixer[triton]'") in reason
    with says(UsageError):
        fastest.start(model, HOW, engine="triton")


@needs_hopper
@pytest.mark.parametrize(("precision", "within"), [("bf16", 0.02), ("fp8", 0.1)])
@pytest.mark.parametrize(
    ("name", "options"), [("mixer_s32", {"layers": 2, "gelu": "erf"}), ("mixer_b16", {"layers": 2}), ("mixer_nano", {})]
)
def test_the_engine_computes_what_the_model_does(name: str, options: dict[str, Any], precision: str, within: float):
    model = mixer(name, **options)
    pixels = torch.randint(0, 256, (20, 3, *model.config.image_size), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = model(normalize(pixels, HOW))
    engine = Engine(model, HOW, "triton", precision, batch=8, device=CUDA)
    for _ in range(2):  # the last batch is not full
        found = engine(pixels).logits
        assert ((found - wanted).norm() / wanted.norm()) < within
