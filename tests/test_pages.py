"""HTML pages: what they hold, that names in them are harmless, and that a phone shows them readably."""

from __future__ import annotations

import csv
import html
import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_pictures_of_runs import RECIPE

import mlpmixer
from mlpmixer.bench.bars import speedup_bars
from mlpmixer.bench.inference import Speedup
from mlpmixer.cli import main
from mlpmixer.draw import page
from mlpmixer.draw.matrix import confusion_chart
from mlpmixer.predict import gallery
from mlpmixer.predict.gallery import write_gallery
from mlpmixer.recipes import toml
from mlpmixer.report.interpret import interpret
from mlpmixer.report.report import report
from mlpmixer.weights.save import save

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine (apt install chromium)")

SMALLEST = 11  # pixels of text, on a screen of 390
CLASSES = ("été & <b>", "a very long name of a class that nobody wants to read", "hats")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a model that has learned nothing."""
    root, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 4)):
        for name in CLASSES:
            folder = root / "photos" / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(folder / f"{n}.png")
    folder = root / "my run"
    folder.mkdir()
    save(mlpmixer.create("mixer_pico", layers=1, num_classes=3), folder / "weights.safetensors", classes=CLASSES)
    recipe = replace(RECIPE, data=replace(RECIPE.data, source=str(root / "photos")))
    (folder / "recipe.toml").write_text(toml.dumps(recipe), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps({"steps": 2, "val": None, "test": {"top1": 0.5, "count": 1000}}))
    lines = [{"step": n, "kind": "val", "epoch": n, "top1": n / 5} for n in range(1, 5)]
    lines += [{"step": n, "kind": "train", "epoch": n, "loss": 1 / n, "images_per_s": 8.0} for n in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def report_page(run: Path) -> Path:
    return report([run], run.parent / "report.html", images=True).page


@pytest.fixture(scope="module")
def gallery_page(tmp_path_factory: pytest.TempPathFactory, photos_once: list[Path]) -> Path:
    root = tmp_path_factory.mktemp("gallery")
    names = ["a.jpg", "<img src=x onerror=alert(1)>.jpg", 'it\'s "quoted" & 猫.jpg']
    for name, photo in zip(names, photos_once, strict=False):
        shutil.copy(photo, root / name)
    rows = [
        [str(root / names[0]), "hat", "0.9", "cap", "0.05"],
        [str(root / names[1]), "<script>alert(2)</script>", "0.4", "hat", "0.3"],
        [str(root / names[2]), "hat", "0.55", "it's", "0.3"],
        [str(root / "gone.jpg"), "cap", "0.7", "hat", "0.1"],
        ["https://example.org/a.jpg", "cap", "0.8", "hat", "0.1"],
    ]
    table(root / "labels.csv", rows)
    write_gallery(root / "labels.csv", root / "gallery.html", "Predictions", print)
    return root / "gallery.html"


@pytest.fixture(scope="module")
def photos_once() -> list[Path]:
    return sorted((Path(__file__).parent / "photos").glob("*.jpg"))


def table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "label", "score", "label_2", "score_2"], *rows])


def test_the_report_says_what_was_trained_and_whether_it_was_expected(run: Path, report_page: Path):
    text = report_page.read_text(encoding="utf-8")
    assert "<title>mixer_pico on photos</title>" in text
    assert "50.0 %, expected 89.0 to 91.5 %: lower than expected" in text
    assert "95 % interval 46.9 to 53.1 %" in text
    for name in ("Confusion matrix", "Reliability diagram", "Top losses"):
        assert name in text, name
    assert text.count("<details>") == 1
    folded = text[text.index("<details>") : text.index("</details>")]
    assert "filters of the stem" in folded
    assert html.escape(CLASSES[0]) in text
    assert CLASSES[0] not in text
    losses = [float(loss) for loss in re.findall(r"<br>loss (\d+\.\d+), p = ", text)]
    assert len(losses) == 12  # all of the test images
    assert losses == sorted(losses, reverse=True)
    assert (run / "run_card.png").exists()


def test_a_report_of_other_images_leaves_the_figures_of_the_run_alone(run: Path, tmp_path: Path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    other = Path(shutil.copytree(run.parent / "photos", tmp_path / "others"))
    (copy / "run_card.png").write_bytes(b"mine")
    report([copy], tmp_path / "page.html", data=other)
    report([copy], tmp_path / "page.html")  # opens none
    assert (copy / "run_card.png").read_bytes() == b"mine"


def test_an_explanation_begins_with_the_photo(run: Path, tmp_path: Path, photos: list[Path]):
    values = interpret(run, tmp_path / "inside", image=photos[0])
    top = values["prediction"]["top"]
    assert top[0]["class"] == values["prediction"]["class"]
    assert sum(one["probability"] for one in top) == pytest.approx(1, abs=1e-4)
    text = (tmp_path / "inside" / "interpret.html").read_text(encoding="utf-8")
    order = ["prepared image", "Integrated gradients", "raises it", "Likeliest classes", "Token norm", "Weights</h2>"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_wide_tables_name_each_cell():
    text = page.table(["a", "b", "c", 'd"'], [["1", "2", "3", ""]])
    assert 'class="stack"' in text
    assert 'data-label="d&quot;"' in text
    assert 'class="stack"' not in page.table(["a", "b"], [["1", "2"]])


def test_counts_that_have_no_room_are_shares():
    names = tuple(f"class {n}" for n in range(10))
    body = confusion_chart(np.eye(10, dtype=int) * 123_456, names).body
    assert ">100<" in body
    assert ">123,456<" not in body
    assert "class 3 → class 3: 123,456" in body
    assert "% of the true class" in body


def test_a_gallery_holds_names_as_text(gallery_page: Path):
    text = gallery_page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "alert(2)</script>" not in text.replace("&lt;/script&gt;", "")
    assert text.count("<script>") == 1
    assert text.count("data:image/jpeg") == 3
    assert text.count("no thumbnail") == 2
    assert 'href="./labels.csv"' in text
    assert 'href="./%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.jpg"' in text
    assert 'href="https://example.org' not in text  # nothing calls anybody
    assert "default-src 'none'" in text


def test_a_gallery_of_very_many_is_bounded(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gallery, "MOST_IMAGES", 50)
    monkeypatch.setattr(gallery, "MOST_BYTES", 20_000)
    table(tmp_path / "labels.csv", [[str(photos[0]), "hat", "0.9", "cap", "0.1"]] * 60)
    told: list[object] = []
    write_gallery(tmp_path / "labels.csv", tmp_path / "page.html", "Many", told.append)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<figure") == 50
    assert 0 < text.count("data:image/jpeg") < 40
    assert len(told) == 2
    assert str(told[0]).startswith("the gallery shows the first 50 of 60 images; ")
    assert "without a thumbnail" in str(told[1])


def test_predict_writes_a_gallery(run: Path, tmp_path: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]):
    arguments = ["predict", *map(str, photos[:3]), "--weights", str(run), "--engine", "eager"]
    main([*arguments, "--html", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<figure") == 3
    assert len((tmp_path / "page.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert "gallery: " in capsys.readouterr().err
    failures = []
    for options, message in (
        (["--html", str(tmp_path / "page.html")], "page.html exists; remove it, or choose another name"),
        (["--html", "page.pdf"], "--html writes a page: end 'page.pdf' with .html"),
        (["--html", "new.html", "--output", "x.jsonl"], "a gallery is made of a CSV: end --output with .csv, not as"),
        (["--html", "new.html", "--json"], "a gallery is made of a CSV: leave out --json"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*arguments, *options])
        said = capsys.readouterr().err
        if end.value.code != 2 or message not in said or said.count("\n") != 1:
            failures.append(f"{options}: {said}")
    assert not failures


MEASURE = """<script>addEventListener('load',()=>{
for(const folded of document.querySelectorAll('details'))folded.open=true;
const small=[],walker=document.createTreeWalker(document.body,NodeFilter.SHOW_TEXT);let count=0;
while(walker.nextNode()){const node=walker.currentNode,element=node.parentElement;
if(!node.data.trim()||element.closest('script,style,title,option'))continue;
if(!element.closest('svg')&&!element.offsetParent)continue;count+=1;
let size=parseFloat(getComputedStyle(element).fontSize);
if(element.closest('svg')){const m=element.getScreenCTM();size*=Math.hypot(m.a,m.b)}
if(size<SMALLEST-0.01)small.push(size.toFixed(1)+' '+node.data.trim().slice(0,40))}
parent.postMessage({name:NAME,count,small:small.slice(0,5),wide:document.documentElement.scrollWidth,
paper:getComputedStyle(document.body).backgroundColor},'*')})</script>"""


def browser(folder: Path, document: str, *, dark: bool = False) -> str:
    """The page as the browser has it after its scripts have run."""
    path = folder / "shown.html"
    path.write_text(document, encoding="utf-8")
    arguments = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    arguments += ["--virtual-time-budget=5000", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    return subprocess.run(
        [*arguments, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout


@pytest.fixture(scope="module")
def pages(run: Path, report_page: Path, gallery_page: Path, photos_once: list[Path]) -> dict[str, Path]:
    inside = run.parent / "inside"
    interpret(run, inside, image=photos_once[0])
    figure = run.parent / "figure.html"
    figure.write_text(f"<!doctype html><body style='margin:0'>{(run / 'image.svg').read_text(encoding='utf-8')}</body>")
    return {"report": report_page, "interpret": inside / "interpret.html", "gallery": gallery_page, "figure": figure}


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_can_be_read_on_a_phone(pages: dict[str, Path], tmp_path: Path, dark: bool):
    """No text under 11 px on a screen of 390, after layout and the scaling of SVG; and nothing is wider than it."""
    frames = []
    for name, path in pages.items():
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
        measured = MEASURE.replace("SMALLEST", str(SMALLEST)).replace("NAME", repr(name))
        (tmp_path / f"{name}.html").write_text(text.replace("</body>", f"{measured}</body>"), encoding="utf-8")
        frames.append(f'<iframe src="{name}.html" style="width:390px;height:900px;border:0"></iframe>')
    collect = "<script>addEventListener('message',event=>{const p=document.createElement('p');p.className='found';"
    collect += "p.textContent=JSON.stringify(event.data);document.body.append(p)})</script>"
    shown = browser(tmp_path, f"<!doctype html><body>{collect}{''.join(frames)}</body>", dark=dark)
    found = [json.loads(html.unescape(line)) for line in re.findall(r'<p class="found">(.*?)</p>', shown)]
    assert sorted(one["name"] for one in found) == sorted(pages)
    failures = []
    for one in found:
        if one["small"] or one["wide"] > 390 or one["count"] < 10:
            failures.append(one)
        if one["name"] != "figure" and one["paper"] != ("rgb(22, 24, 29)" if dark else "rgb(255, 255, 255)"):
            failures.append(one)
    assert not failures


@needs_browser
def test_the_filters_of_a_gallery(gallery_page: Path, tmp_path: Path):
    asked = """<script>const seen=[],look=()=>seen.push(cards.filter(c=>!c.hidden).map(c=>c.dataset.score).join());
const set=(name,value)=>{form[name].value=value;form[name].dispatchEvent(new Event('input',{bubbles:true}));look()};
look();set('label','hat');set('low','60');set('label','');set('high','75');set('low','0');set('high','100');
form.order.value='least';form.order.dispatchEvent(new Event('input',{bubbles:true}));
seen.push([...grid.children].map(c=>c.dataset.score).join());document.title=seen.join(' / ')</script></body>"""
    text = gallery_page.read_text(encoding="utf-8")
    shown = browser(tmp_path, text.replace("</body>", asked))
    every = "0.9,0.4,0.55,0.7,0.8"
    steps = [every, "0.9,0.55", "0.9", "0.9,0.7,0.8", "0.7", "0.4,0.55,0.7", every, "0.4,0.55,0.7,0.8,0.9"]
    assert f"<title>{' / '.join(steps)}</title>" in shown


def test_notebooks_show_models_predictions_and_cards(run: Path, photos: list[Path]):
    model = mlpmixer.load(run)
    shown = [one._repr_html_() for one in (model, mlpmixer.Predictor(model, engine="eager")(photos[0]))]
    card = mlpmixer.evaluate(run, run.parent / "photos", train_images=0, workers=0)
    shown.append(card._repr_html_())
    for text, words in zip(shown, ("mixer_pico", "probability", "top-1"), strict=True):
        assert words in text
        assert "<table" in text
        assert CLASSES[0] not in text  # it has a tag in it
        assert len(text) < 10_000
    assert html.escape(CLASSES[0]) in shown[0]
    assert html.escape(CLASSES[0]) in shown[1]
    assert "<table" in mlpmixer.create("mixer_s16", num_classes=0)._repr_html_()


def test_the_chart_of_speeds_has_lost_cases_and_a_computed_title():
    won = Speedup("mixer_s32", "fp32", 1, "kernels", "OpenVINO", 1.57, (1.5, 1.7))
    lost = Speedup("mixer_b16", "bf16", 2, "kernels", "<other>", 0.92, (0.9, 0.95))
    text = speedup_bars([won, lost], "a machine")
    assert "<title>0.9 to 1.6 × the fastest alternative</title>" in text
    assert "faster in 1 of 2 cases" in html.unescape(re.sub(r"<[^>]+>", " ", text)).replace("  ", " ")
    assert [text.count(f'class="shade-{kind}"') for kind in (1, 2)] == [1, 1]
    lengths = [float(length) for length in re.findall(r'<rect y="20" width="([\d.]+)"', text)]
    assert lengths[0] / lengths[1] == pytest.approx(1.57 / 0.92, rel=0.01)
    assert "0.92 × &lt;other&gt;" in text
    assert "1.6 × the fastest" in speedup_bars([won], "a machine")
    assert "Nothing to compare with" in speedup_bars([], "a machine")


def test_the_charts_in_the_docs_are_those_of_the_tables():
    """`python benchmarks/charts.py` draws them."""
    charts = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "charts.py"))
    content = charts["TABLES"].read_text(encoding="utf-8")
    for name, draw in charts["CHARTS"].items():
        assert (charts["DOCS"] / name).read_text(encoding="utf-8") == draw(content), name
