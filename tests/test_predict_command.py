"""`mixer predict` on many images: what it writes, and that no end of it loses or repeats an image."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from in_processes import Mixer, run_mixer, wait_for
from messages import Says

from mlpmixer import Predictor, create, save
from mlpmixer.cli import main
from mlpmixer.engines import kernels
from mlpmixer.errors import DataError, ImageError, UsageError
from mlpmixer.machine import ordered_pool
from mlpmixer.predict import cluster, parquet, paths
from mlpmixer.predict.formats import files_of, format_of
from mlpmixer.predict.int8_calibration import quantized_for
from mlpmixer.predict.predictor import Prediction
from mlpmixer.predict.record import spelled
from mlpmixer.predict.resume_index import ResumeIndex
from mlpmixer.predict.writers import JsonLines
from mlpmixer.weights.bundled import PHOTO
from mlpmixer.weights.load import load

WEIGHTS = ("--weights", "mixer_clothing", "--precision", "bf16")
MIXER = [sys.executable, "-m", "mlpmixer"]


def mixer(*arguments: object, code: int = 0) -> None:
    words = ["predict", *map(str, arguments)]
    if code == 0:
        main(words)
    else:
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == code


@pytest.fixture
def folder(tmp_path: Path, photos: list[Path]) -> Path:
    """Twenty photographs in two folders, with one that is damaged and one that is no image."""
    root = tmp_path / "folder"
    for place in ("a", "b/deep"):
        (root / place).mkdir(parents=True)
        for photo in photos:
            os.link(photo, root / place / photo.name)
    (root / "b" / "broken.jpg").write_bytes(photos[0].read_bytes()[:700])
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.jpg").write_text("no image")
    return root


def written(folder: Path) -> list[str]:
    """The good images, in the order in which a folder is walked."""
    names = sorted(path.name for path in (folder / "a").iterdir())
    return [str(folder / place / name) for place in ("a", "b/deep") for name in names]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


class TestWhatIsWritten:
    def test_json_of_a_folder_is_what_single_images_give(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        mixer(folder, *WEIGHTS, "--json", "--top", 3, "--batch", 3)
        seen = capsys.readouterr()
        found = [json.loads(line) for line in seen.out.splitlines()]
        assert [one["path"] for one in found] == written(folder)
        predictor = Predictor("mixer_clothing", precision="bf16", top=3)
        for one in found:
            alone = predictor(one["path"])
            assert one["label"] == alone.label
            assert one["score"] == alone.score
            assert [(pair["label"], pair["score"]) for pair in one["top"]] == list(alone.top)
        assert f"skipped: {folder / 'b' / 'broken.jpg'} is not a readable image" in seen.err
        assert "bf16 (" in seen.err
        assert "20 images in" in seen.err
        assert "; 1 skipped" in seen.err

    def test_strict_answers_the_others_all_the_same(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        mixer(folder, *WEIGHTS, "--json", "--strict", code=1)
        seen = capsys.readouterr()
        assert len(seen.out.splitlines()) == 20
        assert seen.err.splitlines()[-1] == "mixer: could not read 1 of the images; the others are predicted"

    def test_all_forms_say_the_same(self, folder: Path, tmp_path: Path):
        arrow = pytest.importorskip("pyarrow.parquet")
        for ending in ("jsonl", "csv", "parquet"):
            mixer(folder, *WEIGHTS, "--output", tmp_path / f"found.{ending}", "--top", 2)
        plain = lines(tmp_path / "found.jsonl")
        head, *rows = csv.reader((tmp_path / "found.csv").read_text().splitlines())
        assert head == ["path", "label", "score", "label_2", "score_2"]
        for (path, *cells), one in zip(rows, plain, strict=True):
            assert path == one["path"]
            assert cells == [cell for pair in one["top"] for cell in (pair["label"], f"{pair['score']:.6g}")]
            assert [one["label"], one["score"]] == [*one["top"][0].values()]
        assert arrow.read_table(tmp_path / "found.parquet").to_pylist() == plain

    def test_embeddings_are_rows_of_the_answers(self, folder: Path, tmp_path: Path):
        mixer(folder, *WEIGHTS, "--output", tmp_path / "found.csv", "--embeddings", tmp_path / "found.npy")
        rows = np.load(tmp_path / "found.npy")
        predictor = Predictor("mixer_clothing", precision="bf16", embeddings=True)
        alone = [one.embedding for one in predictor(written(folder))]
        assert rows.dtype == np.float32
        assert np.array_equal(rows, np.stack([row for row in alone if row is not None]))

    def test_paths_from_standard_input(self, photos: list[Path], tmp_path: Path):
        strange = tmp_path / os.fsdecode(b"caf\xe9, \"the\" 'one'.jpg")
        os.link(photos[0], strange)
        given = b"".join(os.fsencode(path) + b"\n" for path in (photos[1], strange))
        as_json = subprocess.run(
            [*MIXER, "predict", "-", *WEIGHTS, "--json"], input=given, capture_output=True, check=True
        )
        as_csv = run_mixer("predict", "-", *WEIGHTS, "--csv", given=given)
        assert [json.loads(line)["path"] for line in as_json.stdout.splitlines()] == [str(photos[1]), str(strange)]
        found = [row[0] for row in csv.reader(io.StringIO(as_csv.out.decode()))]
        assert found[1:] == [str(photos[1]), str(strange).encode("utf-8", "backslashreplace").decode()]

    def test_names_that_are_ended_by_nuls(self, photos: list[Path], tmp_path: Path, says: Says):
        strange = tmp_path / "one\ntwo\r.jpg"
        os.link(photos[0], strange)
        given = b"".join(os.fsencode(path) + b"\0" for path in (photos[1], strange))
        for flag in ("-0", "--null"):
            ended = run_mixer("predict", "-", flag, *WEIGHTS, "--json", given=given)
            assert [json.loads(line)["path"] for line in ended.out.splitlines()] == [str(photos[1]), str(strange)]
        ended = run_mixer("predict", "-", *WEIGHTS, given=given)
        assert ended.code == 2
        says.check(ended.err)

    def test_nothing_read_is_an_error(self, says: Says):
        for given, code in ((b"", 1), (b"nowhere.jpg\nneither.jpg", 1), (b"x" * 200_000, 2)):
            ended = run_mixer("predict", "-", "--json", given=given)
            assert (ended.code, ended.out) == (code, b"")
            says.check(ended.err.splitlines()[-1])

    def test_what_lies_there_instead_of_images_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], says: Says
    ):
        for name in ("a.HEIC", "deep/b.heic", "c.cr2", ".hidden", "noending"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        mixer(tmp_path, code=1)
        says.check(capsys.readouterr().err)

    @pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
    def test_whatever_classes_and_files_are_called(self, ending: str, tmp_path: Path):
        """Lone surrogates, ends of lines, quotes and NULs, beside names that are text."""
        if ending == "parquet":
            pytest.importorskip("pyarrow")
        names = ["\ud800", "a\rb", 'c\nd"e,', "=1+1", "f\0g", "", "\udce9", "café"]
        file = tmp_path / f"found.{ending}"
        files = files_of(format_of(file))
        writer = files.new(file, len(names))
        for name in names:
            writer.write(name, Prediction(((name, 0.5), *((other, 1 / 3) for other in names[1:]))))
            writer.flush()
        writer.close()
        read = list(files.records(file))
        expected = [(spelled(name), spelled(name)) for name in names]
        assert [(spelled(one.path), spelled(one.label)) for one in read] == expected
        assert {one.labels for one in read} == {len(names)}

    def test_json_has_no_nan(self, says: Says):
        with says(ValueError):  # the Predictor lets none through
            JsonLines(io.StringIO(), 1).write("x.jpg", Prediction((("cat", float("nan")),)))

    def test_int8_is_calibrated_on_the_images(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], says: Says
    ):
        if (reason := kernels.unsupported(load("mixer_cifar10"))) is not None:
            pytest.skip(reason)
        for place in ("a", "b/deep"):  # a shirt is as good as a dog or a horse to it, and any rounding decides
            (folder / place / "shirt.jpg").unlink()
        mixer(folder, "--precision", "int8", code=2)
        says.check(capsys.readouterr().err)
        for photo in (folder / "a").iterdir():
            for number in range(10):
                os.link(photo, folder / "b" / f"{number}{photo.name}")
        for precision in ("fp32", "int8"):
            mixer(folder, "--precision", precision, "--output", tmp_path / f"{precision}.jsonl")
        assert "calibrated on 108 of the images; 100.0% of them keep float32's label" in capsys.readouterr().err
        before, after = (lines(tmp_path / f"{precision}.jsonl") for precision in ("fp32", "int8"))
        assert [one["label"] for one in after] == [one["label"] for one in before]
        assert [one["score"] for one in after] == pytest.approx([one["score"] for one in before], abs=0.1)
        assert after != before

    def test_int8_is_refused_where_too_many_labels_change(self, photos: list[Path], says: Says):
        model = create("mixer_pico", num_classes=1)  # whose label cannot change
        if (reason := kernels.unsupported(model)) is not None:
            pytest.skip(reason)
        with says(UsageError):
            quantized_for(model, [*map(str, photos)] * 10, required=1.01)

    def test_the_table_for_people(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        mixer(folder / "a", *WEIGHTS, "--top", 2)
        head, rule, *rows = capsys.readouterr().out.strip("\n").splitlines()
        assert head.split() == ["image", "label", "score", "other", "classes"]
        assert set(rule) == {" ", "─"}
        assert len(rows) == 10
        assert len({row.index("%") for row in rows}) == 1  # in a column

    def test_mistakes_get_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], says: Says
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "nothing").mkdir()
        (tmp_path / "nothing" / "x.csv").touch()
        for arguments, code in (
            (["nothing"], 1),
            ([str(PHOTO), "--json", "--csv"], 2),
            ([str(PHOTO), "--resume"], 2),
            ([str(PHOTO), "--parquet"], 2),
            ([str(PHOTO), "--output", "x.txt"], 2),
            ([str(PHOTO), "--output", "nothing/x.csv/y.csv"], 2),
            ([str(PHOTO), "--embeddings", "x.csv"], 2),
            ([str(PHOTO), "--device", "abacus"], 2),
            ([str(PHOTO), "--engine", "onnx", "--precision", "int8", "--device", "cpu"], 2),
        ):
            mixer(*arguments, code=code)
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            says.check(said)

    def test_a_cluster_that_does_not_answer(self, capsys: pytest.CaptureFixture[str], says: Says):
        pytest.importorskip("ray")
        mixer(str(PHOTO), "--ray", "127.0.0.1:1", code=1)
        says.check(capsys.readouterr().err)


class TestGoingOn:
    @pytest.mark.parametrize("ending", ["jsonl", "csv"])
    def test_wherever_a_file_was_cut(self, ending: str, folder: Path, tmp_path: Path):
        file, rows = tmp_path / f"found.{ending}", tmp_path / "found.npy"
        arguments = (folder, *WEIGHTS, "--output", file, "--embeddings", rows, "--resume")
        mixer(*arguments)
        whole, table = file.read_bytes(), rows.read_bytes()
        for size in np.linspace(1, len(whole) - 1, 4).astype(int):
            file.write_bytes(whole[:size])
            rows.write_bytes(table)  # rows are written first
            mixer(*arguments)
            assert file.read_bytes() == whole
            assert rows.read_bytes() == table

    def test_names_over_several_lines(self, photos: list[Path], tmp_path: Path):
        names = [tmp_path / name for name in ('one\n"two".jpg', "three.jpg", "f\n\n,.jpg", "four\r.jpg")]
        for name in names:
            os.link(photos[0], name)
        file = tmp_path / "found.csv"
        mixer(*names, *WEIGHTS, "--output", file)
        whole = file.read_bytes()
        assert [row[0] for row in csv.reader(io.StringIO(whole.decode(), newline=""))][1:] == [*map(str, names)]
        for size in range(60, len(whole), 190):
            file.write_bytes(whole[:size])
            mixer(*names, *WEIGHTS, "--output", file, "--resume")
            assert file.read_bytes() == whole

    def test_names_that_a_spreadsheet_would_compute(
        self, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """An apostrophe keeps it from doing so; whoever goes on with the file, and the gallery, know the names."""
        monkeypatch.chdir(tmp_path)
        names = ["=1+1.jpg", "@sum.jpg", "+a.jpg", "'=b.jpg", "''-c.jpg", "'plain.jpg", "plain=.jpg"]
        for name in names:
            os.link(photos[0], name)
        classes = ("=cmd|' /C calc'!A0", "-1", "-x", "'", "a")
        save(create("mixer_pico", num_classes=5, image_size=8, patch_size=4), "wide.safetensors", classes=classes)
        arguments = ("--weights", "wide.safetensors", "--output", "found.csv", "--html", "found.html")
        mixer(*names, *arguments)
        head, *rows = csv.reader(Path("found.csv").read_text().splitlines())
        assert head[0] == "path"
        written_as = {name: name if "plain" in name else f"'{name}" for name in names}
        assert [row[0] for row in rows] == [*written_as.values()]
        cells = {cell for row in rows for cell in row[1::2]}
        assert cells == {"'=cmd|' /C calc'!A0", "-1", "'-x", "'", "a"}
        found = [*files_of("csv").records(Path("found.csv"))]
        assert [one.path for one in found] == names
        assert {one.label for one in found} <= {*classes}
        page = Path("found.html").read_text()
        assert all(f'alt="{name}"' in page.replace("&#39;", "'").replace("&#x27;", "'") for name in names)
        whole = Path("found.csv").read_bytes()
        Path("found.csv").write_bytes(whole[: len(whole) // 2])
        mixer(*names, *arguments[:4], "--resume")
        assert Path("found.csv").read_bytes() == whole

    def test_parquet_keeps_whole_parts(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        arrow = pytest.importorskip("pyarrow.parquet")
        monkeypatch.setattr(parquet, "ROWS", 6)
        file = tmp_path / "found.parquet"
        arguments = (folder, *WEIGHTS, "--output", file, "--batch", 3)
        mixer(*arguments)
        whole = arrow.read_table(file).to_pylist()
        parts = [path.name for path in sorted(file.iterdir())]
        assert parts == ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
        (file / parts[2]).unlink()
        (file / parts[1]).rename(file / f".{parts[1]}.part")  # as a kill leaves it
        mixer(*arguments, "--resume")
        assert arrow.read_table(file).to_pylist() == whole
        assert not list(file.glob(".*"))

    def test_new_images_are_added(self, folder: Path, photos: list[Path], tmp_path: Path):
        file = tmp_path / "found.jsonl"
        mixer(folder, *WEIGHTS, "--output", file)
        before, names = file.read_text(), written(folder)
        os.link(photos[0], folder / "a" / "aaa.jpg")
        mixer(folder, *WEIGHTS, "--output", file, "--resume")
        assert file.read_text().startswith(before)
        assert [line["path"] for line in lines(file)] == [*names, str(folder / "a" / "aaa.jpg")]

    def test_what_would_not_fit_is_refused(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], says: Says
    ):
        file, rows = tmp_path / "found.jsonl", tmp_path / "found.npy"
        mixer(folder, *WEIGHTS, "--output", file)
        whole = file.read_bytes()
        goes_on = (folder, "--output", file, "--resume")
        for arguments in (
            (folder, *WEIGHTS, "--output", file),
            (*goes_on, *WEIGHTS, "--top", 2),
            goes_on,
            (*goes_on, *WEIGHTS, "--embeddings", rows),
        ):
            capsys.readouterr()
            mixer(*arguments, code=2)
            said = capsys.readouterr().err
            says.check(said.partition(": it has ")[0])  # and what it says about one image, in figures
            assert said.count("\n") == 1
        file.write_text("one line\nanother\n")
        capsys.readouterr()
        mixer(*goes_on, code=1)
        says.check(capsys.readouterr().err)
        file.write_bytes(whole)

    def test_killed_twice_and_stopped_once_it_is_the_same_file(self, photos: list[Path], tmp_path: Path):
        (many := tmp_path / "many").mkdir()
        for number in range(300):
            os.link(photos[number % 10], many / f"{number:04}.jpg")
        whole, file, rows = (tmp_path / name for name in ("whole.jsonl", "found.jsonl", "found.npy"))
        mixer(many, *WEIGHTS, "--output", whole)
        arguments = (many, *WEIGHTS, "--output", file, "--embeddings", rows, "--resume", "--batch", 2)
        for number, reached in ((signal.SIGKILL, 0.1), (signal.SIGKILL, 0.3), (signal.SIGINT, 0.6)):
            with Mixer("predict", *arguments) as process:
                size = reached * whole.stat().st_size
                wait_for(lambda size=size: file.exists() and file.stat().st_size > size, process.process)
                process.send(number)
                ended = process.finish()
            if number == signal.SIGINT:
                assert ended.code == 130
                assert ended.err.splitlines()[-1] == (
                    f"mixer: stopped after {len(lines(file))} images in {file}; run the same command with --resume"
                )
            else:
                assert ended.code == -signal.SIGKILL
            assert 0 < file.stat().st_size < whole.stat().st_size
        mixer(*arguments)
        assert file.read_bytes() == whole.read_bytes()
        assert np.load(rows).shape == (300, 96)

    def test_ctrl_c_stops_waiting_for_paths(self, says: Says):
        with Mixer("predict", "-", *WEIGHTS, "--json") as process:
            place = Path(f"/proc/{process.process.pid}")
            wait_for(
                lambda: len([*(place / "task").iterdir()]) > 1 and "pipe" in (place / "wchan").read_text(),
                process.process,
            )
            process.send(signal.SIGINT)
            process.process.join()
            ended = process.finish()
        assert ended.code == 130
        says.check(ended.err)


class TestOneWriter:
    @pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
    def test_a_second_one_is_refused_until_the_first_has_ended(
        self, ending: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], says: Says
    ):
        if ending == "parquet":
            pytest.importorskip("pyarrow")
        file, rows = tmp_path / f"found.{ending}", tmp_path / "found.npy"
        elsewhere = tmp_path / "another.csv"
        with Mixer("predict", "-", "--output", file, "--embeddings", rows) as first:
            wait_for(rows.exists, first.process)  # it waits for names
            for second in (
                ("--output", file),
                ("--output", file, "--resume"),
                ("--output", elsewhere, "--embeddings", rows, "--resume"),
                ("--json", "--embeddings", rows),
            ):
                mixer(photos[0], *second, code=1)
                said = capsys.readouterr().err
                assert str(rows if rows in second else file) in said
                says.check(said)
                assert said.count("\n") == 1
        assert not elsewhere.exists()
        mixer(*photos, "--output", file, "--embeddings", rows, "--resume")
        assert np.load(rows).shape[0] == 10
        assert len(list(files_of(format_of(file)).records(file))) == 10
        assert not list(tmp_path.glob(".*"))

    def test_two_that_start_together_leave_whole_rows(self, photos: list[Path], tmp_path: Path):
        """One of them writes, or one after the other; never both at once."""
        folders = [tmp_path / name for name in "ab"]
        for folder in folders:
            folder.mkdir()
            for number in range(100):
                os.link(photos[number % 10], folder / f"{number:03}.jpg")
        file = tmp_path / "found.csv"
        with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
            commands = [Mixer("predict", folder, "--output", file, "--resume") for folder in folders]
            ended = list(pool.map(Mixer.finish, [stack.enter_context(command) for command in commands]))
        assert 0 in [one.code for one in ended]
        assert all(one.code == 0 or "another process is writing" in one.err for one in ended)
        wrote = [folder for folder, one in zip(folders, ended, strict=True) if one.code == 0]
        there = sorted(one.path for one in files_of("csv").records(file))
        assert there == sorted(str(path) for folder in wrote for path in folder.iterdir())


class TestNoRoom:
    @pytest.mark.parametrize(("ending", "most"), [("csv", 700), ("jsonl", 2000), ("parquet", 1000), ("npy", 1500)])
    def test_a_file_that_cannot_grow_is_gone_on_with(
        self, ending: str, most: int, folder: Path, tmp_path: Path, says: Says
    ):
        if ending == "parquet":
            pytest.importorskip("pyarrow")
        said = {"npy": "csv"}.get(ending, ending)
        arguments: dict[str, list[str]] = {}
        for name in ("whole", "found"):
            rows = ["--embeddings", str(tmp_path / f"{name}.npy")] if ending == "npy" else []
            arguments[name] = [str(folder), "--output", str(tmp_path / f"{name}.{said}"), *rows, "--batch", "2"]
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
        ended = run_mixer("predict", *arguments["found"], prepare=limit)
        assert ended.code == 1
        says.check(ended.err.splitlines()[-1])
        assert "Traceback" not in ended.err
        mixer(*arguments["found"], "--resume")
        mixer(*arguments["whole"])
        for end in {said, ending}:
            found, whole = (tmp_path / f"{name}.{end}" for name in ("found", "whole"))
            if end == "parquet":
                records = files_of("parquet").records
                assert list(records(found)) == list(records(whole))
                assert len(list(records(found))) == 20
            else:
                assert found.read_bytes() == whole.read_bytes()

    @pytest.mark.parametrize("form", ["--csv", "--json", "--top=2"])
    def test_standard_output_that_is_full_or_closed_is_one_line(self, form: str, photos: list[Path], says: Says):
        for prepare in (fill_output, partial(os.close, 1)):
            ended = run_mixer("predict", *photos[:2], form, prepare=prepare)
            assert ended.code == 1
            says.check(ended.err.splitlines()[-1])
            assert "Traceback" not in ended.err

    def test_closed_streams_are_nobodys_file(self, photos: list[Path], tmp_path: Path):
        """What would be printed does not end in the file that is opened next."""
        file = tmp_path / "found.csv"
        command = [*MIXER, "predict", *map(str, photos), "nowhere.jpg", "--output", str(file)]
        subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=True)
        assert [one.path for one in files_of("csv").records(file)] == [*map(str, photos)]
        ended = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *MIXER, "predict", "no.jpg"], capture_output=True)
        assert (ended.returncode, ended.stdout) == (1, b"")


def fill_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


class TestOrderedPool:
    @pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 100])
    def test_everything_in_order(self, number: int):
        ended = [threading.Event() for _ in range(0, number, 4)]

        def work(piece: list[int]) -> list[int]:
            place = piece[0] // 4
            if place % 3 == 0 and place + 1 < len(ended):  # it ends after the one that begins after it
                assert ended[place + 1].wait(60)
            ended[place].set()
            return [item * item for item in piece]

        found = [
            pair for piece in ordered_pool.in_order(work, range(number), threads=3, batch_size=4) for pair in piece
        ]
        assert found == [(item, item * item) for item in range(number)]

    def test_never_more_in_hand_than_that(self):
        taken = asked = most = done = 0
        more = threading.Condition()

        def numbers() -> Iterator[int]:
            nonlocal asked, most
            for number in range(5000):
                asked += 1
                most = max(most, asked - taken)
                yield number

        def work(piece: list[int]) -> list[int]:
            nonlocal done
            with more:
                done += len(piece)
                more.notify()
            return piece

        for piece in ordered_pool.in_order(work, numbers(), threads=2, batch_size=8):
            with more:  # whoever takes is slower than who works
                assert more.wait_for(lambda: done == asked, 60)
            taken += len(piece)
        assert (asked, taken) == (5000, 5000)
        assert most <= 2 * ordered_pool.AHEAD * 8 + 8  # and the piece that is handed over

    def test_an_error_ends_it_and_leaves_torch_as_it_was(self):
        before, threads = torch.get_num_threads(), threading.active_count()

        def work(piece: list[int]) -> list[int]:
            assert torch.get_num_threads() == 1
            return [1 // (item - 50) for item in piece]

        with pytest.raises(ZeroDivisionError):
            list(ordered_pool.in_order(work, range(100), threads=2, batch_size=4))
        assert torch.get_num_threads() == before
        assert threading.active_count() == threads


class TestPaths:
    def test_a_folder_that_holds_itself(self, folder: Path):
        (folder / "b" / "again").symlink_to(folder)
        said: list[str] = []
        found = list(paths.images([str(folder)], said.append))
        assert sorted(found) == sorted([*written(folder), str(folder / "b" / "broken.jpg")])
        assert said == [f"{folder / 'b' / 'again'} is a link to a folder that it lies in"]

    def test_the_link_is_named_and_not_a_folder_that_is_seen_through_it(self, folder: Path):
        (folder / "b" / "again").symlink_to(folder)
        said: list[str] = []
        found = list(paths.images([str(folder / "b")], said.append))
        assert said == [f"{folder / 'b' / 'again'} is a link to a folder that it lies in"]
        assert not any("again" in path for path in found)

    def test_an_empty_folder(self, tmp_path: Path, says: Says):
        with says(DataError):
            list(paths.images([str(tmp_path)], print))

    def test_a_million_names_are_told_apart(self):
        seen = ResumeIndex(f"folder/{number}.jpg" for number in range(0, 30_000, 3))
        assert len(seen) == 10_000
        assert [f"folder/{number}.jpg" in seen for number in range(3000)] == [n % 3 == 0 for n in range(3000)]
        assert "x" not in ResumeIndex([])


Answers = list[tuple[str, Prediction | ImageError]]


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # otherwise it waits for all else that the machine does
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.mark.usefixtures("local_cluster")
class TestCluster:
    settings: ClassVar = {"batch_size": 4, "precision": "bf16"}

    def test_every_image_is_answered_once_though_a_process_is_killed(self, photos: list[Path], tmp_path: Path):
        names = [str(tmp_path / f"{number:03}.jpg") for number in range(120)]
        for number, name in enumerate(names):
            os.link(photos[number % 10], name)
        names.insert(60, str(tmp_path / "broken.jpg"))
        Path(names[60]).write_bytes(b"no image")
        found: Answers = []
        killed = 0
        for piece in cluster.pieces(names, load("mixer_clothing"), self.settings, address="local", cores=1):
            found += piece
            if killed == 0 and len(found) >= 20:
                killed = kill_one_at_work()
        assert killed
        assert [path for path, _ in found] == names
        assert isinstance(found[60][1], ImageError)
        alone = Predictor("mixer_clothing", precision="bf16").stream(names)
        assert without_errors(found) == without_errors(alone)

    def test_an_image_that_kills_its_readers_is_left_out(self, photos: list[Path], monkeypatch: pytest.MonkeyPatch):
        class Mortal(cluster.Member):
            def answer(self, paths: list[str]) -> list[Prediction | ImageError]:
                if "deadly.jpg" in paths:
                    os._exit(1)
                return super().answer(paths)

        monkeypatch.setattr(cluster, "Member", Mortal)
        names = [*map(str, photos[:5]), "deadly.jpg", *map(str, photos[5:])]
        pieces = cluster.pieces(names, load("mixer_clothing"), self.settings, address="local", cores=1)
        found = [pair for piece in pieces for pair in piece]
        assert [path for path, _ in found] == names
        assert str(found[5][1]) == "deadly.jpg ends the process that reads it"
        assert len(without_errors(found)) == 10


def kill_one_at_work() -> int:
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words, parent = status.read_bytes(), status.with_name("stat").read_text()
        except OSError:
            continue
        if words.startswith(b"ray::Member") and is_below(int(parent.rsplit(")", 1)[1].split()[1])):
            os.kill(int(status.parent.name), signal.SIGKILL)
            return int(status.parent.name)
    return 0


def is_below(process: int) -> bool:
    """Whether it is one of ours."""
    while process > 1:
        if process == os.getpid():
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return False


def without_errors(found: Iterable[tuple[str, Prediction | ImageError]]) -> list[tuple[str, Prediction]]:
    return [(path, one) for path, one in found if isinstance(one, Prediction)]
