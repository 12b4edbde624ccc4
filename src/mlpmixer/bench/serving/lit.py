"""The same Predictor in LitServe, which must be installed in the Python that runs this.

python -m mlpmixer.bench.serving.lit MODEL PRECISION PORT WORKERS BATCH THREADS

LitServe takes images as files of forms, under `image`; it answers them as {"label": …}.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litserve  # pyright: ignore[reportMissingImports]
import torch

from mlpmixer.errors import ImageError
from mlpmixer.predict.predictor import Prediction, Predictor

TIMEOUT = 0.005  # seconds for a batch to fill


class Answers(litserve.LitAPI):
    """Batches of images are shared among threads of a worker."""

    def __init__(self, model: str, precision: str, threads: int, **options: Any):
        super().__init__(**options)
        self.source, self.precision, self.threads = model, precision, threads

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's)
        torch.set_num_threads(self.threads)
        self.predictor = Predictor(self.source, precision=self.precision)
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(self.threads, initializer=_alone)

    def decode_request(self, request):  # without types: LitServe would take them for what the request has
        return request["image"].file.read()

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, inputs: Any) -> Any:
        if isinstance(inputs, bytes):
            return self.predictor.predict_batch([inputs])[0]
        parts = [inputs[first :: self.threads] for first in range(min(self.threads, len(inputs)))]
        found: list[Any] = [None] * len(inputs)
        for first, some in enumerate(self.pool.map(self.predictor.predict_batch, parts)):
            found[first :: self.threads] = some
        return found

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Prediction | ImageError) -> dict[str, Any]:
        if isinstance(output, ImageError):
            return {"label": ""}
        return {"label": output.label, "top": output.top}


def _alone() -> None:
    torch.get_num_threads()  # the first call in a thread would undo what comes after it
    torch.set_num_threads(1)


def main(model: str, precision: str, port: str, workers: str, batch: str, threads: str) -> None:
    size = int(batch)
    options = {"max_batch_size": size, "batch_timeout": TIMEOUT} if size > 1 else {}
    answers = Answers(model, precision, int(threads), **options)
    server = litserve.LitServer(
        answers, accelerator="cpu", workers_per_device=int(workers), fast_queue=True, timeout=60
    )
    server.run(port=int(port), host="127.0.0.1", log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
