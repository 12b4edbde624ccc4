"""A plain Mixer on a Hopper GPU through our Triton kernels, as one CUDA graph for a batch of one size."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mlpmixer.engines import kernels
from mlpmixer.engines.rewrites import stem_for_bytes
from mlpmixer.engines.table import Setup
from mlpmixer.errors import UsageError
from mlpmixer.models import family_of
from mlpmixer.models.mixer import Mixer
from mlpmixer.text import first_line

if TYPE_CHECKING:
    from mlpmixer.engines.triton_network import Network

TOKENS = 256  # more do not fit into a kernel of token mixing
REPLAYS = 10


def why_not(setup: Setup) -> str | None:
    model, device = setup.model, setup.device
    if not family_of(model).plain_mixer(model.config):
        return "it runs plain Mixers only"
    config = cast(Mixer, model).config
    if config.channels % 16 or config.channel_hidden % 16:
        return "channels and channel_hidden must be multiples of 16 for it"
    if stem_for_bytes(model) is None:
        return "the sides of images must be multiples of the patch for it"
    if math.prod(config.grids()[0]) > TOKENS:
        return f"it takes up to {TOKENS} patches"
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return "it needs an NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    return (
        None if major == 9 else f"it is written for GPUs of compute capability 9.0 (Hopper); this has {major}.{minor}"
    )


def build(setup: Setup) -> Graphed:
    """With the quickest ways of channel mixing. The first time on a machine takes minutes: kernels are compiled."""
    from mlpmixer.engines.triton_network import WAYS, Network

    parts = kernels.parts(cast(Mixer, setup.model), setup.how)
    able: dict[float, Graphed] = {}
    failed: list[str] = []
    for ways in WAYS:
        try:
            network = Network(parts, setup.precision, ways, setup.device)
            graphed = Graphed(network, setup.batch, parts.image, setup.device)
            able[graphed.seconds()] = graphed
        except Exception as error:  # whatever a compiler or a library does to what it does not take
            failed.append(f"{' and '.join(ways)}: {first_line(error)}")
    if not able:
        raise UsageError(f"the engine triton does not run on this machine: {'; '.join(failed)}")
    return able[min(able)]


class Graphed:
    """A network for a fixed number of images: one launch instead of a hundred."""

    def __init__(self, network: Network, batch: int, image: tuple[int, int, int], device: torch.device):
        with torch.cuda.device(device):
            self.pixels = torch.randint(0, 256, (batch, *image), dtype=torch.uint8, device=device)
            self._waiting = torch.empty(batch, *image, dtype=torch.uint8, pin_memory=True)
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(2):  # kernels are compiled, and the best way to cut their work is found
                    network(self.pixels)
            torch.cuda.current_stream().wait_stream(beside)
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.features, self.logits = network(self.pixels)
        self.network = network  # holds what the graph reads
        self._one_at_a_time = threading.Lock()

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        with self._one_at_a_time, torch.no_grad():
            if pixels.is_cuda:
                self.pixels.copy_(pixels)
            else:
                self._waiting.copy_(pixels)
                self.pixels.copy_(self._waiting, non_blocking=True)
            self.graph.replay()
            return self.features.cpu(), self.logits.cpu()

    def seconds(self) -> float:
        """Of a batch that is on the GPU already."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.graph.replay()
        begin.record()
        for _ in range(REPLAYS):
            self.graph.replay()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000 / REPLAYS
