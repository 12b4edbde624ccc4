"""safetensors: weights in fewer bits, with all that mlpmixer needs to use them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import torch

from mlpmixer.data.preprocess import prepare
from mlpmixer.engines import fastest
from mlpmixer.export.job import Job, Run
from mlpmixer.machine.devices import DTYPES
from mlpmixer.models.classifier import Classifier
from mlpmixer.weights.load import load
from mlpmixer.weights.save import save

USE = """\
import mlpmixer
predictor = mlpmixer.Predictor("{file}")
found = predictor("{image}")
print(found.label, found.score)
"""


def write(job: Job, path: Path) -> None:
    save(_converted(job), path, provenance=_license(job))


def start(path: Path, job: Job) -> dict[str, Run]:
    """In the precision of the file; float16 in float32, since few processors compute in it."""
    model = load(path, dtype=torch.float32)
    numbers = "fp32" if job.precision == "fp16" else job.precision
    engine, chosen = fastest.start(
        model, job.how, precision=numbers, layer_precisions=model.metadata.layer_precisions, measure=False
    )

    def run(images: np.ndarray) -> np.ndarray:
        logits = engine(torch.stack([prepare(image, job.how) for image in images])).logits
        return logits.softmax(dim=1).numpy()

    return {f"mlpmixer, {chosen.engine} in {chosen.precision}": run}


def _converted(job: Job) -> Classifier:
    if job.precision == "int8":
        from mlpmixer.engines.quantize import quantize

        assert job.calibration is not None
        return quantize(job.model, job.how, job.calibration).model
    model = copy.deepcopy(job.model)
    model.metadata = dataclasses.replace(job.info, layer_precisions=())
    return model.to(DTYPES[job.precision])


def _license(job: Job) -> dict[str, str]:
    return {} if job.license == "unknown" else {"license": job.license}
