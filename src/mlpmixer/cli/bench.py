"""`mixer bench`: how fast it is here, beside what else one could use."""

from __future__ import annotations

import json as as_json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mlpmixer.cli.output import print_table
from mlpmixer.errors import UsageError

if TYPE_CHECKING:
    from mlpmixer.bench.training import Row


def bench(
    what: Annotated[Literal["train"], tyro.conf.Positional],
    /,
    models: str = "mixer_s32:64,mixer_b16:16",
    precision: Literal["bf16", "fp32"] = "bf16",
    rounds: int = 9,
    quick: bool = False,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Measure training beside timm's, in one run.

    Args:
        what: train.
        models: Names and batch sizes.
        precision: Of the products; weights stay in float32.
        rounds: How often each system takes a step, after two to warm up.
        quick: Without torch.compile, which begins with a minute for each model.
        device: cpu, cuda, or auto.
        json: Print JSON.
    """
    import torch

    from mlpmixer.bench.training import bench_training, speed_ups
    from mlpmixer.train.machine import describe_machine, matrix_rate
    from mlpmixer.train.team import Team, device_of

    assert what == "train"
    pairs = [_pair(text) for text in models.split(",")]
    place = device_of(device)
    rate = matrix_rate(place, torch.bfloat16 if precision == "bf16" else torch.float32)
    rows = bench_training(pairs, precision, rounds, place, rate, compiled=not quick)
    ahead = speed_ups(rows)
    machine = describe_machine(Team(place))
    if json:
        listed = [{key: value for key, value in asdict(row).items() if key != "times"} for row in rows]
        ceilings = {f"matrix_{precision}_flop_per_s": rate}
        print(as_json.dumps({"machine": machine, "ceilings": ceilings, "rows": listed, "ahead": ahead}))
        return
    note = f"{precision}, {machine['processor']}, torch {machine['torch']}, {rate / 1e9:,.0f} GFLOP/s"
    head = ["model", "batch", "system", "engine", "images/s", "spread", "of matrix rate", "MB kept", "first loss"]
    print_table(head, [_cells(row) for row in rows], note)
    for name, (middle, first, third) in ahead.items():
        print(f"{name}: {middle:.2f} times the better of timm's (quartiles over rounds: {first:.2f} to {third:.2f})")


def _cells(row: Row) -> list[str]:
    speed = [f"{row.images_per_s:.1f}", f"±{row.spread:.0%}", f"{row.share:.0%}"]
    return [row.model, str(row.batch), row.system, row.engine, *speed, f"{row.kept_mb:.1f}", f"{row.loss:.4f}"]


def _pair(text: str) -> tuple[str, int]:
    name, _, batch = text.partition(":")
    if not batch.isdigit() or int(batch) < 2:
        raise UsageError(f"--models looks like mixer_s32:64,mixer_b16:16 (a batch is 2 or more); got '{text}'")
    return name, int(batch)
