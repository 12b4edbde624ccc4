"""Section 3.4 and Fig. 4: what is lost when pixels change places, in a Mixer and in a convolutional network.

And the exact form of the Mixer's side: with its first weights in the same order as its images, it learns the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mlpmixer import data
from mlpmixer.experiments.base_recipes import FEW_OF, SEEDS, base
from mlpmixer.experiments.baselines import BIT, MIXER
from mlpmixer.experiments.permuted import permuted
from mlpmixer.experiments.study import Done, Finding, Plan, Scale, Study, Told, alike, apart, cells, over_seeds
from mlpmixer.models import describe
from mlpmixer.models.mixer import Mixer
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.train.plan import init_model
from mlpmixer.weights.load import load
from mlpmixer.weights.save import save

INPUTS = {"original": "none", "patches": "patches", "pixels": "pixels"}
EXACT_STEPS = {"tiny": 100, "small": 300, "paper": 300}


def plans(scale: Scale) -> list[Plan]:
    patch = describe(MIXER[scale].name).patch_size  # pyright: ignore[reportAttributeAccessIssue] (a Mixer's)
    found = []
    for network, model in {"Mixer": MIXER[scale], "ResNet": BIT[scale]}.items():
        for shown, scramble in INPUTS.items():
            for seed in SEEDS[scale]:
                changed = {"evaluation.scramble": scramble, "evaluation.scramble_patch": patch, "train.seed": seed}
                cell = {"network": network, "input": shown}
                recipe = toml.change(base(scale, model, "permutation"), changed)
                found.append(Plan(cell, recipe, few_of=FEW_OF[scale]))
    first = Exactly(toml.change(base(scale, MIXER[scale], "exactly"), {"train.steps": EXACT_STEPS[scale]}))
    return [*found, *first.plans(patch)]


class Exactly:
    """Two runs that should be one: the same first weights, once with those and the images in another order."""

    def __init__(self, recipe: Recipe):
        # In float32, and without chance that would fall on other places.
        self.recipe = toml.change(recipe, {"train.precision": "fp32", "machine.log_every": 1})

    def plans(self, patch: int) -> list[Plan]:
        there = {"evaluation.scramble": "patches", "evaluation.scramble_patch": patch}
        return [
            Plan({"network": "Mixer, exactly", "input": "original"}, self.recipe, self.first),
            Plan({"network": "Mixer, exactly", "input": "patches"}, toml.change(self.recipe, there), self.moved),
        ]

    def first(self, root: Path, recipe: Recipe) -> Path:
        path = root / "first.safetensors"
        if not path.exists():
            torch.manual_seed(recipe.train.seed)
            root.mkdir(parents=True, exist_ok=True)
            save(init_model(recipe, data.open(recipe.data.source).classes), path)
        return path

    def moved(self, root: Path, recipe: Recipe) -> Path:
        path = root / "moved.safetensors"
        if not path.exists():
            model = load(self.first(root, toml.change(recipe, {"evaluation.scramble": "none"})))
            assert isinstance(model, Mixer)
            save(permuted(model), path)
        return path


def tell(done: Sequence[Done]) -> Told:
    by_cell = {(dict(key)["network"], dict(key)["input"]): runs for key, runs in cells(done).items()}
    few = any(one.plan.few_of for one in done)  # the paper's figures are of few shots
    rows, lost = [], {}
    for network in ("Mixer", "ResNet"):
        right = {shown: [one.shots(5) if few else one.top1 for one in by_cell[network, shown]] for shown in INPUTS}
        whole = right["original"]
        for shown, found in right.items():
            lost[network, shown] = [1 - b / a for a, b in zip(whole, found, strict=True)]
            cost = over_seeds(lost[network, shown]) if shown != "original" else ""
            rows.append((network, shown, over_seeds(found), cost))
    same, moved = (by_cell["Mixer, exactly", shown][0].losses for shown in ("original", "patches"))
    gaps = np.abs(np.array(same) - np.array(moved))
    mixer, resnet = lost["Mixer", "pixels"], lost["ResNet", "pixels"]
    same_to_it = alike([0.0] * len(mixer), lost["Mixer", "patches"], within=0.02)
    worse = apart(lost["Mixer", "patches"], lost["ResNet", "patches"])
    return Told(
        columns=("network", "input", "linear 5-shot, %" if few else "top-1, %", "lost, % of the first"),
        rows=rows,
        findings=[
            Finding(
                "To a Mixer, patches and pixels within them in another order are all the same.",
                same_to_it,
                f"it loses {over_seeds(lost['Mixer', 'patches'])} %",
            ),
            Finding(
                "With its first weights in that order, too, it is the same to rounding.",
                bool(gaps.max() < 1e-3),
                f"the losses of {len(same)} steps, written down with six digits, differ by {gaps.max():.1e} at most",
            ),
            Finding(
                "They cost a ResNet more than a Mixer.",
                worse,
                f"{over_seeds(lost['ResNet', 'patches'])} % against {over_seeds(lost['Mixer', 'patches'])} %",
            ),
            Finding(
                "All pixels in another order cost a ResNet more than a Mixer.",
                apart(mixer, resnet),
                f"{over_seeds(resnet)} % against {over_seeds(mixer)} %",
            ),
        ],
        paper="Fig. 4: Mixer-B/16's first two curves coincide; all pixels cost it about 45 %, ResNet50x1 about 75 %.",
        curves={
            f"{network}, {shown}": by_cell[network, shown][0].curve
            for network in ("Mixer", "ResNet")
            for shown in INPUTS
        },
    )


STUDY = Study(
    "permutation", "Pixels in another order.", "Section 3.4, Fig. 4", plans, tell, varies=("evaluation.scramble",)
)
