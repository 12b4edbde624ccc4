"""Sources of images: whatever a data set is made of, `data.open` gives the same images under the same labels."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import random
import re
import sys
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import Says
from PIL import Image

import mlpmixer
from mlpmixer import Recipe, data
from mlpmixer.data.dataset import DataSet, Pixels, Split
from mlpmixer.data.images import decode
from mlpmixer.data.sources import imagenet, shards
from mlpmixer.data.sources import table as table_of_sources
from mlpmixer.data.sources.folder import FolderImages
from mlpmixer.data.sources.table import by_path
from mlpmixer.errors import DataError, FetchError, ImageError, MissingPackage, UsageError
from mlpmixer.recipes import toml

# Every image has a color of its own, so that a test sees which one it got.


def image(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (number % 256, number // 256, 77)).save(out, "PNG")
    return out.getvalue()


def seen(split: Split) -> list[tuple[int, int]]:
    """(number of the image, label), as read."""
    pixels = [decode(split.read(i)).getpixel((0, 0)) for i in range(len(split))]
    return [(p[0] + 256 * p[1], int(label)) for p, label in zip(pixels, split.labels, strict=True)]  # type: ignore[index]


def write(root: Path, files: dict[str, int | str | bytes | None]) -> Path:
    """Files by path: a number stands for that image, None for an empty folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_bytes(image(content) if isinstance(content, int) else content)
    return root


def refused(spec: str | Path) -> str:
    """Why `open` refuses: one line."""
    with pytest.raises((DataError, MissingPackage)) as caught:
        data.open(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MLPMIXER_CACHE", str(folder))
    return folder


# What a spec may be.


def test_a_known_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    opened = data.open("fashion_mnist_small")
    assert opened.source == "fashion_mnist_small"
    write(tmp_path, {"fashion_mnist_small/cat/1.jpg": 1})
    monkeypatch.chdir(tmp_path)
    assert len(data.open("fashion_mnist_small").classes) == 10
    assert data.open("./fashion_mnist_small").classes == ("cat",)


def test_what_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says):
    monkeypatch.chdir(write(tmp_path / "work", {"photos/cat/1.jpg": 1, "here/photos/cat/1.jpg": 1, "notes.pdf": ""}))
    for spec in (
        "cifar-10",
        "photo",
        "here/fotos",
        "",
        "two\nlines",
        "notes.pdf",
        "x" * 300,
        "~no such person/x",
        "https://host/photos.zip",
        "ftp://host/a.tar",
        "hf:",
    ):
        with says((DataError, FetchError, UsageError)) as caught:
            data.open(spec)
        assert "\n" not in str(caught.value)


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, {"photos/cat/1.jpg": 1})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.open("~/photos").source == str(tmp_path / "photos")


# Folders.


def test_a_folder_of_class_folders(tmp_path: Path):
    files: dict[str, int | str | bytes | None] = {
        "dog/1.jpg": 1,
        "dog/10.jpg": 2,
        "dog/2.JPEG": 3,
        "dog/more/deep/0.png": 4,
        "Zebra/ä.webp": 5,
        "cat/1.tif": 6,
        "cat/.hidden.jpg": 7,
        "cat/notes.txt": "no image",
        ".git/1.jpg": 8,
        "__MACOSX/dog/1.jpg": 9,
        "readme.md": "no image",
        "no images yet": None,
    }
    for where, order in (("a", sorted(files)), ("b", sorted(files, reverse=True))):
        opened = data.open(write(tmp_path / where, {name: files[name] for name in order}))
        assert opened.classes == ("Zebra", "cat", "dog", "no images yet")
        assert [*opened.splits] == ["train"]
        assert seen(opened["train"]) == [(5, 0), (6, 1), (1, 2), (2, 2), (3, 2), (4, 2)]
        assert opened["train"].labels.dtype == np.int64
        assert opened["train"].where(5) == str(tmp_path / where / "dog" / "more" / "deep" / "0.png")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "valid", "Testing"), ("TRAIN", "validation", "test")],
)
def test_a_folder_with_splits(train: str, val: str, test: str, tmp_path: Path):
    write(
        tmp_path,
        {
            f"{train}/cat/1.jpg": 1,
            f"{train}/dog/1.jpg": 2,
            f"{train}/emu": None,
            f"{val}/dog/1.jpg": 3,
            f"{test}/cat/1.jpg": 4,
            f"{test}/dog/1.jpg": 5,
            "sample.jpg": 6,
            "annotations/cat.jpg": 7,
        },
    )
    opened = data.open(tmp_path)
    assert opened.classes == ("cat", "dog", "emu")
    assert {split: seen(opened[split]) for split in opened.splits} == {
        "train": [(1, 0), (2, 1)],
        "val": [(3, 1)],
        "test": [(4, 0), (5, 1)],
    }
    assert [*opened.splits] == ["train", "val", "test"]
    assert data.open(opened.source)["test"].where(0) == str(tmp_path / test / "cat" / "1.jpg")


def test_a_test_folder_without_labels_is_left_out(tmp_path: Path):
    write(tmp_path, {"train/cat/1.jpg": 1, "test/1.jpg": 2})
    assert [*data.open(tmp_path).splits] == ["train"]


def test_a_split_may_have_one_class_with_folders_in_it(tmp_path: Path):
    write(tmp_path, {"train/cat/1.jpg": 1, "train/dog/1.jpg": 2, "val/dog/a/1.jpg": 3, "val/dog/b/1.jpg": 4})
    assert seen(data.open(tmp_path)["val"]) == [(3, 1), (4, 1)]


def test_classes_may_be_called_like_splits(tmp_path: Path):
    write(tmp_path, {"bus/1.jpg": 1, "car/1.jpg": 2, "train/1.jpg": 3})
    assert data.open(tmp_path).classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    "files",
    [
        {"train/cat/1.jpg": 1, "test/cta/1.jpg": 1},
        {"train/b/1.jpg": 1, "val/x/1.jpg": 1, "val/y/1.jpg": 1},
        {"1.jpg": 1, "cat/1.jpg": 1},
        {"train/1.jpg": 1, "train/cat/1.jpg": 1},
        {"1.jpg": 1},
        {"train/1.jpg": 1, "val/1.jpg": 1},
        {"test/1.jpg": 1},
        {"cat/1.txt": "", "dog": None},
        {},
        {"train/cat/1.jpg": 1, "val": None},
        {"pets/train/cat/1.jpg": 1, "pets/val/cat/1.jpg": 1},
        {"pets/cat/1.jpg": 1, "pets/dog/1.jpg": 1},
        {"train/cat/1.jpg": 1, "val/cat/1.jpg": 1, "valid/cat/1.jpg": 1},
        {"train/cat/1.jpg": 1, "extra/1.jpg": 1},
    ],
)
def test_a_folder_that_is_arranged_otherwise(files: dict[str, Any], says: Says, tmp_path: Path):
    tmp_path = write(tmp_path / "root", files) if files else tmp_path
    says.check(refused(tmp_path))


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    write(tmp_path, {"elsewhere/1.jpg": 1, "root/dog/1.jpg": 2})
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "dog" / "2.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    assert seen(data.open(tmp_path / "root")["train"]) == [(1, 0), (2, 1), (1, 1)]
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "root")
    link = tmp_path / "root" / "cat" / "back"
    assert refused(tmp_path / "root") == (
        f"{link} is a link to a folder that it lies in; remove the link, not what it leads to"
    )
    assert seen(data.open(tmp_path / "root", strict=False)["train"]) == [(1, 0), (2, 1), (1, 1)]


def test_what_must_be_removed_is_a_link_and_no_class_folder(tmp_path: Path):
    """`train/saw/loop -> ..` was told as `train/saw/loop/saw`: whoever removed that lost all images of the class."""
    write(tmp_path, {"train/saw/1.jpg": 1, "train/hammer/1.jpg": 2, "beside/deep/1.jpg": 3})
    links = {"train/saw/loop": "..", "train/saw/far": "../../..", "train/hammer/itself": ".", "beside/deep/up": ".."}
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    (tmp_path / "train" / "nail").symlink_to(tmp_path / "beside")
    (tmp_path / "train" / "whole").symlink_to(tmp_path / "train")
    found = data.open(tmp_path / "train", strict=False)["train"]
    assert isinstance(found, FolderImages)
    assert sorted(str(loop.relative_to(tmp_path)) for loop in found.loops) == [
        "train/hammer/itself",
        "train/nail/deep/up",
        "train/saw/far",
        "train/saw/loop",
        "train/whole",
    ]
    assert all(loop.is_symlink() for loop in found.loops)
    assert seen(found) == [(2, 0), (3, 1), (1, 2)]


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["cat.0", "cat.1", "dog.0", "dog.1"], "(cat, dog)"),
        (["cat0", "cat-1", "dog (2)", "dog (3)"], "(cat, dog)"),
        (["golden retriever_1", "golden retriever_2", "poodle_1", "poodle_2"], "(golden retriever, poodle)"),
        (["IMG_1", "IMG_2", "scan1", "scan2"], ""),
        (["a1", "b1", "c1"], ""),
        (["cat.0", "cat.1", "dog.0", "dog"], ""),
    ],
)
def test_labels_that_seem_to_be_in_the_names_are_hinted_at(names: list[str], hint: str, tmp_path: Path):
    write(tmp_path, {f"train/{name}.jpg": 1 for name in names})
    words = refused(tmp_path)
    assert "have no labels; sort them into a folder for each class" in words
    assert ("labels seem to be in their names" in words) == bool(hint)
    assert hint in words


def test_a_folder_that_cannot_be_read(tmp_path: Path):
    write(tmp_path, {"cat/1.jpg": 1, "dog/1.jpg": 1})
    (tmp_path / "dog" / "itself").symlink_to("itself")
    assert refused(tmp_path).startswith(f"{tmp_path / 'dog' / 'itself'} cannot be read: Too many levels")
    if os.geteuid() != 0:  # to whom nothing is forbidden
        (tmp_path / "cat").chmod(0)
        assert refused(tmp_path) == f"{tmp_path / 'cat'} cannot be read: Permission denied"
        (tmp_path / "cat").chmod(0o700)


def test_names_that_are_no_text_are_read(tmp_path: Path):
    try:
        write(tmp_path, {os.fsdecode(b"cat/\xff.jpg"): 1})
    except OSError:
        pytest.skip("this file system only takes names that are text")
    assert seen(data.open(tmp_path)["train"]) == [(1, 0)]


# ImageNet.


def test_imagenet_has_readable_names_in_the_standard_order(tmp_path: Path):
    write(tmp_path, {"train/n02119789/a.JPEG": 1, "train/n01440764/a.JPEG": 2, "val/n02119789/a.JPEG": 3})
    opened = data.open(tmp_path)
    assert opened.classes == ("tench", "kit fox")
    assert seen(opened["train"]) == [(2, 0), (1, 1)]
    write(tmp_path, {"train/cat/a.JPEG": 4})
    assert data.open(tmp_path).classes == ("cat", "n01440764", "n02119789")


def test_the_table_of_imagenet_is_the_one_that_others_use(timm: Any):  # noqa: ARG001 (brings torchvision)
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    wnids = [wnid for wnid, _, _ in imagenet._table()]
    assert wnids == info.label_names()
    names = imagenet.readable(wnids)
    assert names is not None
    assert len({*names}) == 1000
    theirs = [info.index_to_description(i) for i in range(1000)]
    assert sum(their.startswith(name) for name, their in zip(names, theirs, strict=True)) >= 997
    assert sorted(int(number) for _, number, _ in imagenet._table()) == [*range(1, 1001)]


@pytest.mark.parametrize("place", ["val/", "", "ILSVRC2012_devkit_t12/data/"])
def test_a_flat_val_with_the_labels_of_the_development_kit(place: str, tmp_path: Path):
    # The first three of the real file, and what the images show.
    (wnids, numbers) = (["n01751748", "n09193705", "n02105855"], "490\n361\n171\n")
    write(tmp_path, {f"train/{wnid}/a.JPEG": i for i, wnid in enumerate(wnids)})
    write(tmp_path, {f"val/ILSVRC2012_val_0000000{i}.JPEG": i for i in (1, 2, 3)})
    write(tmp_path, {f"{place}ILSVRC2012_validation_ground_truth.txt": numbers})
    opened = data.open(tmp_path)
    assert opened.classes == ("sea snake", "Shetland sheepdog", "alp")
    assert seen(opened["val"]) == [(1, 0), (3, 1), (2, 2)]


def test_a_flat_val_with_the_labels_of_kaggle(tmp_path: Path):
    write(
        tmp_path,
        {
            "train/n01751748/a.JPEG": 0,
            "train/n03995372/a.JPEG": 0,
            "val/ILSVRC2012_val_00000001.JPEG": 1,
            "val/ILSVRC2012_val_00048981.JPEG": 2,
            "LOC_val_solution.csv": "ImageId,PredictionString\n"
            "ILSVRC2012_val_00048981,n03995372 85 1 499 272 \n"
            "ILSVRC2012_val_00000001,n01751748 111 108 3 3 n01751748 1 2 3 4 \n",
        },
    )
    opened = data.open(tmp_path)
    assert opened.classes == ("sea snake", "power drill")
    assert seen(opened["val"]) == [(1, 0), (2, 1)]


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"ILSVRC2012_validation_ground_truth.txt": "490\n"},
        {"ILSVRC2012_validation_ground_truth.txt": "490\n0\n"},
        {"ILSVRC2012_validation_ground_truth.txt": b"\xff\n"},
        {"LOC_val_solution.csv": "ImageId,PredictionString\na,n5 1 2\n"},
        {"LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000002,\n"},
    ],
)
def test_a_flat_val_whose_labels_are_not_there(labels: dict[str, Any], says: Says, tmp_path: Path):
    write(tmp_path, {"train/n01751748/a.JPEG": 0, "val/ILSVRC2012_val_00000002.JPEG": 1, **labels})
    says.check(refused(tmp_path))


# Lists.


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path)
    return path


LIST = "path,label,split\na/1.png,dog,train\na/2.png,cat,train\n{root}/3.png,dog,valid\n\n4.png,cat,extra\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("all.csv", LIST),
        ("all.CSV", "\ufeff" + LIST.replace("\n", "\r\n")),
        ("all.csv", LIST.replace(",", ";")),
        ("all.tsv", LIST.replace(",", "\t")),
        ("all.csv", LIST.replace("path,label,split", "File, Class ,SPLIT")),
        (
            "all.csv",
            'n,"path",target,split\n1,"a/1.png",dog,train\n2,a/2.png,cat,\n3,3.png,dog,val\n4,4.png,cat,extra\n',
        ),
    ],
)
def test_a_list(name: str, text: str, tmp_path: Path):
    write(tmp_path, {"a/1.png": 1, "a/2.png": 2, "3.png": 3, "4.png": 4, name: text.replace("{root}", str(tmp_path))})
    opened = data.open(tmp_path / name)
    assert opened.classes == ("cat", "dog")
    assert {split: seen(opened[split]) for split in opened.splits} == {
        "train": [(1, 1), (2, 0)],
        "val": [(3, 1)],
        "extra": [(4, 0)],
    }
    assert opened["val"].where(0) == str(tmp_path / "3.png")


def vtab(folder: Path, **lists: str) -> Path:
    """A task as VTAB-1k is passed around, with images a.png and b.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    for name, text in {"train800": "a.png 2\nb.png 0\n", "val200": "b.png 1\n", "test": "a.png 2\n"}.items():
        (folder / f"{name}.txt").write_text(lists.get(name, text))
    return folder


def test_a_task_of_vtab(tmp_path: Path):
    opened = data.open(vtab(tmp_path))
    assert opened.classes == ("0", "1", "2")
    assert {split: len(opened[split]) for split in opened.splits} == {"train": 2, "val": 1, "test": 1}
    assert opened["train"].labels.tolist() == [2, 0]
    assert opened["train"].where(0) == str(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\ncow\n")
    assert data.open(tmp_path).classes == ("cat", "dog", "cow")


@pytest.mark.parametrize(
    "lists",
    [
        {"train800": "a.png\n"},
        {"test": "\n"},
        {"train800": "c.png 1\n"},
        {"val200": "a.png one\n"},
    ],
)
def test_a_task_of_vtab_that_does_not_fit(lists: dict[str, str], says: Says, tmp_path: Path):
    says.check(refused(vtab(tmp_path, **lists)))


def test_a_list_in_parquet(tmp_path: Path):
    columns: dict[str, list[Any]] = {"image": ["1.png", "2.png"], "label": [3, 0], "more": [[1], [2]]}
    write(tmp_path, {"1.png": 1, "2.png": 2})
    opened = data.open(parquet(tmp_path / "all.parquet", columns))
    assert opened.classes == ("0", "1", "2", "3")
    assert seen(opened["train"]) == [(1, 3), (2, 0)]
    columns |= {"label": ["b", "a"], "split": [None, "test"]}
    assert seen(data.open(parquet(tmp_path / "all.parquet", columns | {"label": ["b", "b"]}))["test"]) == [(2, 0)]
    assert "(test) has the class 'a', which train does not have" in refused(parquet(tmp_path / "all.parquet", columns))


def test_a_list_without_splits_is_the_one_that_its_name_says(tmp_path: Path):
    write(tmp_path, {"1.png": 1, "pets.csv": "path,label\n1.png,7\n", "pets-test.csv": "path,label\n1.png,7\n"})
    assert [*data.open(tmp_path / "pets.csv").splits] == ["train"]
    assert [*data.open(tmp_path / "pets-test.csv").splits] == ["test"]


def test_classes_may_be_named_beside_a_list(tmp_path: Path):
    write(tmp_path, {"1.png": 1, "2.png": 2, "classes.txt": "emu\ncat\ndog\n\n"})
    for labels in ((2, 1), ("dog", "cat")):
        write(tmp_path, {"a.csv": f"path,label\n1.png,{labels[0]}\n2.png,{labels[1]}\n"})
        opened = data.open(tmp_path / "a.csv")
        assert opened.classes == ("emu", "cat", "dog")
        assert seen(opened["train"]) == [(1, 2), (2, 1)]


def test_wordnet_ids_in_a_list_get_readable_names(tmp_path: Path):
    write(tmp_path, {"1.png": 1, "a.csv": "path,label\n1.png,n02119789\n1.png,n01440764\n"})
    assert data.open(tmp_path / "a.csv").classes == ("tench", "kit fox")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.png,cat\n",
        "path,kind\n1.png,cat\n",
        "path,label\n",
        "path,label\n1.png,cat\n1.png\n",
        "path,label\n,cat\n",
        "path,label\nb.png,cat\n",
        "path,label\n1.png,-1\n1.png,2\n",
        "path,label\n1.png,12345678\n",
        "path,label,split\n1.png,cat,\n1.png,Cat,val\n",
        b"path,label\n1.png,\xff\n",
        b"path,label\n1.png,a\0b\x01" + b"x" * 200_000,
    ],
)
def test_a_list_that_does_not_fit(text: str | bytes, says: Says, tmp_path: Path):
    write(tmp_path, {"1.png": 1, "a.csv": text})
    says.check(refused(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    "files",
    [
        {"classes.txt": "cat\ndog\n", "a.csv": "path,label\n1.png,emu\n"},
        {"classes.txt": "cat\ndog\n"},
        {"classes.txt": "cat\n\ndog\n"},
        {"classes.txt": ""},
        {"classes.txt": "cat\ndog\ncat\n"},
        {"classes.txt": "cat\nd\x1b[2Jog\nemu"},
        {"classes.txt": "cat\n" + "x" * 1001 + "\nemu"},
        {"classes.txt": b"\0" * ((1 << 26) + 1)},
        {"dataset.json": "[" * 100_000},
        {"dataset.json": '{"classes": ["cat", 1, "emu"]}'},
        {"classes.txt": b"\xff\n"},
        {"dataset.json": '{"classes": "cat"}'},
        {"dataset.json": "[1]"},
    ],
)
def test_names_of_classes_that_do_not_fit(files: dict[str, Any], says: Says, tmp_path: Path):
    write(tmp_path, {"1.png": 1, "a.csv": "path,label\n1.png,0\n1.png,2\n", **files})
    says.check(refused(tmp_path / "a.csv"))


def test_parquet_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    struct = {"image": [{"bytes": image(1), "path": None}], "label": [0]}
    assert data.open(parquet(tmp_path / "a.parquet", struct))["train"].read(0) == image(1)
    assert "it has 'kind'" in refused(parquet(tmp_path / "a.parquet", {"kind": ["a"]}))
    holes = {"path": ["1.png", None], "label": [0, 1]}
    assert "has no path in line 2" in refused(parquet(tmp_path / "a.parquet", holes))
    write(tmp_path, {"a.parquet": b"PAR1 and no more"})
    assert "is damaged" in refused(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused(tmp_path / "a.parquet").endswith("needs the package pyarrow: pip install 'mlpmixer[parquet]'")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind in ("folder", "list", "shard") for name in ("d\x1b[31mog", "dog\u202e", "d\nog")),
        ("folder", os.fsdecode(b"\xff")),
        ("list", "x" * 1001),
        ("shard", "x" * 1001),
    ],
)
def test_names_of_classes_that_would_harm_a_terminal(kind: str, name: str, tmp_path: Path):
    if kind == "folder":
        try:
            write(tmp_path, {"cat/1.png": 1, f"{name}/1.png": 1})
        except OSError:
            pytest.skip("this file system only takes names that are text")
        why = refused(tmp_path)
    elif kind == "list":
        why = refused(write(tmp_path, {"1.png": 1, "a.csv": f'path,label\n1.png,"{name}"\n'}) / "a.csv")
    else:
        why = refused(shard(tmp_path / "a.tar", {"1.png": 1, "1.cls": name}))
    assert why.isprintable()
    assert str(tmp_path) in why


# Shards.


def shard(path: Path, members: dict[str, int | str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            body = (
                image(content)
                if isinstance(content, int)
                else content.encode()
                if isinstance(content, str)
                else content
            )
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return path


def pets(path: Path, numbers: range) -> Path:
    """A shard of images with these numbers, whose labels are their last digits."""
    return shard(path, {f"{i:06}.{end}": value for i in numbers for end, value in (("png", i), ("cls", str(i % 10)))})


def labeled(numbers: range) -> list[tuple[int, int]]:
    return [(i, i % 10) for i in numbers]


@pytest.mark.parametrize(
    "spec",
    ["{{train-{{00..02}},val-{{3..3}}}}.tar", "*-*.tar", "{{train-0?,val-[0-9]}}.tar", ""],
    ids=["braces", "star", "question mark", "folder"],
)
def test_shards_by_pattern(spec: str, tmp_path: Path):
    for i in range(3):
        pets(tmp_path / f"train-{i:02}.tar", range(i * 10, i * 10 + 10))
    pets(tmp_path / "val-3.tar", range(30, 35))
    opened = data.open(f"{tmp_path}/{spec.format()}" if spec else tmp_path)
    assert opened.classes == tuple("0123456789")
    assert [*opened.splits] == ["train", "val"]
    assert seen(opened["train"]) == labeled(range(30))
    assert seen(opened["val"]) == labeled(range(30, 35))
    assert opened["train"].where(12) == f"{tmp_path}/train-01.tar/000012.png"
    assert seen(data.open(opened.source)["val"]) == labeled(range(30, 35))


def test_one_shard(tmp_path: Path):
    assert seen(data.open(pets(tmp_path / "a.tar", range(5)))["train"]) == labeled(range(5))
    assert [*data.open(pets(tmp_path / "imagenet-validation-7.tar", range(5))).splits] == ["val"]


def test_shards_in_a_folder_for_each_split(tmp_path: Path):
    pets(tmp_path / "train" / "a.tar", range(10))
    pets(tmp_path / "test" / "a.tar", range(10, 20))
    write(tmp_path, {"dataset.json": json.dumps({"name": "pets", "classes": [f"pet {i}" for i in range(12)]})})
    opened = data.open(tmp_path)
    assert opened.classes == tuple(f"pet {i}" for i in range(12))
    assert {split: seen(opened[split]) for split in opened.splits} == {
        "train": labeled(range(10)),
        "test": labeled(range(10, 20)),
    }


def test_what_belongs_together_in_a_shard(tmp_path: Path):
    opened = data.open(
        shard(
            tmp_path / "a.tar",
            {
                "./a/1.seg.png": 90,
                "./a/1.JPG": 1,
                "./b/1.jpg": 2,
                "./a/1.cls": "dog\n",
                "./b/1.json": '{"label": "cat", "caption": "a cat"}',
                "./b/1.txt": "a caption",
                "c.d/2.png": 91,
                "c.d/2.jpg": 3,
                "c.d/2.json": '{"width": 4}',
                "c.d/2.cls": "dog",
                "readme.txt": "no label",
                "classes.json": "[]",
                "._a.cls": "dog",
            },
        )
    )
    assert opened.classes == ("cat", "dog")
    assert seen(opened["train"]) == [(1, 1), (2, 0), (3, 1)]
    assert [opened["train"].where(i).removeprefix(f"{tmp_path}/a.tar/") for i in range(3)] == [
        "./a/1.JPG",
        "./b/1.jpg",
        "c.d/2.jpg",
    ]
    numbers = {"1.png": 1, "1.txt": "2\n", "2.png": 2, "2.json": '{"label": 1}'}
    assert seen(data.open(shard(tmp_path / "b.tar", numbers))["train"]) == [(1, 2), (2, 1)]


def test_every_form_of_tar_is_read(tmp_path: Path):
    names = ["a/" * 70 + "1", "ü" * 40, "b" * 120]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
            for i, name in enumerate(names[: 2 if form == tarfile.USTAR_FORMAT else 3]):
                for end, body in (("png", image(i)), ("cls", b"4")):
                    member = tarfile.TarInfo(f"{name}.{end}")
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))
        found = data.open(tmp_path / "a.tar")["train"]
        assert seen(found) == [(i, 4) for i in range(len(found))]
        assert len(found) >= 2
        assert found.where(1).endswith(f"{names[1]}.png")


def test_the_index_of_a_shard_is_kept_until_the_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = pets(tmp_path / "a.tar", range(10))
    first = seen(data.open(path)["train"])
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)  # nobody reads the headers again
        assert seen(data.open(path)["train"]) == first
    pets(path, range(10, 30))
    assert seen(data.open(path)["train"]) == labeled(range(10, 30))
    (tmp_path / ".a.tar.index").write_bytes(b"PK damaged")
    assert seen(data.open(path)["train"]) == labeled(range(10, 30))
    assert {file.name for file in tmp_path.iterdir()} == {"a.tar", ".a.tar.index"}


def test_where_nothing_can_be_written_beside_a_shard_the_cache_has_the_index(tmp_path: Path, cache: Path):
    path = pets(tmp_path / "a.tar", range(10))
    (tmp_path / ".a.tar.index").mkdir()  # stands in the way, also of someone who may write everywhere
    assert seen(data.open(path)["train"]) == labeled(range(10))
    assert [file.suffix for file in (cache / "index").iterdir()] == [".index"]
    (cache / "index").rename(cache / "elsewhere")
    (cache / "index").touch()
    assert seen(data.open(path)["train"]) == labeled(range(10))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_shards_are_read_by_many_processes(method: str, tmp_path: Path):
    pets(tmp_path / "a-0.tar", range(100))
    pets(tmp_path / "a-1.tar", range(100, 200))
    split = data.open(f"{tmp_path}/a-{{0..1}}.tar")["train"]
    expected = [split.read(i) for i in range(200)]
    order = random.Random(0).sample(range(200), 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, which read nothing here
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(split.read, order, chunksize=20) == [expected[i] for i in order]


def test_shards_are_read_by_many_threads_with_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i in range(5):
        pets(tmp_path / f"{i}.tar", range(i * 20, i * 20 + 20))
    split = data.open(tmp_path)["train"]
    order = random.Random(0).choices(range(100), k=2000)
    monkeypatch.setattr(shards, "MAX_OPEN", 2)
    assert isinstance(split, shards.Shards)

    def read(index: int) -> tuple[bytes, int]:
        return split.read(index), len(split._files)

    with ThreadPoolExecutor(8) as pool:
        read_by_many, kept = zip(*pool.map(read, order), strict=True)
    assert [*read_by_many] == [image(i) for i in order]
    assert max(kept) <= 2


def test_a_shard_that_changes_after_it_was_opened(tmp_path: Path, says: Says):
    path = pets(tmp_path / "a.tar", range(10))
    opened = data.open(path)["train"]
    os.truncate(path, 2000)
    assert opened.read(0) == image(0)
    with says(ImageError):
        opened.read(9)
    path.unlink()
    with says(ImageError):
        pickle.loads(pickle.dumps(opened)).read(0)


@pytest.mark.parametrize("kept", [0, 100, 512, 700, 1024, 1600, 5000, 10_240, -513, -1])
def test_a_shard_that_is_cut_short(kept: int, tmp_path: Path):
    path = pets(tmp_path / "a.tar", range(10))
    body = path.read_bytes()
    end = len(body.rstrip(b"\0")) // 512 * 512 + 512  # of the last member
    path.write_bytes(body[: kept if kept >= 0 else end + 1 + kept])
    assert re.search("is damaged(, cut short, or no tar file| or cut short: the mark that ends)", refused(path))
    assert str(path) in refused(path)


@pytest.mark.parametrize(
    "members",
    [
        {"1.png": 1, "1.cls": "0", "2.png": 2},
        {"1.cls": "0"},
        {"1.txt": "0"},
        {"1.png": 1, "1.txt": "a dog"},
        {"1.png": 1, "1.cls": ""},
        {"1.png": 1, "1.cls": b"\x93NUMPY"},
        {"1.png": 1, "1.json": "{}"},
        {"1.png": 1, "1.json": '{"label": 1.5}'},
        {"1.png": 1, "1.json": "[" * 100_000},
        {"1.png": 1, "1.cls": "-1"},
    ],
)
def test_a_shard_that_is_made_otherwise(members: dict[str, Any], says: Says, tmp_path: Path):
    says.check(refused(shard(tmp_path / "a.tar", members)))


def test_a_packed_shard(tmp_path: Path):
    write(tmp_path, {"a.tar": b"\x1f\x8b" + bytes(2000)})
    assert "is damaged, cut short, or no tar file" in refused(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("{t-{0..1},v-{x,y}-{3..3}}.tar", ["t-0.tar", "t-1.tar", "v-x-3.tar", "v-y-3.tar"]),
        ("a{,b}", ["a", "ab"]),
    ],
)
def test_patterns_are_those_of_a_shell(pattern: str, expected: list[str]):
    assert shards.expand(pattern) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "a-{0..3.tar",
        "a-0..3}.tar",
        "a-{3..0}.tar",
        "a-{}.tar",
        "a-{0..999999999}.tar",
        "{0..999}{0..999}.tar",
        "a-{0..3}.tar",
        "b*.tar",
    ],
)
def test_a_pattern_that_stands_for_nothing(pattern: str, says: Says, tmp_path: Path):
    for i in range(3):
        pets(tmp_path / f"a-{i}.tar", range(3))
    says.check(refused(f"{tmp_path}/{pattern}"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str], Callable[[], None]]]:
    """The address of tmp_path/served, what was asked for so far, and a way to close the server."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002
            asked.append(self.path)

        def do_GET(self) -> None:
            """What has a NAME.status beside it is answered by that."""
            status = Path(f"{self.translate_path(self.path)}.status")
            if status.exists():
                self.send_error(int(status.read_text()))
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    yield f"http://127.0.0.1:{server.server_port}", asked, close
    if thread.is_alive():
        close()


@pytest.mark.parametrize("named", [True, False])
def test_shards_from_the_network(named: bool, served: tuple[str, list[str], Callable[[], None]], tmp_path: Path):
    address, asked, close = served
    for i in range(2):
        pets(tmp_path / "served" / "pets" / f"train-{i}.tar", range(i * 10, i * 10 + 10))
    pets(tmp_path / "served" / "pets" / "val.tar", range(20, 25))
    if named:
        write(tmp_path, {"served/pets/classes.txt": "".join(f"pet {i}\n" for i in range(10))})
    spec = f"{address}/pets/{{train-{{0..1}},val}}.tar"
    for again in (False, True):
        opened = data.open(spec)
        assert opened.source == spec
        assert opened.classes == tuple(f"pet {i}" if named else str(i) for i in range(10))
        assert seen(opened["train"]) == labeled(range(20))
        assert seen(opened["val"]) == labeled(range(20, 25))
        if not again:
            assert {*asked} == {f"/pets/{name}" for name in ("classes.txt", "train-0.tar", "train-1.tar", "val.tar")}
            close()  # all is here now


@pytest.mark.parametrize("status", [403, 410, 503, 500, 401])
def test_names_of_classes_are_not_lost_with_a_request(
    status: int,
    served: tuple[str, list[str], Callable[[], None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    says: Says,
):
    monkeypatch.setattr("mlpmixer.download.BACK_OFF_S", 0.0)
    pets(tmp_path / "served" / "a.tar", range(10))
    write(tmp_path, {"served/classes.txt": "".join(f"pet {i}\n" for i in range(10))})
    write(tmp_path, {"served/classes.txt.status": str(status)})
    spec = f"{served[0]}/a.tar"
    if status in (403, 410):  # there is none, says the server
        assert data.open(spec).classes == tuple(map(str, range(10)))
        return
    with says(FetchError):
        data.open(spec)
    (tmp_path / "served" / "classes.txt.status").unlink()
    assert data.open(spec).classes == tuple(f"pet {i}" for i in range(10))


def test_names_of_classes_that_never_end_are_refused(
    served: tuple[str, list[str], Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says
):
    monkeypatch.setattr("mlpmixer.data.sources.shards.MAX_NAMES", 1000)
    pets(tmp_path / "served" / "a.tar", range(10))
    write(tmp_path, {"served/classes.txt": "pet\n" * 251})
    with says(FetchError):
        data.open(f"{served[0]}/a.tar")


def test_shards_that_the_network_does_not_have(
    served: tuple[str, list[str], Callable[[], None]], tmp_path: Path, says: Says
):
    address, _, _ = served
    pets(tmp_path / "served" / "a-0.tar", range(3))
    with says(FetchError):
        data.open(f"{address}/a-{{0..1}}.tar")
    assert "what is opened from the network are .tar shards" in refused(f"{address}/a-*.tar")


# Hugging Face.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "huggingface"))
    datasets.disable_progress_bars()
    return datasets


def table(hub: Any, numbers: range, label: Any, answers: list[Any] | None = None) -> Any:
    images = [{"bytes": image(i), "path": None} for i in numbers]
    answers = [i % 2 for i in numbers] if answers is None else answers
    return hub.Dataset.from_dict(
        {"image": images, "label": answers}, features=hub.Features({"image": hub.Image(), "label": label})
    )


def test_a_data_set_that_hugging_face_saved(hub: Any, tmp_path: Path):
    label = hub.ClassLabel(names=["cat", "dog"])
    parts = {
        "train": table(hub, range(6), label),
        "validation": table(hub, range(10, 13), label),
        "test": table(hub, range(20, 23), label, [-1, -1, -1]),
    }
    hub.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    opened = data.open(tmp_path / "saved")
    assert opened.classes == ("cat", "dog")
    assert [*opened.splits] == ["train", "val"]
    assert seen(opened["train"]) == [(i, i % 2) for i in range(6)]
    assert seen(opened["val"]) == [(i, i % 2) for i in range(10, 13)]
    assert opened["val"].where(2) == f"{tmp_path / 'saved'} val[2]"
    again = pickle.loads(pickle.dumps(opened["val"]))
    assert seen(again) == seen(opened["val"])


def test_one_saved_split_and_labels_that_are_text_or_numbers(hub: Any, tmp_path: Path):
    table(hub, range(3), hub.Value("string"), ["dog", "cat", "dog"]).save_to_disk(tmp_path / "text")
    opened = data.open(tmp_path / "text")
    assert (opened.classes, seen(opened["train"])) == (("cat", "dog"), [(0, 1), (1, 0), (2, 1)])
    shuffled = table(hub, range(3), hub.Value("int64"), [2, 0, 1]).select([2, 0])
    shuffled.rename_column("label", "cls").save_to_disk(tmp_path / "numbers")
    opened = data.open(tmp_path / "numbers")
    assert (opened.classes, seen(opened["train"])) == (("0", "1", "2"), [(2, 1), (0, 2)])


def test_a_folder_of_parquet_and_one_of_images_through_hugging_face(hub: Any, tmp_path: Path):
    (tmp_path / "pets").mkdir()
    label = hub.ClassLabel(names=["cat", "dog"])
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        table(hub, numbers, label).to_parquet(tmp_path / "pets" / f"{split}-00000.parquet")
    opened = data.open(f"hf:{tmp_path}/pets")
    assert {split: seen(opened[split]) for split in opened.splits} == {
        "train": [(0, 0), (1, 1), (2, 0), (3, 1)],
        "test": [(4, 0), (5, 1)],
    }
    assert opened.classes == ("cat", "dog")
    write(tmp_path, {"photos/dog/1.png": 1, "photos/cat/2.png": 2})
    opened = data.open(f"hf:{tmp_path}/photos")
    assert seen(opened["train"]) == seen(data.open(tmp_path / "photos")["train"])
    assert opened["train"].read(0) == str(tmp_path / "photos" / "cat" / "2.png")


def test_a_data_set_of_hugging_face_that_does_not_fit(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    two = table(hub, range(2), hub.Value("int64"))
    two.rename_column("label", "size").save_to_disk(tmp_path / "a")
    assert refused(tmp_path / "a").endswith("has no column of labels, such as 'label'; its columns are image, size")
    two.remove_columns("image").save_to_disk(tmp_path / "b")
    assert refused(tmp_path / "b").endswith("has no column of images; its columns are label")
    table(hub, range(2), hub.Value("int64"), [None, -1]).save_to_disk(tmp_path / "c")
    assert refused(tmp_path / "c").startswith("no image of")
    table(hub, range(2), hub.Value("int64"), [None, 1]).save_to_disk(tmp_path / "d")
    assert "has the class number -1" in refused(tmp_path / "d")
    (tmp_path / "d" / "state.json").write_text("{")
    assert refused(tmp_path / "d").startswith(f"cannot open {tmp_path / 'd'}: ")
    assert refused(f"hf:{tmp_path}/a:nowhere").startswith(f"cannot open hf:{tmp_path}/a:nowhere: ")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refused(tmp_path / "a").endswith("needs the package datasets: pip install 'mlpmixer[datasets]'")


def test_a_missing_image_is_told_when_it_is_read(hub: Any, tmp_path: Path, says: Says):
    holes = hub.Dataset.from_dict(
        {"image": [None], "label": [0]}, features=hub.Features({"image": hub.Image(), "label": hub.Value("int64")})
    )
    holes.save_to_disk(tmp_path / "a")
    with says(ImageError):
        data.open(tmp_path / "a")["train"].read(0)


# A new kind of data set (docs/extending/data-source.md).


def is_arrays(path: Path) -> bool:
    return path.suffix == ".npz" and path.is_file()


def open_arrays(path: Path) -> DataSet:
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels, names = file["images"], file["labels"], file["classes"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is not an archive of images, labels and classes ({error}); write it again") from error
    half = len(labels) // 2
    splits = {
        "train": Pixels(images[:half], labels[:half], f"{path} train"),
        "test": Pixels(images[half:], labels[half:], f"{path} test"),
    }
    return DataSet(str(path), tuple(names), splits)


def test_a_new_kind_of_data_set_is_one_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(table_of_sources.SOURCES, "arrays", by_path(is_arrays, open_arrays))
    labels = np.arange(80) % 2
    images = (labels[:, None, None, None] * 200 + np.zeros((80, 8, 8, 3))).astype(np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=labels, classes=["dark", "light"])
    recipe = toml.change(
        Recipe(name="toy"),
        {
            "model.name": "mixer_pico",
            "model.image_size": [8, 8],
            **{
                f"model.options.{name}": value
                for name, value in (
                    ("patch_size", 4),
                    ("layers", 1),
                    ("channels", 8),
                    ("token_hidden", 8),
                    ("channel_hidden", 8),
                )
            },
            "data.source": str(tmp_path / "set.npz"),
            "data.val": "",
            "augment.crop": "none",
            "optim.lr": 0.01,
            "train.steps": 40,
            "train.batch_size": 16,
            "train.precision": "fp32",
            "machine.workers": 0,
        },
    )
    result = mlpmixer.fit(recipe, tmp_path / "run", quiet=True)
    assert result.test is not None
    assert (result.test["count"], result.test["top1"]) == (40, 1.0)
    (tmp_path / "set.npz").write_bytes(b"PK and no more")
    assert "is not an archive of images" in refused(tmp_path / "set.npz")
