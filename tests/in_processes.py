"""What tests do in processes of their own: runs that are killed, starved of memory or disk, or shared by several, and
commands with streams and signals. Where it can be, they are forked from a server that has imported torch already.

torchrun in_processes.py JOBS       does the jobs of a JSON file one after another, all processes together
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NamedTuple, Self

from mlpmixer.errors import MixerError
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import toml

M_ARENA_MAX = -8  # as malloc.h has it
SERVER = multiprocessing.get_context("forkserver")
ROOMS = ("cli", "train.loop", "data.augment", "predict.job", "engines.kernels", "serve.server")
SERVER.set_forkserver_preload(["torch._dynamo", *(f"mlpmixer.{room}" for room in ROOMS), "in_processes"])


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


def wait_for(
    holds: Callable[[], object],
    process: BaseProcess | subprocess.Popen[str] | None = None,
    seconds: float = 120,
) -> None:
    """For what comes within moments, and as long as that process lives."""
    until = time.monotonic() + seconds
    while True:
        alive = process.poll() is None if isinstance(process, subprocess.Popen) else not process or process.is_alive()
        if holds():
            return
        assert alive, "the process ended, and it never came"
        assert time.monotonic() < until, "it never came"
        time.sleep(0.002)


class Ended(NamedTuple):
    code: int
    out: bytes
    err: str


class Mixer:
    """`mixer ARGUMENTS` in a process of its own, with pipes for its streams; all else is as it is here.

    prepare: what the process does before Python opens its streams, such as to close one.
    """

    def __init__(self, *arguments: object, prepare: Callable[[], object] | None = None):
        (given, stdin), (stdout, out), (stderr, err) = os.pipe(), os.pipe(), os.pipe()
        self.stdin, self.stdout, self.stderr = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"), os.fdopen(stderr)
        theirs = [Descriptor(number) for number in (given, out, err)]
        here = {**os.environ}, Path.cwd()
        self.process = SERVER.Process(target=mixer, args=([*map(str, arguments)], theirs, here, prepare))
        self.process.start()
        for descriptor in theirs:
            os.close(descriptor.number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        for stream in (self.stdin, self.stdout, self.stderr):
            with suppress(BrokenPipeError):  # what it did not want to read
                stream.close()

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def finish(self, given: bytes = b"") -> Ended:
        """How it ends once it has read `given`, or as much as it wants."""
        with ThreadPoolExecutor(1) as pool:
            err = pool.submit(self.stderr.read)
            with suppress(BrokenPipeError):
                self.stdin.write(given)
            with suppress(BrokenPipeError):
                self.stdin.close()
            out = self.stdout.read()
            self.process.join()
            assert self.process.exitcode is not None
            return Ended(self.process.exitcode, out, err.result())


def run_mixer(*arguments: object, given: bytes = b"", prepare: Callable[[], object] | None = None) -> Ended:
    with Mixer(*arguments, prepare=prepare) as process:
        return process.finish(given)


class Descriptor:
    """An open file of this process; in another, to which it is sent, the number that it has there."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self) -> tuple[Callable[..., int], tuple[Any]]:
        return received, (DupFd(self.number),)


def received(sent: Any) -> int:
    return sent.detach()


def mixer(
    arguments: list[str], streams: list[int], here: tuple[dict[str, str], Path], prepare: Callable[[], object] | None
) -> None:
    import torch

    from mlpmixer.cli import main

    torch.set_num_threads(1)
    environment, folder = here
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if prepare:
        prepare()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", 1 if number == 2 else -1))
        except OSError:  # it is closed
            setattr(sys, name, None)
    main(arguments)


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


def together(processes: int, jobs: Sequence[Job]) -> None:
    """The same without torchrun, whose environment they get, and so without waiting for their imports."""
    for recipe, folder in jobs:
        file_of(folder).write_text(toml.dumps(recipe))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = [
        SERVER.Process(target=one_of_several, args=(rank, processes, port, [folder for _, folder in jobs]))
        for rank in range(processes)
    ]
    for process in group:
        process.start()
    for process in group:
        process.join()


def one_of_several(rank: int, processes: int, port: int, folders: list[Path]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{processes}"}
    os.environ |= {"LOCAL_WORLD_SIZE": f"{processes}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    do(folders)


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
        wait_for((folder / "checkpoints" / f"step-{step:09}").exists)
        (folder / "died").write_bytes((folder / "metrics.jsonl").read_bytes())
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    do([Path(folder) for folder in json.loads(Path(sys.argv[1]).read_text())])
