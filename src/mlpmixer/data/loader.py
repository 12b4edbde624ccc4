"""Batches for training and evaluation, in an order that depends on (seed, position) only.

Training images form one endless stream: epoch after epoch, each in an order of its own. Step t takes the positions
from t·B to (t + 1)·B; each device takes its share of them, and cuts that into parts if asked to. Augmentation
is drawn from the position. So nothing depends on the number of workers, and the state of a loader is a step.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlpmixer.data.dataset import Split
from mlpmixer.data.images import pixels
from mlpmixer.data.rng import permutation, random_uint64
from mlpmixer.errors import DataError, ImageError, MixerError
from mlpmixer.files import size
from mlpmixer.machine.cores import cores

STOPS = {signal.SIGINT, signal.SIGTERM}
PREFETCH = 2  # batches that each process is ahead

PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal that a process gets when its parent dies

Prepare = Callable[[np.ndarray], Tensor]  # pixels (height, width, 3) become uint8 (3, H, W)
Transform = Callable[[Tensor], Tensor]  # of a prepared image, which keeps its size; `str` of it names it


@dataclass
class Batch:
    """A batch of prepared images.

    Attributes:
        images: (n, 3, H, W), uint8.
        labels: (n,), int64.
        indices: (n,), int64, of the images in their split.
        broken: Where each image is that could not be read, and why.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    broken: list[tuple[str, str]] = field(default_factory=list)

    def first(self, count: int) -> Batch:
        return Batch(self.images[:count], self.labels[:count], self.indices[:count])

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices, self.broken)

    def __reduce__(self) -> Any:
        """What is small goes between processes through their pipe; to share its memory takes a millisecond a tensor."""
        images = self.images if len(self.images) else self.images.numpy()
        return _batch, (images, self.labels.numpy(), self.indices.numpy(), self.broken)


def _batch(images: Any, labels: np.ndarray, indices: np.ndarray, broken: list[tuple[str, str]]) -> Batch:
    images = images if isinstance(images, Tensor) else torch.from_numpy(images)
    return Batch(images, torch.from_numpy(labels), torch.from_numpy(indices), broken)


@dataclass(frozen=True)
class Share:
    """A device's share of the work: the `rank`-th of `ranks`."""

    rank: int = 0
    ranks: int = 1


class Stream:
    """The endless sequence of training images."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._orders: dict[int, np.ndarray] = {}

    def __getitem__(self, position: int) -> int:
        """Which image stands there."""
        epoch, place = divmod(position, self.count)
        if epoch not in self._orders:
            # A batch may touch two epochs, and mixing looks back once more.
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = permutation(self.count, "epoch", self.seed, epoch)
        return int(self._orders[epoch][place])


def train_batches(
    split: Split,
    prepare: Prepare,
    *,
    steps: range,
    batch_size: int,
    micro_batch: int = 0,
    one_before: bool = False,
    seed: int = 0,
    transform: Transform | None = None,
    skip_broken: bool = False,
    share: Share = Share(),
    workers: int = 0,
    pin: bool = False,
) -> Generator[list[Batch]]:
    """Training batches: for each step, this device's share of the batch, in parts.

    Args:
        split: The training images.
        prepare: Augments one image.
        steps: The steps of the run to deliver.
        batch_size: Images a step, over all devices.
        micro_batch: Images in a part at most; 0: all of the share.
        one_before: Put the image before its own in front of each part, as `mix` needs it.
        seed: Of the order and of the augmentation.
        skip_broken: Replace an image that cannot be read by another one, instead of stopping.
        share: This device's.
        workers: Processes that load; 0: this one.
        pin: Deliver pinned memory.

    Raises:
        DataError: An image cannot be read, or a worker was killed.
    """
    assert batch_size % share.ranks == 0
    mine = batch_size // share.ranks
    micro_batch = min(micro_batch or mine, mine)
    starts = range(share.rank * mine, (share.rank + 1) * mine, micro_batch)
    stream = Stream(len(split), seed)

    def wanted() -> Iterator[list[tuple[int, int]]]:
        for step in steps:
            for start in starts:
                places = [*range(start, min(start + micro_batch, (share.rank + 1) * mine))]
                if one_before:
                    places.insert(0, (start - 1) % batch_size)
                yield [(step * batch_size + place, stream[step * batch_size + place]) for place in places]

    images = _Images(split, _then(prepare, transform), seed, skip_broken, int(one_before))
    parts = _load(images, wanted(), micro_batch + int(one_before), workers, pin)
    return _together(parts, len(steps), len(starts))


def all_batches(
    split: Split,
    prepare: Prepare,
    *,
    batch_size: int,
    transform: Transform | None = None,
    skip_broken: bool = False,
    share: Share = Share(),
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """Evaluation batches: this device's share of all images, once, in order.

    Each device gets the same number of batches, since they may have to work in step; the last may be empty. The
    arguments are those of `train_batches`; with `skip_broken`, unreadable images are left out.
    """
    mine = range(share.rank, len(split), share.ranks)
    most = range(0, len(split), share.ranks)
    wanted = ([(i, i) for i in mine[n : n + batch_size]] for n in range(0, len(most), batch_size))
    return _load(_Images(split, _then(prepare, transform), None, skip_broken), wanted, batch_size, workers, pin)


def _then(prepare: Prepare, transform: Transform | None) -> Prepare:
    return prepare if transform is None else partial(_both, prepare, transform)


def _both(prepare: Prepare, transform: Transform, image: np.ndarray) -> Tensor:
    return transform(prepare(image))


def usual_workers() -> int:
    """Half of the cores that this process may use; 1 to 8."""
    return min(max(cores() // 2, 1), 8)


def lost_worker(error: Exception) -> DataError | None:
    """The error to raise if `error` is torch's way to say that a worker has died; otherwise None.

    torch raises it in the main process wherever that is just then, so callers have to ask as well.
    """
    if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
        return None
    return DataError(
        "a data-loader worker was killed (out of memory? in a container, of shared memory: --shm-size); use fewer "
        "with --machine.workers, or none with 0"
    )


class _Images(Dataset[Any]):
    """The images as the worker processes prepare them.

    Attributes:
        seed: Of the augmentation; None: there is none.
        ahead: How many images in front are there for mixing only; another part reports them if they are broken.
        ring: Slots for batches in memory that is shared with the main process, used in turn. (Memory that is shared
            anew for each batch costs more than to fill it.)
    """

    ring: Tensor | None = None

    def __init__(self, split: Split, prepare: Prepare, seed: int | None, skip_broken: bool, ahead: int = 0):
        self.split, self.prepare, self.seed, self.skip_broken, self.ahead = split, prepare, seed, skip_broken, ahead

    def __getitem__(self, task: tuple[int, list[tuple[int, int]]]) -> Batch | str:
        """The batch, or why there is none. (An exception would arrive wrapped in the worker's traceback.)"""
        turn, wanted = task
        images, indices, broken = [], [], []
        for number, (position, first_choice) in enumerate(wanted):
            index = first_choice
            for again in range(1, 101):
                try:
                    images.append(self._image(position, index))
                    indices.append(index)
                    break
                except ImageError as error:
                    if not self.skip_broken:
                        where = self.split.where(index)
                        what = str(error) if where in str(error) else f"{error} ({where})"  # files are named already
                        return (
                            f'{what}; mend or remove it (`mixer doctor` lists all), or set data.on_bad_image to "skip"'
                        )
                    if number >= self.ahead:
                        broken.append((self.split.where(index), str(error)))
                except MixerError as error:
                    return f"{error} ({self.split.where(index)})"
                if self.seed is None:
                    break  # each image is wanted once: no other can stand for it
                index = random_uint64("instead", self.seed, position, again) % len(self.split)
            else:
                return f"100 images in a row cannot be read, the last at {self.split.where(index)}"
        labels = torch.from_numpy(self.split.labels[indices].copy())
        return Batch(self._stacked(images, turn), labels, torch.tensor(indices, dtype=torch.int64), broken)

    def _image(self, position: int, index: int) -> Tensor:
        image = pixels(self.split.read(index))
        if self.seed is not None:
            # "picture", as in 0.1.0: another word would be another augmentation of every image.
            torch.default_generator.manual_seed(random_uint64("picture", self.seed, position))
        return self.prepare(image)

    def _stacked(self, images: list[Tensor], turn: int) -> Tensor:
        if not images:
            return torch.empty(0, *self.shape(), dtype=torch.uint8)
        if self.ring is None:
            return torch.stack(images)
        torch.stack(images, out=self.ring[turn % len(self.ring)][: len(images)])
        return torch.empty(0, dtype=torch.uint8)  # the main process knows where to look

    def shape(self) -> torch.Size:
        """Of every prepared image."""
        try:
            return self.prepare(np.zeros((1, 1, 3), dtype=np.uint8)).shape
        except MixerError:  # what changes no sizes takes the right one only
            return self._image(0, 0).shape


def _together(parts: Iterator[Batch], steps: int, parts_a_step: int) -> Generator[list[Batch]]:
    for _ in range(steps):
        yield [next(parts) for _ in range(parts_a_step)]


def _load(
    images: _Images, wanted: Iterator[list[tuple[int, int]]], at_most: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """at_most: images in a batch."""
    ring = None
    if workers:
        # A place for each batch that is under way, for the one that is copied here, and one to spare.
        places = workers * PREFETCH + 2
        shape = None
        with suppress(MixerError):  # the process that meets it says so better
            shape = images.shape()
        if shape is not None:
            ring = images.ring = _shared(places, at_most, *shape)
    try:
        for turn, batch in enumerate(_started(images, wanted, workers, pin and ring is None)):
            if isinstance(batch, str):
                break
            if ring is not None and len(batch.indices):
                filled = ring[turn % len(ring)][: len(batch.indices)]
                batch.images = torch.empty(filled.shape, dtype=filled.dtype, pin_memory=pin).copy_(filled)
            yield batch
        else:
            return
    except RuntimeError as error:
        raise lost_worker(error) or error from None
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        # It died as it handed over a batch. torch will say so too, as soon as it hears of it: here, not somewhere else.
        with suppress(RuntimeError):
            time.sleep(1)
        raise lost_worker(error) or error from None
    raise DataError(batch)  # out here the loop is over, and its processes with it


def _shared(*shape: int) -> Tensor:
    try:
        return torch.empty(shape, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        raise DataError(
            f"no shared memory for {size(math.prod(shape))} of images (in a container, raise --shm-size); use fewer "
            "data-loader workers with --machine.workers, or none with 0"
        ) from error


def _started(
    images: _Images, wanted: Iterator[list[tuple[int, int]]], workers: int, pin: bool
) -> Iterator[Batch | str]:
    with warnings.catch_warnings(), _signals_held():
        # Whoever asks for more processes than cores means it; and to fork beside its own threads is torch's own way.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message="This process .* is multi-threaded", category=DeprecationWarning)
        return iter(
            DataLoader(
                images,
                batch_size=None,
                sampler=enumerate(wanted),  # pyright: ignore[reportArgumentType] (an iterator is enough)
                num_workers=workers,
                # Forked ones share what a split holds; others would get a copy each.
                multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
                pin_memory=pin,
                prefetch_factor=PREFETCH if workers else None,
                worker_init_fn=partial(_follow, os.getpid()),
            )
        )


@contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait meanwhile, in processes that are forked here as well: until `_follow` lets them through,
    they would be killed by a signal that is meant for the main one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS) if hasattr(signal, "pthread_sigmask") else set()
    try:
        yield
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(main: int, _: int) -> None:
    """In a process that loads: what asks all processes to stop is for process `main` to answer; and both end together.

    Ctrl-C reaches all processes of a terminal, and SIGTERM all of a Slurm job or under `timeout`. A second SIGTERM is
    from the main one, which waits no longer. torch's own watch takes seconds to see that the main one was killed, and
    never does if that was while it forked.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != main:
            os._exit(1)
