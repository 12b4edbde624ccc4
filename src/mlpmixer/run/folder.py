"""The run folder: what a run leaves on the disk, and the only thing it hands over.

    recipe.toml        what was run
    machine.json       on what: versions, processor, start
    picks.json         which pictures, as the seeded choices and a digest of each
    metrics.jsonl      a line each few steps and each measurement
    broken.jsonl       pictures that could not be read and were replaced
    checkpoints/       where it can go on
    best.safetensors   the weights that did best on the dev split
    weights.safetensors, result.json   at the end

A file is there whole or not at all; lines are added, and what was not finished is cut off when a run goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

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
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunError(f"another process is running in {self.path}; wait for it, or --folder") from None
                except OSError:
                    pass  # some network file systems have no locks
            yield

    @property
    def recipe(self) -> str | None:
        path = self.path / "recipe.toml"
        return path.read_text(encoding="utf-8") if path.exists() else None

    def result(self) -> dict[str, Any] | None:
        path = self.path / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def write(self, name: str, content: str | dict[str, Any]) -> None:
        """The whole file at once."""
        if not isinstance(content, str):
            content = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_whole(self.path / name, content.encode())

    def metrics(self) -> list[dict[str, Any]]:
        return list(_lines(self.path / "metrics.jsonl"))

    def begin(self, step: int, recipe: str, machine: dict[str, Any], picks: dict[str, Any]) -> None:
        """Or go on after `step`: what was noted later is forgotten, since it will happen again."""
        self.write("recipe.toml", recipe)
        self.write("machine.json", machine)
        self.write("picks.json", picks)
        for name in ("metrics.jsonl", "broken.jsonl"):
            path = self.path / name
            if path.exists():
                kept = [json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(path) if line["step"] <= step]
                write_whole(path, "".join(kept).encode())

    def note(self, step: int, kind: str, **values: Any) -> None:
        """A line of metrics; `time` is in seconds since 1970."""
        self._append("metrics.jsonl", {"step": step, "kind": kind, **values, "time": round(time.time(), 3)})

    def note_broken(self, step: int, where: str, why: str) -> None:
        self._append("broken.jsonl", {"step": step, "picture": where, "why": why})

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_whole(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            sync(file)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}; make room and start again: it goes on") from error


def sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines; one that was cut off by a sudden end is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue
