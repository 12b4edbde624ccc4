"""Images a second of finished runs, as the paper measures them: the best over batch sizes. On the machine that asks, in
bf16, and in the engine that all networks have."""

from __future__ import annotations

from mlpmixer.bench.scaling import interleaved_batches
from mlpmixer.engines.engine import Engine
from mlpmixer.experiments.study import Done
from mlpmixer.machine.devices import device_of
from mlpmixer.metadata import Preprocessing
from mlpmixer.weights.load import load

BATCHES = (1, 8, 32, 128)
ROUNDS = 3


def speed(one: Done) -> float:
    model = load(one.folder).eval()
    device = device_of(one.plan.recipe.machine.device)
    engine = Engine(model, Preprocessing(), "eager", "bf16", batch=max(BATCHES), device=device)
    times = interleaved_batches(engine, model.config.image_size, BATCHES, ROUNDS)
    return max(batch / each.median for batch, each in times.items())
