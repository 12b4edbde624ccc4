"""VTAB-1k: 19 tasks of 1,000 images each. Missing tasks are named, and a mean states how many it is over.

--data is a folder that has the tasks (see data/sources/vtab.py). The learning rate is chosen with 200 of the images;
then the model is trained on all 1,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlpmixer.data.sources.vtab import VTAB, Task
from mlpmixer.experiments.paper import TABLE_2
from mlpmixer.experiments.study import Claim, FinishedRun, Outcome, PlannedRun, Scale, Study
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.finetune import TASKS, Row, of_row

GRID = tuple(float(rate) for rate in TASKS["vtab"].grid.split(","))


def plan_runs(scale: Scale) -> list[PlannedRun]:
    return [
        PlannedRun({"task": name, "stage": f"lr {rate:g}"}, toml.change(_recipe(scale, name, task), {"optim.lr": rate}))
        for name, task in VTAB.items()
        for rate in GRID
    ]


def _recipe(scale: Scale, name: str, task: Task) -> Recipe:
    if scale == "paper":
        recipe = of_row(
            "vtab",
            Row(task="vtab", weights="mixer_l16.imagenet21k", image_size=448 if task.large else 224, expected=""),
        )
    else:
        recipe = of_row("vtab", Row(task="vtab", weights="mixer_cifar10", image_size=32, expected=""))
        steps = 50 if scale == "tiny" else 500
        short = {
            "train.steps": steps,
            "train.batch_size": 64,
            "optim.warmup_steps": steps // 10,
            "machine.micro_batch": 0,
        }
        recipe = toml.change(recipe, {**short, "evaluation.every_epochs": 1000.0, "model.name": "mixer_nano"})
    return replace(recipe, data=replace(recipe.data, source=f"vtab:{name}"))


def follow_up(_scale: Scale, finished: Sequence[FinishedRun]) -> list[PlannedRun]:
    """Each task with its best learning rate, on all 1,000 images."""
    tried: dict[str, list[FinishedRun]] = {}
    for one in finished:
        tried.setdefault(one.plan.cell["task"], []).append(one)
    found = []
    for task, runs in tried.items():
        best = max(runs, key=lambda run: run.val)
        whole = toml.change(best.plan.recipe, {"data.train": "train+val", "data.val": ""})
        found.append(PlannedRun({"task": task, "stage": "all 1,000"}, whole))
    return found


def summarize(finished: Sequence[FinishedRun]) -> Outcome:
    found = {one.plan.cell["task"]: one for one in finished if one.plan.cell["stage"] == "all 1,000"}
    rows = []
    for name, task in VTAB.items():
        one = found.get(name)
        rate = f"{one.plan.recipe.optim.lr:g}" if one else "–"
        rows.append((name, task.kind, f"{100 * one.top1:.2f}" if one else "–", rate))
    for kind in ("natural", "specialised", "structured", ""):
        of = [name for name, task in VTAB.items() if kind in ("", task.kind)]
        scores = [100 * found[name].top1 for name in of if name in found]
        mean = f"{sum(scores) / len(scores):.2f}" if scores else "–"
        count = f"mean of {len(scores)} of {len(of)}" if len(scores) < len(of) else f"mean of all {len(of)}"
        rows.append((count, kind or "all", mean, ""))
    missing = [name for name in VTAB if name not in found]
    return Outcome(
        columns=("task", "kind", "top-1, %", "lr"),
        rows=rows,
        claims=[
            Claim(
                "All 19 tasks were run.",
                not missing,
                f"missing: {', '.join(missing)}" if missing else "none missing",
            )
        ],
        paper="Table 2, the plain mean of 19: "
        + ", ".join(f"{row.said} of {row.data} {row.vtab:.2f} %" for row in TABLE_2 if row.vtab)
        + ".",
    )


STUDY = Study("vtab", "The 19 tasks of VTAB-1k.", "Section 3.1, Table 2", plan_runs, summarize, follow_up, partial=True)
