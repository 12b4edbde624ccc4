"""What is refused before the work begins, and before torch is imported: mistakes get one line, at once."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from datasets import config
from huggingface_hub import constants

from mlpmixer.cli import main
from mlpmixer.data.sources import hub
from mlpmixer.errors import RecipeError
from mlpmixer.recipes import find, toml
from mlpmixer.recipes.check import require_source


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The line that the command ends with."""
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (code, "", 1), err
    return err.removeprefix("mixer: ").removesuffix("\n")


# Arguments, exit code, and how the line begins.
MISTAKES = [
    (["trian"], 2, "there is no command 'trian'; did you mean 'train'?"),
    (["help", "trian"], 2, "there is no command 'trian'; did you mean 'train'?"),
    (["train"], 2, "train needs FILE|NAME: a recipe file, or a name from `mixer recipes`, such as photos for your own"),
    (["train", "fotos"], 2, "no recipe is called 'fotos'; did you mean 'photos'?"),
    (["train", "nowhere.toml"], 2, "cannot read nowhere.toml: No such file"),
    (["train", "photos", "--data.source", "photoz"], 1, "there is no data set 'photoz'; did you mean 'photos'?"),
    (["train", "cifar10", "--train.batch_size", "0"], 2, "train.batch_size must be 1 or more; got 0"),
    (["train", "cifar10", "--model.weights", "mixer_cfar10"], 2, "there is no file 'mixer_cfar10' and no known check"),
    (["evaluate"], 2, "evaluate needs RUN|FILE|NAME: a run folder, a file of weights, or a name"),
    (["evaluate", "runs/none"], 2, "there is no run 'runs/none'; did you mean 'runs/nine'?"),
    (["evaluate", "mixer_cifar10", "--data", "photoz"], 1, "there is no data set 'photoz'; did you mean 'photos'?"),
    (
        ["evaluate", "runs/none", "--bathc-size", "3"],
        2,
        "evaluate has no option '--bathc-size'; did you mean '--b",
    ),
    (["predict"], 2, "give one image or more"),
    (["predict", "phto.jpg"], 1, "there is no file phto.jpg; did you mean 'photo.jpg'?"),
    (["predict", "a.jpg", "b.jpg", "c.jpg"], 1, "there is no file a.jpg, nor any of the other 2"),
    (["predict", "photo.jpg", "--weights", "runs/none"], 2, "there is no run 'runs/none'; did you mean 'runs/nine'?"),
    (["predict", "photo.jpg", "--weights", "runs"], 1, "runs is a folder, but no run; give a run folder, or the check"),
    (["interpret", "runs/none.pth"], 2, "there is no file 'runs/none.pth'"),
    (["interpret", "mixer_cifar10", "--image", "phto.jpg"], 2, "there is no file phto.jpg; did you mean 'photo.jpg'?"),
    (["report", "runs/none"], 2, "there is no run 'runs/none'; did you mean 'runs/nine'?"),
    (["export", "runs/none", "--to", "onnx"], 2, "there is no run 'runs/none'; did you mean 'runs/nine'?"),
    (["export", "mixer_cifar10"], 2, "export needs --to onnx|openvino|pt2|safetensors: onnx, for ONNX Runtime;"),
    (["doctor", "photoz"], 1, "there is no data set 'photoz'; did you mean 'photos'?"),
    (["pack", "photoz", "packed"], 1, "there is no data set 'photoz'; did you mean 'photos'?"),
    (["bench", "data", "photoz"], 2, "photoz is no folder of image files; did you mean 'photos'?"),
    (["models", "mixer_b61"], 2, "no model is called 'mixer_b61'; did you mean 'mixer_b16'?"),
    (["recipes", "fotos"], 2, "no recipe is called 'fotos'; did you mean 'photos'?"),
]
# What people type who know other programs, and where it leads.
ALIASES = {
    "--epochs": "--train.epochs",
    "--lr": "--optim.lr",
    "--learning-rate": "--optim.lr",
    "--learning_rate": "--optim.lr",
    "--batch-size": "--train.batch_size",
    "--batch": "--train.batch_size",
    "--workers": "--machine.workers",
    "--num-workers": "--machine.workers",
    "--seed": "--train.seed",
    "--device": "--machine.device",
    "--imgsz": "--model.image_size",
    "--weights": "--model.weights",
    "--pretrained": "--model.weights",
    "--model": "--model.name",
    "--data": "--data.source",
    "--optimizer": "--optim.name",
    "--weight-decay": "--optim.weight_decay",
    "--precision": "--train.precision",
}


def test_mistakes_are_told_before_torch_is_imported(tmp_path: Path):
    """In a process of its own: here torch is imported already."""
    for name in ("photos", "runs/nine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "photo.jpg").touch()
    code = f"""
import contextlib, io, os, sys
from mlpmixer.cli import main
os.chdir({str(tmp_path)!r})
failures = []
for arguments, code, begins in {MISTAKES!r}:
    said, ended, before = io.StringIO(), 0, "torch" in sys.modules
    with contextlib.redirect_stderr(said):
        try:
            main(arguments)
        except SystemExit as end:
            ended = end.code
    line = said.getvalue().removeprefix("mixer: ")
    imported = not before and "torch" in sys.modules
    if not line.startswith(begins) or line.count("\\n") != 1 or ended != code or imported:
        failures.append((arguments, line, ended, imported))
assert not failures, "\\n".join(map(str, failures))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_other_programs_call_an_option_leads_to_ours(capsys: pytest.CaptureFixture[str]):
    for typed, ours in ALIASES.items():
        assert refused(capsys, "train", "photos", typed, "3").startswith(
            f"train has no option '{typed.replace('_', '-')}'; did you mean {ours}?"
        )
    assert refused(capsys, "train", "photos", "--optim.learning_rate", "3") == (
        "a recipe has no 'optim.learning_rate'; did you mean 'optim.lr'?"
    )
    names = {name for meant in toml.ALIASES.values() for name in meant}
    assert names <= {*toml.fields()}


class TestOwnPhotos:
    def test_a_folder_that_nobody_named(self, capsys: pytest.CaptureFixture[str], tmp_path: Path):
        for name in ("photos", "photos_b16", "photos_from_scratch"):
            assert refused(capsys, "train", name) == (
                f"{name} trains on your own images: name their folder with --data.source FOLDER (in it a folder for "
                "each class; 'my-photos' only holds the place)"
            )
        path = tmp_path / "my.toml"
        path.write_text(toml.dumps(find("photos")))
        assert "--data.source FOLDER" in refused(capsys, "train", str(path))
        with pytest.raises(RecipeError, match=r"--data\.source FOLDER"):
            require_source(find("photos"))

    def test_a_folder_may_be_called_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "my-photos").mkdir()
        require_source(find("photos"))


class TestHubWithoutNetwork:
    @pytest.fixture(autouse=True)
    def _no_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
        monkeypatch.setattr(hub, "PATIENCE", 0.3)

    def test_a_hub_that_refuses(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
            assert refused(capsys, "doctor", "hf:food101", code=1) == (
                "cannot open hf:food101: no connection to 127.0.0.1 (Connection refused), and it is not in the cache; "
                "try again later"
            )

    def test_a_hub_that_hangs(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, and says nothing
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            assert refused(capsys, "doctor", "hf:food101", code=1) == (
                "cannot open hf:food101: no answer from 127.0.0.1 in 0.3 seconds, and it is not in the cache; try "
                "again later"
            )
            assert not constants.HF_HUB_OFFLINE

    def test_a_hub_that_answers_is_asked(self, monkeypatch: pytest.MonkeyPatch):
        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_error(503)

            def log_message(self, format: str, *_: object) -> None: ...

        with HTTPServer(("127.0.0.1", 0), Answer) as server:
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            assert hub.why_silent() == ""
            thread.join()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1 in the environment makes it
        assert hub.why_silent() == ""
