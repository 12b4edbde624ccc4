"""Readers of untrusted files and requests, each with sound files to damage.

A new reader is one class and one row of `READERS`.
"""

from __future__ import annotations

import atexit
import csv
import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fuzz import service
from mlpmixer import create, data, load, save
from mlpmixer.data.dataset import DataSet
from mlpmixer.data.doctor.image_stats import stats
from mlpmixer.data.images import decode, pixels
from mlpmixer.data.preprocess import prepare
from mlpmixer.data.sources.fashion_mnist import FILES
from mlpmixer.data.sources.packing import pack
from mlpmixer.evaluation.card import Card, DataRecord, ModelRecord
from mlpmixer.evaluation.card_files import own_card
from mlpmixer.machine.distributed import Group
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.metric import Metric
from mlpmixer.predict import embeddings, formats
from mlpmixer.predict.predictor import Prediction
from mlpmixer.recipes import find, toml
from mlpmixer.recipes.check import check
from mlpmixer.run import index
from mlpmixer.run.folder import RunFolder
from mlpmixer.train.checkpoint import SUMS, Checkpoints

CLASSES = ("cat", "dog")


@dataclass(frozen=True)
class Reader:
    """One row of `READERS`.

    Attributes:
        inputs: How many a campaign has; all of them together take five minutes on two cores.
        build: Writes sound files into an empty folder.
        read: Takes the folder and the file in it that was damaged; it may succeed or raise a `MixerError`.
        after: Called with the same before `read`, to make right what an attacker would, such as checksums.
    """

    inputs: int
    build: Callable[[Path], None]
    read: Callable[[Path, Path], object]
    after: Callable[[Path, Path], object] = lambda _folder, _changed: None


def photo(number: int, size: tuple[int, int] = (48, 36)) -> Image.Image:
    wave = np.sin(np.arange(size[1])[:, None, None] / (3 + number) + np.arange(size[0])[None, :, None] / 5)
    return Image.fromarray(np.uint8(127 + 120 * wave * np.array([1, 0.5, -1])))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def build_images(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "an image" * 5, {0x9286: b"comment" * 9}
    rgb, gray = photo(0), photo(0).convert("L")
    deep = Image.fromarray(np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 37)
    kinds: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "baseline": (rgb, "JPEG", {}),
        "progressive": (rgb, "JPEG", {"progressive": True, "exif": exif, "restart_marker_rows": 1}),
        "cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "phone": (rgb, "MPO", {"save_all": True, "append_images": [photo(1)], "exif": exif}),
        "png": (rgb, "PNG", {"exif": exif}),
        "deep": (deep, "PNG", {}),
        "palette": (rgb.convert("P"), "PNG", {"transparency": 0}),
        "alpha": (rgb.convert("RGBA"), "PNG", {}),
        "bits": (gray.convert("1"), "PNG", {}),
        "moving": (rgb, "PNG", {"save_all": True, "append_images": [photo(1)]}),
        "gif": (rgb, "GIF", {"save_all": True, "append_images": [photo(1)]}),
        "webp": (rgb, "WEBP", {"exif": exif}),
        "lossless": (rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        "avif": (rgb, "AVIF", {}),
        "bmp": (rgb, "BMP", {}),
        "tiff": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "deflated": (deep, "TIFF", {"compression": "tiff_deflate"}),
        "fax": (gray.convert("1"), "TIFF", {"compression": "group4"}),
        "float": (gray.convert("F"), "TIFF", {}),
        "ppm": (rgb, "PPM", {}),
    }
    for name, (image, kind, options) in kinds.items():
        (folder / f"{name}.jpg").write_bytes(saved(image, kind, **options))


def read_image(_: Path, changed: Path) -> None:
    stats(changed)
    decode(changed)
    for how in (Preprocessing(), Preprocessing(shape="stretch", interpolation="bicubic")):
        prepare(pixels(changed), how)


def build_weights(folder: Path) -> None:
    model = create("mixer_pico", num_classes=2, layers=1, channels=8, token_hidden=4, channel_hidden=8)
    for ending in ("safetensors", "npz", "pth"):
        save(model, folder / f"model.{ending}", classes=CLASSES if ending == "safetensors" else None)


def read_everything(opened: DataSet) -> None:
    for split in opened.splits.values():
        for number in range(min(len(split), 20)):
            split.where(number)
            pixels(split.read(number))


def build_list(folder: Path) -> None:
    rows = [(f"{n}.jpg", CLASSES[n % 2], "train" if n < 6 else "val") for n in range(8)]
    for name, *_ in rows:
        (folder / name).write_bytes(saved(photo(int(name[0])), "JPEG"))
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    (folder / "classes.txt").write_text("\n".join(CLASSES))


def build_parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    build_list(folder)
    rows = {"path": [f"{n}.jpg" for n in range(8)], "label": [CLASSES[n % 2] for n in range(8)]}
    parquet.write_table(pyarrow.table(rows), folder / "list.parquet")
    for file in ("list.csv", "classes.txt"):
        (folder / file).unlink()


def build_shards(folder: Path) -> None:
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard}.tar", "w") as tar:
            for number in range(4):
                parts = {
                    "jpg": saved(photo(number), "JPEG"),
                    "json": json.dumps({"label": CLASSES[number % 2]}).encode(),
                }
                for ending, content in parts.items():
                    member = tarfile.TarInfo(f"{number:04}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    data.open(folder)  # which leaves the indices beside them


def build_packed(folder: Path) -> None:
    source = folder / "source"
    for number in range(6):
        place = source / ("train" if number < 4 else "val") / CLASSES[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(saved(photo(number), "JPEG"))
    pack(data.open(source), folder / "packed", workers=0)


def build_idx(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for images, labels in FILES.values():
        for name, array in ((images, rng.integers(0, 256, (6, 28, 28))), (labels, rng.integers(0, 10, 6))):
            sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + sides + array.astype(np.uint8).tobytes()
            if name.startswith("train"):
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)


def build_records(folder: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(content)) + content

    def varint(value: int) -> bytes:
        found = b""
        while value > 127:
            found, value = found + bytes([value & 127 | 128]), value >> 7
        return found + bytes([value])

    records = b""
    for number in range(5):
        image = field(1, field(1, saved(photo(number), "JPEG")))
        label = field(3, field(1, varint(number % 2)))
        entries = [field(1, field(1, name) + field(2, value)) for name, value in ((b"image", image), (b"label", label))]
        record = field(1, b"".join(entries))
        records += struct.pack("<QI", len(record), 0) + record + bytes(4)
    (folder / "set-train.tfrecord-00000-of-00001").write_bytes(records)
    info = {"splits": [{"name": "train", "shardLengths": ["5"]}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text("{}")
    (folder / "label.labels.txt").write_text("\n".join(CLASSES))


def build_recipe(folder: Path) -> None:
    (folder / "recipe.toml").write_text(toml.dumps(find("cifar10")))


def read_recipe(_: Path, changed: Path) -> None:
    check(toml.read(changed))


def build_runs(folder: Path) -> None:
    for name in ("damaged", "sound"):
        run = RunFolder(folder / name)
        with run.held():
            run.begin(0, toml.dumps(find("cifar10")), {"processor": "x"}, {"classes": list(CLASSES)})
        run.log(10, "train", loss=1.5, lr=0.1, images_per_s=10.0, epoch=0.5)
        run.log(20, "val", top1=0.5, top5=1.0, cross_entropy=1.0, count=10, epoch=1.0)
        ends = {split: {"top1": top1, "count": 10} for split, top1 in (("val", 0.5), ("test", 0.4))}
        run.write("result.json", {"steps": 20, **ends})
        (folder / name / "cards").mkdir()
        card = Card(
            model=ModelRecord(name="mixer_nano", parameters=9, image_size=(32, 32), classes=2),
            data=DataRecord(source="x", split="test", title="test", own=True, count=9, classes=2),
            protocol="own",
            preprocessing=Preprocessing(resize=32, crop=(32, 32)),
            engine="eager, fp32",
            metrics={"knn": Metric(name="k-NN", value=0.5, train_images=9)},
        )
        run.write("cards/x.json", card.to_json())


def read_runs(folder: Path, changed: Path) -> None:
    if changed.parts[len(folder.parts)] == "damaged":
        ends = {one.path.name: one.test for one in index.runs(folder)}
        assert ends["sound"] == 0.4, "one odd run hides the others"
        index.runs(folder, sort="optim.lr", where=("test>=0.1",))
        run = RunFolder(folder / "damaged")
        run.metrics()
        run.bad_images()
        own_card(run.path)
        run.result()


ROOT = Path(tempfile.gettempdir()) / f"fuzz-runs-{os.getpid()}"  # whose index lies in the cache


def build_index(folder: Path) -> None:
    """The list of runs as the cache has it, of runs that lie elsewhere and are sound."""
    atexit.register(shutil.rmtree, ROOT, ignore_errors=True)
    ROOT.mkdir()
    build_runs(ROOT)
    os.environ["MLPMIXER_CACHE"] = str(folder)
    index.runs(ROOT)


def read_index(folder: Path, _: Path) -> None:
    os.environ["MLPMIXER_CACHE"] = str(folder)
    assert {(one.name, one.test) for one in index.runs(ROOT)} == {("cifar10", 0.4)}


def build_answers(folder: Path) -> None:
    found = [Prediction((("cat", 0.75), ("dog", 0.25))), Prediction((("dog", 0.5), ("cat", 0.5)))]
    table = embeddings.Embeddings(folder / "rows.npy", 4)
    made = [formats.files_of(kind).new(folder / name, 2) for name, kind in (("a.csv", "csv"), ("a.jsonl", "json"))]
    for number in range(8):
        table.write(np.zeros(4, np.float32))
        for writer in made:
            writer.write(f'a "image", {number}.jpg', found[number % 2])
    for one in (table, *made):
        one.close()


def read_answers(_: Path, changed: Path) -> None:
    if changed.suffix == ".npy":
        embeddings.rows_in(changed, 4)
        return
    kind = formats.files_of(formats.format_of(changed))
    there = len(list(kind.records(changed)))
    kind.resume(changed, 2, there).close()


def _state() -> dict[str, object]:
    return {"model": {"a": torch.zeros(3, 4), "b": torch.zeros(5)}, "best": torch.tensor(-1.0)}


def build_checkpoint(folder: Path) -> None:
    with Checkpoints(folder, Group(torch.device("cpu")), keep=2) as checkpoints:
        checkpoints.save(10, _state())
        checkpoints.finish()


def read_checkpoint(folder: Path, _: Path) -> None:
    with Checkpoints(folder, Group(torch.device("cpu")), keep=2) as checkpoints:
        checkpoints.restore(_state())


def right_sums(_: Path, changed: Path) -> None:
    """Whoever changes a checkpoint changes its sums as well."""
    sums = changed.parent / SUMS
    if changed != sums:
        sums_before = json.loads(sums.read_text())
        sums.write_text(json.dumps({**sums_before, changed.name: zlib.crc32(changed.read_bytes())}))


def opened(folder: Path, _: Path) -> None:
    read_everything(data.open(folder))


READERS = {
    "images": Reader(5_000, build_images, read_image),
    "weights": Reader(20_000, build_weights, lambda _, changed: load(changed)),
    "lists": Reader(15_000, build_list, lambda folder, _: read_everything(data.open(folder / "list.csv"))),
    "parquet": Reader(12_000, build_parquet, lambda folder, _: read_everything(data.open(folder / "list.parquet"))),
    "shards": Reader(12_000, build_shards, opened),
    "packed": Reader(7_500, build_packed, lambda folder, _: read_everything(data.open(folder / "packed"))),
    "idx": Reader(30_000, build_idx, opened),
    "records": Reader(14_000, build_records, opened),
    "recipes": Reader(35_000, build_recipe, read_recipe),
    "runs": Reader(6_000, build_runs, read_runs),
    "index": Reader(8_000, build_index, read_index),
    "answers": Reader(33_000, build_answers, read_answers),
    "checkpoints": Reader(17_000, build_checkpoint, read_checkpoint, right_sums),
    "requests": Reader(3_000, service.build_requests, service.read_request),
}
