"""Fig. 2, left: accuracy against the cost of training, and against speed; who loses to no other is on the frontier.

The runs are those of `model-scale`, or of `table2` where the whole protocol is run; speeds are measured on the machine
that asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpmixer.experiments import model_scale, paper, table2, transfer
from mlpmixer.experiments.speed import speed
from mlpmixer.experiments.study import Done, Finding, Plan, Scale, Study, Told, cells, over_seeds


def plans(scale: Scale) -> list[Plan]:
    return table2.plans(scale) if scale == "paper" else model_scale.plans(scale)


def then(scale: Scale, done: Sequence[Done]) -> list[Plan]:
    return transfer.then(done) if scale == "paper" else []


def tell(done: Sequence[Done]) -> Told:
    right, hours, first = _tuned(done) if any("task" in one.plan.cell for one in done) else _trained(done)
    mean = {name: sum(values) / len(values) for name, values in right.items()}
    speeds = {name: speed(first[name]) for name in right}
    cheap = frontier({name: (mean[name], -hours[name]) for name in right})
    fast = frontier({name: (mean[name], speeds[name]) for name in right})
    rows = [
        (
            name,
            over_seeds(right[name]),
            f"{hours[name]:.2f}",
            "yes" if name in cheap else "no",
            f"{speeds[name]:,.0f}",
            "yes" if name in fast else "no",
        )
        for name in sorted(right, key=lambda name: hours[name])
    ]
    return Told(
        columns=("model", "top-1, %", "hours of training", "frontier of cost", "images/s", "frontier of speed"),
        rows=rows,
        findings=[
            _mixers("Mixers are on the frontier of accuracy and cost of training.", cheap),
            _mixers("Mixers are on the frontier of accuracy and speed.", fast),
        ],
        paper=f"Fig. 2, left: of the models of Table 2, {', '.join(_papers())} are on the frontier of accuracy on "
        "ImageNet and core-days of pre-training.",
    )


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Those to which no other is better in one and at least as good in the other; of both, more is better."""
    return [
        name
        for name, (a, b) in points.items()
        if not any(c >= a and d >= b and (c, d) != (a, b) for c, d in points.values())
    ]


def _trained(done: Sequence[Done]) -> tuple[dict[str, list[float]], dict[str, float], dict[str, Done]]:
    """Name → how often each seed is right, hours of training, and one of the runs."""
    runs = {" ".join(value for _, value in key): found for key, found in cells(done).items()}
    right = {name: [one.top1 for one in found] for name, found in runs.items()}
    hours = {name: sum(one.hours for one in found) / len(found) for name, found in runs.items()}
    return right, hours, {name: found[0] for name, found in runs.items()}


def _tuned(done: Sequence[Done]) -> tuple[dict[str, list[float]], dict[str, float], dict[str, Done]]:
    """The same of ImageNet, and hours of pre-training. Without public weights: what they cost here is not known."""
    hours = transfer.hours_of_pretraining(done)
    scores = transfer.scores(done, lambda one: one.top1)
    right = {model: found for (model, task), found in scores.items() if task == "imagenet" and model in hours}
    tuned = {one.plan.cell["model"]: one for one in reversed(done) if one.plan.cell["task"] == "imagenet"}
    return right, hours, tuned


def _mixers(claim: str, best: Sequence[str]) -> Finding:
    mixers = sorted(name for name in best if name.startswith("Mixer"))
    return Finding(claim, bool(mixers), ", ".join(mixers) or "none is")


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
    "Accuracy against cost and speed.",
    "Fig. 2, left",
    plans,
    tell,
    then,
    runs_of={"tiny": "model-scale", "small": "model-scale", "paper": "table2"},
)
