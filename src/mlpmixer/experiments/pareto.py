"""Fig. 2, left: accuracy against cost and speed; of two models, one is better if it loses in neither.

The runs are those of `model-scale`; speeds are measured on the machine that asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mlpmixer.bench.scaling import batches_in_turns
from mlpmixer.engines.engine import Engine
from mlpmixer.experiments.model_scale import plans
from mlpmixer.experiments.study import Done, Finding, Study, Told, cells, over_seeds
from mlpmixer.models.classifier import Classifier
from mlpmixer.passport import Preprocessing
from mlpmixer.train.team import device_of
from mlpmixer.weights.load import load

BATCHES = (1, 8, 32, 128)
ROUNDS = 3


def tell(done: Sequence[Done]) -> Told:
    found: dict[str, tuple[float, float, float, list[float]]] = {}
    for key, runs in cells(done).items():
        device = device_of(runs[0].plan.recipe.machine.device)
        speed = best_speed(load(runs[0].folder), device)
        top1 = [one.top1 for one in runs]
        hours = sum(one.hours for one in runs) / len(runs)
        found[" ".join(value for _, value in key)] = (sum(top1) / len(top1), speed, hours, top1)
    frontier = {name for name, mine in found.items() if not any(_beats(other, mine) for other in found.values())}
    rows = [
        (name, over_seeds(top1), f"{speed:,.0f}", f"{hours:.2f}", "yes" if name in frontier else "no")
        for name, (_, speed, hours, top1) in sorted(found.items(), key=lambda item: item[1][1])
    ]
    mixers = sorted(name for name in frontier if name.startswith("Mixer"))
    return Told(
        columns=("model", "top-1, %", "images/s", "hours of training", "on the frontier"),
        rows=rows,
        findings=[
            Finding("Mixers are on the frontier of accuracy and speed.", bool(mixers), ", ".join(mixers) or "none is")
        ],
        paper="Fig. 2, left: Mixers lie on the frontier, beside ViT and BiT, from the smallest to the largest.",
    )


def best_speed(model: Classifier, device: torch.device) -> float:
    """Images a second in bf16, in the engine that all networks have."""
    engine = Engine(model.eval(), Preprocessing(), "eager", "bf16", batch=max(BATCHES), device=device)
    times = batches_in_turns(engine, model.config.image_size, BATCHES, ROUNDS)
    return max(batch / each.median for batch, each in times.items())


def _beats(other: tuple[float, float, float, list[float]], mine: tuple[float, float, float, list[float]]) -> bool:
    """More often right and faster."""
    return other[0] >= mine[0] and other[1] >= mine[1] and other[:2] != mine[:2]


STUDY = Study("pareto", "Accuracy against speed.", "Fig. 2, left", plans, tell, runs_of="model-scale")
