"""What people see in a terminal: at 80 columns, and at 120."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import pytest
from terminals import mixer_in_terminal

from mlpmixer import __version__
from mlpmixer.cli import COMMANDS, EXAMPLES, main, parse, summary
from mlpmixer.train.progress import FIELDS, fitting

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
