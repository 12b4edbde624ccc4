"""A service that keeps every image: the control that a soak test must catch.

python -m mlpmixer.bench.serving.leaking MODEL PRECISION PORT
"""

from __future__ import annotations

import sys

import numpy as np

from mlpmixer.serve.served import Models
from mlpmixer.serve.server import listen, run
from mlpmixer.serve.service import Service, Settings


class Leaking(Service):
    kept: list[bytes | np.ndarray] = []  # noqa: RUF012 (that it is never emptied is what it is for)

    def cost(self, image: bytes | np.ndarray) -> int:
        self.kept.append(image)
        return super().cost(image)


def main(model: str, precision: str, port: str) -> None:
    run(Leaking(Models((model,), {"precision": precision}), Settings()), listen("127.0.0.1", int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
