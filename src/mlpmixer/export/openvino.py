"""OpenVINO: preprocessing, scores and labels as operations before and after the network."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlpmixer.engines import openvino as engine
from mlpmixer.export.job import Job, Run
from mlpmixer.machine import processor

USE = """\
import numpy, openvino
from PIL import Image
core = openvino.Core()
network = core.compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
classes = json.loads(core.read_model("{file}").get_rt_info(["mlpmixer", "classes"]).value)
image = numpy.asarray(Image.open("{image}").convert("RGB"){resized})
found = network(image[None])
print(classes[found["label"][0]], found["scores"].max())
"""


def write(job: Job, path: Path) -> None:
    import openvino
    import openvino.opset13 as ops

    network = engine.convert(job.model, job.how, None)
    if job.precision == "int8":
        network = quantized(network, job)
    shape = openvino.PartialShape([-1 if isinstance(side, str) else side for side in job.input_shape])
    images = _named(ops.parameter(shape, openvino.Type.u8), "images")
    prepared = prepare(images, job)
    for place in network.inputs[0].get_target_inputs():
        place.replace_source_output(prepared.output(0))
    features, logits = (output.get_node().input_value(0) for output in network.outputs)
    scores = ops.softmax(logits, 1)
    label = ops.squeeze(ops.topk(scores, np.int64(1), 1, "max", "none", "i64").output(1), _whole(1))
    found = openvino.Model(  # pyright: ignore[reportGeneralTypeIssues] (which takes it for another class)
        [_named(label, "label"), _named(scores, "scores"), _named(ops.convert(features, "f32"), "features")],
        [images],
        job.model.name,
    )
    for name, text in job.metadata().items():
        found.set_rt_info(text, ["mlpmixer", "about" if name == "mlpmixer" else name])
    try:
        openvino.save_model(found, path, compress_to_fp16=job.precision == "fp16")
    except RuntimeError as error:  # a full disk is one to OpenVINO
        raise OSError(0, str(error).strip().splitlines()[-1]) from error


def start(path: Path, _job: Job) -> dict[str, Run]:
    """In float32, and in OpenVINO's default precision where that is bfloat16 on this processor."""
    runtimes = {"OpenVINO, f32": {"INFERENCE_PRECISION_HINT": "f32"}}
    if {"avx512_bf16", "amx_bf16"} & processor.abilities():
        runtimes["OpenVINO, default (bf16)"] = {}
    return {name: _started(path, settings) for name, settings in runtimes.items()}


def _started(path: Path, settings: dict[str, Any]) -> Run:
    network = engine.core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads(), **settings})
    return lambda images: network(np.ascontiguousarray(images))["scores"]


def quantized(network: Any, job: Job) -> Any:
    import nncf

    assert job.calibration is not None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    batches = [batch.numpy() for batch in job.calibration.split(1)]
    with contextlib.redirect_stdout(io.StringIO()):  # its bars
        return nncf.quantize(
            network, nncf.Dataset(batches), subset_size=len(batches), model_type=nncf.ModelType.TRANSFORMER
        )


def prepare(images: Any, job: Job) -> Any:
    """`mlpmixer.data.preprocess.prepare` for a batch of images of one size: (N, H, W, 3) → (N, 3, rows, columns).

    Resizing is a product with a matrix from either side. (OpenVINO's own mode that agrees with Pillow, bilinear_pillow,
    takes ten times as long.)
    """
    import openvino.opset13 as ops

    upright = ops.transpose(images, _whole(0, 3, 1, 2))
    if job.size != "prepared":
        how = job.how
        sides = ops.gather(ops.shape_of(images, "i64"), _whole(1, 2), np.int64(0))
        size = ops.constant(_whole(how.resize, how.resize))
        if how.shape == "short_side":
            shorter = ops.reduce_min(sides, _whole(0), True)
            size = ops.divide(ops.multiply(sides, _whole(how.resize)), shorter)
        down, across = (shares(_at(sides, axis), _at(size, axis), how.crop[axis], how.interpolation) for axis in (0, 1))
        table = _bytes(ops.matmul(ops.convert(upright, "f32"), across, False, True))
        upright = ops.convert(_bytes(ops.matmul(down, table, False, False)), "u8")
    return upright


def shares(side: Any, size: Any, crop: int, interpolation: str) -> Any:
    """(crop, side): weights of input pixels in output pixels, when `side` pixels become `size` and the center is
    cropped. All in integers up to the last step, since these stay exact in bfloat16 as well."""
    import openvino.opset13 as ops

    one, two, none = np.int64(1), np.int64(2), np.int64(0)
    over, lack = (
        ops.maximum(ops.subtract(size, np.int64(crop)), none),
        ops.maximum(ops.subtract(np.int64(crop), size), none),
    )
    half = ops.divide(over, two)
    even = ops.multiply(ops.mod(over, two), ops.mod(half, two))  # halves go to the even side, as Python rounds them
    first = ops.subtract(ops.add(half, even), ops.divide(lack, two))
    kept = ops.add(ops.constant(np.arange(crop)[:, None]), first)
    there = ops.unsqueeze(ops.range(none, ops.squeeze(side, _whole(0)), one, "i64"), none)
    # Both middles on a ruler where an old pixel is 2 · size wide, a new one 2 · side, and the filter's half the wider.
    apart = ops.abs(
        ops.subtract(
            ops.multiply(ops.add(ops.multiply(there, two), one), size),
            ops.multiply(ops.add(ops.multiply(kept, two), one), side),
        )
    )
    wide = ops.multiply(ops.maximum(side, size), two)
    if interpolation == "bilinear":
        share = ops.maximum(ops.subtract(wide, apart), none)
        share = ops.divide(ops.convert(share, "f32"), ops.convert(ops.reduce_sum(share, one, True), "f32"))
    else:
        share = _cubic(
            ops.divide(ops.convert(ops.minimum(apart, ops.multiply(wide, two)), "f32"), ops.convert(wide, "f32"))
        )
        share = ops.divide(share, ops.reduce_sum(share, one, True))
    inside = ops.logical_and(ops.greater_equal(kept, none), ops.less(kept, size))
    return ops.select(inside, share, np.float32(0))


def _cubic(x: Any) -> Any:
    """Keys's, with a = −½: 1 − 5/2 x² + 3/2 x³ up to 1, and 2 − 4x + 5/2 x² − 1/2 x³ from there to 2."""
    import openvino.opset13 as ops

    def polynomial(*factors: float) -> Any:
        value = ops.constant(np.float32(factors[0]))
        for factor in factors[1:]:
            value = ops.add(ops.multiply(value, x), np.float32(factor))
        return value

    return ops.select(ops.less(x, np.float32(1)), polynomial(1.5, -2.5, 0, 1), polynomial(-0.5, 2.5, -4, 2))


def _bytes(values: Any) -> Any:
    import openvino.opset13 as ops

    return ops.round(ops.clamp(values, 0.0, 255.0), "half_to_even")


def _whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def _at(values: Any, axis: int) -> Any:
    import openvino.opset13 as ops

    return ops.gather(values, _whole(axis), np.int64(0))


def _named(node: Any, name: str) -> Any:
    node.set_friendly_name(name)
    node.output(0).get_tensor().set_names({name})
    return node
