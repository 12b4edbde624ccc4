"""`python -m mlpmixer.kernels` compiles the kernels ahead of time: for a container that will have no compiler, say."""

from __future__ import annotations

import ctypes
import sys
from typing import get_args

from mlpmixer.kernels.library import Name, library


def main() -> int:
    """1 if there is one that cannot be used here."""
    found = {name: library(name) for name in get_args(Name)}
    for name, built in found.items():
        print(f"{name}: {built._name if isinstance(built, ctypes.CDLL) else built}")
    return int(any(isinstance(built, str) for built in found.values()))


if __name__ == "__main__":
    sys.exit(main())
