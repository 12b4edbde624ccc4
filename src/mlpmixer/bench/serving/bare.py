"""The bare Predictor, in a process of its own: images a second without HTTP, by `Predictor.stream` over all cores.

python -m mlpmixer.bench.serving.bare MODEL PRECISION FOLDER

A number of seconds on standard input is answered by a line of JSON on standard output: images, and the seconds that
they took. The files of FOLDER are images in memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from mlpmixer.errors import ImageError
from mlpmixer.predict.predictor import Predictor


def main(model: str, precision: str, folder: str) -> None:
    images = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    predictor = Predictor(model, precision=precision, embeddings=True)  # as the service has it
    labels = ["" if isinstance(found, ImageError) else found.label for _, found in predictor.stream(images)]
    about = {
        "engine": predictor.engine.name,
        "precision": predictor.engine.precision,
        "threads": predictor.threads,
        "labels": labels,
    }
    print(json.dumps(about), flush=True)
    turning = cycle(images)
    for line in sys.stdin:
        started = time.perf_counter()
        until = started + float(line)

        def some() -> Iterator[bytes]:
            while time.perf_counter() < until:  # noqa: B023 (it is used up within the turn)
                yield next(turning)

        count = sum(1 for _ in predictor.stream(some()))
        print(json.dumps({"images": count, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
