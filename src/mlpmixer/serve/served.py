"""The models that a service has, each loaded, warmed up, and replaced when its file is."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlpmixer.engines.table import ENGINES
from mlpmixer.errors import UsageError
from mlpmixer.machine.ordered_pool import compute_alone
from mlpmixer.predict.predictor import Predictor
from mlpmixer.text import first_line
from mlpmixer.weights.bundled import PHOTO
from mlpmixer.weights.locate import require_weights

PIECES = (1, 2, 4, 8, 16)  # batch sizes that are tried
NEAR = 0.97  # of the best rate: the smallest batch that reaches it is taken
TRIES = 8  # of each size, the best counts; with fewer, what is measured differs from start to start
LOADS = 3  # of a file that was replaced, before it is given up
SETTLED = 1.0  # seconds for which a replaced file must not have changed before it is loaded


@dataclass(frozen=True, eq=False)
class Served:
    """A model as of one version of its file; it never changes.

    Attributes:
        name: As requests have it.
        source: As the command line had it.
        predictor: What answers.
        version: The first digits of the digest of its file.
        piece: Images that are answered together.
        seconds: Of one image within such a batch, on one core.
        loaded: When, in seconds since 1970.
    """

    name: str
    source: str
    predictor: Predictor
    version: str
    piece: int
    seconds: float
    loaded: float

    def facts(self) -> dict[str, Any]:
        """What /v1/models says of it."""
        model = self.predictor.model
        height, width = model.config.image_size
        return {
            "name": self.name,
            "version": self.version,
            "architecture": model.name,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "image_size": [height, width],
            "classes": list(self.predictor.classes),
            "engine": self.predictor.engine.name,
            "precision": self.predictor.engine.precision,
            "embedding_size": self.predictor.width,
            "batch_size": self.piece,
            "provenance": {key: text for key, text in model.metadata.provenance.items() if key != "quirks"},
        }


@dataclass
class Slot:
    """A name, the model behind it, and what became of the last attempt to replace it."""

    source: str
    path: Path | None
    stamp: tuple[int, ...] = ()
    served: Served | None = None
    error: str = ""
    failed: tuple[int, ...] | None = None  # the stamp of the file that could not be loaded
    tries: int = 0  # of that file
    reloads: int = 0


class Models:
    """The models of a service, by name; the first is the default.

    Args:
        sources: Run folders, files of weights or names of weights; `NAME=SOURCE` chooses the name in requests.
        options: Of each `Predictor`.

    Raises:
        UsageError: Two have one name, or a source does not exist.
    """

    def __init__(self, sources: Sequence[str], options: Mapping[str, Any]):
        self.options = dict(options)
        self.slots: dict[str, Slot] = {}
        for given in sources:
            name, source = named(given)
            if name in self.slots:
                raise UsageError(f"two models are called '{name}'; name one of them: OTHER={source}")
            self.slots[name] = Slot(source, require_weights(source))
        self.reloading = threading.Lock()

    def load(self) -> None:
        """Loads and warms up all of them; before that, none is served."""
        for name, slot in self.slots.items():
            slot.stamp = stamp_of(slot.path)
            slot.served = self._served(name, slot)

    @property
    def ready(self) -> bool:
        return all(slot.served is not None for slot in self.slots.values())

    def find(self, name: str | None) -> Served:
        """The model called `name`; None: the default.

        Raises:
            KeyError: There is none.
        """
        slot = self.slots[name or next(iter(self.slots))] if name is None or name in self.slots else None
        if slot is None or slot.served is None:
            raise KeyError(f"no model has this name; there are: {', '.join(self.slots)}")
        return slot.served

    def reload(self, now: Callable[[], float] = time.time) -> list[str]:
        """Loads each model anew whose file was replaced; the old one answers meanwhile, and stays where that fails.

        Returns:
            What happened, a line each.
        """
        told: list[str] = []
        if not self.reloading.acquire(blocking=False):
            return told
        try:
            for name, slot in self.slots.items():
                stamp = stamp_of(slot.path)
                if stamp == slot.stamp:  # perhaps it is there again
                    slot.failed, slot.error = None, ""
                    continue
                again = stamp == slot.failed  # some engines cannot always start while the machine is busy
                if (again and slot.tries >= LOADS) or (stamp and now() - stamp[0] / 1e9 < SETTLED):
                    continue
                try:
                    if not stamp:
                        raise UsageError(f"{slot.source} is not there any more")
                    served = self._served(name, slot)
                except Exception as error:
                    slot.failed, slot.error, slot.tries = stamp, first_line(error), 1 + slot.tries * again
                    told += [] if again else [f"model {name} stays at version {self.find(name).version}: {slot.error}"]
                    continue
                slot.served, slot.stamp, slot.failed, slot.error = served, stamp, None, ""
                slot.reloads += 1
                told.append(f"model {name} is now version {served.version}")
        finally:
            self.reloading.release()
        return told

    def _served(self, name: str, slot: Slot) -> Served:
        predictor = Predictor(slot.source, embeddings=True, **self.options)
        with ThreadPoolExecutor(1, initializer=compute_alone) as alone:  # as a worker
            piece, seconds = alone.submit(pace, predictor).result()
        return Served(name, slot.source, predictor, version_of(slot.path, slot.source), piece, seconds, time.time())


def named(given: str) -> tuple[str, str]:
    """`NAME=SOURCE`, or a source with the name that it has anyway: of its folder or file, without the ending."""
    name, equals, source = given.partition("=")
    if equals and name and os.sep not in name:
        return name, source
    path = Path(given)
    return (path.stem if path.suffix in (".safetensors", ".npz", ".pth", ".pt") else path.name) or given, given


def stamp_of(path: Path | None) -> tuple[int, ...]:
    """Tells one file at a path from another; none of a file that is not there, or was not one to begin with."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return ()
    if found is None or not stat.S_ISREG(found.st_mode):  # a pipe could be read from for ever
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def version_of(path: Path | None, source: str) -> str:
    digest = hashlib.blake2b(digest_size=6)
    if path is None:
        digest.update(source.encode())
    else:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


def pace(predictor: Predictor) -> tuple[int, float]:
    """Images that a worker should answer together, and the seconds of one of them; measured, which also warms up."""
    image = io.BytesIO()
    Image.open(PHOTO).convert("RGB").resize((400, 533)).save(image, "JPEG", quality=90)
    # Time of the processor, where that is all: on a busy machine, the more images, the longer others take it away.
    alone = predictor.device.type == "cpu" and ENGINES[predictor.engine.name].caller_thread
    clock = time.thread_time if alone else time.perf_counter
    seconds: dict[int, float] = dict.fromkeys(PIECES, float("inf"))
    for _ in range(TRIES):
        for piece in PIECES:
            images = [image.getvalue()] * piece
            started = clock()
            predictor.predict_batch(images)
            seconds[piece] = min(seconds[piece], (clock() - started) / piece)
    best = min(seconds.values())
    piece = next(piece for piece in PIECES if seconds[piece] * NEAR <= best)
    return piece, float(np.round(seconds[piece], 6))
