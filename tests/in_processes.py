"""What tests do in processes of their own: runs that are killed, or starved of memory or disk."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from mlpmixer.errors import MixerError
from mlpmixer.recipe import Recipe

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch._dynamo", "mlpmixer.train.loop", "mlpmixer.data.policies", "in_processes"])


@contextmanager
def running(recipe: Recipe, folder: Path, *, memory: int = 0, file_size: int = 0) -> Iterator[BaseProcess]:
    """A process that runs `recipe` in `folder`; torch is there already, so that it begins within a moment.

    What it has to say is in `said(folder)`. memory: bytes that it may take beyond what it begins with; file_size: bytes
    of the largest file that it may write.
    """
    process = SERVER.Process(target=run, args=(recipe, folder, memory, file_size))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def run_elsewhere(recipe: Recipe, folder: Path, *, memory: int = 0, file_size: int = 0) -> int:
    """Its exit status."""
    with running(recipe, folder, memory=memory, file_size=file_size) as process:
        process.join()
        assert process.exitcode is not None
        return process.exitcode


def run(recipe: Recipe, folder: Path, memory: int, file_size: int) -> None:
    import torch

    from mlpmixer.train.loop import fit

    torch.set_num_threads(1)
    with voice(folder).open("w") as sys.stderr:
        if memory:
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
        if file_size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        try:
            fit(recipe, folder, quiet=True)
        except MixerError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)


def voice(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.said")


def said(folder: Path) -> str:
    return voice(folder).read_text()
