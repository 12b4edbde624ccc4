"""Data sets as tensorflow-datasets prepares them, and VTAB's tasks from them: records written by others' code."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import example as case
from hypothesis import given
from hypothesis import strategies as st
from messages import Says
from PIL import Image
from tensorboard.summary.writer.record_writer import RecordWriter

from mlpmixer import data
from mlpmixer.data.images import decode
from mlpmixer.data.sources import tfrecord
from mlpmixer.data.sources.vtab import VTAB
from mlpmixer.errors import DataError


def _example() -> Any:
    """TensorFlow's Example, as its .proto describes it."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = {"BytesList": 12, "FloatList": 2, "Int64List": 3}  # TYPE_BYTES, TYPE_FLOAT, TYPE_INT64
    for name, kind in kinds.items():
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=3)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, short) in enumerate(zip(kinds, ("bytes", "float", "int64"), strict=True), start=1):
        feature.field.add(name=f"{short}_list", number=number, type=11, type_name=f".t.{name}", label=1, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=11, type_name=".t.Feature", label=1)
    features.field.add(name="feature", number=1, type=11, type_name=".t.Features.FeatureEntry", label=3)
    file.message_type.add(name="Example").field.add(
        name="features", number=1, type=11, type_name=".t.Features", label=1
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = _example()


def example(**values: Any) -> bytes:
    made = EXAMPLE()
    for name, value in values.items():
        feature = made.features.feature[name.replace("__", "/")]
        value = value if isinstance(value, list) else [value]
        kind = {bytes: feature.bytes_list, float: feature.float_list}.get(type(value[0]) if value else int)
        (kind if kind is not None else feature.int64_list).value.extend(value)
    return made.SerializeToString()


def png(shade: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (6, 4), (shade,) * 3 if mode == "RGB" else shade).save(out, "PNG")
    return out.getvalue()


def prepared(folder: Path, **splits: Sequence[Sequence[bytes]]) -> Path:
    """Each split is a list of files, each a list of records."""
    folder.mkdir(parents=True)
    info = []
    for name, files in splits.items():
        for number, records in enumerate(files):
            path = folder / f"{folder.parent.name}-{name}.tfrecord-{number:05}-of-{len(files):05}"
            with path.open("wb") as file:
                writer = RecordWriter(file)
                for record in records:
                    writer.write(record)
        info.append({"name": name, "shardLengths": [str(len(records)) for records in files]})
    (folder / "dataset_info.json").write_text(json.dumps({"splits": info}))
    (folder / "features.json").write_text("{}")
    return folder


def labeled(labels: Sequence[int], first_shade: int = 0) -> list[bytes]:
    return [example(image=png(first_shade + n), label=label, file_name=b"x.png") for n, label in enumerate(labels)]


class TestRecords:
    @given(
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
        st.lists(st.floats(width=32, allow_nan=False), max_size=5),
        st.lists(st.binary(max_size=300), max_size=3),
    )
    def test_features_come_back(self, numbers: list[int], floats: list[float], texts: list[bytes]):
        found = tfrecord.features(example(a=numbers, b=floats, c=texts, d=7), ("a", "b", "c"))
        assert list(found["a"]) == numbers
        assert list(found["b"]) == floats
        assert list(found["c"]) == texts
        assert "d" not in found

    @case(b"\x08\x00")  # numbers where tables should be
    @case(b"\x0a\x02\x08\x00")
    @given(st.binary(max_size=60))
    def test_noise_is_refused_or_read_but_never_fails_otherwise(self, noise: bytes):
        with contextlib.suppress(DataError):
            tfrecord.features(noise, ("label",))

    def test_where_records_lie(self, tmp_path: Path, says: Says):
        folder = prepared(tmp_path / "set" / "1.0.0", train=[[b"one", b"", b"three" * 100]])
        (file,) = folder.glob("*.tfrecord*")
        content = file.read_bytes()
        assert [content[at : at + size] for at, size in tfrecord.record_offsets(file)] == [b"one", b"", b"three" * 100]
        file.write_bytes(content[:-1])
        with says(DataError):
            tfrecord.record_offsets(file)


def test_a_prepared_data_set(tmp_path: Path):
    files = [labeled([2, 0]), labeled([1], first_shade=50)]
    folder = prepared(tmp_path / "set" / "1.0.0", train=files, validation=[labeled([1])], test=[labeled([0, 1])])
    (folder / "label.labels.txt").write_text("cat\ndog\ncow\n")
    opened = data.open(folder)
    assert opened.classes == ("cat", "dog", "cow")
    assert {name: split.labels.tolist() for name, split in opened.splits.items()} == {
        "train": [2, 0, 1],
        "val": [1],
        "test": [0, 1],
    }
    assert np.asarray(decode(opened["train"].read(2)))[0, 0].tolist() == [50] * 3
    assert opened["train"].where(1).startswith(f"{folder}/set-train.tfrecord-00000-of-00002, record at byte ")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "dataset_info.json").write_text("{}"), "dataset_info.json is damaged"),
        (lambda folder: next(folder.glob("*train*")).unlink(), "has 0 files of records for train, not 1"),
        (
            lambda folder: (folder / "dataset_info.json").write_text(
                json.dumps({"splits": [{"name": "train", "shardLengths": ["3"]}]})
            ),
            "has 2 records, not 3",
        ),
        (lambda folder: (folder / "label.labels.txt").write_text("cat\n"), "has the class number 1, but 1 classes"),
    ],
)
def test_what_does_not_fit(spoil: Any, words: str, tmp_path: Path):
    folder = prepared(tmp_path / "set" / "1.0.0", train=[labeled([0, 1])])
    spoil(folder)
    with pytest.raises(DataError, match=words):
        data.open(folder)


class TestVtab:
    def test_19_tasks(self):
        kinds = [task.kind for task in VTAB.values()]
        assert [kinds.count(kind) for kind in ("natural", "specialised", "structured")] == [7, 4, 8]

    def test_800_and_200_of_the_right_parts(self, tmp_path: Path):
        """Of 1,000 in train, nine tenths are train: the first 800; of the last tenth, all 100."""
        files = [labeled([n % 102 for n in range(0, 600)]), labeled([n % 102 for n in range(600, 1000)])]
        prepared(tmp_path / "caltech101" / "3.0.1", train=files, test=[labeled([5, 6])])
        opened = data.open(f"vtab:caltech101:{tmp_path}")
        assert len(opened.classes) == 102
        assert opened["train"].labels.tolist() == [n % 102 for n in range(800)]
        assert opened["val"].labels.tolist() == [n % 102 for n in range(900, 1000)]
        assert opened["test"].labels.tolist() == [5, 6]

    def test_the_newest_version_and_the_config(self, tmp_path: Path):
        for version, label in (("9.0.0", 1), ("10.0.0", 2)):
            whole = [labeled([label] * 10)]
            prepared(tmp_path / "eurosat" / "rgb" / version, train=whole)
        opened = data.open(f"vtab:eurosat:{tmp_path}")
        assert {name: split.labels.tolist() for name, split in opened.splits.items()} == {
            "train": [2] * 6,
            "val": [2] * 2,
            "test": [2] * 2,
        }

    @pytest.mark.parametrize(
        ("task", "prepared_as", "features", "label"),
        [
            ("clevr_count", "clevr", {"objects__size": [0, 1, 1, 0, 0]}, 2),
            ("clevr_dist", "clevr", {"objects__pixel_coords": [1.0, 2.0, 9.2, 3.0, 4.0, 11.0]}, 3),
            ("clevr_dist", "clevr", {"objects__pixel_coords": [1.0, 2.0, 7.9]}, 0),
            ("clevr_dist", "clevr", {"objects__pixel_coords": [1.0, 2.0, 12.0]}, 5),
            ("dsprites_loc", "dsprites", {"label_x_position": 31}, 15),
            ("dsprites_ori", "dsprites", {"label_orientation": 5}, 2),
            ("smallnorb_azi", "smallnorb", {"label_azimuth": 17}, 17),
            ("smallnorb_ele", "smallnorb", {"label_elevation": 8}, 8),
            ("kitti", "kitti", {"objects__type": [3, 1], "objects__location": [0.0, 0.0, 2.0, 0.0, 0.0, 9.0]}, 1),
            ("kitti", "kitti", {"objects__type": [0], "objects__location": [0.0, 0.0, 3.0]}, 0),
            ("kitti", "kitti", {"objects__type": [2], "objects__location": [0.0, 0.0, 50.0]}, 2),
            ("kitti", "kitti", {"objects__type": [7], "objects__location": [0.0, 0.0, 1.0]}, 3),
        ],
    )
    def test_labels_that_must_be_told(
        self, task: str, prepared_as: str, features: dict[str, Any], label: int, tmp_path: Path
    ):
        record = example(image=png(1, "L"), **features)
        records = [[record] * 10]
        prepared(tmp_path / prepared_as / "3.0.0", train=records, validation=records, test=records)
        opened = data.open(f"vtab:{task}:{tmp_path}")
        assert set(opened["train"].labels.tolist()) == {label}
        assert len(opened.classes) == VTAB[task].classes
        shade = np.asarray(decode(opened["train"].read(0)))[0, 0].tolist()
        assert shade == ([255] * 3 if prepared_as == "dsprites" else [1] * 3)  # its pixels are 0 and 1

    def test_a_folder_of_the_tasks_name(self, tmp_path: Path, says: Says):
        for split in ("train", "val", "test"):
            (tmp_path / "dtd" / split / "banded").mkdir(parents=True)
            (tmp_path / "dtd" / split / "banded" / "1.png").write_bytes(png(0))
        assert data.open(f"vtab:dtd:{tmp_path}").classes == ("banded",)
        (tmp_path / "dtd" / "val" / "banded" / "1.png").unlink()
        (tmp_path / "dtd" / "val" / "banded").rmdir()
        (tmp_path / "dtd" / "val").rmdir()
        with says(DataError):
            data.open(f"vtab:dtd:{tmp_path}")

    def test_what_is_not_there(self, tmp_path: Path, says: Says):
        with says(DataError):
            data.open("vtab:dtdd")
        with says(DataError):
            data.open(f"vtab:dtd:{tmp_path}")
