"""torch.export: a program that PyTorch runs without mlpmixer."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from mlpmixer.engines.rewrites import Rewritten
from mlpmixer.export.job import Job, Run
from mlpmixer.machine.devices import DTYPES

USE = """\
import numpy, torch
from PIL import Image
files = {{"classes": ""}}
network = torch.export.load("{file}", extra_files=files).module()
image = numpy.array(Image.open("{image}").convert("RGB"){resized})
found = network(torch.from_numpy(image)[None])
print(json.loads(files["classes"])[found["label"][0]], found["scores"].max().item())
"""


def write(job: Job, path: Path) -> None:
    free = {place: torch.export.Dim.DYNAMIC for place, side in enumerate(job.input_shape) if isinstance(side, str)}
    sides = [
        side if isinstance(side, int) else example
        for side, example in zip(job.input_shape, (2, 30, 40, 3), strict=True)
    ]
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # of torch, about its own future
        program = torch.export.export(
            Standalone(job).eval(), (torch.zeros(sides, dtype=torch.uint8),), dynamic_shapes={"images": free}
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # where things lie on this machine
        torch.export.save(program, file, extra_files=job.metadata())
    path.write_bytes(file.getvalue())


def start(path: Path, _job: Job) -> dict[str, Run]:
    with warnings.catch_warnings(action="ignore"):
        network = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(np.array(images)))["scores"].numpy()

    return {"torch.export": run}


class Standalone(nn.Module):
    """From a batch of images of one size to labels, without a step that depends on that size."""

    def __init__(self, job: Job):
        super().__init__()
        self.job = job
        self.network = Rewritten(job.model, job.how, DTYPES[job.precision])

    def forward(self, images: UInt8[Tensor, "B H W 3"]) -> dict[str, Tensor]:
        pixels = images.permute(0, 3, 1, 2)
        if self.job.size != "prepared":
            pixels = self.prepare(pixels)
        features, logits = self.network(pixels)
        return {"label": logits.argmax(dim=1), "scores": logits.softmax(dim=1), "features": features}

    def prepare(self, pixels: UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 rows columns"]:
        """`mlpmixer.data.preprocess.prepare`."""
        how, (height, width) = self.job.how, pixels.shape[2:]
        size: list[Any] = [how.resize, how.resize]  # (numbers, or what stands for them while this is recorded)
        if how.shape == "short_side":
            shorter = torch.sym_min(height, width)
            size = [height * how.resize // shorter, width * how.resize // shorter]
        pixels = F.interpolate(pixels, size=size, mode=how.interpolation, antialias=True)
        if self.job.may_pad:  # a margin of a whole crop is always enough
            rows, columns = how.crop
            pixels = F.pad(pixels, (columns, columns, rows, rows))
        for dim, side, crop in zip((2, 3), size, how.crop, strict=True):
            over = torch.sym_max(side - crop, 0)
            half = over // 2
            first = half + (over % 2) * (half % 2)  # halves go to the even side, as Python rounds them
            if self.job.may_pad:
                first = first - torch.sym_max(crop - side, 0) // 2 + crop
            pixels = pixels.index_select(dim, torch.arange(crop, device=pixels.device) + first)
        return pixels
