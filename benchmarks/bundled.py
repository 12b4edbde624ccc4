"""Images per second of the bundled models: from pixels to logits, in batches of 32, in bf16 by our kernels.

python benchmarks/bundled.py
"""

from __future__ import annotations

import statistics
import time

import torch

import mlpmixer
from mlpmixer.engines.engine import Engine
from mlpmixer.weights.bundled import BUNDLED

BATCH, BATCHES, ROUNDS = 32, 10, 15


def main() -> None:
    for name in BUNDLED:
        model = mlpmixer.load(name).float().eval()
        how = model.metadata.preprocessing
        engine = Engine(model, how, "kernels", "bf16", batch=BATCH, device=torch.device("cpu"))
        images = torch.randint(0, 256, (BATCH, 3, *how.crop), dtype=torch.uint8)
        rates = []
        for _ in range(ROUNDS + 2):
            started = time.perf_counter()
            for _ in range(BATCHES):
                engine(images)
            rates.append(BATCH * BATCHES / (time.perf_counter() - started))
        low, middle, high = statistics.quantiles(rates[2:], n=4)  # the first two warm up
        print(f"{name}: {middle:,.0f} images/s (quartiles over rounds: {low:,.0f} to {high:,.0f})")


if __name__ == "__main__":
    main()
