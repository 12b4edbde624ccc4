"""Images within .parquet files, as others write them."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import Says
from PIL import Image

from mlpmixer import data
from mlpmixer.data.dataset import Split
from mlpmixer.data.images import decode
from mlpmixer.data.sources import parquet
from mlpmixer.data.sources.parquet import ParquetImages
from mlpmixer.errors import DataError, ImageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def image(number: int) -> bytes:
    """Each has a color of its own."""
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (number % 256, number // 256, 77)).save(out, "PNG")
    return out.getvalue()


def seen(split: Split) -> list[tuple[int, int]]:
    """(number of the image, label), as read."""
    pixels: list[Any] = [decode(split.read(i)).getpixel((0, 0)) for i in range(len(split))]
    return [(p[0] + 256 * p[1], int(label)) for p, label in zip(pixels, split.labels, strict=True)]


def written(path: Path, columns: dict[str, Any], rows: int = 3) -> Path:
    """With row groups of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def refused(spec: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        data.open(spec)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_what_hugging_face_writes(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "emu"])})
    for name, numbers in {
        "train-00000-of-00002": range(10),
        "train-00001-of-00002": range(10, 14),
        "test-00000-of-00001": range(14, 17),
    }.items():
        table = {"img": [{"bytes": image(i), "path": f"{i}.png"} for i in numbers], "label": [i % 2 for i in numbers]}
        (tmp_path / "pets" / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "pets" / "data" / f"{name}.parquet")
    for place in (tmp_path / "pets", tmp_path / "pets" / "data"):
        opened = data.open(place)
        assert opened.classes == ("cat", "dog", "emu")
        assert {split: seen(opened[split]) for split in opened.splits} == {
            "train": [(i, i % 2) for i in range(14)],
            "test": [(i, i % 2) for i in range(14, 17)],
        }
        assert opened["train"].where(11).endswith("data/train-00001-of-00002.parquet, row 1")
        assert data.open(opened.source).classes == opened.classes


@pytest.mark.parametrize("name", ["image", "image_data", "img", "bytes", "anything"])
def test_what_pandas_and_shops_write(name: str, tmp_path: Path):
    columns = {"sku": ["a", "b", "c"], name: [image(i) for i in range(3)], "label": ["dog", "cat", "dog"]}
    opened = data.open(written(tmp_path / "photos-test.parquet", columns))
    assert opened.classes == ("cat", "dog")
    assert [*opened.splits] == ["test"]
    assert seen(opened["test"]) == [(0, 1), (1, 0), (2, 1)]


def test_columns_of_any_name(tmp_path: Path):
    columns = {
        "photo": [image(i) for i in range(4)],
        "foto?": [image(i) for i in range(4, 8)],
        "label": [0, 0, 0, 0],
        "kind": ["a", "b", "a", "b"],
        "part": ["train", "train", None, "validation"],
    }
    path = written(tmp_path / "photos.parquet", columns)
    assert seen(data.open(path)["train"]) == [(i, 0) for i in range(4)]
    opened = data.open(f"{path}?image=foto?&label=kind&split=part")
    assert opened.classes == ("a", "b")
    assert {split: seen(opened[split]) for split in opened.splits} == {
        "train": [(4, 0), (5, 1), (6, 0)],
        "val": [(7, 1)],
    }


def test_columns_are_part_of_what_was_opened(tmp_path: Path):
    path = written(tmp_path / "a.parquet", {"x": [image(i) for i in range(4)], "y": [1, 0, 1, 0], "z": list("abab")})
    for columns, classes in (("label=y", ("0", "1")), ("image=x&label=z", ("a", "b"))):
        opened = data.open(f"{path}?{columns}")
        assert opened.classes == classes
        assert data.open(opened.source).classes == classes
    (tmp_path / "1.png").write_bytes(image(7))
    (tmp_path / "a.csv").write_text("bild,sorte,path,label\n1.png,cat,,\n")
    assert seen(data.open(f"{tmp_path}/a.csv?image=bild&label=sorte")["train"]) == [(7, 0)]


@pytest.mark.parametrize(
    "spec",
    [
        "a.parquet",
        "a.parquet?label=w",
        "a.parquet?image=w&label=y",
        "a.parquet?lable=y",
        "a.parquet?image=y&label=y",
        "photos?label=y",
        "1.csv?image=w",
    ],
)
def test_columns_that_are_not_there(spec: str, says: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path / "a.parquet", {"x": [image(0)], "y": ["kind"]})
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(image(1))
    (tmp_path / "1.csv").write_text("path,label\n1.png,cat\n")
    monkeypatch.chdir(tmp_path)
    says.check(refused(spec))


def test_splits_in_a_column_and_in_folders(tmp_path: Path):
    columns = {"image": [image(i) for i in range(5)], "label": list("ababa")}
    path = written(tmp_path / "a.parquet", {**columns, "split": ["train", "validation", "train", None, "test"]})
    opened = data.open(path)
    assert {split: seen(opened[split]) for split in opened.splits} == {
        "train": [(0, 0), (2, 0), (3, 1)],
        "val": [(1, 1)],
        "test": [(4, 0)],
    }
    assert opened["train"].where(2) == f"{path}, row 3"
    for split in ("train", "test"):
        written(tmp_path / "b" / split / "part-0.parquet", columns)
    assert [*data.open(tmp_path / "b").splits] == ["train", "test"]


def test_class_folders_beside_a_table_stay_class_folders(tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(image(1))
    written(tmp_path / "about.parquet", {"image": [image(9)], "label": ["emu"]})
    assert data.open(tmp_path).classes == ("cat", "dog")


def test_secret_labels_and_missing_images(tmp_path: Path, says: Says):
    columns = {
        "image": [{"bytes": image(0), "path": None}, None, {"bytes": None, "path": "1.png"}],
        "label": [0, 1, 1],
    }
    written(tmp_path / "pets" / "train.parquet", columns)
    written(tmp_path / "pets" / "test.parquet", {**columns, "label": [-1, None, -1]})
    (tmp_path / "pets" / "1.png").write_bytes(image(5))
    opened = data.open(tmp_path / "pets")
    assert [*opened.splits] == ["train"]
    assert decode(opened["train"].read(2)).getpixel((0, 0)) == (5, 0, 77)
    with says(ImageError):
        opened["train"].read(1)


@pytest.fixture
def many(tmp_path: Path) -> Split:
    """200 images in 2 files of row groups of 30."""
    for part in range(2):
        numbers = range(part * 100, part * 100 + 100)
        columns = {"image": [image(i) for i in numbers], "label": [i % 7 for i in numbers]}
        written(tmp_path / f"{part}.parquet", columns, 30)
    return data.open(tmp_path)["train"]


def test_a_split_holds_no_images_and_travels_cheaply(many: Split):
    many.read(150)
    assert isinstance(many, ParquetImages)
    copied = pickle.dumps(many)
    assert image(150)[30:60] not in copied
    assert len(copied) < 5000
    assert seen(pickle.loads(copied)) == [(i, i % 7) for i in range(200)]


@pytest.mark.parametrize("method", ["spawn"])
def test_it_is_read_by_many_processes(method: str, many: Split):
    order = random.Random(0).sample(range(200), 40)
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        assert [*pool.map(many.read, order, chunksize=20)] == [image(i) for i in order]


def test_it_is_read_by_many_threads_that_keep_little(many: Split, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet, "KEPT", 6000)
    order = random.Random(0).choices(range(200), k=600)

    def read(index: int) -> tuple[Any, int]:
        found = many.read(index)
        return found, len(many._kept)  # pyright: ignore[reportAttributeAccessIssue]

    with ThreadPoolExecutor(4) as pool:
        got, kept = zip(*pool.map(read, order), strict=True)
    assert [*got] == [image(i) for i in order]
    assert max(kept) < 7


# What strangers send.


def test_a_large_image_that_stands_for_many_is_not_written_out(tmp_path: Path, says: Says):
    """1 MB, 3,000 times."""
    noise = np.random.default_rng(0).bytes(1 << 19)
    path = tmp_path / "a.parquet"
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3000, np.int32)), pa.array([noise * 2], pa.binary()))
    pq.write_table(pa.table({"image": image, "label": [0] * 3000}), path, store_schema=False)
    assert path.stat().st_size < 4_000_000
    with says(ImageError):
        data.open(path)["train"].read(5)


def test_what_claims_more_than_it_has(tmp_path: Path):
    path = tmp_path / "a.parquet"
    table = pa.table({"image": pa.array([b"\0" * (1 << 26)], pa.binary()), "label": [0]})
    pq.write_table(table, path, compression="zstd")
    assert "claims that 64 MB are packed in" in refused(path)
    pq.write_table(pa.table({"image": pa.array([None] * 100_000, pa.binary()), "label": [0] * 100_000}), path)
    assert "claims 100,000 rows, more than it has bytes; it is damaged or hostile" in refused(path)


def test_row_groups_that_are_too_large_to_be_read_for_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet, "MAX_GROUP", 10_000)
    path = written(tmp_path / "a.parquet", {"image": [os.urandom(3000) for _ in range(6)], "label": [0] * 6}, 6)
    assert re.search(
        r"has a row group of 23\.\d+ kB, and all of it is read for one image; write it anew", refused(path)
    )


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -8, -200])
def test_what_is_cut_short(kept: int, tmp_path: Path):
    path = written(tmp_path / "a.parquet", {"image": [image(i) for i in range(9)], "label": [0] * 9})
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} is damaged, or no Parquet" in refused(path)


def test_damage_within_and_a_change_after_it_was_opened(tmp_path: Path, says: Says):
    path = written(tmp_path / "a.parquet", {"image": [os.urandom(3000) for _ in range(9)], "label": [0] * 9})
    split = data.open(path)["train"]
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole) // 2) + whole[len(whole) // 2 :])
    with says(ImageError):
        pickle.loads(pickle.dumps(split)).read(0)
    written(path, {"image": [image(0)], "label": [0]})
    with says(ImageError):
        pickle.loads(pickle.dumps(split)).read(0)


def test_a_pipe_among_them(tmp_path: Path):
    written(tmp_path / "a.parquet", {"image": [image(0)], "label": [0]})
    os.mkfifo(tmp_path / "b.parquet")
    assert "b.parquet is damaged, or no Parquet" in refused(tmp_path)


@pytest.mark.parametrize(
    "noted",
    [b"[" * 100_000, b"[]", b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": "cat"}}}}', b"\xff"],
)
def test_notes_of_hugging_face_that_make_no_sense_are_passed_over(noted: bytes, tmp_path: Path):
    table = pa.table({"image": [image(0)], "label": [0]}).replace_schema_metadata({b"huggingface": noted})
    pq.write_table(table, tmp_path / "a.parquet")
    assert data.open(tmp_path / "a.parquet").classes == ("0",)


def test_names_of_classes_in_the_notes_are_checked_as_any(tmp_path: Path):
    noted = b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "d\\u001b[2Jog"]}}}}'
    table = pa.table({"image": [image(0)], "label": [0]}).replace_schema_metadata({b"huggingface": noted})
    pq.write_table(table, tmp_path / "a.parquet")
    assert r"has the class 'd\x1b[2Jog', whose name cannot be printed" in refused(tmp_path / "a.parquet")
