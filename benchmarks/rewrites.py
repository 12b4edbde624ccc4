"""What each rewrite of engines/rewrites.py gains: all of them against all but one, in turns. Ratios count.

python benchmarks/rewrites.py

Mixer-S/32 at batch 32; for the last rewrite, BiT-R50x1 at batch 16. Needs openvino and onnxruntime.
"""

from __future__ import annotations

import copy
import io
import platform
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mlpmixer import create
from mlpmixer.bench.interleave import Times, interleaved, ratio
from mlpmixer.engines import onnx, openvino, rewrites
from mlpmixer.machine import processor
from mlpmixer.machine.devices import DTYPES
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.bit import BiT
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import MeanOfNormed, Mixer, RowMixing

ROUNDS = 11
HOW = Preprocessing()
MIXERS = ("normalization within the stem", "merged norms", "columns as rows", "mean of normed")
BITS = ("standardized once",)
NETWORKS = (("mixer_s32", 32, MIXERS), ("bit_r50x1", 16, BITS))


class Variant(nn.Module):
    """As `Rewritten` does it, without one of its rewrites; or without any, for `without` "all"."""

    def __init__(self, model: Classifier, without: str, dtype: torch.dtype):
        super().__init__()
        model = copy.deepcopy(model).eval().requires_grad_(False)

        def does(rewrite: str) -> bool:
            return without not in (rewrite, "all")

        self.normalize: nn.Module = rewrites.Normalize(HOW)
        head, model.head = model.head, nn.Identity()
        body: nn.Module = model
        if isinstance(model, BiT):
            body = model.simplified() if does("standardized once") else model
        else:
            if does("normalization within the stem"):
                rewrites.normalize_within(model.stem, HOW, dtype)  # pyright: ignore[reportArgumentType]
                self.normalize = nn.Identity()
            if does("merged norms"):
                rewrites.merge_norms(model)
            if does("columns as rows"):
                for block in cast(Mixer, model).blocks:
                    block.token_mixing = RowMixing(block.token_mixing)  # pyright: ignore[reportAttributeAccessIssue]
            body = MeanOfNormed(cast(Mixer, model)) if does("mean of normed") else model
        self.body = nn.Sequential(body, head)
        self.to(dtype)
        self.dtype = dtype

    def forward(self, pixels: Tensor) -> Tensor:
        return self.body(self.normalize(pixels.to(self.dtype))).float()


def eager(network: Variant, pixels: Tensor) -> Callable[[], Any]:
    def run() -> Tensor:
        with torch.inference_mode():
            return network(pixels)

    return run


def through_openvino(network: Variant, pixels: Tensor, precision: str) -> Callable[[], Any]:
    import openvino as runtime

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the tracer
        shape = runtime.PartialShape([*pixels.shape])
        converted = runtime.convert_model(network, example_input=pixels, input=[("pixels", shape, runtime.Type.u8)])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": openvino.HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = runtime.Core().compile_model(converted, "CPU", settings).create_infer_request()
    array = pixels.numpy()
    return lambda: torch.from_numpy(request.infer({0: array}, share_inputs=True)[0])


def through_onnx(network: Variant, pixels: Tensor) -> Callable[[], Any]:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter and the tracer
        torch.onnx.export(
            network,
            (pixels,),
            file,  # pyright: ignore[reportArgumentType] (this exporter takes one)
            input_names=["pixels"],
            dynamo=False,
            opset_version=onnx.OPSET,
        )
    session, array = onnx.session(file.getvalue()), pixels.numpy()
    return lambda: torch.from_numpy(session.run(None, {"pixels": array})[0])


def start(model: Classifier, without: str, engine: str, precision: str, pixels: Tensor) -> Callable[[], Any]:
    # Runtimes get float32 and round by themselves.
    network = Variant(model, without, DTYPES[precision if engine == "eager" else "fp32"])
    if engine == "eager":
        return eager(network, pixels)
    return through_onnx(network, pixels) if engine == "ONNX" else through_openvino(network, pixels, precision)


def cell(times: dict[str, Times], without: str) -> str:
    middle, first, third = ratio(times[""], times[without])
    return f"{middle:.2f} ({first:.2f} to {third:.2f})"


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    columns = [("eager", "fp32"), ("eager", "bf16"), ("OpenVINO", "fp32"), ("OpenVINO", "bf16"), ("ONNX", "fp32")]
    print(f"{processor.name()}, Python {platform.python_version()}, torch {torch.__version__}, 2 threads")
    print(f"{ROUNDS} rounds; how much faster it is with the rewrite than without: median (quartiles)\n")
    for name, batch, several in NETWORKS:
        print(f"| {name}, batch {batch} | " + " | ".join(" ".join(column) for column in columns) + " |")
        print("|---|" + "---|" * len(columns))
        model = create(name, num_classes=1000).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8)
        whole = several if len(several) == 1 else (*several, "all")
        rows: dict[str, list[str]] = {without: [] for without in whole}
        for engine, precision in columns:
            runs = {without: start(model, without, engine, precision, pixels) for without in ("", *whole)}
            answers = {without: run() for without, run in runs.items()}
            allowed = 0.1 if precision == "bf16" else 0.001  # (BiT standardizes its kernels in bfloat16, too)
            for without, answer in answers.items():
                off = (answer - answers[""]).square().mean().sqrt() / answers[""].std()
                assert off < allowed, f"{engine} {precision} without {without}: off by {off:.2g}"
            times = interleaved(runs, ROUNDS)
            for without in rows:
                rows[without].append(cell(times, without))
        for without, cells in rows.items():
            print(f"| {without} | " + " | ".join(cells) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
