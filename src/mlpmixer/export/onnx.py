"""ONNX: three graphs, one after the other: preprocessing, the network, and scores and names of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlpmixer.engines import onnx as engine
from mlpmixer.export.job import Job, Run

OUTPUTS = ["label", "name", "scores", "features"]
SMALL = 256  # numbers; shorter tensors stay float32 in fp16 as well

USE = """\
import numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession("{file}")
image = numpy.asarray(Image.open("{image}").convert("RGB"){resized})
name, scores = session.run(["name", "scores"], {{"images": image[None]}})
print(name[0], scores.max())
"""


def write(job: Job, path: Path) -> None:
    from onnx import TensorProto, checker, compose, helper, load_from_string

    network = load_from_string(engine.convert(job.model, job.how))
    parts = [parsed(text, network.ir_version) for text in (prepare(job), PREDICT)]
    names: Any = [name.encode("utf-8", "backslashreplace") for name in job.classes]
    parts[1].graph.initializer.append(helper.make_tensor("names", TensorProto.STRING, [len(names)], names))
    found = compose.merge_models(parts[0], network, io_map=[("prepared", "pixels")])
    found = compose.merge_models(found, parts[1], io_map=[("logits", "given")])
    found.graph.output.sort(key=lambda output: OUTPUTS.index(output.name))
    if job.precision == "fp16":
        _halve(found.graph)
    found.producer_name = "mlpmixer"
    helper.set_model_props(found, job.metadata())
    checker.check_model(found)
    path.write_bytes(found.SerializeToString())


def start(path: Path, _job: Job) -> dict[str, Run]:
    """ONNX Runtime computes in float32, whatever the file keeps its weights in."""
    session = engine.session(str(path))
    return {"ONNX Runtime": lambda images: session.run(["scores"], {"images": images})[0]}


def prepare(job: Job) -> str:
    """`mlpmixer.data.preprocess.prepare` as ONNX operators, for a batch of images of one size."""
    how, (rows, columns) = job.how, job.how.crop
    shape = ",".join(map(str, job.input_shape))
    lines = ["upright = Transpose<perm=[0,3,1,2]>(images)"]
    last = "upright"
    if job.size != "prepared":
        lines += _size(job)
        # As Pillow and PyTorch have it: a wider filter where images shrink, and none of it beyond the edges.
        mode = {"bilinear": 'mode="linear"', "bicubic": 'mode="cubic", cubic_coeff_a=-0.5'}[how.interpolation]
        lines += [
            "others = Shape<start=0,end=2>(upright)",
            "sizes = Concat<axis=0>(others, size)",
            f"resized = Resize<{mode},antialias=1,exclude_outside=1>(upright,,,sizes)",
            f"crop = Constant<value_ints=[{rows},{columns}]>()",
            "two = Constant<value_ints=[2]>()",
            "none = Constant<value_ints=[0]>()",
            "both = Constant<value_ints=[2,3]>()",
            # The middle; halves go to the even side, as Python rounds them.
            "more = Sub(size, crop)",
            "over = Max(more, none)",
            "half = Div(over, two)",
            "odd = Mod(over, two)",
            "odd_half = Mod(half, two)",
            "up = Mul(odd, odd_half)",
            "first = Add(half, up)",
        ]
        last = "resized"
        if job.may_pad:  # a margin of a whole crop is always enough
            lines += [
                "less = Sub(crop, size)",
                "lack = Max(less, none)",
                "half_lack = Div(lack, two)",
                "from = Sub(first, half_lack)",
                "margins = Concat<axis=0>(crop, crop)",
                "padded = Pad(resized, margins, , both)",
                "begin = Add(from, crop)",
            ]
            last = "padded"
        else:
            lines += ["begin = Identity(first)"]
        lines += ["end = Add(begin, crop)", f"cropped = Slice({last}, begin, end, both)"]
        last = "cropped"
    lines += [f"prepared = Identity({last})"]
    body = "\n  ".join(lines)
    return f"prepare (uint8[{shape}] images) => (uint8[batch,3,{rows},{columns}] prepared) {{\n  {body}\n}}"


def _size(job: Job) -> list[str]:
    """Size of the image before the center crop: (height, width)."""
    resize = job.how.resize
    if job.how.shape == "stretch":
        return [f"size = Constant<value_ints=[{resize},{resize}]>()"]
    return [
        "sides = Shape<start=2,end=4>(upright)",
        "shorter = ReduceMin(sides)",
        f"wanted = Constant<value_ints=[{resize}]>()",
        "product = Mul(sides, wanted)",
        "size = Div(product, shorter)",
    ]


PREDICT = """\
predict (float[batch,classes] given) => (int64[batch] label, string[batch] name, float[batch,classes] scores) {
  scores = Softmax<axis=1>(given)
  label = ArgMax<axis=1,keepdims=0>(given)
  name = Gather(names, label)
}"""


def parsed(graph: str, version: int) -> Any:
    from onnx import parser

    return parser.parse_model(f'<ir_version: {version}, opset_import: ["": {engine.OPSET}]>\n{graph}')


def _halve(graph: Any) -> None:
    """Stores weights as float16; they become float32 when the file is loaded: half the file, the same speed."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name = tensor.name
        with np.errstate(over="ignore"):  # what becomes infinite is found when the file is checked
            half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
