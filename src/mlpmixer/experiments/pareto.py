"""Fig. 2, left: accuracy against the cost of training, and against throughput; which models are on the frontier.

The runs are those of `model-scale`, or of `table2` at the scale `paper`; throughput is measured on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpmixer.experiments import model_scale, paper, transfer
from mlpmixer.experiments.study import Claim, FinishedRun, Outcome, PlannedRun, Scale, Study, group_by_cell, mean_ci
from mlpmixer.experiments.transfer import NOTHING
from mlpmixer.weights.load import load

# Of each model by name: test accuracy with each seed, hours of training, one of the runs.
Figures = tuple[dict[str, list[float]], dict[str, float], dict[str, FinishedRun]]


def plan_runs(scale: Scale) -> list[PlannedRun]:
    return transfer.TABLE2.plan_runs(scale) if scale == "paper" else model_scale.plan_runs(scale)


def follow_up(scale: Scale, finished: Sequence[FinishedRun]) -> list[PlannedRun]:
    return transfer.follow_up(scale, finished) if scale == "paper" else []


def summarize(finished: Sequence[FinishedRun]) -> Outcome:
    accuracy, hours, first = (
        _fine_tuned(finished) if any("task" in one.plan.cell for one in finished) else _from_scratch(finished)
    )
    mean = {name: sum(values) / len(values) for name, values in accuracy.items()}
    speeds = {
        name: transfer.images_per_second(load(one.folder), one.plan.recipe.machine.device)
        for name, one in first.items()
        if name in accuracy
    }
    cheap = frontier({name: (mean[name], -hours[name]) for name in accuracy})
    fast = frontier({name: (mean[name], speeds[name]) for name in accuracy})
    theirs = _papers()
    rows = [
        (
            name,
            mean_ci(accuracy[name]),
            f"{hours[name]:.2f}",
            _whether(name in cheap),
            f"{speeds[name]:,.0f}",
            _whether(name in fast),
            *theirs.pop(_as_printed(name), [NOTHING] * 5),
        )
        for name in sorted(accuracy, key=lambda name: hours[name])
    ]
    rows += [(name, *[NOTHING] * 5, *figures) for name, figures in theirs.items()]
    return Outcome(
        columns=(
            "model",
            "top-1, %",
            "training hours",
            "on the cost frontier",
            "images/s",
            "on the throughput frontier",
            "top-1, paper",
            "core-days, paper",
            "on its cost frontier",
            "images/s/core, paper",
            "on its throughput frontier",
        ),
        rows=rows,
        claims=[
            _mixers("Mixers are on the frontier of accuracy and training cost.", cheap),
            _mixers("Mixers are on the frontier of accuracy and throughput.", fast),
        ],
        paper=f"Fig. 2, left: of the models of Table 2, {'; '.join(_cheapest())} are on the frontier of accuracy on "
        "ImageNet and core-days of pre-training.",
    )


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The Pareto frontier: points that no other dominates. More is better in both coordinates."""
    return [
        name
        for name, (a, b) in points.items()
        if not any(c >= a and d >= b and (c, d) != (a, b) for c, d in points.values())
    ]


def _from_scratch(
    finished: Sequence[FinishedRun],
) -> Figures:
    runs = {" ".join(value for _, value in key): found for key, found in group_by_cell(finished).items()}
    accuracy = {name: [one.top1 for one in found] for name, found in runs.items()}
    hours = {name: sum(one.hours for one in found) / len(found) for name, found in runs.items()}
    return accuracy, hours, {name: found[0] for name, found in runs.items()}


def _fine_tuned(
    finished: Sequence[FinishedRun],
) -> Figures:
    """Accuracy on ImageNet, hours of pre-training; without public weights, whose cost is not known."""
    hours = transfer.hours_of_pretraining(finished)
    scores = transfer.scores(finished, lambda one: one.top1)
    accuracy = {model: found for (model, task), found in scores.items() if task == "imagenet" and model in hours}
    tuned = {one.plan.cell["model"]: one for one in reversed(finished) if one.plan.cell["task"] == "imagenet"}
    return accuracy, hours, tuned


def _mixers(statement: str, best: Sequence[str]) -> Claim:
    mixers = sorted(name for name in best if name.startswith("Mixer"))
    return Claim(statement, bool(mixers), ", ".join(mixers) or "none")


# Table 2 by name, as entries of `table2` begin.
SYSTEMS = {f"{row.said}, {row.data}": row for row in (*paper.TABLE_2, *paper.OTHERS)}


def _as_printed(name: str) -> str:
    """The row of Table 2 that an entry is, such as "ViT-H/14, JFT-300M, 14 epochs at 518"."""
    return ", ".join(name.split(" at ")[0].split(", ")[:2])


def _cheapest() -> list[str]:
    """The paper's frontier of accuracy and core-days."""
    return frontier(
        {
            name: (row.imagenet, -row.core_days)
            for name, row in SYSTEMS.items()
            if row.imagenet is not None and row.core_days is not None
        }
    )


def _papers() -> dict[str, list[str]]:
    """The paper's figures of each system, and whether it is on the frontiers of these."""
    fast = frontier(
        {
            name: (row.imagenet, row.speed)
            for name, row in SYSTEMS.items()
            if row.imagenet is not None and row.speed is not None
        }
    )
    return {
        name: [
            _figure(row.imagenet),
            _figure(row.core_days),
            _whether(name in _cheapest()),
            _figure(row.speed),
            NOTHING if row.speed is None else _whether(name in fast),
        ]
        for name, row in SYSTEMS.items()
    }


def _figure(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def _whether(is_so: bool) -> str:
    return "yes" if is_so else "no"


STUDY = Study(
    "pareto",
    "Accuracy against cost and throughput.",
    "Fig. 2, left",
    plan_runs,
    summarize,
    follow_up,
    runs_of={"tiny": "model-scale", "small": "model-scale", "paper": "table2"},
    notes={"paper": transfer.NOTE},
)
