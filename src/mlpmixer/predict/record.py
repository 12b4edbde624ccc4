"""What a job writes of an image, and what it writes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mlpmixer.predict.predictor import Prediction


@dataclass(frozen=True)
class Record:
    """What an earlier run wrote of an image.

    Attributes:
        path: As it was written.
        label: The likeliest.
        score: Its probability.
        labels: How many labels were written.
    """

    path: str
    label: str
    score: float
    labels: int


class Writer(Protocol):
    """`rows`: how many images are written."""

    rows: int

    def write(self, path: str, found: Prediction) -> None: ...

    def flush(self) -> None:
        """After each batch: what was written outlives this process."""
        ...

    def close(self) -> None: ...


def spelled(path: str) -> str:
    r"""A name that is no text, as text: with \udce9 and the like in it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return path.encode("utf-8", "backslashreplace").decode()
    return path
