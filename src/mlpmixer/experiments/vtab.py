"""VTAB-1k: 19 tasks of 1,000 pictures each. What is there is run, what is missing is named, a mean says of how many.

Each task lies in a folder of its name within --data, in any form that `mlpmixer.data.open` knows: the lists of 800 and
200 pictures that VTAB-1k is passed around as, or train/, val/ and test/ with a folder for each class. A learning rate
is picked with the 200; then all 1,000 are learnt from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mlpmixer.experiments.study import Done, Finding, Plan, Scale, Study, Told
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.finetune import TASKS, Row, of_row

GRID = tuple(float(rate) for rate in TASKS["vtab"].grid.split(","))


@dataclass(frozen=True)
class Task:
    """`side`: of the pictures that the paper takes for it: 448 pixels for large ones, 224 for small."""

    kind: Literal["natural", "specialised", "structured"]
    classes: int
    side: int


VTAB = {
    "caltech101": Task("natural", 102, 448),
    "cifar": Task("natural", 100, 224),
    "dtd": Task("natural", 47, 448),
    "oxford_flowers102": Task("natural", 102, 448),
    "oxford_iiit_pet": Task("natural", 37, 448),
    "sun397": Task("natural", 397, 448),
    "svhn": Task("natural", 10, 224),
    "eurosat": Task("specialised", 10, 224),
    "patch_camelyon": Task("specialised", 2, 224),
    "resisc45": Task("specialised", 45, 448),
    "diabetic_retinopathy": Task("specialised", 5, 448),
    "clevr_count": Task("structured", 8, 448),
    "clevr_dist": Task("structured", 6, 448),
    "dsprites_loc": Task("structured", 16, 224),
    "dsprites_ori": Task("structured", 16, 224),
    "dmlab": Task("structured", 6, 448),
    "kitti": Task("structured", 4, 448),
    "smallnorb_azi": Task("structured", 18, 224),
    "smallnorb_ele": Task("structured", 9, 224),
}


def plans(scale: Scale) -> list[Plan]:
    return [
        Plan({"task": name, "stage": f"lr {rate:g}"}, toml.change(_recipe(scale, name, task), {"optim.lr": rate}))
        for name, task in VTAB.items()
        for rate in GRID
    ]


def _recipe(scale: Scale, name: str, task: Task) -> Recipe:
    if scale == "paper":
        recipe = of_row("vtab", Row(task="vtab", weights="mixer_l16.imagenet21k", image_size=task.side, expect=""))
    else:
        recipe = of_row("vtab", Row(task="vtab", weights="mixer_cifar10", image_size=32, expect=""))
        steps = 50 if scale == "tiny" else 500
        few = {
            "train.steps": steps,
            "train.batch_size": 64,
            "optim.warmup_steps": steps // 10,
            "machine.micro_batch": 0,
        }
        recipe = toml.change(recipe, {**few, "evaluation.every": 1000.0, "model.name": "mixer_nano"})
    return replace(recipe, data=replace(recipe.data, source=name))


def then(_scale: Scale, done: Sequence[Done]) -> list[Plan]:
    """With the best rate, all 1,000."""
    tried: dict[str, list[Done]] = {}
    for one in done:
        tried.setdefault(one.plan.cell["task"], []).append(one)
    found = []
    for task, runs in tried.items():
        best = max(runs, key=lambda run: run.dev)
        whole = toml.change(best.plan.recipe, {"data.train": "train+val", "data.dev": ""})
        found.append(Plan({"task": task, "stage": "all 1,000"}, whole))
    return found


def tell(done: Sequence[Done]) -> Told:
    found = {one.plan.cell["task"]: one for one in done if one.plan.cell["stage"] == "all 1,000"}
    rows = []
    for name, task in VTAB.items():
        one = found.get(name)
        rate = f"{one.plan.recipe.optim.lr:g}" if one else "–"
        rows.append((name, task.kind, f"{100 * one.top1:.2f}" if one else "–", rate))
    for kind in ("natural", "specialised", "structured", ""):
        of = [name for name, task in VTAB.items() if kind in ("", task.kind)]
        there = [100 * found[name].top1 for name in of if name in found]
        mean = f"{sum(there) / len(there):.2f}" if there else "–"
        count = f"mean of {len(there)} of {len(of)}" if len(there) < len(of) else f"mean of all {len(of)}"
        rows.append((count, kind or "all", mean, ""))
    missing = [name for name in VTAB if name not in found]
    return Told(
        columns=("task", "kind", "top-1, %", "lr"),
        rows=rows,
        findings=[
            Finding(
                "All 19 tasks are there.",
                not missing,
                f"missing: {', '.join(missing)}" if missing else "none is missing",
            )
        ],
        paper="Table 2: Mixer-L/16 of ImageNet-21k 74.95 %, Mixer-H/14 of JFT-300M 75.33 %, the plain mean of 19.",
    )


STUDY = Study("vtab", "The 19 tasks of VTAB-1k.", "Section 3.1, Table 2", plans, tell, then, partial=True)
