"""`mixer bench serve`: what is counted, what the verdicts are, and that each part measures a real service."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mlpmixer.bench.interleave import Times
from mlpmixer.bench.serving import attacks, capacity, overload, requests, soak, systems, wrk
from mlpmixer.bench.serving.bar import Bar
from mlpmixer.bench.serving.client import Connection
from mlpmixer.bench.serving.processes import PAGE, TICKS, usage_of
from mlpmixer.cli import main
from mlpmixer.errors import RunError

# A line of /proc/PID/stat: what stands before, session, user and system ticks, pages.
STAT = "{pid} ({name}) S 1 {pid} {session} 0 -1 4194560 10 0 0 0 {user} {system} 99 99 20 0 3 0 500 9999 {pages} 18446"
MB = 1e6


def test_a_session_is_what_its_processes_use(tmp_path: Path):
    """Whatever they are called, and whoever their parent is; and nobody else."""
    rows = [(7, "mixer", 7, 100, 20, 1000), (8, "a) S 1 (b", 7, 5, 5, 500), (9, "other", 9, 7000, 0, 9000)]
    for pid, name, session, user, system, pages in rows:
        folder = tmp_path / str(pid)
        folder.mkdir()
        line = STAT.format(pid=pid, name=name, session=session, user=user, system=system, pages=pages)
        (folder / "stat").write_text(line)
    (tmp_path / "10").mkdir()  # has just ended
    (tmp_path / "self").mkdir()
    found = usage_of(7, tmp_path)
    assert (found.cpu, found.rss, found.processes) == (130 / TICKS, 1500 * PAGE, 2)
    assert usage_of(os.getsid(0)).rss > 10 * MB  # the real ones


def test_what_wrk_says():
    result = {"microseconds": 2_000_000, "requests": 1200, "p50": 25_000, "p99": 40_500, "status": 3}
    said = f"Running 2s test\n{wrk.MARK}{json.dumps({**result, 'connect': 1, 'read': 2, 'write': 0, 'timeout': 4})}\n"
    assert wrk.load_of(said) == wrk.Load(2.0, 1197, 0.025, 0.0405, 10)
    with pytest.raises(RunError, match="unable to connect"):
        wrk.load_of("Running 2s test\n", "unable to connect to 127.0.0.1:1 Connection refused\n")


def test_a_bar_is_met_or_missed():
    assert Bar("a", 1.0, "≤", 1.0).met
    assert not Bar("a", 1.01, "≤", 1.0).met
    assert Bar("a", 1.01, "≥", 1.0).met
    assert not any(Bar("nothing was measured", math.nan, relation, 1.0).met for relation in ("≤", "≥"))
    assert Bar("a", 12345.6, "≤", 20, "MB").cells() == ["a", "1.235e+04 MB", "≤ 20 MB", "MISSED"]


def row(system: str, body: str, clients: int, wall: tuple[float, ...], cpu: tuple[float, ...], p99: float = 40):
    base = (Times((0.001, 0.004)), Times((0.002, 0.002)))
    turn = capacity.Turn(system, body, Usages(), lambda *_: pytest.fail("nobody is asked"))  # pyright: ignore[reportArgumentType]
    slices = [capacity.Slice(a, b, p99 / 2000, p99 / 1000, 0) for a, b in zip(wall, cpu, strict=True)]
    return capacity.capacity_row(turn, clients, slices, base)


class Usages:
    def usage(self):
        return usage_of(os.getsid(0))


def test_shares_and_ratios_are_of_rounds():
    """The machine was four times slower in the second round, which changes no ratio."""
    rows = [
        row("mlpmixer", "raw", 16, (0.001, 0.004), (0.0021, 0.0021)),
        row("mlpmixer", "form", 16, (0.00125, 0.005), (0.0024, 0.0024)),
        row("litserve 2 × 1", "form", 16, (0.0025, 0.01), (0.0048, 0.0048), 80),
        row("litserve 1 × 16", "form", 16, (0.002, 0.008), (0.0033, 0.0033), 90),
    ]
    assert [each.share and each.share[0] for each in rows[:2]] == [1.0, 0.8]
    assert rows[0].cpu_ratio == pytest.approx((1.05, 1.05, 1.05))
    found = {bar.what: (round(bar.measured, 3), bar.met) for bar in capacity.capacity_bars(rows, 16)}
    assert found == {
        "requests refused or not answered": (0, True),
        "CPU a request, raw, 16 clients, of bare's": (1.05, True),
        "requests a second, raw, 16 clients, of bare's": (1.0, True),
        "CPU a request, form, 16 clients, of bare's": (1.2, False),
        "requests a second, form, 16 clients, of bare's": (0.8, False),
        "CPU a request, form, 16 clients, LitServe's best by ours": (1.375, False),  # its second setting
        "requests a second, form, 16 clients, ours by LitServe's best": (1.6, True),
        "p99, form, 16 clients, ours by LitServe's best": (0.444, True),
    }


def series(grows: float, noise: float = 2.0, late: float = 0.0) -> tuple[list[float], list[float]]:
    """Half an hour: MB that are there at first in a warm-up, MB an hour, noise, and a step in the end."""
    chance = random.Random(0)
    seconds = [float(second) for second in range(1800)]
    memory = [
        280 + 40 * min(1.0, second / 300) + grows * second / 3600 + chance.gauss(0, noise) + late * (second > 1700)
        for second in seconds
    ]
    return seconds, memory


def test_growth_is_told_from_warming_up_and_noise():
    assert abs(soak.growth(*series(0))) < 2
    assert soak.growth(*series(60)) == pytest.approx(25, abs=2)  # of the 25 minutes after the warm-up
    assert soak.growth(*series(-60)) < 0
    assert soak.growth(*series(0, late=50)) > 20  # the line does not see it; the last minutes do
    seconds, memory = series(0)
    memory[1000:1050] = [900.0] * 50  # a burst that was given back
    assert abs(soak.growth(seconds, memory)) < 2
    assert math.isnan(soak.growth([0, 1, 2], [1, 2, 3]))


def test_a_soak_with_wrong_answers_or_a_leak_fails():
    seconds, memory = series(60)
    leaking = soak.Soaked(seconds, [round(each * MB) for each in memory], Counter(raw=5), Counter())
    assert [bar.met for bar in soak.soak_bars(leaking)] == [True, True, False]
    wrong = soak.Soaked(*series(0), Counter(raw=5), Counter({"raw: 500": 1}))  # pyright: ignore[reportArgumentType]
    found = soak.soak_bars(wrong)
    assert [bar.met for bar in found] == [True, False, True]
    assert "raw: 500 × 1" in found[1].what


def test_overload_is_judged_by_the_fate_of_each_request():
    good = overload.Fates(Counter({200: 1000, 429: 9000}), 0, [0.1] * 990 + [0.2] * 10, [0.201, 0.22])
    assert all(bar.met for bar in overload.overload_bars(good, 100.0, 10.0, 3.0))
    bad = overload.Fates(Counter({200: 10, 503: 1, 0: 2}), 3, [3.0] * 10, [])
    assert not any(bar.met for bar in overload.overload_bars(bad, 100.0, 10.0, 60.0))


def test_requests_are_whole():
    images = requests.read_images(None, 3)
    assert len({*images}) == 3
    for request in (requests.raw(images[0]), requests.form(images), requests.in_json(images), requests.v2(b"x", "m")):
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head


def test_the_client_reads_answers_in_pieces_and_tells_of_lost_ones():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in (b"HTTP/1.1 429 Too", b" Many\r\nRetry-After: 3\r\ncontent-le", b"ngth: 4\r\n\r\nno", b"no"):
            await reader.readexactly(1)
            writer.write(part)
            await writer.drain()
        await reader.read(1)
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        connection = await Connection.open(server.sockets[0].getsockname()[1])
        answer = await connection.ask(b"1234")
        assert (answer.status, answer.headers["retry-after"], answer.body) == (429, "3", b"nono")
        with pytest.raises(ConnectionError):
            await connection.ask(b"5")
        server.close()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--leak"], "--soak"),
        (["serve", "--models", "a,b"], "one model"),
        (["serve", "--overload", "-1"], "--overload"),
        (["infer", "--attacks"], "--attacks is of mixer bench serve"),
        (["serve", "--precision", "bf61"], "bf16"),
        (["serve", "no-such-folder"], "no-such-folder"),
        (["serve", "--rounds", "1"], "--rounds"),
    ],
)
def test_what_serve_takes(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str):
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert end.value.code == 2
    assert says in capsys.readouterr().err


def test_without_wrk_the_way_to_it_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as end:
        main(["bench", "serve"])
    assert end.value.code == 2
    assert "apt-get install wrk" in capsys.readouterr().err


def subject(folder: Path) -> systems.Subject:
    return systems.Subject("mixer_cifar10", "fp32", folder)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_round_of_capacity(tmp_path: Path):
    images = requests.read_images(None, 8)
    found = capacity.measure_capacity(subject(tmp_path), images, 2, 1, print, clients=(2,), idle=0.5)
    assert [(each.system, each.body, each.clients) for each in found.rows] == [
        ("Predictor", "none", 0),
        ("mlpmixer", "raw", 2),
        ("mlpmixer", "form", 2),
    ]
    for each in found.rows:
        assert each.requests_per_s > 5
        assert 0.1 < each.cpu_ms < 1000
        assert each.errors == 0
        assert each.rss_mb > 100
        assert (each.share is None) == (each.cpu_ratio is None) == (each.system == "Predictor")
    assert {bar.what for bar in found.bars} >= {"CPU when idle", "memory when idle"}


@pytest.mark.slow
def test_overload_and_attacks_of_a_real_service(tmp_path: Path):
    """No times are judged here: others use the machine."""
    images = requests.read_images(None, 8)
    found = {bar.what: bar for bar in overload.measure_overload(subject(tmp_path), images, 2, print, clients=20)}
    assert found["overload: requests without an answer"].met
    assert found["overload: answers other than 200 and 429 with a time"].met
    numbers = attacks.Numbers(tiny=40, in_a_list=20, clients=2, chunks=65_536, slow=30)
    for bar in attacks.measure_attacks(subject(tmp_path), images, print, numbers):
        assert bar.met or bar.unit, bar


@pytest.mark.slow
def test_a_soak_asks_all_kinds_and_catches_a_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = requests.read_images(None, 8)
    found = soak.measure_soak(subject(tmp_path), images, 0.1, str, period=0.1)
    assert [bar.met for bar in found[:2]] == [True, True], found
    with pytest.raises(SystemExit) as end:
        main(["bench", "serve", "--models", "mixer_cifar10", "--soak", "0.3", "--leak", "--json"])
    assert end.value.code == 1
    bars = {bar["what"]: bar for bar in json.loads(capsys.readouterr().out)["bars"]}
    assert not bars["soak: growth of memory"]["met"]
    assert bars["soak: growth of memory"]["measured"] > soak.GROWTH_MB
