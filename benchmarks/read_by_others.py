"""Is the shipped CIFAR-10 model as good as is said, when others read the images and run its weights?

python benchmarks/read_by_others.py [test_batch.bin]

The 10,000 test images are read by lines that know nothing of mlpmixer, and shown to our model and to timm's with the
same weights: as it is, with the erf form of GELU, and with the tanh form, with which they were trained. Without a file,
the images are those that `mlpmixer.data.open("cifar10")` brings.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mlpmixer
from mlpmixer import data
from mlpmixer.bench.timm import shaped
from mlpmixer.files import cache_folder
from mlpmixer.models.mixer import Mixer

NAME = "mixer_cifar10"
BATCH = 250


def read(path: Path) -> tuple[Tensor, Tensor]:
    """Pixels from −1 to 1, and labels. A record is a label, then 1,024 bytes each of red, green and blue."""
    records = np.fromfile(path, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 127.5 - 1
    return torch.from_numpy(pixels), torch.from_numpy(records[:, 0].astype(np.int64))


def in_tanh(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"
    return network


def right(network: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor) -> int:
    with torch.inference_mode():
        answers = [network(part).argmax(dim=1) for part in pixels.split(BATCH)]
    return int((torch.cat(answers) == labels).sum())


def main() -> None:
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
    else:
        data.open("cifar10")
        path = cache_folder() / "data" / "cifar10" / "test_batch.bin"
    pixels, labels = read(path)
    ours = mlpmixer.load(NAME)
    assert isinstance(ours, Mixer)
    with tempfile.TemporaryDirectory() as folder:
        weights = load_file(mlpmixer.save(ours, Path(folder) / "timm.safetensors", layout="timm"))
    networks = {
        "mlpmixer": ours,
        "timm, GELU by erf": shaped(ours.config, weights).eval(),
        "timm, GELU by tanh": in_tanh(shaped(ours.config, weights).eval()),
    }
    for name, network in networks.items():
        print(f"{name}: {right(network, pixels, labels):,} of {len(labels):,} right", flush=True)


if __name__ == "__main__":
    main()
