"""Output of `mixer bench`: tables for people, JSON for machines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlpmixer.cli.output import print_table
from mlpmixer.text import to_json

if TYPE_CHECKING:
    import torch

    from mlpmixer.bench import inference, loading, predicting, training
    from mlpmixer.bench.scaling import Point
    from mlpmixer.bench.serving.capacity import CapacityRow
    from mlpmixer.bench.serving.run import Parts


def infer(
    pairs: list[tuple[str, int]],
    precisions: list[str],
    baselines: list[str],
    rounds: int,
    quick: bool,
    device: str,
    image: Path | None,
    json: bool,
    **effort: Any,
) -> None:
    """`effort`: of `bench_inference`, if it is not the full one."""
    from mlpmixer.bench.bars import bars, speedup_bars
    from mlpmixer.bench.inference import bench_inference, speedups
    from mlpmixer.machine.devices import device_of

    place = device_of(device)
    found = bench_inference(pairs, precisions, baselines, rounds, place, quick=quick, tell=_tell, **effort)
    won = speedups(found.rows)
    machine = _machine(place, baselines)
    if image is not None:
        about = f"{machine['processor']}, {machine['threads']} threads; median of {rounds} rounds"
        image.write_text(speedup_bars(won, about))
        image.with_name(f"{image.stem}-panels.svg").write_text(bars(found.rows, found.roofline, about))
    if json:
        others = {"speedups": [*map(asdict, won)], "chosen": found.chosen, "skipped": found.skipped}
        _print_json(machine, found.rows, roofline=found.roofline, **others)
        return
    for name, rate in found.roofline.items():
        print(f"{name.removesuffix('_per_s').replace('_', ' ')}: {rate / 1e9:,.0f} billion a second")
    head = ["model", "batch", "precision", "system", "engine", "images/s", "spread", "GFLOP/s", "% of peak", "error"]
    print_table(head, [_infer_cells(row) for row in found.rows], f"{_described(machine)}; {rounds} rounds")
    against = [
        [each.model, str(each.batch), each.precision, each.engine, each.other, *_ratio((each.ratio, *each.quartiles))]
        for each in won
    ]
    print_table(["model", "batch", "precision", "ours", "best other", "speedup", "quartiles"], against)
    for line in found.chosen:
        print(f"auto: {line}")
    for row in found.rows:
        if not row.agrees:
            who = f"{row.system} {row.engine}, {row.model}, batch {row.batch}, {row.precision}"
            print(f"not compared: {who}: its logits are off by {row.distance:.2g} of their spread")
    _print_skipped(found.skipped)


def train(
    pairs: list[tuple[str, int]], precision: str, rounds: int, quick: bool, device: str, json: bool, **effort: Any
) -> None:
    """`effort`: of `bench_training`, if it is not the full one."""
    from mlpmixer.bench.training import bench_training, speedups
    from mlpmixer.machine.devices import device_of

    place = device_of(device)
    rows, rate = bench_training(pairs, precision, rounds, place, compiled=not quick, **effort)
    ahead = speedups(rows)
    machine = _machine(place, ["timm"])
    if json:
        _print_json(machine, rows, roofline={f"matrix_{precision}_flop_per_s": rate}, speedups=ahead)
        return
    head = [
        "model",
        "batch",
        "system",
        "engine",
        "images/s",
        "spread",
        "% of peak",
        "MB for backward",
        "MB at peak",
        "first loss",
    ]
    print_table(
        head, [_train_cells(row) for row in rows], f"{precision}, {_described(machine)}, {rate / 1e9:,.0f} GFLOP/s"
    )
    for name, (middle, first, third) in ahead.items():
        print(f"{name}: {middle:.2f} times timm's better one (quartiles over rounds: {first:.2f} to {third:.2f})")


def data(folder: Path, rounds: int, json: bool, **amount: Any) -> None:
    """`amount`: of `bench_loading`, if it is not the full one."""
    import torch

    from mlpmixer.bench.loading import bench_loading

    rows, skipped = bench_loading(folder, rounds, tell=_tell, **amount)
    machine = _machine(torch.device("cpu"), ["timm"], "simplejpeg")
    if json:
        _print_json(machine, rows, skipped=skipped)
        return
    head = [
        "images",
        "system",
        "read from",
        "images/s",
        "spread",
        "speedup over timm",
        "quartiles",
        "core ms/image",
    ]
    head += ["times less", "quartiles"]
    print_table(head, [_data_cells(row) for row in rows], f"{rows[0].workers} workers, {_described(machine)}")
    _print_skipped(skipped)


def predict(
    folder: Path, model: tuple[str, int], precision: str, images: int, rounds: int, quick: bool, json: bool
) -> None:
    import torch

    from mlpmixer.bench.predicting import bench_predicting

    rows, skipped = bench_predicting(folder, model, precision, images, rounds, quick=quick, tell=_tell)
    machine = _machine(torch.device("cpu"), ["timm"], "simplejpeg")
    if json:
        _print_json(machine, rows, skipped=skipped)
        return
    head = ["model", "batch", "precision", "system", "engine", "images/s", "spread", "our speedup", "quartiles"]
    print_table([*head, "same label"], [_predict_cells(row) for row in rows], f"{rounds} rounds, {_described(machine)}")
    _print_skipped(skipped)


SERVED_BY = ("fastapi", "uvicorn", "httptools", "uvloop", "python-multipart")


def serve(
    folder: Path | None, model: str, precision: str, images: int, parts: Parts, litserve: str, json: bool
) -> None:
    """Exits with 1 where a bar is missed."""
    import torch

    from mlpmixer.bench.serving.run import bench_serving

    found = bench_serving(folder, model, precision, images, parts, litserve, _tell)
    machine = _machine(torch.device("cpu"), [], *SERVED_BY)
    machine["versions"] |= found.versions
    if json:
        bars = [bar.facts() for bar in found.bars]
        _print_json(machine, found.rows, bars=bars, bare=found.about, skipped=found.skipped)
    else:
        note = f"{model}, {_described(machine)}"
        if found.rows:
            head = ["system", "body", "clients", "requests/s", "spread", "of bare", "quartiles", "CPU ms", "of bare"]
            head += ["quartiles", "p50 ms", "p99 ms", "RSS MB", "errors"]
            print_table(
                head, [_serve_cells(row) for row in found.rows], f"bare: {found.about}\n{parts.rounds} rounds; {note}"
            )
        print_table(["what", "measured", "bar", ""], [bar.cells() for bar in found.bars], "" if found.rows else note)
        _print_skipped(found.skipped)
    if not all(bar.met for bar in found.bars):
        sys.exit(1)


def scaling(
    names: list[str],
    precision: str,
    rounds: int,
    device: str,
    image: Path | None,
    json: bool,
    sides: Sequence[int] = (),
    batch_sizes: Sequence[int] = (),
) -> None:
    """`sides`, `batch_sizes`: none for the usual ones."""
    from mlpmixer.bench import scaling
    from mlpmixer.bench.curves import curves
    from mlpmixer.machine.devices import device_of
    from mlpmixer.models import canonical

    names, place = [canonical(name) for name in names], device_of(device)
    sides, batch_sizes = sides or scaling.SIDES, batch_sizes or scaling.BATCHES
    patches = scaling.by_patches(names, sides, rounds, place, precision, _tell)
    batches = scaling.by_batch(names, batch_sizes, rounds, place, precision, _tell)
    growths, best = scaling.growth(patches), scaling.best_batches(batches)
    machine = _machine(place, [])
    about = f"{_described(machine)}, {precision}"
    if image is not None:
        image.write_text(curves(patches, growths, f"{about}, one image at a time"))
    if json:
        growing, sweep = [*map(asdict, growths)], [*map(asdict, batches)]
        _print_json(machine, patches, growth=growing, batches=sweep, best_batches=[*map(asdict, best)])
        return
    keys = [*dict.fromkeys((point.model, point.engine) for point in patches)]
    by_side = {(point.model, point.engine, point.side): point for point in patches}
    by_size = {(point.model, point.engine, point.batch): point for point in batches}
    for what, columns, points in (("pixels", sides, by_side), ("batch", batch_sizes, by_size)):
        rows = [[*key, *(_speed(points.get((*key, column))) for column in columns)] for key in keys]
        print_table(["images/s", "engine", *(f"{what} {column}" for column in columns)], rows, about)
    for each in growths:
        print(
            f"{each.model}, {each.engine}: from {each.patches} patches on, time grows with the power {each.timed:.2f} "
            f"± {each.within:.2f} of their number, multiply-adds with {each.counted:.2f}"
        )
    for point in best:
        print(f"{point.model}, {point.engine}: best batch {point.batch}, {point.images_per_s:,.1f} images/s")


def _machine(device: torch.device, baselines: Sequence[str], *packages: str) -> dict[str, Any]:
    from mlpmixer.bench.baselines import versions
    from mlpmixer.machine.description import describe_machine
    from mlpmixer.machine.distributed import Group

    return describe_machine(Group(device)) | {"versions": versions(baselines, *packages)}


def _described(machine: dict[str, Any]) -> str:
    numbers = {"mlpmixer": machine["mlpmixer"], "torch": machine["torch"], **machine["versions"]}
    versions = [f"{package} {number}" for package, number in numbers.items()]
    return ", ".join([machine["processor"], f"{machine['threads']} threads", *versions])


def _print_json(machine: dict[str, Any], rows: Sequence[Any], **others: Any) -> None:
    listed = [{key: value for key, value in asdict(row).items() if key != "times"} for row in rows]
    print(to_json({"machine": machine, **others, "rows": listed}))


def _print_skipped(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"skipped: {line}")


def _infer_cells(row: inference.InferenceRow) -> list[str]:
    what = [row.model, str(row.batch), row.precision, row.system, row.engine]
    share = "–" if row.share != row.share else f"{row.share:.0%}"
    speed = [f"{row.images_per_s:,.1f}", f"±{row.spread:.0%}", f"{row.flop_per_s / 1e9:,.0f}", share]
    return [*what, *speed, f"{row.distance:.1g}" + ("" if row.agrees else " (too far)")]


def _train_cells(row: training.TrainingRow) -> list[str]:
    speed = [f"{row.images_per_s:.1f}", f"±{row.spread:.0%}", f"{row.share:.0%}"]
    memory = [f"{row.kept_mb:.1f}", "–" if row.peak_mb is None else f"{row.peak_mb:.1f}"]
    return [row.model, str(row.batch), row.system, row.engine, *speed, *memory, f"{row.loss:.4f}"]


def _data_cells(row: loading.LoadingRow) -> list[str]:
    speed = [f"{row.images_per_s:,.0f}", f"±{row.spread:.0%}", *_ratio(row.speedup)]
    return [row.augmentation, row.system, row.engine, *speed, f"{row.core_ms:.2f}", *_ratio(row.core_speedup)]


def _predict_cells(row: predicting.PredictionRow) -> list[str]:
    speed = [f"{row.images_per_s:,.1f}", f"±{row.spread:.0%}", *_ratio(row.speedup), f"{row.same_label:.1%}"]
    return [row.model, str(row.batch), row.precision, row.system, row.engine, *speed]


def _serve_cells(row: CapacityRow) -> list[str]:
    speed = [f"{row.requests_per_s:,.0f}", f"±{row.spread:.0%}", *_ratio(row.share)]
    cost = [f"{row.cpu_ms:.2f}", *_ratio(row.cpu_ratio)]
    waits = [f"{each:.0f}" if row.clients else "–" for each in (row.p50_ms, row.p99_ms)]
    return [row.system, row.body, str(row.clients or "–"), *speed, *cost, *waits, f"{row.rss_mb:.0f}", str(row.errors)]


def _ratio(found: tuple[float, float, float] | None) -> list[str]:
    return ["–", "–"] if found is None else [f"{found[0]:.2f}", f"{found[1]:.2f} to {found[2]:.2f}"]


def _speed(point: Point | None) -> str:
    return "–" if point is None else f"{point.images_per_s:,.1f}"


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr)
