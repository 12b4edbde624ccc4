"""Permuted pixels (section 3.4, Fig. 4): the accuracy that a Mixer and a convolutional network lose by them.

And the exact form of the Mixer's invariance: with its first weights permuted like its images, it learns the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mlpmixer import data
from mlpmixer.data.rng import permutation
from mlpmixer.errors import DataError, UsageError
from mlpmixer.experiments.base_recipes import BIT, FEW_SHOT_SOURCE, MIXER, SEEDS, base_recipe
from mlpmixer.experiments.study import (
    Claim,
    FinishedRun,
    Outcome,
    PlannedRun,
    Scale,
    Study,
    group_by_cell,
    is_equivalent,
    is_greater,
    mean_ci,
)
from mlpmixer.models import describe
from mlpmixer.models.layers import grid
from mlpmixer.models.mixer import Mixer
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.train.plan import init_model
from mlpmixer.weights.load import load
from mlpmixer.weights.save import save

EXACT_STEPS = {"tiny": 100, "small": 300, "paper": 300}


@dataclass(frozen=True)
class Permutation:
    """A transform of images: their pixels in another order, the same for all images.

    `kind`: "patches" moves whole patches of `patch`×`patch` pixels, and the pixels within each patch by one order;
    to a Mixer that is no more than another order of its weights. "pixels" moves all pixels of the image.
    """

    kind: Literal["patches", "pixels"]
    patch: int = 1

    def __str__(self) -> str:
        return f"permutation of {self.kind}" + (f" of {self.patch}×{self.patch}" if self.kind == "patches" else "")

    def __call__(self, images: Shaped[Tensor, "*B 3 H W"]) -> Shaped[Tensor, "*B 3 H W"]:
        """The permuted images.

        Raises:
            DataError: if they cannot be cut into patches.
        """
        order = torch.from_numpy(_order(self.kind, self.patch, *images.shape[-2:])).to(images.device)
        return images.flatten(-2).index_select(-1, order).view(images.shape)


@lru_cache
def _order(kind: str, patch: int, height: int, width: int) -> Int[np.ndarray, " HW"]:
    """For each pixel of the permuted image, in raster order, the pixel that it shows."""
    if kind == "pixels":
        return permutation(height * width, "pixels")
    if height % patch or width % patch:
        raise DataError(f"images of {height}×{width} pixels cannot be cut into patches of {patch}×{patch}")
    rows, columns = height // patch, width // patch
    pixels = np.arange(height * width).reshape(rows, patch, columns, patch).transpose(0, 2, 1, 3)
    moved = pixels.reshape(rows * columns, patch * patch)[patch_order(rows, columns)][:, pixel_order(patch)]
    return moved.reshape(rows, columns, patch, patch).transpose(0, 2, 1, 3).reshape(-1)


def patch_order(rows: int, columns: int) -> Int[np.ndarray, " S"]:
    """For each patch of the permuted image, the patch that it shows."""
    return permutation(rows * columns, "patches")


def pixel_order(patch: int) -> Int[np.ndarray, " PP"]:
    """The same for the pixels within a patch."""
    return permutation(patch * patch, "within a patch")


def permuted(model: Mixer) -> Mixer:
    """A copy that computes for images with permuted patches what `model` computes for the original ones.

    The stem's weights are permuted like the pixels within a patch, and what token mixing reads and writes like the
    patches; nothing else in a Mixer depends on the order. Since optimizers treat each weight by itself, both also learn
    the same.

    Raises:
        UsageError: if the Mixer is untied, grouped or a pyramid.
    """
    config = model.config
    if not config.plain:
        raise UsageError("only the weights of a plain Mixer can be permuted")
    tokens = torch.from_numpy(patch_order(*grid(config.image_size, config.patch_size)))
    pixels = torch.from_numpy(pixel_order(config.patch_size))
    other = copy.deepcopy(model)
    with torch.no_grad():
        kernel = model.stem.patches.weight  # (C, in_channels, P, P)
        other.stem.patches.weight.copy_(kernel.flatten(2)[..., pixels].view_as(kernel))
        for block, old in zip(other.blocks, model.blocks, strict=True):
            block.token_mixing.fc1.weight.copy_(old.token_mixing.fc1.weight[:, tokens])
            block.token_mixing.fc2.weight.copy_(old.token_mixing.fc2.weight[tokens])
            block.token_mixing.fc2.bias.copy_(old.token_mixing.fc2.bias[tokens])
    return other


def plan_runs(scale: Scale) -> list[PlannedRun]:
    patch = describe(MIXER[scale].name).patch_size  # pyright: ignore[reportAttributeAccessIssue] (a Mixer's)
    runs = [
        PlannedRun(
            {"network": network, "input": shown},
            toml.change(base_recipe(scale, model, "permutation"), {"train.seed": seed}),
            few_shot_source=FEW_SHOT_SOURCE[scale],
            transform=transform,
        )
        for network, model in {"Mixer": MIXER[scale], "ResNet": BIT[scale]}.items()
        for shown, transform in inputs(patch).items()
        for seed in SEEDS[scale]
    ]
    # In float32, and without chance that would fall on other places.
    exact = {"train.steps": EXACT_STEPS[scale], "train.precision": "fp32", "machine.log_every": 1}
    recipe = toml.change(base_recipe(scale, MIXER[scale], "exactly"), exact)
    return [
        *runs,
        PlannedRun({"network": "Mixer, exactly", "input": "original"}, recipe, first_weights),
        PlannedRun(
            {"network": "Mixer, exactly", "input": "patches"},
            recipe,
            permuted_weights,
            transform=Permutation("patches", patch),
        ),
    ]


def inputs(patch: int) -> dict[str, Permutation | None]:
    """The three kinds of input that are compared; None: images as they are."""
    return {"original": None, "patches": Permutation("patches", patch), "pixels": Permutation("pixels")}


def first_weights(root: Path, recipe: Recipe) -> Path:
    """The weights that both of the exact runs begin with; made once, in the study's folder."""
    path = root / "first.safetensors"
    if not path.exists():
        torch.manual_seed(recipe.train.seed)
        root.mkdir(parents=True, exist_ok=True)
        save(init_model(recipe, data.open(recipe.data.source).classes), path)
    return path


def permuted_weights(root: Path, recipe: Recipe) -> Path:
    """The same, permuted."""
    path = root / "permuted.safetensors"
    if not path.exists():
        save(permuted(cast(Mixer, load(first_weights(root, recipe)))), path)
    return path


def summarize(finished: Sequence[FinishedRun]) -> Outcome:
    cells = {(dict(key)["network"], dict(key)["input"]): runs for key, runs in group_by_cell(finished).items()}
    kinds = [*inputs(1)]
    few_shot = any(one.plan.few_shot_source for one in finished)  # the paper's figures are of few shots
    rows, lost = [], {}
    for network in ("Mixer", "ResNet"):
        accuracy = {kind: [one.shots(5) if few_shot else one.top1 for one in cells[network, kind]] for kind in kinds}
        for kind, found in accuracy.items():
            lost[network, kind] = [1 - b / a for a, b in zip(accuracy["original"], found, strict=True)]
            loss = mean_ci(lost[network, kind]) if kind != "original" else ""
            rows.append((network, kind, mean_ci(found), loss))
    original, moved = (cells["Mixer, exactly", kind][0].losses for kind in ("original", "patches"))
    gap = np.abs(np.array(original) - np.array(moved)).max()
    mixer, resnet = ({kind: lost[network, kind] for kind in kinds} for network in ("Mixer", "ResNet"))
    return Outcome(
        columns=("network", "input", "linear 5-shot, %" if few_shot else "top-1, %", "lost, % of the original"),
        rows=rows,
        claims=[
            Claim(
                "A Mixer is invariant to permutations of patches and of pixels within them.",
                is_equivalent([0.0] * len(mixer["patches"]), mixer["patches"], within=0.02),
                f"it loses {mean_ci(mixer['patches'])} %",
            ),
            Claim(
                "With its first weights permuted as well, it is so up to rounding.",
                bool(gap < 1e-3),
                f"the losses of {len(original)} steps, kept with six digits, differ by {gap:.1e} at most",
            ),
            Claim(
                "This permutation costs a ResNet more than a Mixer.",
                is_greater(mixer["patches"], resnet["patches"]),
                f"{mean_ci(resnet['patches'])} % against {mean_ci(mixer['patches'])} %",
            ),
            Claim(
                "A permutation of all pixels costs a ResNet more than a Mixer.",
                is_greater(mixer["pixels"], resnet["pixels"]),
                f"{mean_ci(resnet['pixels'])} % against {mean_ci(mixer['pixels'])} %",
            ),
        ],
        paper="Fig. 4: Mixer-B/16's first two curves coincide; all pixels cost it about 45 %, ResNet50x1 about 75 %.",
        curves={
            f"{network}, {kind}": cells[network, kind][0].curve for network in ("Mixer", "ResNet") for kind in kinds
        },
    )


STUDY = Study(
    "permutation",
    "Pixels in another order.",
    "Section 3.4, Fig. 4",
    plan_runs,
    summarize,
    fixed=("augment.cutmix",),  # its rectangles would be no rectangles in permuted images
)
