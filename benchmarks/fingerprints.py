"""What must stay the same, bit for bit, when code is moved and renamed: losses, logits, answers, figures, files.

    python benchmarks/fingerprints.py before.json             # with the code as it was
    python benchmarks/fingerprints.py after.json before.json  # and as it is: exits with 1 where something differs

Both on the same machine: kernels and libraries add in another order on another processor. It takes some minutes.

    losses     50 steps of three recipes: plain; SAM, averaged weights, mixup and cutmix; plain in two processes
    weights    what these runs end with
    logits     of a Mixer, a ViT and a BiT by each engine and precision that runs here
    answers    `mixer predict` of the photographs that come with the tests
    card       all numbers of an evaluation card, whatever they are called
    files      a model saved in each layout
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlpmixer import Predictor, create, evaluate, load, save
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.table import ENGINES, Setup, why_not
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipes import find, toml
from mlpmixer.run.folder import RunFolder
from mlpmixer.weights.save import LayoutName

PHOTOS = Path(__file__).parent.parent / "tests" / "photos"
CPU = torch.device("cpu")
STEPS = 50

PLAIN = {"train.steps": STEPS, "machine.log_every": 1, "machine.workers": 1, "data.share": 0.2, "optim.warmup_steps": 5}
RECIPES: dict[str, dict[str, object]] = {
    "plain": PLAIN,
    "SAM, EMA, mixing": {
        **PLAIN,
        "optim.sharpness": "sam",
        "optim.ema": 0.9,
        "augment.mixup": 0.3,
        "augment.cutmix": 1.0,
        "train.precision": "bf16",
    },
    "two processes": PLAIN,
}

THEIRS: dict[str, LayoutName] = {"t.safetensors": "timm", "m.npz": "linen", "m.pth": "timm"}


def digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def runs(place: Path) -> Iterator[tuple[str, Any]]:
    for name, changes in RECIPES.items():
        folder, file = place / name.replace(" ", "-"), place / "recipe.toml"
        file.write_text(toml.dumps(toml.change(find("fashion_mnist"), changes)))
        start = ["torchrun", "--nproc-per-node=2", "-m"] if name == "two processes" else [sys.executable, "-m"]
        if start[0] == "torchrun":
            start = [sys.executable, "-m", "torch.distributed.run", *start[1:]]
        command = [*start, "mlpmixer", "train", str(file), "--folder", str(folder), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield f"losses, {name}", [line["loss"] for line in RunFolder(folder).metrics() if line["kind"] == "train"]
        state = load(folder).state_dict()
        yield f"weights, {name}", digest(*(state[key] for key in sorted(state)))


def models() -> dict[str, tuple[Classifier, Preprocessing]]:
    torch.manual_seed(0)
    drawn = {
        "vit": create("vit_ti16", num_classes=10, image_size=64, layers=2),
        "bit": create("bit_r50x1", num_classes=10, image_size=64, units=(1, 1)),
    }
    found = {}
    for name, model in {"mixer": load("mixer_cifar10", dtype=torch.float32), **drawn}.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        found[name] = model.eval(), Preprocessing.usual(model.config.image_size)
    return found


def logits() -> Iterator[tuple[str, Any]]:
    for name, (model, how) in models().items():
        pixels = torch.randint(0, 256, (8, 3, *model.config.image_size), dtype=torch.uint8)
        for engine, row in ENGINES.items():
            for precision in row.precisions.get("cpu", ()):
                if why_not(engine, Setup(model, how, precision, 8, CPU)) is None:
                    answers = Engine(model, how, engine, precision, batch=8, device=CPU)(pixels)
                    yield f"logits, {name}, {engine}, {precision}", digest(answers.logits, answers.features)


def answers() -> Iterator[tuple[str, Any]]:
    for name in ("mixer_cifar10", "mixer_clothing"):
        predictor = Predictor(name, engine="eager", precision="fp32", top=3)
        yield f"answers, {name}", [list(found.top) for found in predictor(sorted(PHOTOS.glob("*.jpg")))]


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def card(place: Path) -> Iterator[tuple[str, Any]]:
    model = load(place / "plain")
    found = evaluate(model, "fashion_mnist_small", train_images=500, workers=0, engine="eager").to_json()
    for origin in ("version", "machine", "origins", "model"):
        found.pop(origin)
    yield "card", sorted({*numbers(found)})


def files(place: Path) -> Iterator[tuple[str, Any]]:
    for name, (model, _) in models().items():
        state = load(save(model, place / "m.safetensors")).state_dict()  # its header may say other things
        yield f"files, {name}, ours", digest(*(state[key] for key in sorted(state)))
        for file, layout in THEIRS.items():
            content = save(model, place / file, layout=layout).read_bytes()
            yield f"files, {name}, {file}", hashlib.sha256(content).hexdigest()[:16]


def main() -> None:
    target, *before = map(Path, sys.argv[1:])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for part in (runs(place), logits(), answers(), card(place), files(place)):
            for name, value in part:
                print(name, flush=True)
                found[name] = value
    target.write_text(json.dumps(found, indent=1) + "\n")
    differing = []
    for path in before:
        known = json.loads(path.read_text())
        differing += [name for name in {**known, **found} if json.loads(json.dumps(found.get(name))) != known.get(name)]
    for name in differing:
        print(f"DIFFERS: {name}")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
