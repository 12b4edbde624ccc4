"""Which way to change a Mixer's resolution keeps most of its accuracy? The evidence behind `weights/resolution.py`.

    python benchmarks/resolution.py train PHOTOS weights.pt        a small Mixer at 224 px, from scratch
    python benchmarks/resolution.py table PHOTOS weights.pt        its accuracy at other sizes, scheme by scheme
    python benchmarks/resolution.py ship PHOTOS weights.pt         makes it the package's mixer_clothing, and tests that

PHOTOS is a folder with train/, validation/ and test/, each with one folder of pictures a class. The training here is
plain on purpose: it makes one honest model to try the schemes on, and is no recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from mlpmixer import Predictor, save
from mlpmixer.models import build, create
from mlpmixer.weights import resolution
from mlpmixer.weights.shipped import SHIPPED

SIZE = 224
SIZES = [(n, n) for n in (160, 192, 224, 256, 288, 320, 384, 448)] + [(320, 192)]


def read(folder: Path, side: int) -> tuple[list[Tensor], Tensor]:
    """All pictures of a folder of class folders, as uint8 (3, H, W) with the shorter side `side`, and their labels."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pictures, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            with Image.open(path) as opened:
                opened.draft("RGB", (side, side))
                picture = ImageOps.exif_transpose(opened).convert("RGB")
            scale = side / min(picture.size)
            size = (max(side, round(picture.width * scale)), max(side, round(picture.height * scale)))
            array = np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).copy()
            pictures.append(torch.from_numpy(array).permute(2, 0, 1).contiguous())
            labels.append(label)
    return pictures, torch.tensor(labels)


def random_crop(picture: Tensor, size: tuple[int, int], rng: torch.Generator, smallest: float) -> Tensor:
    """Inception's crop: a random share of the area, a random ratio of the sides; then flipped, or not."""
    _, height, width = picture.shape
    aspect = size[1] / size[0]
    share, tilt, x, y, flip = torch.rand(5, generator=rng).tolist()
    area = height * width * (smallest + (1 - smallest) * share)
    ratio = aspect * math.exp((2 * tilt - 1) * math.log(4 / 3))
    w, h = min(width, round(math.sqrt(area * ratio))), min(height, round(math.sqrt(area / ratio)))
    left, top = round(x * (width - w)), round(y * (height - h))
    crop = picture[:, top : top + h, left : left + w]
    if flip < 0.5:
        crop = crop.flip(2)
    return F.interpolate(crop[None], size=size, mode="bilinear", antialias=True)[0]


def normalise(batch: Tensor) -> Tensor:
    return batch.float().div_(127.5).sub_(1)


def train(photos: Path, out: Path, epochs: int, name: str) -> None:
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    pictures, labels = read(photos / "train", 256)
    model = create(name, num_classes=int(labels.max()) + 1, image_size=SIZE, patch_size=16, stochastic_depth=0.1)
    fit(model, pictures, labels, (SIZE, SIZE), epochs=epochs, peak=1e-3, rng=rng, smallest=0.25, mixup=0.3, report=out)
    torch.save({"name": name, "state": model.state_dict(), "epochs": epochs}, out)


def fit(model, pictures, labels, size, *, epochs, peak, rng, smallest, mixup=0.0, batch=64, report=None) -> None:
    """AdamW, cosine with warm-up, label smoothing 0.1, bf16 products."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=peak)
    steps = epochs * (len(labels) // batch)
    step, started = 0, time.time()
    for epoch in range(epochs):
        model.train()
        losses = []
        for chosen in torch.randperm(len(labels), generator=rng).split(batch)[: len(labels) // batch]:
            for group in optimiser.param_groups:
                warm = min(1.0, (step + 1) / (0.05 * steps))
                group["lr"] = peak * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
            images = normalise(torch.stack([random_crop(pictures[i], size, rng, smallest) for i in chosen.tolist()]))
            target = F.one_hot(labels[chosen], int(labels.max()) + 1).float() * 0.9 + 0.01
            if mixup:
                a = float(np.random.default_rng(step).beta(mixup, mixup))
                images, target = a * images + (1 - a) * images.roll(1, 0), a * target + (1 - a) * target.roll(1, 0)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images).float(), target)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
            step += 1
        if report:
            print(f"epoch {epoch + 1} loss {np.mean(losses):.3f} {time.time() - started:.0f} s", flush=True)
            torch.save({"state": model.state_dict(), "epoch": epoch}, report.with_suffix(".part"))


# The candidates. Each gives the two matrices of token mixing, from the new grid to the old and back:
#   W1' = W1 · to_old,   W2' = to_new · W2,   b2' = to_new · b2


def interpolate(mode: str, source, target) -> Tensor:
    places = torch.eye(source[0] * source[1], dtype=torch.float64).view(-1, 1, *source)
    smooth = {} if mode == "nearest" else {"antialias": True}
    return F.interpolate(places, size=target, mode=mode, **smooth).flatten(1).T


def tokens_to_the_old_grid(mode: str):
    """The tokens are resized to the old grid, mixed there, and the answer is resized to the new one."""
    return lambda old, new: (interpolate(mode, new, old), interpolate(mode, old, new))


def weights_as_pictures(mode: str):
    """Each row of W1 is resized as a picture, then scaled so that a sum over more places stays as large."""

    def matrices(old, new):
        scale = (old[0] * old[1]) / (new[0] * new[1])
        return interpolate(mode, old, new).T * scale, interpolate(mode, old, new)

    return matrices


CANDIDATES = {
    "tokens, bilinear": tokens_to_the_old_grid("bilinear"),
    "tokens, bicubic": tokens_to_the_old_grid("bicubic"),
    "tokens, nearest": tokens_to_the_old_grid("nearest"),
    "weights, bilinear": weights_as_pictures("bilinear"),
    "weights, bicubic": weights_as_pictures("bicubic"),
}


def changed(model, size, candidate: str):
    """A copy of the model for pictures of `size`."""
    old = model.config
    if candidate == "tiles":
        state, config = resolution.change_resolution(model.state_dict(), old, size, "tiles")
    else:
        config = dataclasses.replace(old, image_size=size)
        to_old, to_new = CANDIDATES[candidate](old.grids()[0], config.grids()[0])
        state = model.state_dict()
        for name in state:
            if name.endswith("token_mixing.fc1.weight"):
                state[name] = (state[name].double() @ to_old).float()
            elif "token_mixing.fc2." in name:
                state[name] = (to_new @ state[name].double()).float()
    copy = build("mixer", config)
    copy.load_state_dict({name: value.clone() for name, value in state.items()})
    return copy


@torch.no_grad()
def accuracy(model, pictures: list[Tensor], labels: Tensor, size) -> float:
    """Top-1 on centre crops, each picture scaled so that the crop sees 7/8 of the side that is tightest."""
    model.eval()
    right = 0
    for chosen in torch.arange(len(labels)).split(64):
        crops = []
        for i in chosen.tolist():
            picture = pictures[i]
            scale = max(size[0] / picture.shape[1], size[1] / picture.shape[2]) * 8 / 7
            target = [round(side * scale) for side in picture.shape[1:]]
            resized = F.interpolate(picture[None], size=target, mode="bilinear", antialias=True)[0]
            top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
            crops.append(resized[:, top : top + size[0], left : left + size[1]])
        right += int((model(normalise(torch.stack(crops))).argmax(1) == labels[chosen]).sum())
    return 100 * right / len(labels)


def trained(weights: Path, num_classes: int):
    saved = torch.load(weights, weights_only=True)
    model = create(saved["name"], num_classes=num_classes, image_size=SIZE, patch_size=16)
    model.load_state_dict(saved["state"])
    return model


def ship(photos: Path, weights: Path) -> None:
    classes = sorted(path.name for path in (photos / "train").iterdir())
    provenance = {
        "data": "clothing-dataset-small (CC0 1.0), 3,068 photographs of its train split",
        "training": "benchmarks/resolution.py train, 100 epochs from scratch",
    }
    model = trained(weights, len(classes)).to(torch.bfloat16)
    save(model, SHIPPED["mixer_clothing"], classes=classes, provenance=provenance)
    pictures = [path for split in ("validation", "test") for path in sorted((photos / split).glob("*/*"))]
    found = Predictor("mixer_clothing")(pictures)
    right = sum(one.label == path.parent.name for one, path in zip(found, pictures, strict=True))
    print(f"{right} of {len(pictures)} held-out pictures: {100 * right / len(pictures):.1f} %")


def table(photos: Path, weights: Path, epochs: int) -> None:
    held_out = [read(photos / split, 512) for split in ("validation", "test")]
    pictures, labels = [p for part, _ in held_out for p in part], torch.cat([part for _, part in held_out])
    model = trained(weights, int(labels.max()) + 1)
    print(f"{len(labels)} held-out pictures, torch {torch.__version__}\n")
    names = [*CANDIDATES, "tiles"]
    print("| size | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for size in SIZES:
        cells = []
        for name in names:
            fits = name != "tiles" or all(side % SIZE == 0 for side in size)
            cells.append(f"{accuracy(changed(model, size, name), pictures, labels, size):.1f}" if fits else "")
        print(f"| {size[0]}×{size[1]} | " + " | ".join(cells) + " |", flush=True)
    if not epochs:
        return
    print(f"\nAfter {epochs} epochs at the new size (AdamW, peak 1e-4)\n")
    tuned = ["tokens, bicubic", "tiles"]
    print("| size | " + " | ".join(tuned) + " |\n|---" + "|---" * len(tuned) + "|")
    train_pictures, train_labels = read(photos / "train", 512)
    for size in SIZES:
        cells = []
        for name in tuned:
            if name == "tiles" and any(side % SIZE for side in size):
                cells.append("")
                continue
            copy, rng = changed(model, size, name), torch.Generator().manual_seed(0)
            fit(copy, train_pictures, train_labels, size, epochs=epochs, peak=1e-4, rng=rng, smallest=0.5)
            cells.append(f"{accuracy(copy, pictures, labels, size):.1f}")
        print(f"| {size[0]}×{size[1]} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "table", "ship"])
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=100, help="of training, or of fine-tuning at each size")
    parser.add_argument("--model", default="mixer_nano")
    given = parser.parse_args()
    if given.what == "train":
        train(given.photos, given.weights, given.epochs, given.model)
    elif given.what == "ship":
        ship(given.photos, given.weights)
    else:
        table(given.photos, given.weights, given.epochs)
