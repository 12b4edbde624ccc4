"""`mixer bench`: the systems take turns, compute the same, and are counted rightly."""

from __future__ import annotations

import json
import time

import pytest

from mlpmixer.bench.turns import Times, in_turns, ratio
from mlpmixer.cli import main


def test_everyone_has_a_turn_in_each_round_and_nobody_is_always_first():
    seen: list[str] = []
    times = in_turns({name: lambda name=name: seen.append(name) for name in "abc"}, rounds=4, warm_up=1)
    assert "".join(seen) == "abc" + "abc" + "cba" + "abc" + "cba"
    assert {name: len(taken.seconds) for name, taken in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_ratios_are_taken_within_rounds():
    """A machine that slows down for a round slows all down: that is no difference between them."""
    ours, theirs = Times((1.0, 1.0, 5.0)), Times((2.0, 2.0, 10.0))
    assert ratio(ours, theirs) == (2.0, 2.0, 2.0)
    assert ours.median == 1.0
    assert Times((1.0, 1.0, 1.0, 1.0)).spread == 0.0


def test_times_are_those_of_the_runs():
    times = in_turns({"quick": lambda: None, "slow": lambda: time.sleep(0.02)}, rounds=2, warm_up=0)
    assert times["slow"].median >= 0.02


@pytest.mark.usefixtures("timm")
def test_training_beside_timm(capsys: pytest.CaptureFixture[str]):
    main(["bench", "train", "--models", "mixer_s32:2", "--rounds", "2", "--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = found["rows"]
    assert {row["system"] for row in rows} == {"timm", "mlpmixer"}
    # The same weights and pictures: the same loss, so nobody is fast by computing something else.
    losses = [row["loss"] for row in rows]
    assert max(losses) - min(losses) < 0.01
    assert all(row["images_per_s"] > 0 and row["kept_mb"] > 0 for row in rows)
    assert set(found["ahead"]) == {"mixer_s32"}
    assert found["ceilings"]["matrix_bf16_flop_per_s"] > 0
    assert found["machine"]["torch"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--models", "mixer_s32"], "looks like mixer_s32:64"),
        (["--models", "mixer_pico:8"], "timm has no mixer_pico"),
    ],
)
@pytest.mark.usefixtures("timm")
def test_what_cannot_be_compared_is_said(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["bench", "train", *arguments, "--rounds", "2", "--quick"])
    assert end.value.code == 2
    assert says in capsys.readouterr().err
