"""What decoding JPEGs at a smaller scale would gain and cost, which is why they are decoded whole.

    python benchmarks/shrinking.py PHOTOS [--count 1000] [--side 0]

libjpeg can decode at a half, a quarter or an eighth of the size, in less time. For each model and each margin (the
decoded image's shorter side is at least so many times what the model's preprocessing asks for): the share of
photographs whose label stays the same, and images a second in one thread, decoding and preparing, whole and smaller
in turns. `--side`: the photographs are enlarged first, so that their shorter side has so many pixels.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from mlpmixer import load
from mlpmixer.data.images import decode
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier

MODELS = {32: "mixer_cifar10", 64: "mixer_cifar10", 224: "mixer_clothing"}
MARGINS = (1, 2, 4)
BATCH = 64


def read(data: bytes, at_least: int | None) -> np.ndarray:
    """As Pillow's draft mode does it; None: whole."""
    height, width = map(int, simplejpeg.decode_jpeg_header(data)[:2])
    most = min(height, width) // at_least if at_least else 1
    by = next((by for by in (8, 4, 2) if by <= most), 1)
    return simplejpeg.decode_jpeg(data, min_height=-(-height // by), min_width=-(-width // by))


def labels(model: Classifier, how: Preprocessing, shown: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(normalize(part, how)).argmax(1) for part in torch.stack(shown).split(BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--side", type=int, default=0)
    told = parser.parse_args()
    files = sorted(told.photos.rglob("*.jpg"))
    files = files[:: max(1, len(files) // told.count)][: told.count]
    photos = [larger(file, told.side) for file in files]
    torch.set_num_threads(1)
    print(f"{len(photos)} photographs; side, margin: same label, images/s whole and smaller (ratio)")
    for side, name in MODELS.items():
        model = load(name, image_size=side, dtype=torch.float32)
        assert model.metadata is not None
        how = model.metadata.preprocessing
        whole = labels(model, how, [prepare(read(photo, None), how) for photo in photos])
        for margin in MARGINS:
            seconds, shown = ([], []), []
            for photo in photos:
                for at_least, spent in zip((None, margin * how.resize), seconds, strict=True):
                    began = time.perf_counter()
                    shown.append(prepare(read(photo, at_least), how))
                    spent.append(time.perf_counter() - began)
            same = (labels(model, how, shown[1::2]) == whole).double().mean().item()
            slow, fast = (1 / statistics.median(spent) for spent in seconds)
            print(f"{side:4} {margin:2}: {same:8.2%} {slow:6,.0f} {fast:6,.0f} ({fast / slow:.2f})", flush=True)


def larger(file: Path, side: int) -> bytes:
    if not side:
        return file.read_bytes()
    image, out = decode(file), io.BytesIO()
    by = side / min(image.size)
    image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


if __name__ == "__main__":
    main()
