"""Fig. 2, left: accuracy against the cost of training, and against throughput; which models are on the frontier.

The runs are those of `model-scale`, or of `table2` at the scale `paper`; throughput is measured on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpmixer.experiments import model_scale, paper, transfer
from mlpmixer.experiments.study import Claim, FinishedRun, Outcome, PlannedRun, Scale, Study, group_by_cell, mean_ci

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
    speeds = {name: transfer.images_per_second(first[name]) for name in accuracy}
    cheap = frontier({name: (mean[name], -hours[name]) for name in accuracy})
    fast = frontier({name: (mean[name], speeds[name]) for name in accuracy})
    rows = [
        (
            name,
            mean_ci(accuracy[name]),
            f"{hours[name]:.2f}",
            "yes" if name in cheap else "no",
            f"{speeds[name]:,.0f}",
            "yes" if name in fast else "no",
        )
        for name in sorted(accuracy, key=lambda name: hours[name])
    ]
    return Outcome(
        columns=(
            "model",
            "top-1, %",
            "training hours",
            "on the cost frontier",
            "images/s",
            "on the throughput frontier",
        ),
        rows=rows,
        claims=[
            _mixers("Mixers are on the frontier of accuracy and training cost.", cheap),
            _mixers("Mixers are on the frontier of accuracy and throughput.", fast),
        ],
        paper=f"Fig. 2, left: of the models of Table 2, {', '.join(_papers())} are on the frontier of accuracy on "
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


def _papers() -> list[str]:
    rows = {f"{row.said} ({row.data})": row for row in (*paper.TABLE_2, *paper.OTHERS)}
    known = {
        name: (row.imagenet, -row.core_days)
        for name, row in rows.items()
        if row.imagenet is not None and row.core_days is not None
    }
    return frontier(known)


STUDY = Study(
    "pareto",
    "Accuracy against cost and throughput.",
    "Fig. 2, left",
    plan_runs,
    summarize,
    follow_up,
    runs_of={"tiny": "model-scale", "small": "model-scale", "paper": "table2"},
)
