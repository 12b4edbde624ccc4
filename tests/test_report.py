"""The report and the list of runs: right figures, one file, and a real browser that has nothing to complain about."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from messages import Says
from PIL import Image

import mlpmixer
from mlpmixer.cli import main
from mlpmixer.draw import page
from mlpmixer.draw.matrix import confusion_chart
from mlpmixer.errors import RunError, UsageError
from mlpmixer.experiments.study import Claim, Measurement, Outcome, run_study
from mlpmixer.recipes import find, toml
from mlpmixer.report.report import report
from mlpmixer.run import index

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs that differ in one line."""
    root = tmp_path_factory.mktemp("runs")
    few = {
        "model.options.layers": 2,
        "train.steps": 12,
        "data.classes": "Bag,Coat",
        "data.shots": 60,
        "optim.warmup_steps": 2,
        "machine.workers": 0,
        "about.expected": "more than half of them",
    }
    recipe = toml.change(find("fashion_mnist"), {**few, "machine.log_every": 2, "evaluation.every_epochs": 3})
    for rate in (0.001, 0.006):
        mlpmixer.fit(toml.change(recipe, {"optim.lr": rate}), root / "grid" / f"lr {rate}", quiet=True)
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study without runs."""
    folder = tmp_path_factory.mktemp("studies") / "sizes"
    outcome = Outcome(("model", "parameters"), [("mixer_h14", "431,069,952")], [Claim("It is large.", True, "it is")])
    measurement = Measurement("sizes", "How large they are.", "Table 1", lambda _scale, _device: outcome, lambda _: [])
    run_study(measurement, "tiny", folder, changes={"machine.device": "cpu"})
    return folder


@pytest.fixture(scope="module")
def run_page(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one run."""
    return report([trained / "grid" / "lr 0.006"], tmp_path_factory.mktemp("page") / "new" / "page.html").page


class Words(HTMLParser):
    """What a reader finds: text, links, and whatever would have to be fetched."""

    def __init__(self, html: str):
        super().__init__()
        self.text, self.marks, self.links, self.fetched, self.images = "", set(), [], [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.images += [found["src"]] if tag == "img" else []
        self.marks |= {found["id"]} if "id" in found else set()
        if tag == "a":
            self.links.append(found["href"])
        self.fetched += [v for k, v in found.items() if k in ("src", "href") and not str(v).startswith(("data:", "#"))]

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_a_run_on_one_page(trained: Path, run_page: Path):
    run = trained / "grid" / "lr 0.006"
    html = run_page.read_text(encoding="utf-8")
    words = Words(html)
    card = json.loads((run / "cards" / "fashion_mnist_small-test.json").read_text())
    assert f"{100 * card['metrics']['top1']['value']:.2f}" in words.text
    for text in (
        "Summary",
        "Learning curves",
        "Evaluation card",
        "Predictions",
        "Reproduce",
        "Weights",
        "Per class",
        "more than half of them",
        f"mixer evaluate '{run}'",
    ):
        assert text in words.text
    assert all(str(link).removeprefix("#") in words.marks for link in words.links)
    assert words.fetched == []
    assert "url(" not in html
    assert "<script" not in html


def test_the_weights_are_on_the_page(trained: Path, run_page: Path, tmp_path: Path):
    """What `mixer interpret` draws of the run's weights, figure by figure."""
    run = trained / "grid" / "lr 0.006"
    words = Words(run_page.read_text(encoding="utf-8"))
    main(["interpret", str(run), "--folder", str(tmp_path / "inside")])
    inside = Words((tmp_path / "inside" / "interpret.html").read_text(encoding="utf-8"))
    assert len(inside.images) == 2 + 2  # units of two layers, filters, fields
    assert words.images[-len(inside.images) :] == inside.images
    for text in ("Token-mixing units of layer 0", "All 64 filters of the stem", "Effective receptive fields"):
        assert text in words.text
    assert run_page.stat().st_size < 1e6


def test_as_json(trained: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = trained / "grid" / "lr 0.006"
    folders = [str(run), str(study)]
    main(["report", *folders, "--output", str(tmp_path / "page.html"), "--json"])
    said = json.loads(capsys.readouterr().out)
    main(["report", folders[1], "--output", str(tmp_path / "study.html")])
    assert capsys.readouterr().out == f"{tmp_path}/study.html\n"
    parts = [
        f"lr 0.006: {part}" for part in ("Summary", "Learning curves", "Evaluation card", "Predictions", "Weights")
    ]
    assert said == {
        "page": str(tmp_path / "page.html"),
        "runs": [str(run)],
        "studies": [str(study)],
        "parts": [*parts, "Study: sizes, tiny"],
    }
    titles = re.findall(r"<h2>(.*?)</h2>", Path(said["page"]).read_text(encoding="utf-8"))
    assert titles == said["parts"]


def test_several_runs_and_a_study(trained: Path, study: Path, tmp_path: Path):
    shutil.copytree(study, tmp_path / "again" / study.name)
    folders = [*sorted((trained / "grid").iterdir()), study, tmp_path / "again" / study.name]
    words = Words(report(folders, tmp_path / "page.html").page.read_text(encoding="utf-8"))
    for text in (
        "Comparison",
        "optim.lr",
        "lr 0.001: Summary",
        "lr 0.006: Summary",
        "Study: sizes",
        "431,069,952",
    ):
        assert text in words.text
    assert "mixer reproduce sizes --scale tiny" in words.text
    assert "--machine.device cpu" in words.text
    assert len(words.links) == len({*words.links}), "each part has a mark of its own"


def test_commands_can_be_pasted(trained: Path, run_page: Path):
    words = Words(run_page.read_text(encoding="utf-8"))
    line = next(line for line in words.text.splitlines() if line.startswith("mixer evaluate"))
    assert shlex.split(line) == ["mixer", "evaluate", str(trained / "grid" / "lr 0.006")]


def test_without_the_images(trained: Path, tmp_path: Path):
    """On a machine where the data set is not, all else is still shown."""
    run = tmp_path / "moved"
    shutil.copytree(trained / "grid" / "lr 0.006", run)
    shutil.rmtree(run / "cards", ignore_errors=True)
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace('"fashion_mnist_small"', '"nowhere/photos"'))
    words = Words(report([run], tmp_path / "page.html", images=True).page.read_text(encoding="utf-8"))
    assert "Not measured: there is no data set 'nowhere/photos'" in words.text
    assert "Training loss" in words.text


def test_what_cannot_be_reported(trained: Path, tmp_path: Path, says: Says):
    with says(UsageError):
        report([], tmp_path / "page.html")
    with says(RunError):
        report([tmp_path], tmp_path / "page.html")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained / "grid" / "lr 0.006", unfinished)
    (unfinished / "result.json").unlink()
    with says(RunError):
        report([unfinished], tmp_path / "page.html")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (Debian: apt install chromium)")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_in_a_real_browser(run_page: Path, tmp_path: Path, width: int, dark: bool):
    """It complains of nothing; the paper is light on a laptop, dark on a phone, and no wider than the screen."""
    path = run_page
    shot = tmp_path / "shot.png"
    # Its scripts are none, so what the page measures of itself is written into the copy that is opened.
    measuring = "<script>document.title=document.documentElement.scrollWidth</script></body>"
    copy = tmp_path / "measured.html"
    copy.write_text(path.read_text(encoding="utf-8").replace("</body>", measuring), encoding="utf-8")
    browser = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    browser += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    browser += ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    said = subprocess.run(
        [*browser, "--enable-logging=stderr", f"--screenshot={shot}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stderr
    assert "CONSOLE" not in said
    seen = np.asarray(Image.open(shot).convert("RGB"))
    assert seen.shape[:2] == (900, width)
    paper = seen[5, 5].tolist()
    assert paper == ([22, 24, 29] if dark else [255, 255, 255])
    assert (seen != seen[5, 5]).any(axis=2).mean() > 0.02
    dumped = subprocess.run(
        [*browser, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    title = re.search(r"<title>(\d+)</title>", dumped)
    assert title is not None
    assert int(title[1]) <= max(width, 500)  # Chromium's window is never narrower than that


class TestRuns:
    @pytest.fixture(autouse=True)
    def _a_cache_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path / "cache"))

    def test_all_below_a_folder(self, trained: Path, capsys: pytest.CaptureFixture[str]):
        main(["runs", str(trained), "--sort", "optim.lr", "--json"])
        rows = json.loads(capsys.readouterr().out)
        assert [row["recipe"]["optim.lr"] for row in rows] == [0.001, 0.006]
        assert all(row["state"] == "finished" for row in rows)
        result = json.loads((Path(rows[0]["path"]) / "result.json").read_text())
        assert rows[0]["test"] == result["test"]["top1"]
        main(["runs", str(trained), "--curves", str(trained / "curves.svg")])
        out = capsys.readouterr().out
        assert "optim.lr" in out
        assert "grid/lr 0.001" in out
        assert "grid/lr 0.006" in (trained / "curves.svg").read_text()

    def test_filters(self, trained: Path):
        for where, count in (
            (["optim.lr=0.001"], 1),
            (["optim.lr>0.001"], 1),
            (["optim.lr<0.1", "model.name=mixer_pico"], 2),
            (["model.name=mixer_b16"], 0),
            (["test>2"], 0),
            (["optim.lr>=0.001"], 2),
            (["optim.lr >= 0.006"], 1),
            (["optim.lr<=0.001"], 1),
            (["optim.lr<0.001"], 0),
            (["optim.lr!=0.001"], 1),
            (["model.name!=mixer_b16", "test<=1"], 2),
            (["augment.flip=true"], 2),
        ):
            assert len(index.runs(trained, where=where)) == count, where

    def test_state_and_limit(self, trained: Path):
        assert len(index.runs(trained, state="unfinished")) == 0
        assert len(index.runs(trained, sort="test", limit=1)) == 1
        best, worst = index.runs(trained, sort="test")
        assert (best.test or 0) >= (worst.test or 0)

    def test_only_what_changed_is_read_again(self, trained: Path, tmp_path: Path):
        """What it keeps of a run is told until one of the run's files has another time or size."""
        root = tmp_path / "runs"
        shutil.copytree(trained / "grid", root)
        (first, *_), recipe = index.runs(root, sort="name"), root / "lr 0.001" / "recipe.toml"
        assert first.recipe["optim.lr"] == 0.001
        before = recipe.stat()
        recipe.write_text(recipe.read_text().replace("lr = 0.001", "lr = 0.002"))
        os.utime(recipe, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert {one.recipe["optim.lr"] for one in index.runs(root)} == {0.001, 0.006}
        os.utime(recipe)
        assert {one.recipe["optim.lr"] for one in index.runs(root)} == {0.002, 0.006}
        (root / "lr 0.001" / "result.json").unlink()
        shutil.rmtree(root / "lr 0.006")
        assert [one.state for one in index.runs(root)] == ["unfinished"]

    def test_hundreds(self, tmp_path: Path):
        """A second listing reads no run; it is a query."""
        for n in range(500):
            place = tmp_path / f"group {n % 20}" / f"run {n}"
            place.mkdir(parents=True)
            (place / "recipe.toml").write_text(f'name = "many"\n[optim]\nlr = {n / 250}\n')
            (place / "result.json").write_text(
                json.dumps({"steps": 1, "val": None, "test": {"top1": n / 500, "count": 9}})
            )
        assert len(index.runs(tmp_path)) == 500
        found = index.runs(tmp_path, where=["optim.lr>1.5"], sort="test", limit=3)
        assert [one.recipe["optim.lr"] for one in found] == [1.996, 1.992, 1.988]

    def test_a_cache_that_cannot_be_written(self, trained: Path, tmp_path: Path):
        (tmp_path / "cache").write_text("in the way")
        assert len(index.runs(trained)) == 2

    def test_a_damaged_run_is_listed(self, tmp_path: Path):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "recipe.toml").write_text("name = [")
        (tmp_path / "bad" / "result.json").write_text("{")
        (found,) = index.runs(tmp_path)
        assert (found.name, found.state) == ("bad", "unreadable")
        assert found.why.startswith("recipe.toml cannot be read: ")

    def test_mistakes(self, trained: Path, capsys: pytest.CaptureFixture[str], says: Says):
        for arguments in (
            ["--where", "optim.lr"],
            ["--where", "test=>0.9"],
            ["--where", "test>=high"],
            ["--where", "tset>=0.9"],
            ["--sort", "optim.rl"],
            ["--where", "x'; drop table runs_1; --=1"],
        ):
            with pytest.raises(SystemExit):
                main(["runs", str(trained), *arguments])
            err = capsys.readouterr().err
            says.check(err)
            assert err.count("\n") == 1

    def test_nowhere(self, tmp_path: Path, says: Says):
        with says(RunError):
            index.runs(tmp_path / "nowhere")


def test_confusion_has_its_counts_and_names():
    drawing = confusion_chart(np.array([[9, 1], [0, 10]]), ("cat & dog", "cow"))
    assert "cat &amp; dog → cow: 1" in drawing.body
    assert drawing.body.count("<rect") == 3
    assert ">10<" in drawing.body


def test_tables_say_what_is_a_number():
    html = page.table(["name", "value"], [["a", "1.5"], ["b", "–"]])
    assert html.count("class=n") == 3
    assert "&lt;b&gt;" in page.table(["x"], [["<b>"]])
