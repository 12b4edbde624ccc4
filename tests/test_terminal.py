"""What people see in a terminal: at 80 columns, and at 120."""

from __future__ import annotations

import inspect
import io
import json
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from terminals import mixer_in_terminal

from mlpmixer import Predictor, __version__, list_models
from mlpmixer.cli import COMMANDS, EXAMPLES, main, parse, summary
from mlpmixer.cli.recipes import GROUPS
from mlpmixer.errors import ImageError
from mlpmixer.predict import addresses
from mlpmixer.predict.writers import shortened
from mlpmixer.recipes import RECIPES
from mlpmixer.train.progress import FIELDS, fitting
from mlpmixer.weights.bundled import PHOTO

BAR = {
    "epoch": "epoch 12/40",
    "step": "step 1,234/5,678",
    "loss": "loss 0.588",
    "lr": "lr 0.0012",
    "val": "val acc 76.0 %",
    "speed": "12,394 images/s",
    "mfu": "MFU 38%",
    "unreadable": "2 unreadable",
    "eta": "ETA 00:13",
}


class TestHelp:
    def test_the_overview_is_one_screen(self, capsys: pytest.CaptureFixture[str]):
        lines = mixer_in_terminal(columns=80)
        assert max(map(len, lines)) <= 80
        for name in COMMANDS:
            assert [line for line in lines if line.split()[:1] == [name] or line.split()[1:2] == [name]]
        assert len([line for line in lines if "  mixer " in line]) == 3
        for arguments in ([], ["help"], ["-h"], ["--help"]):
            main([*arguments])
            out = capsys.readouterr().out
            assert out.count("\n") <= 25
            assert [line for line in out.splitlines() if line] == lines
        assert lines[-1].startswith("docs ")

    def test_the_examples_are_commands_that_work(self):
        for example in EXAMPLES:
            parse(shlex.split(example)[1:])

    def test_the_version(self, capsys: pytest.CaptureFixture[str]):
        for argument in ("version", "-V", "--version"):
            main([argument])
            assert capsys.readouterr().out == f"mixer {__version__}\n"

    @pytest.mark.parametrize("columns", [80, 120])
    def test_of_every_command_fits(self, columns: int):
        failures = []
        for name in COMMANDS:
            lines = mixer_in_terminal(name, "--help", columns=columns)
            assert mixer_in_terminal("help", name, columns=columns) == lines
            text = "\n".join(lines)
            bad = [word for word in ("{None}", "(default: )", "(default: None)", "(default: '')") if word in text]
            if bad or max(map(len, lines)) > columns or lines[0] != f"{summary(COMMANDS[name])}.":
                failures.append((name, bad, max(lines, key=len)))
        assert not failures

    def test_positionals_that_may_be_left_out_have_brackets(self):
        failures = []
        for name, command in COMMANDS.items():
            usage = next(line for line in mixer_in_terminal(name, "--help", columns=120) if line.startswith("usage: "))
            shown = re.sub(r"\[(-h|OPTIONS|--[^\]]+)\]", "", usage).split()[3:]
            positionals = inspect.signature(command).parameters.values()
            optional = [one.default is not one.empty for one in positionals if one.kind is one.POSITIONAL_ONLY]
            failures += [usage] if optional != [word.startswith("[") for word in shown] else []
        assert not failures


class TestLists:
    @pytest.mark.parametrize("columns", [80, 120])
    def test_weights_have_a_line_each(self, columns: int):
        lines = mixer_in_terminal("models", "--weights", columns=columns)
        assert max(map(len, lines)) <= columns
        assert lines[0] == "In the package"
        assert re.match(r"mixer_cifar10 +91\.09 %  CIFAR-10  ", lines[1])
        assert re.match(r"mixer_clothing +70\.70 %  clothing photos  ", lines[2])
        assert not [line for line in lines if "://" in line]
        for name in list_models(pretrained=True):
            assert len([line for line in lines if line.split()[0] == name]) == 1
        for line in lines:
            assert "%" not in line or re.search(r"\d\d\.\d\d %  (CIFAR-10|clothing photos|ImageNet) ", line)
        assert len(lines) < len(list_models(pretrained=True)) + 10

    def test_one_of_the_weights_in_full(self, capsys: pytest.CaptureFixture[str]):
        main(["models", "mixer_b16.sam", "--weights"])
        out = capsys.readouterr().out
        assert "url: https://" in out
        assert out.count("name: ") == 1
        main(["models", "mixer_cifar10", "--weights"])
        assert "mixer_cifar10.safetensors" in capsys.readouterr().out
        main(["models", "Mixer-B/16", "--weights"])
        names = re.findall(r"(?m)^name: (.*)", capsys.readouterr().out)
        assert len(names) == 8
        assert all(name.startswith("mixer_b16.") for name in names)

    @pytest.mark.parametrize("columns", [80, 120])
    def test_recipes_have_a_line_each(self, columns: int):
        lines = mixer_in_terminal("recipes", columns=columns)
        assert max(map(len, lines)) <= columns
        assert [len([line for line in lines if line.split()[0] == name]) for name in RECIPES] == [1] * len(RECIPES)
        laptop, gpu, paper = (lines.index(title) for title in GROUPS)
        assert {line.split()[0] for line in lines[laptop:gpu]} >= {"fashion_mnist", "photos", "cifar10"}
        assert lines[gpu + 1].startswith("photos_b16 ")
        assert lines[paper + 1].startswith("imagenet_b16 ")
        assert not [line for line in lines[laptop:gpu] if "…" in line]


class TestDoctor:
    def test_the_page_fits_and_leads_to_training(
        self, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        for number, photo in enumerate(photos):
            place = tmp_path / "my photos" / ("above" if number % 2 else "below")
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, place)
        lines = mixer_in_terminal("doctor", "my photos", "--workers", "0", columns=80)
        (train,) = [line for line in lines if line.startswith("Train on them: ")]
        assert shlex.split(train)[3:] == ["mixer", "train", "photos", "--data.source", str(tmp_path / "my photos")]
        assert [line for line in lines if len(line) > 80 and str(tmp_path) not in line] == []


class TestPredict:
    @pytest.mark.parametrize("columns", [80, 120])
    def test_the_table_fits(self, columns: int, photos: list[Path], tmp_path: Path):
        deep = tmp_path / "a-folder-with-quite-a-long-name" / "and-another-one-in-it-as-people-have-them"
        deep.mkdir(parents=True)
        for photo in photos[:3]:
            shutil.copy(photo, deep)
        lines = mixer_in_terminal("predict", str(deep), columns=columns)
        assert max(map(len, lines)) <= columns
        rows = [line for line in lines if ".jpg" in line]
        assert len(rows) == 3
        for line, photo in zip(rows, photos, strict=False):
            assert re.match(rf" {str(tmp_path)[:5]}.*….*/{photo.name}  \w+ +\d+\.\d%  (\w+ \d+\.\d%(, )?)*$", line)

    def test_in_a_pipe_all_is_whole(self, photos: list[Path], capsys: pytest.CaptureFixture[str]):
        main(["predict", str(photos[0]), "--weights", "mixer_clothing"])
        line = next(line for line in capsys.readouterr().out.splitlines() if ".jpg" in line)
        assert str(photos[0]) in line
        assert line.count("%") == 5

    def test_a_path_is_shortened_in_the_middle(self):
        assert shortened("photos/cats/whiskers.jpg", 24) == "photos/cats/whiskers.jpg"
        assert shortened("photos/cats/whiskers.jpg", 20) == "photos…/whiskers.jpg"
        for width in range(30):
            assert len(shortened("photos/cats/whiskers.jpg", width)) == min(width, 24)

    def test_what_the_default_model_knows_and_when_it_is_unsure(
        self, photos: list[Path], capsys: pytest.CaptureFixture[str]
    ):
        unsure = next(photo for photo in photos if photo.name == "shoes.jpg")
        knows = "mixer: mixer_cifar10 knows 10 classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, "
        main(["predict", str(unsure)])
        err = capsys.readouterr().err.splitlines()
        assert err[0] == f"{knows}truck; use --weights for others"
        assert err[-1].startswith("mixer: unsure: the top score is below 50%")
        main(["predict", str(PHOTO)])
        assert "unsure" not in capsys.readouterr().err
        main(["predict", str(unsure), str(unsure), str(PHOTO)])
        assert "unsure of 2 (top score below 50%)" in capsys.readouterr().err.splitlines()[-1]
        main(["predict", str(PHOTO), "--weights", "mixer_clothing"])
        assert "knows" not in capsys.readouterr().err


class Photos(BaseHTTPRequestHandler):
    """A server of one photograph, and of all that is none."""

    def do_GET(self) -> None:
        name = self.path[1:]
        if name == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        if name == "nowhere.jpg":
            self.send_error(404)
            return
        content = {"page.jpg": b"<html>", "text.jpg": b"no image", "large.jpg": bytes(300_000)}
        data = content.get(name, PHOTO.read_bytes())
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if name == "page.jpg" else "image/jpeg")
        if name != "endless.jpg":
            self.send_header("Content-Length", str(len(data) + (name == "broken.jpg")))
        self.end_headers()
        if name == "silent.jpg":
            self.server.done.wait()  # pyright: ignore[reportAttributeAccessIssue]
        with suppress(OSError):
            self.wfile.write(data)
            while name == "endless.jpg":
                self.wfile.write(bytes(1 << 16))

    def log_message(self, format: str, *_: object) -> None: ...


class TestAddresses:
    @pytest.fixture
    def server(self) -> Iterator[str]:
        with ThreadingHTTPServer(("127.0.0.1", 0), Photos) as server:
            server.done = threading.Event()  # pyright: ignore[reportAttributeAccessIssue]
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.done.set()  # pyright: ignore[reportAttributeAccessIssue]
            server.shutdown()
            thread.join()

    def test_an_image_is_read(self, server: str, capsys: pytest.CaptureFixture[str]):
        main(["predict", f"{server}/photo.jpg", str(PHOTO), "--json"])
        ours, same = map(json.loads, capsys.readouterr().out.splitlines())
        assert ours.pop("path") == f"{server}/photo.jpg"
        assert ours == {name: value for name, value in same.items() if name != "path"}

    def test_what_is_none_gets_a_line(
        self, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        monkeypatch.setattr(addresses, "MOST", 200_000)
        monkeypatch.setattr(addresses, "SECONDS", 0.5)
        why = {
            "nowhere.jpg": " cannot be read: the server answers 404 Not Found",
            "large.jpg": " cannot be read: it is larger than 195.3 kB",
            "endless.jpg": " cannot be read: it is larger than 195.3 kB",
            "silent.jpg": " cannot be read: it is not here after 0.5 seconds",
            "broken.jpg": " cannot be read: the connection broke",
            "page.jpg": " cannot be read: it is a web page",
            "text.jpg": " is not a readable image",
            "elsewhere": " cannot be read: the server answers 302 ",
        }
        failures = []
        for name, reason in why.items():
            with pytest.raises(SystemExit) as end:
                main(["predict", f"{server}/{name}"])
            out, err = capsys.readouterr()
            if (
                out
                or end.value.code != 1
                or err.count("\n") != 1
                or not err.startswith(f"mixer: {server}/{name}{reason}")
            ):
                failures.append((name, out, err))
        assert not failures

    def test_a_list_of_names_names_files_only(
        self, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        names = io.TextIOWrapper(io.BufferedReader(io.BytesIO(f"{server}/photo.jpg\n".encode())))  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(sys, "stdin", names)
        with pytest.raises(SystemExit):
            main(["predict", "-"])
        assert f"skipped: there is no file {server}/photo.jpg" in capsys.readouterr().err

    def test_others_are_predicted_all_the_same(self, server: str, capsys: pytest.CaptureFixture[str]):
        main(["predict", f"{server}/nowhere.jpg", f"{server}/photo.jpg", "--json"])
        out, err = capsys.readouterr()
        assert out.count("\n") == 1
        assert f"mixer: skipped: {server}/nowhere.jpg cannot be read: the server answers 404" in err

    def test_an_address_is_one(self, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(SystemExit) as end:
            main(["predict", "https://host/a photo.jpg"])
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith(
            "mixer: cannot fetch 'https://host/a photo.jpg'; an address looks like"
        )

    def test_a_program_s_strings_name_files_only(self, server: str):
        with pytest.raises(ImageError, match="there is no file"):
            Predictor("mixer_cifar10")(f"{server}/photo.jpg")


class TestTrain:
    @pytest.mark.parametrize("columns", [80, 120])
    def test_the_bar_of_a_run_is_one_line(self, columns: int, tmp_path: Path):
        quick = {"data.classes": "Bag,Coat", "data.shots": 40, "data.val": "2%", "data.test": "", "train.steps": 6}
        quick |= {"train.batch_size": 20, "machine.log_every": 1, "machine.workers": 0, "optim.warmup_steps": 0}
        changes = [word for name, value in quick.items() for word in (f"--{name}", str(value))]
        lines = mixer_in_terminal(
            "train", "fashion_mnist", *changes, "--folder", str(tmp_path / "run"), columns=columns
        )
        assert {line for line in lines if len(line) > columns or "…" in line} <= {lines[-1]}  # the path of the weights
        assert lines[0].startswith("recipe  fashion_mnist: 6 steps in fp32 on cpu, in ")
        drawn = [line for line in lines if "━" in line]
        whole = (
            r"epoch \d/2  (step \d/6  )?━.*  loss \d\.\d{3}  (lr .*  )?val acc .* %  [\d,]+ images/s  (MFU .*  )?ETA .*"
        )
        assert [line for line in drawn if re.match(whole, line)]
        for line in drawn:
            assert len(line) == columns
            assert re.match(r"epoch \d/2  .*ETA [\d:-]+$", line)

    def test_a_narrow_terminal_leaves_out_what_matters_least(self):
        for columns in range(4, 200):
            fields = fitting(BAR, columns)
            line = "  ".join(fields.values())
            assert len(line) <= max(columns, len(BAR["epoch"]))
            left_out = [rank for name, rank in FIELDS.items() if name not in fields]
            assert min(left_out, default=99) > max(FIELDS[name] for name in fields)
            assert "track" not in fields or len(line) == columns
        assert [*fitting(BAR, 80)] == ["epoch", "track", "loss", "val", "speed", "eta"]
        assert [*fitting(BAR, 120)] == [name for name in FIELDS if name != "mfu"]
        assert [*fitting(BAR, 130)] == [*FIELDS]
