"""All that is to be known of our kernels on a Hopper GPU, in one run of less than ten minutes.

PYTHONPATH=src python benchmarks/gpu.py [--minutes 9] [--stages 'correct:b16+networks;pieces;…'] [--device cuda]

Stages, each in a process of its own, so that none takes the others down; those with a + between them at once, since
compilers take most of their time. Whether every kernel computes what it should;
whether whole networks do; what the GPU can do at most; each kernel's time beside that; then answers of whole Mixers and
steps of training beside timm's, compiled with max-autotune, in turns. With the variable OUT, all of it is written to
$OUT/gpu.json as well. timm is left out where it is not installed.

Answers are timed with images that are on the GPU: ours begin with bytes, timm's with normalized images in bfloat16.
All compute the tanh form of the GELU, with the same weights; `off` is how far logits are from eager float32's, as a
share of these. `of rate`: 2 operations a multiply-add, over what an 8192³ product of bfloat16 reached in the same run.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mlpmixer
from mlpmixer.data.preprocess import normalize
from mlpmixer.data.torchvision_guard import ensure_torchvision
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.measured import measured
from mlpmixer.models.mixer import Mixer

HOW = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
TIMM = {f"mixer_{size}": f"mixer_{size}_224" for size in ("s32", "s16", "b32", "b16", "l32", "l16")}
BARS = {"bf16": 0.02, "fp8": 0.1}  # how far logits may be off

# name, seconds that it may take
CHECKS = [f"correct:{shape}:{kernels}" for shape in ("b16", "s32") for kernels in ("tokens", "channels")]
STAGES = {
    "+".join([*CHECKS, "correct:odd", "networks"]): 150,
    "ceilings": 60,
    "pieces": 120,
    "infer:mixer_b16:128": 240,
    "sweep:mixer_b16:1,8,32,64,256,512": 150,
    "train:mixer_b16:128": 240,
    "infer:mixer_s32:512": 200,
    "infer:mixer_l16:64": 200,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--stages", default=";".join(STAGES), help="separated by ;, or by + if they may go together")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--alone", help="used by this file itself: the stage to run here, and where to write")
    parser.add_argument(
        "--rate", type=float, default=math.nan, help="of matrix products, if ceilings is not among the stages"
    )
    options = parser.parse_args()
    if options.alone:
        stage, path = options.alone.split("=", 1)
        kept.append(Path(path))
        keep(run(stage, torch.device(options.device), options.rate))
        return
    until = time.monotonic() + 60 * options.minutes
    found: dict[str, Any] = {"machine": machine(options.device)}
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()), flush=True)
    rate = options.rate
    for group in options.stages.split(";"):
        stages = group.split("+")
        left = until - time.monotonic()
        if left < 15:
            found |= {stage: {"error": "no time left"} for stage in stages}
        else:
            alone = partial(in_process, device=options.device, rate=rate, seconds=min(STAGES.get(group, 240), left))
            with ThreadPoolExecutor(len(stages)) as pool:
                found |= zip(stages, pool.map(alone, stages), strict=True)
        rate = found.get("ceilings", {}).get("bf16", rate)
        for stage in stages:
            tell(stage, found[stage])
        if out := os.environ.get("OUT"):  # after each: the rest may be cut off
            (Path(out) / "gpu.json").write_text(json.dumps(found, indent=1))


def machine(device: str) -> dict[str, str]:
    found = {"torch": torch.__version__, "CUDA": str(torch.version.cuda)}
    for package in ("triton", "timm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    if device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {"GPU": about.name, "processors": str(about.multi_processor_count)}
    return found


def in_process(stage: str, device: str, rate: float, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--alone", f"{stage}={path}", "--device", device, "--rate", str(rate)]
        began = time.monotonic()
        try:
            subprocess.run(command, check=True, timeout=seconds, stderr=subprocess.STDOUT)
            return json.loads(path.read_text()) | {"seconds": round(time.monotonic() - began, 1)}
        except subprocess.TimeoutExpired:
            ended = f"not done after {seconds:.0f} s"
        except subprocess.CalledProcessError as error:
            ended = f"exit code {error.returncode}; see above"
        return {"error": ended} | (json.loads(path.read_text()) if path.exists() else {})


kept: list[Path] = []  # where a stage's process writes


def keep(found: dict[str, Any]) -> None:
    """What is known so far, should the process not come to its end."""
    if kept:
        beside = kept[0].with_suffix(".part")
        beside.write_text(json.dumps(found))
        beside.replace(kept[0])


def run(stage: str, device: torch.device, rate: float) -> dict[str, Any]:
    torch.manual_seed(0)
    name, *rest = stage.split(":")
    if name == "infer":
        return infer(rest[0], int(rest[1]), device, rate)
    if name == "sweep":
        return sweep(rest[0], [int(batch) for batch in rest[1].split(",")], device, rate)
    if name == "train":
        return train(rest[0], int(rest[1]), device, rate)
    if name == "correct":
        return correct(device, *rest)
    return {"ceilings": ceilings, "networks": networks, "pieces": partial(pieces, rate=rate)}[name](device)


def tell(stage: str, found: dict[str, Any]) -> None:
    print(f"\n## {stage} ({found.get('seconds', '–')} s)\n")
    rows = found.get("rows")
    for name, value in found.items():
        if name not in ("rows", "seconds"):
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if rows:
        head = list(dict.fromkeys(key for row in rows for key in row))
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for row in rows:
            cells = [row.get(key, "") for key in head]
            print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |")
    sys.stdout.flush()


# Measuring


def attempt(rows: list[dict[str, Any]], name: str, work: Callable[[], dict[str, Any]]) -> None:
    """A row, or why there is none."""
    try:
        rows.append({"name": name} | work())
    except Exception as error:
        if type(error).__name__ == "OutOfResources":  # a way of cutting the work that this shape is too large for
            rows.append({"name": name, "right": "does not fit"})
            return
        first = (str(error).strip() or repr(error)).splitlines()[0]
        rows.append({"name": name, "error": f"{type(error).__name__}: {first[:200]}"})


def seconds_of(work: Callable[[], object], device: torch.device, at_least: float = 0.02) -> float:
    """Of one call: the mean of as many in a row as take `at_least` seconds."""
    if device.type == "cpu":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    count = 1
    while True:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        took = begin.elapsed_time(end) / 1000
        if took >= at_least:
            return took / count
        count = max(count + 1, math.ceil(1.2 * count * at_least / max(took, 1e-5)))


def median_seconds(work: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    work()
    return statistics.median(seconds_of(work, device) for _ in range(rounds))


def distance(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def normal(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=device).to(dtype)


# Stages


def ceilings(device: torch.device) -> dict[str, Any]:
    """Operations and bytes a second."""
    side = 8192 if device.type == "cuda" else 256
    a, b = (normal(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    found: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []

    def products() -> dict[str, Any]:
        found["bf16"] = 2 * side**3 / median_seconds(lambda: a @ b, device)
        return {"TFLOP/s": found["bf16"] / 1e12}

    def bytes_() -> dict[str, Any]:
        a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        one = torch.ones((), device=device)
        options = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
        work = partial(torch._scaled_mm, a8, b8.T, one, one, **options)  # pyright: ignore[reportPrivateImportUsage]
        found["fp8"] = 2 * side**3 / median_seconds(work, device)
        return {"TFLOP/s": found["fp8"] / 1e12}

    def copying() -> dict[str, Any]:
        source = torch.empty(16 * side * side, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        found["copy"] = 2 * len(source) / median_seconds(lambda: target.copy_(source), device)
        return {"TB/s": found["copy"] / 1e12}

    attempt(rows, f"bf16, {side}³", products)
    attempt(rows, f"fp8, {side}³", bytes_)
    attempt(rows, "copy, read + written", copying)
    return found | {"rows": rows}


def correct(device: torch.device, shape: str, kernels: str = "") -> dict[str, Any]:
    """Every kernel against float32 on the same device, in every way of cutting its work. kernels: of which file."""
    from mlpmixer.kernels.gpu import channels, norms, stem, tokens

    shapes = {"b16": (4, 196, 768, 384, 3072), "s32": (16, 49, 512, 256, 2048), "odd": (3, 35, 80, 40, 208)}
    rows: list[dict[str, Any]] = []
    case = Case(shapes[shape], device)
    if kernels != "channels":
        for name, within, work, wanted in case.plain(norms, stem, channels):
            attempt(rows, name, partial(case.near, work, wanted, within))
    for kernel, name, within, work, wanted in case.cut(tokens, channels):
        for way in kernel.configs:
            if kernels in ("", "tokens" if kernel is tokens._token_mixing else "channels"):
                cut = ", ".join(map(str, way.kwargs.values()))
                title = f"{name}, cut {cut}, {way.num_warps}, {way.num_stages}"
                attempt(rows, title, partial(case.near, only(kernel, way, work), wanted, within))
    wrong = [row["name"] for row in rows if not row.get("right")]
    return {"wrong": "; ".join(wrong) or "none", "rows": rows}


def only(kernel: Any, way: Any, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def limited() -> Tensor:
        several, kernel.configs = kernel.configs, [way]
        kernel.cache.clear()
        try:
            return work()
        finally:
            kernel.configs = several
            kernel.cache.clear()

    return limited


class Case:
    """Random tables and weights, and what kernels should make of them: name, how far it may be off, work, result."""

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        images, token_count, width, token_hidden, hidden = shape
        new = partial(normal, device=device)
        self.device, self.tokens, self.hidden = device, token_count, hidden
        self.images = images
        self.x = 2 * new(images * token_count, width, dtype=torch.bfloat16) + 0.5
        self.table = self.x.float()
        self.gamma, self.beta, self.ahead, self.b4 = (new(width) for _ in range(4))
        self.w1, self.w2 = (
            new(token_hidden, token_count) / token_count**0.5,
            new(token_count, token_hidden) / token_hidden**0.5,
        )
        self.w3, self.w4 = new(hidden, width) / width**0.5, new(width, hidden) / hidden**0.5
        self.b1, self.b2, self.b3 = new(token_hidden), new(token_count), new(hidden)
        self.moved = (self.table + self.ahead).bfloat16()
        self.plain_rows = F.layer_norm(self.moved.float() - self.ahead, (width,), eps=1e-6)
        self.normed = F.layer_norm(self.table, (width,), self.gamma, self.beta, eps=1e-6)
        self.pixels = torch.randint(0, 256, (images, 3, 28, 42), dtype=torch.uint8, device=device)

    def near(self, work: Callable[[], Tensor], wanted: Tensor, within: float) -> dict[str, Any]:
        # Memory that results will be put in holds nonsense, not the right numbers of the time before.
        nonsense = [
            torch.full((size * wanted.numel(),), 0x7F, dtype=torch.uint8, device=self.device) for size in (1, 2, 4)
        ]
        del nonsense
        off = distance(work(), wanted)
        return {"off": off, "right": off < within}  # (NaN is not)

    def about(self, table: Tensor) -> Tensor:
        return torch.stack([table.mean(dim=1), (table.var(dim=1, correction=0) + 1e-6).rsqrt()], dim=1)

    def plain(self, norms: Any, stem: Any, channels: Any) -> list[tuple[str, float, Callable[[], Tensor], Tensor]]:
        unfolded = F.unfold(self.pixels.float(), 14, stride=14).transpose(1, 2).flatten(0, 1) - stem.MIDDLE
        mean = self.normed.unflatten(0, (self.images, self.tokens)).mean(dim=1)
        one, raw = torch.ones(self.hidden, device=self.device), (self.plain_rows @ self.w3.T).bfloat16()
        found = [
            ("statistics", 1e-5, lambda: norms.statistics(self.x), self.about(self.table)),
            (
                "statistics, shifted",
                1e-4,
                lambda: norms.statistics(self.moved, self.ahead),
                self.about(self.moved.float() - self.ahead),
            ),
            (
                "mean of normed",
                1e-4,
                lambda: norms.mean_of_normed(self.x, self.tokens, self.gamma, self.beta),
                mean,
            ),
            ("patches", 1e-9, lambda: stem.patches(self.pixels, 14), unfolded),
        ]
        for kind, rate, within in ((torch.bfloat16, 1.0, 3e-3), (channels.BYTE, 8.0, 0.04)):
            work = partial(norms.normalized, self.moved, self.ahead, kind, rate)
            found.append((f"normalized, {kind}", within, work, self.plain_rows * rate))
        for form in ("tanh", "erf"):
            work = partial(channels.active_bytes, raw, self.b3, one, 4.0, gelu_form=form)
            found.append((f"active bytes, {form}", 0.05, work, 4 * self.active(form)))
        return found

    def active(self, form: str = "tanh") -> Tensor:
        approximate = "none" if form == "erf" else "tanh"
        return F.gelu(self.plain_rows @ self.w3.T + self.b3, approximate=approximate)

    def cut(self, tokens: Any, channels: Any) -> list[tuple[Any, str, float, Callable[[], Tensor], Tensor]]:
        from mlpmixer.kernels.weights import HalfWeights

        weights = tokens.packed(HalfWeights(self.gamma, self.beta, self.w1, self.b1, self.w2, self.b2))
        rows = self.normed.unflatten(0, (self.images, self.tokens))
        mixed = self.w2 @ F.gelu(self.w1 @ rows + self.b1[:, None], approximate="tanh") + self.b2[:, None]
        rates = self.about(self.moved.float() - self.ahead)
        active = self.active()
        w3 = channels.centered(self.w3).bfloat16()
        before = -(w3.float() @ self.ahead)
        (small3, scale3), (small4, scale4) = channels.as_bytes(self.w3), channels.as_bytes(self.w4)
        rows8, active8 = (self.plain_rows * 8).to(channels.BYTE), (active * 4).to(channels.BYTE)
        second = active @ self.w4.T + self.b4

        def token_mixing() -> Tensor:
            return tokens.token_mixing(self.x, weights, self.ahead, gelu_form="tanh").float() - self.table - self.ahead

        def first() -> Tensor:
            return channels.product(self.moved, w3, self.b3, normed=(rates, before), active="tanh")

        def first8() -> Tensor:
            options = {"active": "tanh", "dtype": channels.BYTE, "factor": 4.0}
            return channels.product(rows8, small3, self.b3, scale=scale3 / 8, **options).float() / 4

        def last() -> Tensor:
            return channels.product(active.bfloat16(), self.w4.bfloat16(), self.b4, skip=self.x).float() - self.table

        def last8() -> Tensor:
            return channels.product(active8, small4, self.b4, scale=scale4 / 4, skip=self.x).float() - self.table

        return [
            (tokens._token_mixing, "token mixing", 0.015, token_mixing, mixed.flatten(0, 1)),
            (channels._product, "first product", 0.015, first, active),
            (channels._product, "second product", 0.015, last, second),
            (channels._product, "first product, fp8", 0.08, first8, active),
            (channels._product, "second product, fp8", 0.06, last8, second),
        ]


def networks(device: torch.device) -> dict[str, Any]:
    """Two layers of real sizes in all ways, against eager float32; as graphs too, where there is a GPU."""
    from mlpmixer.engines import kernels, triton
    from mlpmixer.engines.triton_network import WAYS, Network

    rows: list[dict[str, Any]] = []
    cases = (("mixer_b16", "tanh"), ("mixer_s32", "erf")) if device.type == "cuda" else (("mixer_pico", "erf"),)
    for name, form in cases:
        model = ours(name, layers=2, gelu=form)
        pixels = torch.randint(0, 256, (20, 3, *model.config.image_size), dtype=torch.uint8)
        wanted = logits_of(model, pixels, device)
        parts = kernels.parts(model, HOW)
        for precision in BARS:
            for ways in WAYS:

                def work(
                    precision: str = precision, ways: Any = ways, wanted: Tensor = wanted, pixels: Tensor = pixels
                ) -> dict[str, Any]:
                    network: Any = Network(parts, precision, ways, device)  # noqa: B023
                    if device.type == "cuda":
                        network = triton.Graphed(network, len(pixels), parts.image, device)  # noqa: B023
                    off = max(distance(network(pixels)[1], wanted) for _ in range(2))
                    return {"off": off, "right": off < BARS[precision]}

                attempt(rows, f"{name}, {form}, {precision}, {' and '.join(ways)}", work)
    wrong = [row["name"] for row in rows if not row.get("right")]
    return {"wrong": ", ".join(wrong) or "none", "rows": rows}


def pieces(device: torch.device, rate: float) -> dict[str, Any]:
    """Each kernel of a layer of B/16 by itself, at batch 128: microseconds, and how much of what is possible.

    A set of tables for each call in turn, so that no more is found in the cache than there would be."""
    from mlpmixer.kernels.gpu import channels, norms, stem, tokens
    from mlpmixer.kernels.weights import HalfWeights

    many = 128 if device.type == "cuda" else 2
    token_count, width, token_hidden, hidden = (196, 768, 384, 3072) if device.type == "cuda" else (16, 64, 32, 128)
    rows: list[dict[str, Any]] = []
    new = partial(normal, device=device)
    count = many * token_count
    xs = [new(count, width, dtype=torch.bfloat16) for _ in range(4)]
    wides = [new(count, hidden, dtype=torch.bfloat16) for _ in range(4)]
    vector, wide_vector = new(width), new(hidden)
    w1, w2 = new(token_hidden, token_count) / 14, new(token_count, token_hidden) / 20
    w3, w4 = new(hidden, width) / 28, new(width, hidden) / 55
    small3, small4 = channels.as_bytes(w3)[0], channels.as_bytes(w4)[0]
    w3, w4 = w3.bfloat16(), w4.bfloat16()
    xs8, wides8 = ([t.to(channels.BYTE) for t in ts] for ts in (xs, wides))
    about = norms.statistics(xs[0])
    weights = tokens.packed(HalfWeights(vector, vector, w1, new(token_hidden), w2, new(token_count)))
    images = torch.randint(0, 256, (many, 3, 224, 224), dtype=torch.uint8, device=device)
    product, bias = 2 * count * width * hidden, wide_vector.bfloat16()
    one = torch.ones((), device=device)
    scaled: Any = partial(torch._scaled_mm, out_dtype=torch.bfloat16, use_fast_accum=True)  # pyright: ignore[reportPrivateImportUsage]
    gelu_product: Any = partial(torch._addmm_activation, use_gelu=True)  # pyright: ignore[reportPrivateImportUsage]
    byte = {"scale": wide_vector, "active": "tanh", "dtype": channels.BYTE, "factor": 4.0}

    # name, work on the i-th tables, operations, bytes
    table, wide = 2 * count * width, 2 * count * hidden
    works: list[tuple[str, Callable[[int], object], float, float]] = [
        ("patches", lambda _: stem.patches(images, 16), 0, 3 * images.numel()),
        ("statistics", lambda i: norms.statistics(xs[i]), 0, table),
        ("normalized, bf16", lambda i: norms.normalized(xs[i], vector, torch.bfloat16), 0, 2 * table),
        ("normalized, fp8", lambda i: norms.normalized(xs[i], vector, channels.BYTE), 0, 1.5 * table),
        ("mean of normed", lambda i: norms.mean_of_normed(xs[i], token_count, vector, vector), 0, 2 * table),
        ("LayerNorm", lambda i: norms.layer_norm(xs[i], vector, vector), 0, 2 * table),
        (
            "token mixing, fused",
            lambda i: tokens.mixed(xs[i], xs[i - 1], weights, vector, gelu_form="tanh"),
            4 * many * token_count * token_hidden * width,
            3 * table,
        ),
        ("first, library: GELU in it", lambda i: gelu_product(bias, xs[i], w3.T), product, table + wide),
        ("first, library: product only", lambda i: xs[i] @ w3.T, product, table + wide),
        (
            "first, fused",
            lambda i: channels.product(xs[i], w3, wide_vector, normed=(about, wide_vector), active="tanh"),
            product,
            table + wide,
        ),
        ("second, library", lambda i: xs[i].addmm_(wides[i], w4.T), product, 2 * table + wide),
        ("second, fused", lambda i: channels.product(wides[i], w4, vector, skip=xs[i]), product, 2 * table + wide),
        ("first, fp8, library", lambda i: scaled(xs8[i], small3.T, one, one), product, table / 2 + wide),
        (
            "active bytes",
            lambda i: channels.active_bytes(wides[i], wide_vector, wide_vector, 4.0, gelu_form="tanh"),
            0,
            1.5 * wide,
        ),
        (
            "first, fp8, fused",
            lambda i: channels.product(xs8[i], small3, wide_vector, **byte),
            product,
            table / 2 + wide / 2,
        ),
        ("second, fp8, library", lambda i: scaled(wides8[i], small4.T, one, one), product, table + wide / 2),
        (
            "second, fp8, fused",
            lambda i: channels.product(wides8[i], small4, vector, scale=vector, skip=xs[i]),
            product,
            2 * table + wide / 2,
        ),
    ]
    for name, work, operations, bytes_ in works:

        def measure(work: Any = work, operations: float = operations, bytes_: float = bytes_) -> dict[str, Any]:
            work(0)

            def all_of_them() -> None:
                for i in range(4):
                    work(i)

            if device.type == "cuda":  # without the time that Python takes
                graph = torch.cuda.CUDAGraph()
                torch.cuda.synchronize()
                with torch.cuda.graph(graph):
                    all_of_them()
                taken = median_seconds(graph.replay, device) / 4
            else:
                taken = median_seconds(all_of_them, device, 1) / 4
            found = {"µs": 1e6 * taken, "TFLOP/s": operations / taken / 1e12, "TB/s": bytes_ / taken / 1e12}
            return found | {"of rate": operations / taken / rate}

        attempt(rows, name, measure)
    best = {
        f"{name}, cut": str(getattr(kernel, "best_config", ""))
        for name, kernel in (("token mixing", tokens._token_mixing), ("last product", channels._product))
    }
    return {"batch": many, "rows": rows} | best


def ours(name: str, **options: Any) -> Mixer:
    """With weights as they are at first, but no zeros: heads and biases would hide mistakes."""
    torch.manual_seed(0)
    model = mlpmixer.create(name, **{"num_classes": 1000, **options}).eval()
    assert isinstance(model, Mixer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def logits_of(model: nn.Module, pixels: Tensor, device: torch.device) -> Tensor:
    with torch.inference_mode():
        return copy.deepcopy(model).to(device)(normalize(pixels.to(device), HOW)).float().cpu()


def theirs(model: Mixer, name: str) -> nn.Module:
    """timm's, with the same weights and the same form of the GELU."""
    ensure_torchvision()
    import timm
    from timm.layers import GELUTanh  # pyright: ignore[reportAttributeAccessIssue]

    from mlpmixer.weights.save import save

    found = timm.create_model(TIMM[name], num_classes=1000, act_layer=GELUTanh)
    with tempfile.TemporaryDirectory() as folder:
        found.load_state_dict(torch.load(save(model, Path(folder) / "weights.pth"), weights_only=True))
    return found.eval()


Answering = Callable[[], Tensor]


def infer(name: str, batch: int, device: torch.device, rate: float) -> dict[str, Any]:
    """Answers: all systems in turns, images on the GPU."""
    import torch._inductor.config as inductor

    from mlpmixer.engines import kernels, triton
    from mlpmixer.engines.rewrites import Rewritten
    from mlpmixer.engines.triton_network import WAYS, Network

    began = time.monotonic()
    model = ours(name)
    pixels = torch.randint(0, 256, (batch, 3, *model.config.image_size), dtype=torch.uint8)
    wanted = logits_of(model, pixels, device)
    parts = kernels.parts(model, HOW)
    there = pixels.to(device)
    images = normalize(there, HOW).to(torch.bfloat16)

    def graphed(precision: str, ways: Any) -> Answering:
        network = Network(parts, precision, ways, device)
        if device.type == "cpu":
            return lambda: network(there)[1]
        found = triton.Graphed(network, batch, parts.image, device)
        found.pixels.copy_(there)

        def answer() -> Tensor:
            found.graph.replay()
            return found.logits

        return answer

    def engine(compiled: bool) -> Answering:
        network: Any = Rewritten(model, HOW, torch.bfloat16).to(device)
        if compiled:
            network = torch.compile(network, mode="max-autotune", dynamic=False)
        frozen = inductor.patch(freezing=True) if compiled else nullcontext()

        def answer() -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            with frozen, torch.no_grad():
                return network(there)[1]

        return answer

    def timm(compiled: bool) -> Answering:
        network: Any = theirs(model, name).to(device, torch.bfloat16)
        if compiled:
            network = torch.compile(network, mode="max-autotune", dynamic=False)

        def answer() -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            with torch.inference_mode():
                return network(images)

        return answer

    systems: dict[str, Callable[[], Answering]] = {
        f"mlpmixer triton {precision}, {' and '.join(ways)}": partial(graphed, precision, ways)
        for precision in BARS
        for ways in WAYS
    }
    systems["mlpmixer eager bf16"] = partial(engine, False)
    systems["timm eager bf16"] = partial(timm, False)
    compiled = {"timm compiled bf16": partial(timm, True), "mlpmixer compiled bf16": partial(engine, True)}

    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"model": name, "batch": batch, "rows": rows}
    able: dict[str, Answering] = {}

    def ready(title: str, make: Callable[[], Answering]) -> dict[str, Any]:
        started = time.monotonic()
        answer = make()
        for _ in range(2):
            answer()
        off = distance(answer().float().cpu(), wanted)
        if off < BARS["fp8" if "fp8" in title else "bf16"]:
            able[title] = answer
        return {"off": off, "ready after s": round(time.monotonic() - started, 1)}

    def turns(rounds: int) -> dict[str, list[float]]:
        taken: dict[str, list[float]] = {title: [] for title in able}
        for number in range(rounds if device.type == "cuda" else 1):
            for title in list(able) if number % 2 == 0 else reversed(list(able)):
                taken[title].append(seconds_of(able[title], device, 0.05))
        speeds(rows, taken, batch, 2e9 * gmacs(name), rate)
        return taken

    for title, make in systems.items():
        attempt(rows, title, partial(ready, title, make))
        print(f"{time.monotonic() - began:.0f} s: {rows[-1]}", flush=True)
    turns(3)
    keep(found)  # compiling takes minutes; it may not come to an end
    for title, make in compiled.items():
        attempt(rows, title, partial(ready, title, make))
        print(f"{time.monotonic() - began:.0f} s: {rows[-1]}", flush=True)
        taken = turns(7)
        if title.startswith("timm") and title in taken:
            for precision in BARS:
                mine = [seconds for other, seconds in taken.items() if f"triton {precision}" in other]
                if mine:
                    each = [b / a for a, b in zip(min(mine, key=statistics.median), taken[title], strict=True)]
                    found[f"{precision}, times timm compiled"] = statistics.median(each)
                    found[f"{precision}, range over rounds"] = f"{min(each):.3f} to {max(each):.3f}"
        keep(found)
    return found


def speeds(
    rows: list[dict[str, Any]], taken: dict[str, list[float]], batch: int, operations: float, rate: float
) -> None:
    """`operations` of an image."""
    for row in rows:
        if seconds := taken.get(row["name"]):
            middle = statistics.median(seconds)
            spread = (max(seconds) - min(seconds)) / 2 / middle
            row |= {"images/s": batch / middle, "spread": spread, "of rate": batch * operations / middle / rate}


def sweep(name: str, batches: list[int], device: torch.device, rate: float) -> dict[str, Any]:
    """Our quickest ways at other batches; and through the whole engine, where bytes come from the host."""
    from mlpmixer.engines import triton
    from mlpmixer.engines.table import Setup

    model = ours(name)
    rows: list[dict[str, Any]] = []
    for precision in BARS:
        for batch in batches:

            def work(precision: str = precision, batch: int = batch) -> dict[str, Any]:
                made = triton.build(Setup(model, HOW, precision, batch, device))
                pixels = torch.randint(0, 256, made.pixels.shape, dtype=torch.uint8)
                taken = statistics.median(seconds_of(made.graph.replay, device, 0.05) for _ in range(5))
                made(pixels)
                began = time.perf_counter()
                for _ in range(5):
                    made(pixels)
                whole = (time.perf_counter() - began) / 5
                found = {"ways": " and ".join(made.network.ways), "ms": 1000 * taken, "images/s": batch / taken}
                found |= {"of rate": 2e9 * gmacs(name) * batch / taken / rate, "images/s from the host": batch / whole}
                return found

            attempt(rows, f"{precision}, batch {batch}", work)
            print(rows[-1], flush=True)
            keep({"rows": rows})
    return {"rows": rows}


def train(name: str, batch: int, device: torch.device, rate: float) -> dict[str, Any]:
    """Steps of training under autocast to bfloat16: forward, backward, clip, AdamW; all systems in turns."""
    model = ours(name)
    images = normal(batch, 3, *model.config.image_size, device=device)
    labels = torch.randint(1000, (batch,), device=device)
    kinds: dict[str, Callable[[], Any]] = {"mlpmixer eager": lambda: copy.deepcopy(model)}
    kinds["timm eager"] = lambda: theirs(model, name)
    if device.type == "cuda":
        kinds["mlpmixer compiled"] = lambda: torch.compile(copy.deepcopy(model).to(device))
        kinds["timm compiled"] = lambda: torch.compile(theirs(model, name).to(device))
        kinds["mlpmixer compiled, max-autotune"] = lambda: torch.compile(
            copy.deepcopy(model).to(device), mode="max-autotune-no-cudagraphs"
        )
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"model": name, "batch": batch, "rows": rows}
    steps: dict[str, Callable[[], Tensor]] = {}
    for title, make in kinds.items():

        def first(make: Callable[[], Any] = make, title: str = title) -> dict[str, Any]:
            began = time.monotonic()
            network = make().to(device).train()
            parameters = [*network.parameters()]
            optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

            def step() -> Tensor:
                with torch.autocast(device.type, torch.bfloat16):
                    loss = F.cross_entropy(network(images).float(), labels)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                return loss.detach()

            losses = [step().item() for _ in range(3)]
            steps[title] = step
            return {"first loss": losses[0], "ready after s": round(time.monotonic() - began, 1)}

        attempt(rows, title, first)
        print(rows[-1], flush=True)
        taken: dict[str, list[float]] = {title: [] for title in steps}
        for number in range(5 if device.type == "cuda" else 1):  # after each: the next may not come to an end
            for other in list(steps) if number % 2 == 0 else reversed(list(steps)):
                taken[other].append(seconds_of(steps[other], device, 0.2))
        speeds(rows, taken, batch, 3 * 2e9 * gmacs(name), rate)
        keep(found)
    return found


def gmacs(name: str) -> float:
    return next(row["gmacs"] for row in measured() if row["name"] == name)


if __name__ == "__main__":
    main()
