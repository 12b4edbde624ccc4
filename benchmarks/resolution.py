"""Which way to change a Mixer's resolution keeps most of its accuracy? The evidence behind `weights/adapters/mixer.py`.

    mixer train photos_from_scratch --data.source PHOTOS --folder RUN
    python benchmarks/resolution.py PHOTOS RUN --epochs 3

PHOTOS is a data set with train/, val/ and test/. The model of RUN is tried at other sizes, scheme by scheme, on the
images of val/ and test/; then it goes on learning at each for some epochs, in folders beside RUN.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mlpmixer import data, load
from mlpmixer.data.dataset import Split
from mlpmixer.data.loader import all_batches
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.accuracy import accuracy, count_right
from mlpmixer.models.mixer import FAMILY, Mixer
from mlpmixer.recipe import Model
from mlpmixer.recipes import find, toml
from mlpmixer.train.loop import fit
from mlpmixer.weights.adapters import change_resolution

Size = tuple[int, int]
Matrices = Callable[[Size, Size], tuple[Tensor, Tensor]]

SIZES = [*((side, side) for side in (160, 192, 224, 256, 288, 320, 384, 448)), (320, 192)]
WORKERS = 2

# The candidates. Each gives the two matrices of token mixing, from the new grid to the old and back:
#   W1' = W1 · to_old,   W2' = to_new · W2,   b2' = to_new · b2


def interpolate(mode: str, source: Size, target: Size) -> Tensor:
    places = torch.eye(source[0] * source[1], dtype=torch.float64).view(-1, 1, *source)
    return F.interpolate(places, size=target, mode=mode, antialias=mode != "nearest").flatten(1).T


def tokens_to_the_old_grid(mode: str) -> Matrices:
    """The tokens are resized to the old grid, mixed there, and the answer is resized to the new one."""
    return lambda old, new: (interpolate(mode, new, old), interpolate(mode, old, new))


def weights_as_images(mode: str) -> Matrices:
    """Each row of W1 is resized as an image, then scaled so that a sum over more places stays as large."""

    def matrices(old: Size, new: Size) -> tuple[Tensor, Tensor]:
        scale = (old[0] * old[1]) / (new[0] * new[1])
        return interpolate(mode, old, new).T * scale, interpolate(mode, old, new)

    return matrices


CANDIDATES = {
    "tokens, bilinear": tokens_to_the_old_grid("bilinear"),
    "tokens, bicubic": tokens_to_the_old_grid("bicubic"),
    "tokens, nearest": tokens_to_the_old_grid("nearest"),
    "weights, bilinear": weights_as_images("bilinear"),
    "weights, bicubic": weights_as_images("bicubic"),
}


def changed(model: Mixer, size: Size, candidate: str) -> Mixer:
    """A copy of the model for images of `size`."""
    old = model.config
    if candidate == "tiles":
        state, config = change_resolution(FAMILY, model.state_dict(), old, size, "tiles")
    else:
        config = dataclasses.replace(old, image_size=size)
        to_old, to_new = CANDIDATES[candidate](old.grids()[0], config.grids()[0])
        state = model.state_dict()
        for name in state:
            if name.endswith("token_mixing.fc1.weight"):
                state[name] = (state[name].double() @ to_old).float()
            elif "token_mixing.fc2." in name:
                state[name] = (to_new @ state[name].double()).float()
    copy = FAMILY.build(config).eval()
    copy.load_state_dict({name: value.clone() for name, value in state.items()})
    assert isinstance(copy, Mixer)
    return copy


@torch.no_grad()
def percent_right(model: Mixer, splits: list[Split]) -> float:
    how = Preprocessing.usual(model.config.image_size)
    totals = torch.zeros(4, dtype=torch.float64)
    for split in splits:
        batches = all_batches(split, lambda image: prepare(image, how), batch_size=64, workers=WORKERS)
        totals += count_right(lambda images: model(normalize(images, how)), ((b.images, b.labels) for b in batches))
    return 100 * accuracy(totals)["top1"]


def tuned(run: Path, photos: Path, size: Size, scheme: str, epochs: float) -> Mixer:
    """After some epochs at the new size."""
    changes = {
        "data.source": str(photos),
        "data.val": "",
        "data.test": "",
        "model.weights": str(run),
        "model.image_size": size,
        "model.resize": scheme,
        "augment.area": (0.5, 1.0),
        "augment.mixup": 0.0,
        "optim.lr": 1e-4,
        "optim.warmup_steps": 10,
        "train.epochs": epochs,
    }
    folder = run.with_name(f"{run.name}-{size[0]}x{size[1]}-{scheme}")
    recipe = find("photos_from_scratch")
    recipe = dataclasses.replace(recipe, model=Model(name=recipe.model.name))  # its options are those of the run
    fit(toml.change(recipe, changes), folder, quiet=True)
    model = load(folder)
    assert isinstance(model, Mixer)
    return model


def table(columns: list[str], figure: Callable[[Size, str], float], original: Size) -> None:
    print("| size | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for size in SIZES:
        fits = all(new % old == 0 for new, old in zip(size, original, strict=True))
        cells = [f"{figure(size, name):.1f}" if fits or name != "tiles" else "" for name in columns]
        print(f"| {size[0]}×{size[1]} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=float, default=3, help="of learning at each size; 0: none")
    given = parser.parse_args()

    model, opened = load(given.run), data.open(given.photos)
    assert isinstance(model, Mixer)
    held_out = [split for name, split in opened.splits.items() if name != "train"]
    print(f"{sum(map(len, held_out))} held-out images, torch {torch.__version__}\n\nRight after the change\n")
    original = model.config.image_size
    table([*CANDIDATES, "tiles"], lambda size, name: percent_right(changed(model, size, name), held_out), original)
    if given.epochs:
        print(f"\nAfter {given.epochs:g} epochs at the new size (AdamW, peak 1e-4)\n")

        def after(size: Size, name: str) -> float:
            return percent_right(tuned(given.run, given.photos, size, name, given.epochs), held_out)

        table(["resample", "tiles"], after, original)


if __name__ == "__main__":
    main()
