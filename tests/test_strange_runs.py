"""A stranger's run folder: nothing in it runs code, crashes or hangs a command, lies, or makes it write elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import re
import resource
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from messages import Says
from PIL import Image
from torch import Tensor
from torch.distributed.checkpoint import metadata as theirs
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.state_dict_loader import load

import mlpmixer
from mlpmixer.cli import main
from mlpmixer.draw.chart import Axis, Series, labels, line_chart, ticks
from mlpmixer.errors import MixerError
from mlpmixer.machine.distributed import Group
from mlpmixer.recipe import Augment, Data, Evaluation, Machine, Model, Recipe, Train
from mlpmixer.recipes import toml
from mlpmixer.report.report import report
from mlpmixer.run import index
from mlpmixer.run.folder import RunFolder
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.checkpoint_reader import read_into
from mlpmixer.train.pickled import parse

STEPS = 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on images in a folder."""
    root = tmp_path_factory.mktemp("strange")
    chance = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (root / "photos" / split / name).mkdir(parents=True)
            for n in range(8):
                pixels = chance.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "photos" / split / name / f"{n}.png")
    recipe = Recipe(
        name="strange",
        model=Model(name="mixer_pico", options={"layers": 1, "channels": 16, "token_hidden": 8, "channel_hidden": 16}),
        data=Data(source=str(root / "photos"), val="val", test="test"),
        augment=Augment(crop="pad", padding=2),
        evaluation=Evaluation(resize=28),
        train=Train(steps=STEPS, batch_size=8, precision="fp32"),
        machine=Machine(device="cpu", workers=0, log_every=1, save_every=2),
    )
    return mlpmixer.fit(recipe, root / "run", quiet=True).folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "runs" / "evil")


@pytest.fixture
def stopped(run: Path) -> Path:
    """As if it had been stopped after its last checkpoint."""
    for name in ("result.json", "weights.safetensors"):
        (run / name).unlink()
    return run


def fails(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (1, 2)
    line, nothing = capfd.readouterr().err.split("\n")[-2:]
    assert nothing == ""
    assert line.startswith("mixer: ")
    return line


def newest(run: Path) -> Path:
    return run / "checkpoints" / f"step-{STEPS:09}"


def summed(checkpoint: Path) -> None:
    """With sums that are right, as its author writes them, too."""
    sums = {path.name: zlib.crc32(path.read_bytes()) for path in checkpoint.iterdir() if path.name != "sums.json"}
    (checkpoint / "sums.json").write_text(json.dumps(sums))


class Payload:
    """Unpickled, it makes a call."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def stored(place: Path) -> theirs.Metadata:
    """What the checkpoint of a run says."""
    return pickle.loads((place / ".metadata").read_bytes())


def tensors_of(place: Path) -> dict[str, Tensor]:
    """Empty ones, as its checkpoint has them."""
    claims = {n: c for n, c in stored(place).state_dict_metadata.items() if isinstance(c, theirs.TensorStorageMetadata)}
    return {name: torch.empty(claim.size, dtype=claim.properties.dtype) for name, claim in claims.items()}


def rewritten(place: Path, change: Callable[[theirs.Metadata], object]) -> None:
    metadata = stored(place)
    change(metadata)
    (place / ".metadata").write_bytes(pickle.dumps(metadata))


def with_all(metadata: theirs.Metadata, change: Callable[[theirs.MetadataIndex, _StorageInfo], object]) -> None:
    for key, info in metadata.storage_data.items():
        change(key, info)


def all_bytes(metadata: theirs.Metadata) -> None:
    """PyTorch's reader would unpickle them freely."""
    metadata.state_dict_metadata = dict.fromkeys(metadata.state_dict_metadata, theirs.BytesStorageMetadata())


def in_each_place(**fields: Any) -> Callable[[theirs.Metadata], object]:
    return lambda it: with_all(it, lambda _, info: vars(info).update(fields))


def in_each_tensor(**fields: Any) -> Callable[[theirs.Metadata], object]:
    return lambda it: [vars(claim).update(fields) for claim in it.state_dict_metadata.values()]


def keys_that_take_for_ever(metadata: theirs.Metadata) -> None:
    """To be hashed."""
    key: Any = ()
    for _ in range(60):
        key = (key, key)
    metadata.storage_data = Payload(dict, [(key, 1)])


LIES: dict[str, Callable[[theirs.Metadata], object]] = {
    "bytes for tensors": all_bytes,
    "a file elsewhere": in_each_place(relative_path="../../x"),
    "a device": in_each_place(relative_path="/dev/zero"),
    "past the end": in_each_place(offset=1 << 40),
    "before the beginning": in_each_place(offset=-1),
    "as long as no file": in_each_place(length=1 << 60),
    "packed": in_each_place(transform_descriptors=["evil"]),
    "no chunks": in_each_tensor(chunks=[]),
    "another size": in_each_tensor(size=torch.Size([2**40] * 3)),
    "no places": lambda it: setattr(it, "storage_data", {}),
    "no names": lambda it: setattr(it, "state_dict_metadata", {}),
    "a list": lambda it: setattr(it, "state_dict_metadata", [1]),
    "keys that take for ever": keys_that_take_for_ever,
    "other keys": lambda it: setattr(it, "storage_data", {("x",): 1}),
}


class TestCheckpoints:
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_no_code_runs(self, protocol: int, stopped: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        place, payload = newest(stopped), Payload(os.system, f"touch {tmp_path / 'canary'}")
        (place / ".metadata").write_bytes(pickle.dumps(payload, protocol))
        summed(place)
        line = fails(["train", str(stopped / "recipe.toml"), "--folder", str(stopped), "--quiet"], capfd)
        assert f"{place} is not what this version reads (" in line
        assert not (tmp_path / "canary").exists()

    def test_nor_in_the_midst_of_what_is_right(self, stopped: Path, tmp_path: Path):
        place, payload = newest(stopped), Payload(os.system, f"touch {tmp_path / 'canary'}")
        rewritten(place, lambda it: setattr(it, "planner_data", payload))
        summed(place)
        main(["train", str(stopped / "recipe.toml"), "--folder", str(stopped), "--quiet"])  # nobody asks for that part
        assert not (tmp_path / "canary").exists()

    @pytest.mark.parametrize("lie", LIES.values(), ids=[*LIES])
    def test_lies(self, lie: Callable[[theirs.Metadata], object], stopped: Path, says: Says):
        place = newest(stopped)
        tensors = tensors_of(place)
        read_into(tensors, place)
        rewritten(place, lie)
        with says(ValueError) as caught:
            read_into(tensors, place)
        assert "\n" not in str(caught.value)

    def test_a_tensor_with_a_payload(self, stopped: Path, tmp_path: Path, says: Says):
        place = newest(stopped)
        tensors = tensors_of(place)
        torch.save(Payload(os.system, f"touch {tmp_path / 'canary'}"), place / "evil.distcp")
        length = (place / "evil.distcp").stat().st_size

        def moved(_: theirs.MetadataIndex, info: _StorageInfo) -> None:
            info.relative_path, info.offset, info.length = "evil.distcp", 0, length

        rewritten(place, lambda it: with_all(it, moved))
        with says(ValueError):
            read_into(tensors, place)
        assert not (tmp_path / "canary").exists()

    @pytest.mark.parametrize("name", [".metadata", pytest.param("__0_0.distcp", marks=pytest.mark.slow)])
    def test_any_damage_is_told_in_words(self, name: str, stopped: Path):
        """Bytes changed at random: the tensors are read, or an error that is caught says why not."""
        place, chance = newest(stopped), random.Random(0)
        tensors, whole = tensors_of(place), (place / name).read_bytes()
        for _ in range(100):
            harmed = bytearray(whole)
            for _ in range(chance.choice((1, 3, 30))):
                harmed[chance.randrange(len(harmed))] = chance.randrange(256)
            (place / name).write_bytes(harmed[: chance.choice((len(harmed), chance.randrange(len(harmed))))])
            with suppress(ValueError, OSError):
                read_into(tensors, place)

    @given(st.binary(max_size=200))
    @example(pickle.dumps({1: 2}))
    def test_any_bytes_as_a_pickle(self, content: bytes):
        with suppress(ValueError):
            parse(content)

    @pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
    def test_as_pytorch_reads_them(self, finished: Path):
        place = newest(finished)
        ours, usual = tensors_of(place), tensors_of(place)
        read_into(ours, place)
        load(usual, checkpoint_id=place, no_dist=True)
        assert len(ours) > 20
        torch.testing.assert_close(ours, usual, rtol=0, atol=0)

    @pytest.mark.parametrize("file", ["../../outside", "/dev/zero", "link", "pipe", "nothing"])
    def test_sums_of_other_files(self, file: str, stopped: Path):
        place = newest(stopped)
        (place / "link").symlink_to("/dev/zero")
        os.mkfifo(place / "pipe")
        (place / "sums.json").write_text(json.dumps({file: 0}))
        with Checkpoints(stopped / "checkpoints", Group(torch.device("cpu")), keep=1) as checkpoints:
            step, warnings = checkpoints.restore({})
        assert step == 2
        assert "resuming from step 2" in warnings[0]

    @pytest.mark.parametrize("name", ["step-9", "step-0000000099", "step-" + "9" * 200, "step-٣٣٣٣٣٣٣٣٣"])
    def test_names_that_are_none_of_ours(self, name: str, stopped: Path):
        (stopped / "checkpoints" / name).mkdir()
        with Checkpoints(stopped / "checkpoints", Group(torch.device("cpu")), keep=1) as checkpoints:
            assert checkpoints.newest() == STEPS

    def test_of_a_step_that_the_run_has_not(self, stopped: Path, capfd: pytest.CaptureFixture[str]):
        newest(stopped).rename(stopped / "checkpoints" / "step-000000099")
        line = fails(["train", str(stopped / "recipe.toml"), "--folder", str(stopped), "--quiet"], capfd)
        assert f"a checkpoint of step 99, and the run has {STEPS}" in line


def put(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def pipe(name: str) -> Callable[[Path], object]:
    return lambda run: ((run / name).unlink(missing_ok=True), os.mkfifo(run / name))


def link(name: str, to: str) -> Callable[[Path], object]:
    return lambda run: ((run / name).unlink(missing_ok=True), (run / name).symlink_to(to))


def folder(name: str) -> Callable[[Path], object]:
    return lambda run: ((run / name).unlink(missing_ok=True), (run / name).mkdir())


def terabytes(name: str) -> Callable[[Path], object]:
    return lambda run: os.truncate(run / name, 1 << 42)


def result(content: Any) -> Callable[[Path], object]:
    return put("result.json", json.dumps(content))


def line(content: str) -> Callable[[Path], object]:
    return lambda run: (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + content + "\n")


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "result 5": put("result.json", "5"),
    "result null": put("result.json", "null"),
    "result list": put("result.json", "[1,2]"),
    "result split text": result({"test": "x", "val": None}),
    "result top1 text": result({"test": {"top1": "x", "count": 1}}),
    "result top1 list": result({"test": {"top1": [], "count": 1}}),
    "result top1 huge": result({"test": {"top1": 10**30, "count": 1}}),
    "result top1 infinite": put("result.json", '{"test": {"top1": 1e999, "count": 1}}'),
    "result deep": put("result.json", "[" * 100_000),
    "result digits": put("result.json", "9" * 5000),
    "result bytes": put("result.json", b"\xff\xfe"),
    "result pipe": pipe("result.json"),
    "result terabytes": terabytes("result.json"),
    "metrics folder": folder("metrics.jsonl"),
    "metrics pipe": pipe("metrics.jsonl"),
    "metrics zero": link("metrics.jsonl", "/dev/zero"),
    "metrics elsewhere": link("metrics.jsonl", "/etc/passwd"),
    "metrics terabytes": terabytes("metrics.jsonl"),
    "recipe bytes": put("recipe.toml", b"name = '\xff'"),
    "recipe deep": put("recipe.toml", "x = " + "[" * 100_000),
    "recipe deep keys": put("recipe.toml", ".".join("a" * 100_000) + " = 1"),
    "recipe digits": put("recipe.toml", "x = " + "9" * 5000),
    "recipe hexadecimal digits": put("recipe.toml", "x = 0x" + "f" * 9000),
    "recipe pipe": pipe("recipe.toml"),
    "recipe zero": link("recipe.toml", "/dev/zero"),
    "recipe elsewhere": link("recipe.toml", "/etc/passwd"),
    "recipe folder": folder("recipe.toml"),
    "recipe terabytes": terabytes("recipe.toml"),
}
ODD: dict[str, Callable[[Path], object]] = {
    "top1 text": line('{"step": 9, "kind": "val", "epoch": 1, "top1": "x"}'),
    "top1 list": line('{"step": 9, "kind": "val", "epoch": 1, "top1": [1]}'),
    "top1 huge": line('{"step": 9, "kind": "val", "epoch": 1, "top1": 1' + "0" * 30 + "}"),
    "epoch text": line('{"step": 9, "kind": "train", "epoch": "x", "loss": 1}'),
    "epoch list": line('{"step": 9, "kind": "train", "epoch": [1], "loss": 1}'),
    "epoch infinite": line('{"step": 9, "kind": "train", "epoch": 1e999, "loss": 1}'),
    "epoch nan": line('{"step": 9, "kind": "train", "epoch": NaN, "loss": NaN}'),
    "digits": line('{"step": 9, "kind": "train", "epoch": 1' + "0" * 5000 + "}"),
    "deep": line("[" * 100_000),
    "no kind": line('{"step": 9, "epoch": 1}'),
    "kind list": line('{"step": 9, "kind": [1], "epoch": 1}'),
    "step huge": line('{"step": 1' + "0" * 30 + ', "kind": "train", "epoch": 1}'),
    "no text": lambda run: (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes() + b'\xff{"step'),
    "recipe nan": put("recipe.toml", 'name = "strange"\n[optim]\nlr = nan\n'),
    "recipe inf": put("recipe.toml", 'name = "strange"\n[optim]\nlr = inf\nx = [nan, [inf]]\n'),
    "recipe date": put("recipe.toml", 'name = "strange"\n[optim]\nlr = 2020-01-01\n'),
    "recipe table in a list": put("recipe.toml", 'name = "strange"\n[[optim]]\nlr = 1\n'),
    "recipe quotes": put("recipe.toml", 'name = "strange"\n[optim]\n"a\'b" = 1\n'),
}


@pytest.mark.usefixtures("cache")
class TestListing:
    @pytest.fixture(autouse=True)
    def _another_beside_it(self, run: Path) -> None:
        shutil.copytree(run, run.parent / "good")

    @pytest.mark.parametrize("harm", UNREADABLE.values(), ids=[*UNREADABLE])
    def test_a_run_that_cannot_be_read(
        self, harm: Callable[[Path], object], run: Path, capfd: pytest.CaptureFixture[str]
    ):
        harm(run)
        found = {}
        for _ in range(2):  # and from the cache
            found = {one.path.name: one for one in index.runs(run.parent)}
            assert (found["good"].state, found["evil"].state) == ("finished", "unreadable")
            assert found["good"].test is not None
            assert found["evil"].why.split()[0] in ("result.json", "metrics.jsonl", "recipe.toml")
        main(["runs", str(run.parent), "--curves", str(run.parent / "curves.svg")])
        out = capfd.readouterr().out
        assert f"unreadable: {found['evil'].why[:40]}" in out
        assert "good" in out
        main(["runs", str(run.parent), "--state", "unreadable", "--json"])
        assert [one["name"] for one in json.loads(capfd.readouterr().out)] == ["evil"]

    @pytest.mark.parametrize("harm", ODD.values(), ids=[*ODD])
    def test_odd_lines_are_left_out(self, harm: Callable[[Path], object], run: Path):
        before, found = index.read(run), {}
        harm(run)
        for _ in range(2):
            found = {one.path.name: one for one in index.runs(run.parent, sort="best")}
            assert {*found} == {"good", "evil"}
            after = found["evil"]
            assert (after.state, after.name, after.test, after.best) == (
                "finished",
                "strange",
                before.test,
                before.best,
            )
        json.dumps([one.recipe for one in found.values()], allow_nan=False)

    @pytest.mark.parametrize("limit", ["-5", "0"])
    def test_a_limit_below_one(self, limit: str, run: Path, capfd: pytest.CaptureFixture[str]):
        said = fails(["runs", str(run.parent), "--limit", limit], capfd)
        assert said == f"mixer: --limit is how many runs to list, at least 1; got {limit}"

    def test_names_that_are_no_text(self, run: Path):
        run.rename(os.fsdecode(os.fsencode(run.parent) + b"/\xe9vil"))
        for _ in range(2):
            found = index.runs(run.parent, where=["name=strange"], sort="path")
            assert os.fsencode(found[1].path).endswith(b"\xe9vil")


class TestCache:
    """Rows of runs that are kept from one listing to the next."""

    @pytest.fixture
    def file(self, run: Path, cache: Path) -> Path:
        index.runs(run.parent)
        (file,) = (cache / "runs").iterdir()
        return file

    def test_it_lies_in_the_users_folder_alone(self, file: Path, run: Path):
        assert [path.name for path in run.parent.iterdir()] == ["evil"]
        assert file.parent.stat().st_mode & 0o777 == 0o700

    def test_an_index_beside_the_runs_is_neither_read_nor_written(self, run: Path):
        (run.parent / ".runs.sqlite").write_bytes(b"forged")
        assert len(index.runs(run.parent)) == 1
        assert (run.parent / ".runs.sqlite").read_bytes() == b"forged"

    @pytest.mark.parametrize(
        "harm",
        {
            "no JSON": lambda file: relisted(file, lambda _: "{"),
            "deep": lambda file: relisted(file, lambda _: "[" * 100_000),
            "a figure changed": lambda file: file.write_text(re.sub('"test": 0...', '"test": 0.9', file.read_text())),
            "bytes": lambda file: file.write_bytes(b"SQLite format 3\0\xff"),
            "a list": lambda file: relisted(file, lambda _: "[]"),
            "another version": lambda file: relisted(file, lambda text: text.replace('"version": 2', '"version": 1')),
            "runs a list": lambda file: relisted(file, lambda _: '{"version": 2, "runs": [1]}'),
            "a row a text": lambda file: relisted(file, lambda _: '{"version": 2, "runs": {"evil": "x"}}'),
            "no figures": lambda file: relisted(file, lambda text: text.replace('"test": ', '"test": "", "y": ')),
            "a state that is none": lambda file: relisted(file, lambda text: text.replace('"finished"', '"fine"')),
            "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
            "a link": lambda file: (file.rename(file.with_name("x")), file.symlink_to("x")),
            "writable by others": lambda file: (forged(file), file.chmod(0o666)),
            "in a folder of others": lambda file: (forged(file), file.parent.chmod(0o777)),
            "a folder": lambda file: (file.unlink(), file.mkdir()),
            "no folder": lambda file: (shutil.rmtree(file.parent), file.parent.write_text("")),
        }.items(),
        ids=lambda pair: pair[0],
    )  # fmt: skip
    def test_one_that_is_no_good(self, harm: tuple[str, Callable[[Path], object]], file: Path, run: Path):
        (expected,) = index.runs(run.parent)
        harm[1](file)
        for _ in range(2):
            assert index.runs(run.parent) == [expected]

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
    def test_one_of_another_user(self, file: Path, run: Path):
        (expected,) = index.runs(run.parent)
        forged(file)
        os.chown(file, 12345, 12345)
        assert index.runs(run.parent) == [expected]

    def test_that_of_a_link_is_that_of_what_it_leads_to(self, file: Path, run: Path):
        (run.parent.parent / "link").symlink_to(run.parent)
        index.runs(run.parent.parent / "link")
        assert [*file.parent.iterdir()] == [file]


def relisted(file: Path, change: Callable[[str], str]) -> None:
    """With the digest that belongs to it."""
    text = change(file.read_text().partition("\n")[2])
    file.write_text(f"{hashlib.sha256(text.encode()).hexdigest()[:32]}\n{text}")


def forged(file: Path) -> None:
    relisted(file, lambda text: re.sub('"test": [^,]*', '"test": 0.999', text))


class TestLinks:
    """A command on the folder leaves what its links lead to as it is, and shows nothing of it."""

    @pytest.fixture
    def victim(self, tmp_path: Path) -> Iterator[Path]:
        """A file and a folder of the user's; neither changes."""
        place = tmp_path / "mine"
        (place / "folder").mkdir(parents=True)
        (place / "file").write_text('{"step": 1, "kind": "private"}\n')
        (place / "folder" / "events.out.tfevents.1").write_text("curves")
        (place / "folder" / ".writing-1").mkdir()
        (place / "folder" / ".writing-1" / "a").write_text("1")
        yield place
        assert (place / "file").read_text() == '{"step": 1, "kind": "private"}\n'
        assert sorted(path.name for path in place.rglob("*")) == [
            ".writing-1", "a", "events.out.tfevents.1", "file", "folder",
        ]  # fmt: skip
        assert (place / "folder" / "events.out.tfevents.1").read_text() == "curves"

    @pytest.mark.parametrize(
        "name",
        [".lock", "recipe.toml", "metrics.jsonl", "bad_images.jsonl", "picks.json", "result.json", "checkpoints",
         "tensorboard", "tensorboard/events.out.tfevents.1", f"checkpoints/step-{STEPS:09}/.metadata"],
    )  # fmt: skip
    def test_when_a_run_goes_on(
        self, name: str, stopped: Path, victim: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        shutil.copy(stopped / "recipe.toml", tmp_path / "recipe.toml")
        path = stopped / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.symlink_to(victim / ("folder" if name in ("checkpoints", "tensorboard") else "file"))
        if name.endswith(".metadata"):
            summed(newest(stopped))
            main(["train", str(tmp_path / "recipe.toml"), "--folder", str(stopped), "--quiet"])
            assert "is damaged (.metadata: it is a link); resuming from step 2" in capfd.readouterr().err
        else:
            assert "it is a link" in fails(
                ["train", str(tmp_path / "recipe.toml"), "--folder", str(stopped), "--quiet"], capfd
            )

    @pytest.mark.parametrize("name", ["machine.json", "diverged.json", "best.safetensors", ".result.json.1.part"])
    def test_what_is_written_anew_takes_the_place_of_a_link(self, name: str, stopped: Path, victim: Path):
        (stopped / name).unlink(missing_ok=True)
        (stopped / name).symlink_to(victim / "file")
        main(["train", str(stopped / "recipe.toml"), "--folder", str(stopped), "--quiet"])
        assert (stopped / "result.json").is_file()

    def test_a_part_with_the_name_that_ours_will_have(self, run: Path, victim: Path):
        (run / f".x.json.{os.getpid()}.part").symlink_to(victim / "file")
        RunFolder(run).write("x.json", {"a": 1})
        assert not (run / "x.json").is_symlink()

    def test_cards(self, run: Path, victim: Path, capfd: pytest.CaptureFixture[str]):
        shutil.rmtree(run / "cards", ignore_errors=True)
        (run / "cards").symlink_to(victim / "folder")
        main(["evaluate", str(run), "--device", "cpu", "--workers", "0", "--train-images", "0"])
        told = capfd.readouterr()
        assert "top-1" in told.out  # what was measured is shown all the same
        assert f"{run}/cards: it is a link" in told.err

    def test_weights(self, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        (run / "weights.safetensors").rename(tmp_path / "private.safetensors")
        (run / "weights.safetensors").symlink_to(tmp_path / "private.safetensors")
        assert "is a link" in fails(["report", str(run)], capfd)

    def test_the_folder_itself_may_be_reached_through_one(self, stopped: Path, tmp_path: Path):
        (tmp_path / "link").symlink_to(stopped)
        main(["train", str(tmp_path / "link" / "recipe.toml"), "--folder", str(tmp_path / "link"), "--quiet"])
        assert RunFolder(stopped).result() is not None


def page_of(run: Path, **how: Any) -> str:
    return report([run], run / "page.html", **how).page.read_text(encoding="utf-8")


def card(content: str) -> Callable[[Path], object]:
    return lambda run: ((run / "cards").mkdir(exist_ok=True), (run / "cards" / "x.json").write_text(content))


USUAL = '{"version": 2, "protocol": "own", "preprocessing": {}, "engine": "eager, fp32", "data": {"own": true}'
ON_A_PAGE: dict[str, Callable[[Path], object]] = {
    "no machine": lambda run: (run / "machine.json").unlink(),
    "machine list": put("machine.json", "[1]"),
    "machine deep": put("machine.json", "[" * 100_000),
    "machine elsewhere": link("machine.json", "/etc/passwd"),
    "no metrics": lambda run: (run / "metrics.jsonl").unlink(),
    "metrics empty": put("metrics.jsonl", ""),
    "metrics without figures": put("metrics.jsonl", '{"step": 1, "kind": "train"}\n{"step": 1, "kind": "val"}\n'),
    "speed 0": put("metrics.jsonl", '{"step": 1, "kind": "train", "epoch": 1, "loss": 1, "images_per_s": 0}\n'),
    "speed below 0": put("metrics.jsonl", '{"step": 1, "kind": "train", "epoch": 1, "loss": 1, "images_per_s": -1}\n'),
    "loss huge": line('{"step": 9, "kind": "train", "epoch": 1, "loss": 1e308}'),
    "epoch infinite": line('{"step": 9, "kind": "train", "epoch": 1e400, "loss": 1}'),
    "losses as good as the same": put(
        "metrics.jsonl",
        '{"step": 1, "kind": "train", "epoch": 1, "loss": 2.3}\n'
        '{"step": 2, "kind": "train", "epoch": 2, "loss": 2.3000000000000003}\n',
    ),
    "curve huge": lambda run: (run / "recipe.toml").write_text(
        (run / "recipe.toml").read_text().replace("curve = []", "curve = [[-1e308, -1e308], [1e308, 1e308]]")
    ),
    "card {}": card("{}"),
    "card []": card("[]"),
    "card deep": card("[" * 100_000),
    "card of nothing": card(USUAL + "}"),
    "card of texts": card(USUAL + ', "metrics": {"top1": "x"}, "warnings": "y"}'),
    **{f"metrics, {name}": harm for name, harm in ODD.items() if not name.startswith("recipe")},
}  # fmt: skip


class TestReport:
    @pytest.mark.parametrize("harm", ON_A_PAGE.values(), ids=[*ON_A_PAGE])
    def test_a_page_without_what_is_damaged(self, harm: Callable[[Path], object], run: Path):
        assert "curve = []" in (run / "recipe.toml").read_text()
        harm(run)
        html = page_of(run)
        assert "Summary" in html
        assert "Effective receptive fields" in html
        assert not {"nan", "inf"} & {*html.replace('"', " ").replace(",", " ").split()}

    @pytest.mark.parametrize("harm", UNREADABLE.values(), ids=[*UNREADABLE])
    def test_one_line_where_there_is_no_run(
        self, harm: Callable[[Path], object], run: Path, capfd: pytest.CaptureFixture[str]
    ):
        harm(run)
        fails(["report", str(run)], capfd)

    @pytest.mark.parametrize(
        "content", ["{}", "[]", "[" * 100_000, '{"machine": {}}', "pipe", '{"machine": 1, "what": 1, "columns": 5}']
    )
    def test_a_damaged_study(self, content: str, run: Path, capfd: pytest.CaptureFixture[str]):
        put("x.study.json", content)(run) if content != "pipe" else pipe("x.study.json")(run)
        assert "x.study.json is damaged; `mixer reproduce` writes it again" in fails(["report", str(run)], capfd)

    def test_a_full_disk(self, run: Path, capfd: pytest.CaptureFixture[str]):
        """The page of before stays, whole, and nothing is beside it."""
        main(["report", str(run)])
        before, files = (run / "report.html").read_bytes(), sorted(run.iterdir())
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))
        try:
            line = fails(["report", str(run)], capfd)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert line == f"mixer: cannot write {run}/report.html: File too large; make room, and the same command resumes"
        assert ((run / "report.html").read_bytes(), sorted(run.iterdir())) == (before, files)

    @pytest.mark.parametrize("place", ["/dev/full", "/dev/null/page.html", "pipe", "folder"])
    def test_a_page_where_none_can_be(
        self, place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ):
        monkeypatch.chdir(tmp_path)
        os.mkfifo("pipe")
        Path("folder").mkdir()
        assert "cannot write" in fails(["report", str(run), "--output", place], capfd)
        assert Path("/dev/full").is_char_device()


class TestImages:
    """The recipe of a stranger's run may name a folder of the user's."""

    def test_they_are_not_opened_unasked(self, run: Path, capfd: pytest.CaptureFixture[str]):
        main(["report", str(run)])
        said = capfd.readouterr().err
        photos = run.parents[1] / "photos"
        source = toml.read(run / "recipe.toml").data.source
        closed = f"a report opens '{source}' only if it is told --images, or other images with --data SOURCE"
        assert said == f"mixer: {run}: no images are shown; {closed}\n"
        html = (run / "report.html").read_text(encoding="utf-8")
        assert html.count("--data SOURCE") == 2
        assert "image-rendering" not in html.split("Predictions</h2>")[1].split("Weights</h2>")[0]
        assert not (run / "cards").exists()
        assert not photos.exists()

    @pytest.mark.parametrize("source", ["http://127.0.0.1:9/x.tar", "hf:someone/something", "vtab:dtd:/home", "~"])
    def test_nor_anything_elsewhere(self, source: str, run: Path):
        recipe = toml.change(toml.read(run / "recipe.toml"), {"data.source": source})
        (run / "recipe.toml").write_text(toml.dumps(recipe))
        assert "only if it is told --images" in page_of(run)

    def test_they_are_if_asked_for(self, run: Path, capfd: pytest.CaptureFixture[str]):
        main(["report", str(run), "--images"])
        source = toml.read(run / "recipe.toml").data.source
        assert f"mixer: {run}: its images are read from {source}\n" in capfd.readouterr().err
        html = (run / "report.html").read_text(encoding="utf-8")
        assert "of 16 test images" in html
        assert "No images are shown" not in html
        assert len([*(run / "cards").glob("*.json")]) == 1
        assert "Not measured" not in page_of(run), "a card that is there needs no images"

    @pytest.mark.slow
    def test_others_in_their_stead(self, run: Path, tmp_path: Path):
        source = Path(toml.read(run / "recipe.toml").data.source)
        shutil.copytree(source, tmp_path / "photos")
        (tmp_path / "photos" / "test" / "cat" / "0.png").unlink()
        html = page_of(run, data=tmp_path / "photos")
        assert "of 15 test images" in html
        assert "Not measured" not in html


def test_numbers_that_stand_at_an_axis():
    @given(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308), st.integers(2, 8))
    @example(-1e308, 1e308, 5)
    @example(2.3, 2.3000000000000003, 5)
    @example(0.0, 5e-324, 6)
    @example(1e308, 1e308, 5)
    def right(one: float, other: float, about: int) -> None:
        low, high = sorted((one, other))
        found = ticks(low, high, about)
        assert np.isfinite(found).all()
        assert 2 <= len(found) <= 2 * about + 3
        assert all(before < after for before, after in pairwise(found))
        hair = 2e-6 * (found[1] / 2 - found[0] / 2)
        assert found[0] - hair <= low <= high <= found[-1] + hair
        assert len({*labels(found)}) == len(found)
        assert max(map(len, labels(found))) <= 22
        assert -1e-4 <= Axis(found[0], found[-1], 0, 100)(low) <= Axis(found[0], found[-1], 0, 100)(high) <= 100 + 1e-4

    @given(st.floats(-1e308, 1e308), st.floats(-1e-6, 1e-6))
    def nearly_the_same(number: float, share: float) -> None:
        right.hypothesis.inner_test(number, min(max(number * (1 + share), -1e308), 1e308), 5)  # pyright: ignore

    right()
    nearly_the_same()


def test_points_that_are_nowhere():
    nan, inf = float("nan"), float("inf")
    line = line_chart("x", [Series("a", [(nan, 1), (1, inf), (0, 1), (2, 3)], band=inf)], x_label="y").body
    assert "nan" not in line
    assert "inf" not in line
    assert "no data" in line_chart("x", [Series("a", [(nan, 1)])], x_label="y").body


WRITER = """
import sys
from mlpmixer.run.folder import RunFolder
run, recipe = RunFolder(sys.argv[1]), open(sys.argv[2]).read()
run.checkpoints.mkdir(parents=True, exist_ok=True)
for turn in range(40):
    run.begin(turn, recipe, {"processor": "x"}, {})
    if not turn:
        print(flush=True)
    for step in range(turn + 1, turn + 20):
        run.log(step, "train", epoch=step / 10, loss=1.0, images_per_s=9.0)
        run.log(step, "val", epoch=step / 10, top1=0.5)
    run.write("result.json", {"steps": 1, "val": None, "test": {"top1": 0.5, "count": 2}})
    run.result() and (run.path / "result.json").unlink()
"""


@pytest.mark.usefixtures("cache")
def test_a_run_is_read_while_it_is_written(run: Path, capfd: pytest.CaptureFixture[str]):
    """By another process, which begins again and again: what is read is always a beginning of what is written."""
    place, looks = run.parent / "busy", 0
    code = [sys.executable, "-c", WRITER, str(place), str(run / "recipe.toml")]
    with subprocess.Popen(code, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while writer.poll() is None or not looks:
            steps = [line["step"] for line in RunFolder(place).metrics()]
            assert steps == sorted(steps)
            states = {one.path.name: one.state for one in index.runs(run.parent)}
            assert states["evil"] == "finished"
            assert states["busy"] in ("finished", "unfinished")
            with pytest.raises(MixerError) as caught:
                report([place], run.parent / "page.html")  # no weights, if it has a result
            assert "\n" not in str(caught.value)
            looks += 1
    assert writer.returncode == 0
    main(["runs", str(run.parent)])
    assert "busy" in capfd.readouterr().out
