"""`mixer bench`: how fast it is here, beside what else one could use."""

from __future__ import annotations

import json as as_json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mlpmixer.cli.output import print_table
from mlpmixer.errors import UsageError, nearest

if TYPE_CHECKING:
    from mlpmixer.bench import inference, scaling, training

What = Literal["infer", "train", "scaling"]
MODELS = {
    "infer": "mixer_s32:32,mixer_s32:1,mixer_b16:16,mixer_b16:1",
    "train": "mixer_s32:64,mixer_b16:16",
    "scaling": "mixer_s16,vit_s16,mixer_b16,vit_b16,mixer_l16,vit_l16",
}
PRECISIONS = {"infer": "fp32,bf16,int8", "train": "bf16", "scaling": "bf16"}
KNOWN = {"infer": ("fp32", "bf16", "int8"), "train": ("fp32", "bf16"), "scaling": ("fp32", "bf16")}
ROUNDS = {"infer": 9, "train": 9, "scaling": 3}
LEAST = {"infer": 1, "train": 2}  # pictures in a batch


def bench(
    what: Annotated[What, tyro.conf.Positional] = "infer",
    /,
    models: str = "",
    precision: str = "",
    peers: str = "timm,openvino,onnx,flax",
    rounds: int = 0,
    quick: bool = False,
    device: str = "auto",
    picture: Path | None = None,
    json: bool = False,
) -> None:
    """Measure, beside what else one could use, in one run.

    infer: answers by our engines, beside timm's model, OpenVINO, ONNX Runtime and Flax, and beside what the machine can
    do at most. train: steps of training, beside timm's. scaling: speed by the number of patches and by the batch, of
    Mixers and others.

    Args:
        what: infer, train or scaling.
        models: Names and batch sizes, such as mixer_s32:32,mixer_s32:1; names only for scaling.
        precision: Of the products: fp32, bf16 and int8 (infer), or one of fp32 and bf16.
        peers: Whom to compare with (infer).
        rounds: How often each system has its turn, after it has warmed up; 2 or more.
        quick: Without torch.compile, which begins with a minute for each model.
        device: cpu, cuda, or auto.
        picture: Draw the figures here, an .svg file (infer, scaling).
        json: Print JSON.
    """
    named = (models or MODELS[what]).split(",")
    pairs = [] if what == "scaling" else [_pair(text, what) for text in named]
    precisions = (precision or PRECISIONS[what]).split(",")
    for name in precisions:
        if name not in KNOWN[what]:
            raise UsageError(
                f"--precision: {what} knows {', '.join(KNOWN[what])}, not '{name}'{nearest(name, KNOWN[what])}"
            )
    rounds = rounds or ROUNDS[what]
    if rounds < 2:
        raise UsageError(f"--rounds must be 2 or more: a figure without a spread says little; got {rounds}")
    if picture is not None:
        _room_for(picture)
    if what == "infer":
        _infer(pairs, precisions, [name for name in peers.split(",") if name], rounds, quick, device, picture, json)
        return
    if len(precisions) > 1:
        raise UsageError(f"{what} measures one precision at a time: --precision bf16")
    if what == "scaling":
        _scaling(named, precisions[0], rounds, device, picture, json)
        return
    _train(pairs, precisions[0], rounds, quick, device, json)


def _infer(
    pairs: list[tuple[str, int]],
    precisions: list[str],
    peers: list[str],
    rounds: int,
    quick: bool,
    device: str,
    picture: Path | None,
    json: bool,
) -> None:
    from mlpmixer.bench.bars import bars
    from mlpmixer.bench.inference import ahead, bench_inference
    from mlpmixer.bench.peers import versions
    from mlpmixer.train.machine import describe_machine
    from mlpmixer.train.team import Team, device_of

    place = device_of(device)
    found = bench_inference(pairs, precisions, peers, rounds, place, quick=quick, tell=_tell)
    won = ahead(found.rows)
    machine = describe_machine(Team(place)) | {"versions": versions(peers)}
    if picture is not None:
        said = f"{machine['processor']}, {machine['threads']} threads; median of {rounds} rounds"
        picture.write_text(bars(found.rows, found.ceilings, said))
    if json:
        listed = [_without_times(row) for row in found.rows]
        others = {"ahead": [*map(asdict, won)], "chosen": found.chosen, "left_out": found.left_out}
        print(as_json.dumps({"machine": machine, "ceilings": found.ceilings, "rows": listed, **others}))
        return
    for name, rate in found.ceilings.items():
        print(f"{name.removesuffix('_per_s').replace('_', ' ')}: {rate / 1e9:,.0f} billion a second")
    head = ["model", "batch", "precision", "system", "engine", "images/s", "spread", "GFLOP/s", "of ceiling", "off"]
    kept = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    note = f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, {kept}; {rounds} rounds"
    print_table(head, [_infer_cells(row) for row in found.rows], note)
    against = [
        [each.model, str(each.batch), each.precision, each.engine, each.peer, f"{each.ratio:.2f}", _quartiles(each)]
        for each in won
    ]
    print_table(["model", "batch", "precision", "ours", "best peer", "times as fast", "quartiles"], against)
    for line in found.chosen:
        print(f"auto: {line}")
    for row in found.rows:
        if not row.agrees:
            who = f"{row.system} {row.engine}, {row.model}, batch {row.batch}, {row.precision}"
            print(f"left out of the ratios: {who}: its logits are off by {row.distance:.2g} of their spread")
    for line in found.left_out:
        print(f"left out: {line}")


def _infer_cells(row: inference.Row) -> list[str]:
    what = [row.model, str(row.batch), row.precision, row.system, row.engine]
    share = "–" if row.share != row.share else f"{row.share:.0%}"
    speed = [f"{row.images_per_s:,.1f}", f"±{row.spread:.0%}", f"{row.flop_per_s / 1e9:,.0f}", share]
    return [*what, *speed, f"{row.distance:.1g}" + ("" if row.agrees else " (too far)")]


def _quartiles(each: inference.Ahead) -> str:
    return f"{each.quartiles[0]:.2f} to {each.quartiles[1]:.2f}"


def _scaling(names: list[str], precision: str, rounds: int, device: str, picture: Path | None, json: bool) -> None:
    from mlpmixer.bench import scaling
    from mlpmixer.bench.curves import curves
    from mlpmixer.models import canonical
    from mlpmixer.train.machine import describe_machine
    from mlpmixer.train.team import Team, device_of

    names, place = [canonical(name) for name in names], device_of(device)
    patches = scaling.by_patches(names, scaling.SIDES, rounds, place, precision, _tell)
    batches = scaling.by_batch(names, scaling.BATCHES, rounds, place, precision, _tell)
    growths, best = scaling.growth(patches), scaling.best_batches(batches)
    machine = describe_machine(Team(place))
    said = f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, {precision}"
    if picture is not None:
        picture.write_text(curves(patches, growths, f"{said}, one picture at a time"))
    if json:
        found = {"patches": patches, "batches": batches, "growth": growths, "best_batches": best}
        listed = {name: [asdict(each) for each in several] for name, several in found.items()}
        print(as_json.dumps({"machine": machine, **listed}))
        return
    keys = [*dict.fromkeys((point.model, point.engine) for point in patches)]
    sides = {(point.model, point.engine, point.side): point for point in patches}
    sizes = {(point.model, point.engine, point.batch): point for point in batches}
    for what, columns, points in (("pixels", scaling.SIDES, sides), ("batch", scaling.BATCHES, sizes)):
        rows = [[*key, *(_speed(points.get((*key, column))) for column in columns)] for key in keys]
        print_table(["images/s", "engine", *(f"{what} {column}" for column in columns)], rows, said)
    for each in growths:
        print(
            f"{each.model}, {each.engine}: from {each.patches} patches on, time grows with the power {each.timed:.2f} "
            f"of their number, multiply-adds with {each.counted:.2f}"
        )
    for point in best:
        print(f"{point.model}, {point.engine}: best batch {point.batch}, {point.images_per_s:,.1f} images/s")


def _speed(point: scaling.Point | None) -> str:
    return "–" if point is None else f"{point.images_per_s:,.1f}"


def _train(pairs: list[tuple[str, int]], precision: str, rounds: int, quick: bool, device: str, json: bool) -> None:
    import torch

    from mlpmixer.bench.training import bench_training, speed_ups
    from mlpmixer.train.machine import describe_machine, matrix_rate
    from mlpmixer.train.team import Team, device_of

    place = device_of(device)
    rate = matrix_rate(place, torch.bfloat16 if precision == "bf16" else torch.float32)
    rows = bench_training(pairs, precision, rounds, place, rate, compiled=not quick)
    ahead = speed_ups(rows)
    machine = describe_machine(Team(place))
    if json:
        ceilings = {f"matrix_{precision}_flop_per_s": rate}
        listed = [*map(_without_times, rows)]
        print(as_json.dumps({"machine": machine, "ceilings": ceilings, "rows": listed, "ahead": ahead}))
        return
    note = f"{precision}, {machine['processor']}, torch {machine['torch']}, {rate / 1e9:,.0f} GFLOP/s"
    head = ["model", "batch", "system", "engine", "images/s", "spread", "of matrix rate", "MB kept", "first loss"]
    print_table(head, [_train_cells(row) for row in rows], note)
    for name, (middle, first, third) in ahead.items():
        print(f"{name}: {middle:.2f} times the better of timm's (quartiles over rounds: {first:.2f} to {third:.2f})")


def _train_cells(row: training.Row) -> list[str]:
    speed = [f"{row.images_per_s:.1f}", f"±{row.spread:.0%}", f"{row.share:.0%}"]
    return [row.model, str(row.batch), row.system, row.engine, *speed, f"{row.kept_mb:.1f}", f"{row.loss:.4f}"]


def _without_times(row: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key != "times"}


def _room_for(picture: Path) -> None:
    """At the door, not after ten minutes."""
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.open("a").close()
    except OSError as error:
        raise UsageError(f"{picture} cannot be written: {error.strerror}") from None


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr)


def _pair(text: str, what: str) -> tuple[str, int]:
    name, _, batch = text.partition(":")
    if not batch.isdigit() or int(batch) < LEAST[what]:
        least = f" (a batch is {LEAST[what]} or more)" if LEAST[what] > 1 else ""
        raise UsageError(f"--models looks like {MODELS[what]}{least}; got '{text}'")
    return name, int(batch)
