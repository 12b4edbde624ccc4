"""The run folder: what a run leaves on the disk, and the only thing it hands over.

    recipe.toml        what was run
    machine.json       on what: versions, processor, start
    picks.json         which images, as the seeded choices and a digest of each
    metrics.jsonl      a line each few steps and each measurement
    broken.jsonl       images that could not be read and were replaced
    diverged.json      where the loss was lost, until the run goes on
    checkpoints/       where it can go on
    best.safetensors   the weights that did best on the validation split
    weights.safetensors, result.json   at the end

A file is there whole or not at all; lines are added, and what was not finished is cut off when a run goes on.

The folder may be a stranger's: links within it are followed neither for reading nor for writing, a pipe is not waited
for, and what is read is checked to be what `mixer train` writes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mlpmixer import files
from mlpmixer.errors import RunError
from mlpmixer.text import to_json

RECIPE = 1 << 20  # bytes at most; class names are what makes one long
LINE = 1 << 16  # bytes at most of a line of metrics
LARGEST = 1e300  # of a figure; and none is infinite
MOST_STEPS = 1 << 53


class RunFolder:
    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights.safetensors"
        self.best = self.path / "best.safetensors"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, if need be, and keeps every other process from running in it."""
        with ExitStack() as stack:
            try:
                files.below(self.path, "checkpoints").mkdir(parents=True, exist_ok=True)
                stack.enter_context(files.locked(self.path / ".lock"))
            except BlockingIOError:
                raise RunError(f"another process is running in {self.path}; wait for it, or --folder") from None
            except OSError as error:
                name = f" ({Path(os.fsdecode(error.filename)).name})" if error.filename else ""
                what = f"{error.strerror}{name}; choose another folder: --folder"
                raise RunError(f"cannot write to {self.path}: {what}") from error
            yield

    @property
    def recipe(self) -> str | None:
        return self.text("recipe.toml", RECIPE)

    def text(self, name: str, most: int = files.TEXT) -> str | None:
        """What is in a file; None if it is not there."""
        try:
            return files.read_text(files.below(self.path, *name.split("/")), most, follow=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise RunError(f"{self.path / name} cannot be read: it is no text in UTF-8") from error
        except OSError as error:
            raise RunError(f"{self.path / name} cannot be read: {error.strerror}") from error

    def json(self, name: str) -> dict[str, Any] | None:
        """The same of a file of JSON, which describes something by names."""
        text = self.text(name)
        if text is None:
            return None
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{self.path / name} is damaged") from error
        if not isinstance(found, dict):
            raise RunError(f"{self.path / name} is damaged")
        return found

    def result(self) -> dict[str, Any] | None:
        """What was measured in the end; None while the run is not finished."""
        way_out = "delete it, and the run measures its weights again"
        try:
            found = self.json("result.json")
        except RunError as error:
            raise RunError(f"{error}; {way_out}") from error
        if found is None:
            return None
        found["of"] = {name: str(text) for name, text in dict_of(found.get("of")).items()}  # newer than other parts
        for split in ("val", "test"):
            measured = found.setdefault(split, None)
            sound = isinstance(measured, dict) and is_share(measured.get("top1")) and is_figure(measured.get("count"))
            if measured is not None and not sound:
                raise RunError(f"{self.path / 'result.json'} is damaged; {way_out}")
        return found

    def cards(self) -> list[dict[str, Any]]:
        """The evaluation cards, the newest first; what cannot be read is left out."""
        try:
            paths = [*files.below(self.path, "cards").glob("*.json")]
            paths.sort(key=lambda path: path.lstat().st_mtime, reverse=True)
        except OSError:
            return []
        found = []
        for path in paths:
            with suppress(RunError):
                found.append(self.json(f"cards/{path.name}"))
        return [card for card in found if card is not None]

    def write(self, name: str, content: str | dict[str, Any]) -> None:
        """The whole file at once."""
        if not isinstance(content, str):
            content = to_json(content, indent=1) + "\n"
        self._write(name, lambda file: file.write(content.encode()))

    def copy(self, source: Path, target: Path) -> None:
        """The whole file at once; both are in the folder."""
        try:
            with files.open_regular(source, follow=False) as opened:
                self._write(target.name, lambda file: shutil.copyfileobj(opened, file))
        except OSError as error:
            raise RunError(f"{source} cannot be read: {error.strerror}; delete it, and the run begins anew") from error

    def _write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """A file grows beside its place, and gets its name when all of it is on the disk."""
        path = self.path / name
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            files.below(self.path, *name.split("/")[:-1])
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, "it is no file", str(path))
            try:
                with files.open_new(part) as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            way_out = (
                "make room, and the same command goes on" if error.errno in FULL else "remove it, or write elsewhere"
            )
            raise RunError(f"cannot write {_which(error, path, part)}; {way_out}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Its lines as far as they are whole: what is no figure is left out, as is a line without a step or a kind."""
        return [
            {name: value for name, value in line.items() if name == "kind" or is_figure(value)}
            for line in self._lines("metrics.jsonl")
            if isinstance(line.get("kind"), str)
        ]

    def broken(self) -> list[dict[str, Any]]:
        return [line for line in self._lines("broken.jsonl") if isinstance(line.get("image"), str)]

    def begin(self, step: int, recipe: str, machine: dict[str, Any], picks: dict[str, Any]) -> None:
        """Or go on after `step`: what was noted later is forgotten, since it will happen again."""
        for left in (*self.path.glob(".*.part"), *self.path.glob(".*.safetensors.*")):  # of a process that was killed
            with suppress(IsADirectoryError, PermissionError):
                left.unlink(missing_ok=True)
        (self.path / "diverged.json").unlink(missing_ok=True)
        self.write("recipe.toml", recipe)
        self.write("machine.json", machine)
        self.write("picks.json", picks)
        for name in ("metrics.jsonl", "broken.jsonl"):
            if (self.path / name).exists():
                kept = [line for line in self._lines(name) if _is_before(line, step)]
                self.write(name, "".join(to_json(line) + "\n" for line in kept))

    def note(self, step: int, kind: str, **values: Any) -> None:
        """A line of metrics; `time` is in seconds since 1970."""
        self._append("metrics.jsonl", {"step": step, "kind": kind, **values, "time": round(time.time(), 3)})

    def note_broken(self, step: int, where: str, why: str) -> None:
        self._append("broken.jsonl", {"step": step, "image": where, "why": why})

    def _append(self, name: str, line: dict[str, Any]) -> None:
        path, content = self.path / name, (to_json(line) + "\n").encode()
        try:
            with files.open_end(path) as file:
                before = os.fstat(file.fileno()).st_size
                try:
                    if file.write(content) < len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    with suppress(OSError):
                        file.truncate(before)  # half a line would spoil the next one
                    raise
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}; make room") from error

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The whole lines; one that was cut off by a sudden end is left out."""
        try:
            with files.open_regular(files.below(self.path, name), follow=False) as file:
                if os.fstat(file.fileno()).st_size > files.MOST:
                    raise OSError(errno.EFBIG, f"it is larger than {files.size(files.MOST)}")
                while text := file.readline(LINE):
                    try:
                        line = json.loads(text.decode("utf-8", "replace"))
                    except (ValueError, RecursionError):
                        continue
                    if isinstance(line, dict) and isinstance(line.get("step"), int) and 0 <= line["step"] <= MOST_STEPS:
                        yield line
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(f"{self.path / name} cannot be read: {error.strerror}; remove it") from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def dict_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_figure(value: Any) -> bool:
    """A number that can be drawn and compared."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def is_share(value: Any) -> bool:
    return is_figure(value) and 0 <= value <= 1


def by_epoch(lines: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    """A figure by epoch: of the lines of metrics of that kind which have both."""
    return [
        (float(line["epoch"]), float(line[name]))
        for line in lines
        if line["kind"] == kind and "epoch" in line and name in line
    ]


def training_seconds(metrics: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Spent on training, pauses and measuring left out: each line tells the speed since the one before."""
    lines = [line for line in metrics if line["kind"] == "train" and line.get("images_per_s", 0) > 0]
    before = [0, *(line["step"] for line in lines)]
    return sum(
        (line["step"] - last) * batch_size / line["images_per_s"] for last, line in zip(before, lines, strict=False)
    )


def _which(error: OSError, path: Path, instead: Path | None = None) -> str:
    """The file that an error is about, and what is wrong with it; `instead` is not worth naming, but its `path`."""
    at = Path(os.fsdecode(error.filename)) if error.filename else path
    return f"{path if at == instead else at}: {error.strerror}"


def _is_before(line: dict[str, Any], step: int) -> bool:
    """Whether a line was noted up to the checkpoint of that step; what is noted in the end comes after the last."""
    return line["step"] <= step and not str(line.get("kind")).startswith("final")
