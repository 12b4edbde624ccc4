"""The command, as a person and as a script use it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from in_processes import Mixer
from messages import Says

from mlpmixer import __version__, list_models
from mlpmixer.cli import main, parse
from mlpmixer.cli.demo import show
from mlpmixer.errors import RunStopped
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import find, toml
from mlpmixer.train.loop import StopSignals
from mlpmixer.weights.bundled import PHOTO


def mixer(*arguments: str, code: int = 0) -> None:
    """Runs the command in this process, and checks how it ends."""
    ended = 0
    try:
        main(list(arguments))
    except SystemExit as end:
        ended = end.code
    assert ended == code


def test_help_and_version(capsys: pytest.CaptureFixture[str]):
    mixer("--help")
    assert "models" in capsys.readouterr().out
    mixer()
    assert "predict" in capsys.readouterr().out
    mixer("--version")
    assert capsys.readouterr().out == f"mixer {__version__}\n"


def test_models_lists_all(capsys: pytest.CaptureFixture[str]):
    mixer("models", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list_models()
    assert rows[3]["params"] == 59_880_472
    assert rows[3]["params_without_head"] == 59_111_472
    assert rows[3]["image_size"] == 224
    assert rows[3]["gmacs"] == pytest.approx(12.6018, abs=1e-4)
    mixer("models")
    out = capsys.readouterr().out
    assert "59,111,472" in out
    assert "59 M" in out


def test_one_model_at_another_size(capsys: pytest.CaptureFixture[str]):
    mixer("models", "Mixer-B/16", "--image-size", "320x192", "--json")
    (row,) = json.loads(capsys.readouterr().out)
    assert row["image_size"] == [320, 192]
    assert row["tokens"] == 240


def test_the_ledger(capsys: pytest.CaptureFixture[str]):
    mixer("models", "--weights", "--json")
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries[:2]] == ["mixer_cifar10", "mixer_clothing"]
    assert all(entry["url"].startswith("https://") and entry["says"] for entry in entries[2:])
    mixer("models", "mixer_b16", "--weights")
    out = capsys.readouterr().out
    assert "mixer_b16.imagenet21k" in out
    assert "vit_" not in out.replace("storage.googleapis.com", "")


def test_names_from_outside_are_shown_and_do_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    mixer("export", "a\nmixer: all is well \x1b]52;c;aGk=\x07", "--to", "onnx", code=2)
    said = capsys.readouterr().err
    assert said.startswith(r"mixer: there is no file 'a\nmixer: all is well \x1b]52;c;aGk=\x07'")
    assert said.count("\n") == 1
    folder = tmp_path / "runs" / "[/b]"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(
        toml.dumps(find("cifar10")).replace('"cifar10"', '"[link=file:x]\\u001b[2J"', 1)
    )
    mixer("runs", str(tmp_path / "runs"))
    out = capsys.readouterr().out
    assert "[/b]" in out
    assert "\x1b" not in out


def test_predict(capsys: pytest.CaptureFixture[str], photos: list[Path]):
    mixer("predict", str(PHOTO))
    assert re.search(r"cat.jpg +cat ", capsys.readouterr().out)
    mixer("predict", *map(str, photos[:3]), "--weights", "mixer_clothing", "--top", "2", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [str(photo) for photo in photos[:3]]
    assert all(len(line["top"]) == 2 and line["label"] == line["top"][0]["label"] for line in lines)
    mixer("predict", str(photos[0]), "--weights", "mixer_clothing")
    assert "dress" in capsys.readouterr().out


def test_a_broken_image_among_good_ones(capsys: pytest.CaptureFixture[str], photos: list[Path], tmp_path: Path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:500])
    arguments = ("predict", str(broken), str(photos[0]), "--weights", "mixer_clothing", "--json")
    mixer(*arguments)
    seen = capsys.readouterr()
    assert len(seen.out.splitlines()) == 1
    assert seen.err.startswith(f"mixer: skipped: {broken} is not a readable image")
    mixer(*arguments, "--strict", code=1)


def test_mistakes_get_one_line(capsys: pytest.CaptureFixture[str], says: Says):
    for line, code in (
        ("modles", 2),
        ("models --jsn", 2),
        ("models mixer_b61", 2),
        ("models mixer_b16 --image-size large", 2),
        ("predict x.jpg --weights nowhere.npz", 2),
        ("predict x.jpg", 1),
        ("evaluate x --output /proc/no/card.json", 2),
        ("runs . --curves /proc/no/curves.svg", 2),
        ("predict", 2),
        (f"predict {PHOTO} --top 0", 2),
        ("train fashion_mnist --data.val= --grid optim.lr=0.1,0.2 --grid optim.lr=0.3", 2),
    ):
        mixer(*line.split(), code=code)
        err = capsys.readouterr().err
        says.check(err)
        assert err.count("\n") == 1, line
    for line, begin in (
        ("predict x.jpg --weights", "Missing value for argument '--weights'"),
        ("predict x.jpg --top few", "Error parsing --top"),
    ):
        mixer(*line.split(), code=2)
        err = capsys.readouterr().err
        assert err.startswith(f"mixer: {begin}")  # the rest is the parser's
        assert err.count("\n") == 1, line


@pytest.fixture(scope="module")
def small_demo() -> Recipe:
    """The demo's recipe, with two classes, few images and few steps."""
    changes = {"data.classes": "Ankle boot,Bag", "data.shots": 40, "data.val": "2%", "train.steps": 6}
    changes |= {"train.batch_size": 20, "optim.warmup_steps": 0, "machine.workers": 0, "model.options.layers": 2}
    return toml.change(find("fashion_mnist"), {**changes, "evaluation.every_epochs": 2})


def test_demo(small_demo: Recipe, capsys: pytest.CaptureFixture[str], tmp_path: Path, says: Says):
    folder = tmp_path / "the demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignals, "__enter__", lambda stop: stop.handle(signal.SIGINT, None) or stop)  # Ctrl-C at once
        with says(RunStopped):
            show(small_demo, folder)
    assert "begins" in capsys.readouterr().out

    show(small_demo, folder)
    out = capsys.readouterr().out
    assert "is resumed" in out
    assert "(2,000 images)" in out
    assert "Ankle boot" in out
    assert "<svg" in (folder / "image.svg").read_text()

    # What it says to do next works, word for word.
    commands = [shlex.split(line, comments=True) for line in out.splitlines() if line.startswith("  mixer ")]
    assert [command[1] for command in commands] == ["predict", "report", "train", "recipes"]
    for command in commands:
        parse(command[1:])
    mixer(*commands[0][1:])
    assert "Ankle boot" in capsys.readouterr().out

    show(small_demo, folder)
    again = capsys.readouterr().out
    assert "is finished" in again
    assert f"mixer demo --folder '{folder}-2'" in again
    assert "epoch" not in again


def test_demo_in_the_folder_of_another_run(small_demo: Recipe, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(toml.dumps(small_demo))
    mixer("demo", "--folder", str(tmp_path), code=1)
    err = capsys.readouterr().err
    assert err.startswith(f"mixer: {tmp_path} already holds a run with a different recipe (")  # and all that differs
    assert err.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error():
    """`mixer recipes | head -1`"""
    command = [sys.executable, "-m", "mlpmixer", "recipes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
    for words in ("models --weights --json", "doctor fashion_mnist_small --max 50"):
        with Mixer(*words.split()) as process:
            process.stdout.close()
            assert process.stderr.read() == "", words
            process.process.join()
            assert process.process.exitcode == 0, words


def test_offline_the_error_names_the_place_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], says: Says
):
    monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    mixer("predict", str(PHOTO), "--weights", "mixer_b16.imagenet1k", code=1)
    err = capsys.readouterr().err
    says.check(err)
    assert err.count("\n") == 1


def test_a_terminal_that_knows_only_ascii():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "mlpmixer", "models"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "59,880,472" in ended.stdout


def test_a_number_never_loses_its_end_in_a_narrow_terminal():
    ours, theirs = os.openpty()
    row = [40 * "w ", "10,000,000", 40 * "x"]
    code = f"from mlpmixer.cli.output import print_table; print_table(['a name', 'count', 'it'], [{row}])"
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True, env={**os.environ, "COLUMNS": "60"})
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "10,000,000" in shown
    assert shown.count("w") == 40
    assert shown.count("x") == 40
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())) <= 60
