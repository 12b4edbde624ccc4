"""The run folder: what a run leaves on the disk, and the only thing it hands over.

    recipe.toml        what was run
    machine.json       on what: versions, processor, start
    picks.json         which pictures, as the seeded choices and a digest of each
    metrics.jsonl      a line each few steps and each measurement
    broken.jsonl       pictures that could not be read and were replaced
    diverged.json      where the loss was lost, until the run goes on
    checkpoints/       where it can go on
    best.safetensors   the weights that did best on the dev split
    weights.safetensors, result.json   at the end

A file is there whole or not at all; lines are added, and what was not finished is cut off when a run goes on.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlpmixer.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class RunFolder:
    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights.safetensors"
        self.best = self.path / "best.safetensors"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, if need be, and keeps every other process from running in it."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror}; choose another folder: --folder") from error
        with lock:
            if fcntl is not None:
                try:
                    # Not flock: the processes that load pictures would inherit it, and they may outlive a kill.
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (BlockingIOError, PermissionError):
                    raise RunError(f"another process is running in {self.path}; wait for it, or --folder") from None
                except OSError:
                    pass  # some network file systems have no locks
            yield

    @property
    def recipe(self) -> str | None:
        path = self.path / "recipe.toml"
        return path.read_text(encoding="utf-8") if path.exists() else None

    def result(self) -> dict[str, Any] | None:
        """What was measured in the end; None while the run is not finished."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RunError(f"{path} is damaged; delete it, and the run measures its weights again") from error

    def write(self, name: str, content: str | dict[str, Any]) -> None:
        """The whole file at once."""
        if not isinstance(content, str):
            content = _json(content, indent=1) + "\n"
        with _whole(self.path / name) as part:
            part.write_bytes(_bytes(content))

    def copy(self, source: Path, target: Path) -> None:
        """The whole file at once."""
        with _whole(target) as part:
            shutil.copyfile(source, part)

    def metrics(self) -> list[dict[str, Any]]:
        return list(_lines(self.path / "metrics.jsonl"))

    def broken(self) -> list[dict[str, Any]]:
        return list(_lines(self.path / "broken.jsonl"))

    def begin(self, step: int, recipe: str, machine: dict[str, Any], picks: dict[str, Any]) -> None:
        """Or go on after `step`: what was noted later is forgotten, since it will happen again."""
        for left in (*self.path.glob(".*.part"), *self.path.glob(".*.safetensors.*")):  # of a process that was killed
            left.unlink(missing_ok=True)
        (self.path / "diverged.json").unlink(missing_ok=True)
        self.write("recipe.toml", recipe)
        self.write("machine.json", machine)
        self.write("picks.json", picks)
        for name in ("metrics.jsonl", "broken.jsonl"):
            path = self.path / name
            if path.exists():
                self.write(name, "".join(_json(line) + "\n" for line in _lines(path) if _is_before(line, step)))

    def note(self, step: int, kind: str, **values: Any) -> None:
        """A line of metrics; `time` is in seconds since 1970."""
        self._append("metrics.jsonl", {"step": step, "kind": kind, **values, "time": round(time.time(), 3)})

    def note_broken(self, step: int, where: str, why: str) -> None:
        self._append("broken.jsonl", {"step": step, "picture": where, "why": why})

    def _append(self, name: str, line: dict[str, Any]) -> None:
        path, content = self.path / name, _bytes(_json(line) + "\n")
        try:
            with path.open("ab", buffering=0) as file:
                before = file.tell()
                try:
                    if file.write(content) < len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    with suppress(OSError):
                        file.truncate(before)  # half a line would spoil the next one
                    raise
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}; make room") from error


def training_seconds(metrics: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Spent on training, pauses and measuring left out: each line tells the speed since the one before."""
    lines = [line for line in metrics if line["kind"] == "train"]
    before = [0, *(line["step"] for line in lines)]
    return sum(
        (line["step"] - last) * batch_size / line["images_per_s"] for last, line in zip(before, lines, strict=False)
    )


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to be filled; it gets that name when all of it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; make room, and the same command goes on") from error


def _json(values: dict[str, Any], indent: int | None = None) -> str:
    """JSON has no word for what is no number: it becomes null."""
    return json.dumps(_without_nan(values), indent=indent, ensure_ascii=False)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a file's name may be no text, and JSON reads it back so


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_before(line: dict[str, Any], step: int) -> bool:
    """Whether a line was noted up to the checkpoint of that step; what is noted in the end comes after the last."""
    return line["step"] <= step and not str(line.get("kind")).startswith("final")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines; one that was cut off by a sudden end is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                yield line
