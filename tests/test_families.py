"""Families through the commands: trained, resumed, evaluated, asked for predictions, exported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlpmixer.cli import main
from mlpmixer.export.formats import FORMATS
from mlpmixer.recipe import Model
from mlpmixer.recipes import find, toml
from mlpmixer.run.folder import RunFolder

UNITS: dict[str, Any] = {"units": (1, 1), "channels": 32}
SMALL: dict[str, dict[str, Any]] = {
    "rednet50": UNITS,
    "sasa_resnet50": UNITS,
    "botnet50": {**UNITS, "operator_units": (0, 1)},
    "lambda_resnet50": {**UNITS, "window": 7},
    "depthwise_resnet50": UNITS,
    "halonet_h0": {"units": (1, 1), "channels": 16, "heads": (2,), "block_size": 4, "halo": 1},
    "nfnet_f0": {"depths": (1, 1), "widths": (32, 64), "inner": (16, 32), "group_width": 16},
    "efficientnet_b0": {"width": 0.25, "depth": 0.1, "norm_momentum": 0.3},
    "isotropic_pico": {"token_operator": "involution", "layers": 1},
}


IN_CI = ("rednet50", "halonet_h0", "nfnet_f0")
ROWS = [pytest.param(name, marks=pytest.mark.slow if name in IN_CI else pytest.mark.thorough) for name in SMALL]


@pytest.mark.parametrize("name", ROWS)
def test_a_run(name: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = toml.change(
        replace(find("fashion_mnist"), model=Model(name=name, image_size=(28,), options=SMALL[name])),
        {
            **{"data.classes": "Bag,Coat", "data.shots": 60, "train.steps": 30, "train.batch_size": 16},
            **{"optim.lr": 0.003, "optim.warmup_steps": 2, "machine.workers": 0},
            **{"machine.save_every": 15, "machine.log_every": 1},
        },
    )
    (tmp_path / "recipe.toml").write_text(toml.dumps(recipe))
    run, weights = tmp_path / "run", tmp_path / "run" / "weights.safetensors"
    train = ["train", str(tmp_path / "recipe.toml"), "--folder", str(run), "--quiet"]
    main(train)
    losses = [line["loss"] for line in RunFolder(run).metrics() if line["kind"] == "train"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    first = weights.read_bytes()
    for left in ("result.json", weights.name):  # as if it had been stopped before its end
        (run / left).unlink()
    shutil.rmtree(run / "checkpoints" / "step-000000030")
    main(train)
    assert weights.read_bytes() == first
    capsys.readouterr()
    main(["evaluate", str(run), "--train-images", "0", "--workers", "0", "--json"])
    assert json.loads(capsys.readouterr().out)["metrics"]["top1"]["value"] > 0.6  # of 2,000 images of two classes
    main(["predict", str(photos[0]), "--weights", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["label"] in ("Bag", "Coat")
    for to in ("onnx", "openvino"):  # each refuses what does not answer as the model does
        file = tmp_path / f"file{FORMATS[to].endings[0]}"
        main(["export", str(run), "--to", to, "--output", str(file), "--count", "20", "--json"])
        assert json.loads(capsys.readouterr().out)["agreement"]
