"""Run folders: all that remains of a run, and its only interface to evaluation, reports and export.

    recipe.toml        what was run
    machine.json       the machine: versions, processor, start
    picks.json         the images of each split: seeded choices, and a digest of each
    metrics.jsonl      a line every few steps, and for each validation pass
    bad_images.jsonl   images that could not be read and were replaced
    diverged.json      where the run diverged, until it is resumed
    checkpoints/       states to resume it from
    best.safetensors   the weights with the best validation accuracy
    weights.safetensors, result.json   at the end

Files are written whole or not at all; lines are appended, and half a line is cut off when a run is resumed.

The folder may come from an untrusted source: links within it are followed neither for reading nor for writing, a pipe
is not waited for, and what is read is checked to be what `mixer train` writes.
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
        """The text of a file; None if it is not there."""
        try:
            return files.read_text(files.below(self.path, *name.split("/")), most, follow=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise RunError(f"{self.path / name} cannot be read: it is no text in UTF-8") from error
        except OSError as error:
            raise RunError(f"{self.path / name} cannot be read: {error.strerror}") from error

    def json(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file, which must be an object; None if it is not there."""
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
        """Content of result.json; None while the run is not finished."""
        way_out = "delete it, and the same command measures the weights again"
        try:
            found = self.json("result.json")
        except RunError as error:
            raise RunError(f"{error}; {way_out}") from error
        if found is None:
            return None
        found["of"] = {name: str(text) for name, text in dict_of(found.get("of")).items()}
        for split in ("val", "test"):
            measured = found.setdefault(split, None)
            sound = isinstance(measured, dict) and is_share(measured.get("top1")) and is_figure(measured.get("count"))
            if measured is not None and not sound:
                raise RunError(f"{self.path / 'result.json'} is damaged; {way_out}")
        return found

    def cards(self) -> list[dict[str, Any]]:
        """The evaluation cards, the newest first; those that cannot be read are left out."""
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

    def write(self, name: str, content: str | bytes | dict[str, Any]) -> None:
        """Writes a file, whole or not at all: text, bytes, or a dictionary as JSON.

        Raises:
            RunError: It cannot be written.
        """
        if isinstance(content, dict):
            content = to_json(content, indent=1) + "\n"
        written = content.encode() if isinstance(content, str) else content
        self._write(name, lambda file: file.write(written))

    def copy(self, source: Path, target: Path) -> None:
        """Copies a file within the folder, whole or not at all."""
        try:
            with files.open_regular(source, follow=False) as opened:
                self._write(target.name, lambda file: shutil.copyfileobj(opened, file))
        except OSError as error:
            raise RunError(f"{source} cannot be read: {error.strerror}; delete it, and the run begins anew") from error

    def _write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        path = part = self.path / name
        try:
            files.below(self.path, *name.split("/")[:-1])
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, "it is no file", str(path))
            with files.whole(path) as part, files.open_new(part) as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            way_out = "make room, and the same command resumes" if full else "remove it, or write elsewhere"
            at = Path(os.fsdecode(error.filename)) if error.filename else path
            raise RunError(f"cannot write {path if at == part else at}: {error.strerror}; {way_out}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl that have a step and a kind; values that are no numbers are left out."""
        return [
            {name: value for name, value in line.items() if name == "kind" or is_figure(value)}
            for line in self._lines("metrics.jsonl")
            if isinstance(line.get("kind"), str)
        ]

    def bad_images(self) -> list[dict[str, Any]]:
        """The images that could not be read: step, image and why of each."""
        return [line for line in self._lines("bad_images.jsonl") if isinstance(line.get("image"), str)]

    def begin(self, step: int, recipe: str, machine: dict[str, Any], picks: dict[str, Any]) -> None:
        """Begins the run, or resumes it after `step`: lines of later steps are deleted, since these come again."""
        for left in (*self.path.glob(".*.part"), *self.path.glob(".*.safetensors.*")):  # of a process that was killed
            with suppress(IsADirectoryError, PermissionError):
                left.unlink(missing_ok=True)
        (self.path / "diverged.json").unlink(missing_ok=True)
        self.write("recipe.toml", recipe)
        self.write("machine.json", machine)
        self.write("picks.json", picks)
        for name in ("metrics.jsonl", "bad_images.jsonl"):
            if (self.path / name).exists():
                kept = [line for line in self._lines(name) if _is_before(line, step)]
                self.write(name, "".join(to_json(line) + "\n" for line in kept))

    def log(self, step: int, kind: str, **values: Any) -> None:
        """A line of metrics; `time` is in seconds since 1970."""
        self._append("metrics.jsonl", {"step": step, "kind": kind, **values, "time": round(time.time(), 3)})

    def log_bad_image(self, step: int, where: str, why: str) -> None:
        """A line about an image that cannot be read."""
        self._append("bad_images.jsonl", {"step": step, "image": where, "why": why})

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
        """The whole lines; one that a sudden end has cut off is left out."""
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


def dict_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_figure(value: Any) -> bool:
    """Whether this is a number that can be drawn and compared."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def is_share(value: Any) -> bool:
    return is_figure(value) and 0 <= value <= 1


def by_epoch(lines: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    """(epoch, value) of `name` in the lines of that kind, where both are there."""
    return [
        (float(line["epoch"]), float(line[name]))
        for line in lines
        if line["kind"] == kind and "epoch" in line and name in line
    ]


def training_seconds(metrics: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Time spent on training, without pauses and validation: each line has the speed since the one before."""
    lines = [line for line in metrics if line["kind"] == "train" and line.get("images_per_s", 0) > 0]
    before = [0, *(line["step"] for line in lines)]
    return sum(
        (line["step"] - last) * batch_size / line["images_per_s"] for last, line in zip(before, lines, strict=False)
    )


def _is_before(line: dict[str, Any], step: int) -> bool:
    """Whether a line was written before the checkpoint of that step; final figures come after the last one."""
    return line["step"] <= step and not str(line.get("kind")).startswith("final")
