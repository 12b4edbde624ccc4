"""Where weights are: what a name, a path, a run folder or an address stands for. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from mlpmixer.errors import BrokenFile, UsageError, nearest, nearest_path
from mlpmixer.weights.bundled import BUNDLED
from mlpmixer.weights.fetch import fetch
from mlpmixer.weights.model_zoo import Entry, model_zoo


def locate(source: str | os.PathLike[str]) -> tuple[Path, Entry | None]:
    """The file of weights, downloaded if need be, and what the model zoo knows of it.

    Raises:
        UsageError: There is no such file, run or name.
        BrokenFile: It is a folder, but no run.
        FetchError: It cannot be downloaded.
    """
    name = os.fspath(source)
    path = require_weights(name)
    return path or fetch(name), None if path else model_zoo().get(name)


def require_weights(source: str | os.PathLike[str]) -> Path | None:
    """The file of weights that is here; None: it is one to download.

    Raises:
        UsageError: There is no such file, run or name.
        BrokenFile: It is a folder, but no run.
    """
    name = os.fspath(source)
    if (finished := Path(name, "weights.safetensors")).is_file():  # a run folder
        if finished.is_symlink():
            raise UsageError(f"{finished} is a link, which may lead anywhere; name the file that it leads to")
        return finished
    if Path(name, "recipe.toml").is_file():
        best = Path(name, "best.safetensors")
        so_far = f"; the best so far is {best}" if best.is_file() else ""
        raise UsageError(f"the run in {name} is not finished: the same `mixer train` goes on{so_far}")
    if os.path.isdir(name):  # noqa: PTH112 (a Path complains of a name that is too long)
        raise BrokenFile(f"{name} is a folder, but no run; give a run folder, or the checkpoint file inside it")
    if os.path.exists(name):  # noqa: PTH110
        return Path(name)
    if name in BUNDLED:
        return BUNDLED[name]
    if name in model_zoo() or name.startswith(("http://", "https://")):
        return None
    if os.sep in name:
        raise UsageError(f"there is no {'file' if Path(name).suffix else 'run'} '{name}'{nearest_path(name)}")
    known = [*BUNDLED, *model_zoo()]
    raise UsageError(f"there is no file '{name}' and no known checkpoint of that name{nearest(name, known)}")
