"""Three ways to write X + W2 · gelu(W1 · X), forward and backward. The evidence behind `ColumnLinear`.

python benchmarks/token_mixing.py
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = {
    "S/32, batch 32": (32, 49, 512, 256),
    "B/16, batch 16": (16, 196, 768, 384),
    "nano, batch 256": (256, 64, 96, 48),
}
RUNS = 15


def transposed(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return x + F.linear(F.gelu(F.linear(x.transpose(1, 2), w1, b1), approximate="tanh"), w2, b2).transpose(1, 2)


def product(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return x + w2 @ F.gelu(w1 @ x + b1[:, None], approximate="tanh") + b2[:, None]


def fused_bias(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    hidden = torch.baddbmm(b1[:, None], w1.expand(x.shape[0], -1, -1), x)
    return x + torch.baddbmm(b2[:, None], w2.expand(x.shape[0], -1, -1), F.gelu(hidden, approximate="tanh"))


WAYS = {"linear between transposes": transposed, "W @ X + b": product, "baddbmm": fused_bias}


def milliseconds(runs: dict[str, Callable[[], object]]) -> dict[str, str]:
    """Median and range of each, the ways in turn, so that a drift of the machine meets all alike."""
    walls: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(RUNS + 2):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if round_ > 1:
                walls[name].append(1e3 * (time.perf_counter() - started))
    return {name: f"{statistics.median(t):.1f} ({min(t):.1f}–{max(t):.1f})" for name, t in walls.items()}


def main() -> None:
    torch.set_num_threads(2)
    print(f"{platform.machine()}, torch {torch.__version__}, 2 threads, ms: median (range) of {RUNS}\n")
    print("| shape | precision | pass | " + " | ".join(WAYS) + " |\n|---|---|---|" + "---|" * len(WAYS))
    for shape, (batch, places, channels, hidden) in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            x, *weights = (
                torch.randn(*size, dtype=dtype, requires_grad=True)
                for size in ((batch, places, channels), (hidden, places), (hidden,), (places, hidden), (places,))
            )
            gradient = torch.randn(batch, places, channels, dtype=dtype)

            def forward(way: Callable[..., Tensor], x: Tensor = x, weights: list[Tensor] = weights) -> None:
                with torch.inference_mode():
                    way(x, *weights)

            def both(
                way: Callable[..., Tensor], x: Tensor = x, weights: list[Tensor] = weights, g: Tensor = gradient
            ) -> None:
                way(x, *weights).backward(g)

            for name, run in (("forward", forward), ("forward + backward", both)):
                cells = milliseconds({label: lambda way=way, run=run: run(way) for label, way in WAYS.items()})
                precision = str(dtype).removeprefix("torch.")
                print(f"| {shape} | {precision} | {name} | " + " | ".join(cells.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
