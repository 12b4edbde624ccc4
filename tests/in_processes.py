"""What tests do in processes of their own: runs that are killed, starved of memory or disk, or shared by several.

torchrun in_processes.py JOBS       does the jobs of a JSON file one after another, all processes together
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

from mlpmixer.errors import MixerError
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml

M_ARENA_MAX = -8  # as malloc.h has it
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch._dynamo", "mlpmixer.train.loop", "in_processes"])


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
            # The limit is on addresses, of which glibc reserves 64 MB for each thread that allocates at the same time.
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
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


Job = tuple[Recipe, Path]


def torchrun(processes: int, jobs: Sequence[Job], scratch: Path, *options: str) -> subprocess.Popen[str]:
    """Runs jobs with so many processes; those with axes in `axes_of(folder)` as a grid."""
    scratch.mkdir(parents=True, exist_ok=True)
    for recipe, folder in jobs:
        file_of(folder).write_text(toml.dumps(recipe))
    file = scratch / "jobs.json"
    file.write_text(json.dumps([str(folder) for _, folder in jobs]))
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), *options, __file__, str(file)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, words = process.communicate()
    assert process.returncode == 0, words


def file_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.toml")


def axes_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.axes")


def shown(folder: Path) -> list[str]:
    """The lines that a terminal would show, of all processes."""
    return folder.with_name(f"{folder.name}.shown").read_text().splitlines()


def do(folders: list[Path]) -> None:
    """`mixer train` in each of them."""
    from mlpmixer.cli.train import train

    for folder in folders:
        if "DIE_AFTER" in os.environ:
            threading.Thread(target=die, args=(folder, int(os.environ["DIE_AFTER"])), daemon=True).start()
        axes = tuple(axes_of(folder).read_text().split()) if axes_of(folder).exists() else ()
        try:
            screen = folder.with_name(f"{folder.name}.shown").open("a")
            with screen, redirect_stdout(screen), redirect_stderr(screen):
                train(str(file_of(folder)), folder, axes, quiet=True, changes={})
        except MixerError as error:
            with voice(folder).open("a") as file:
                file.write(f"{error}\n")
            if error.exit_code == 130:
                sys.exit(130)


def die(folder: Path, step: int) -> None:
    """As if its machine failed: the third process, the first time, once that checkpoint is there."""
    if os.environ["RANK"] == "2" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        while not (folder / "checkpoints" / f"step-{step:09}").exists():
            time.sleep(0.001)
        (folder / "died").write_bytes((folder / "metrics.jsonl").read_bytes())
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    do([Path(folder) for folder in json.loads(Path(sys.argv[1]).read_text())])
