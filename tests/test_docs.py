"""Docs: reference pages are what the code says, links lead somewhere, and code blocks run."""

from __future__ import annotations

import doctest
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import mlpmixer
from mlpmixer import errors
from mlpmixer.weights.bundled import PHOTO

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"(?ms)^```.*?^```$|`[^`\n]*`")
console = runpy.run_path(str(DOCS / "console.py"))


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def navigation() -> list[str]:
    def files(items: list[Any]) -> list[str]:
        values = [value for item in items for value in item.values()]
        return [file for value in values for file in (files(value) if isinstance(value, list) else [value])]

    return files(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])


def test_reference_pages_are_what_the_code_says():
    stale = [
        name
        for name, text in runpy.run_path(str(DOCS / "generate.py"))["pages"]().items()
        if (DOCS / name).read_text() != text
    ]
    assert not stale, "write them anew with: python docs/generate.py"


def test_every_page_is_in_the_navigation_once():
    assert sorted(navigation()) == sorted(path.relative_to(DOCS).as_posix() for path in pages())


def test_links_lead_to_files():
    dead = []
    for page in (*pages(), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"):
        for target in LINK.findall(CODE.sub("", page.read_text())):
            if target.startswith(("https://", "#")):
                continue
            path = (page.parent / target.split("#")[0]).resolve()
            inside = DOCS if DOCS in page.parents else ROOT
            if not path.exists() or inside not in path.parents:  # a site has nothing beside docs/
                dead.append(f"{page.name}: {target}")
    assert not dead


def test_the_readme_is_short_and_begins_with_what_counts():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    text = "\n".join(lines)
    places = [text.index(words) for words in ("run_card.png", "91.1 %", "make demo", "import mlpmixer", "## Weights")]
    assert places == sorted(places)


def test_the_readme_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PHOTO, "photo.jpg")
    text = (ROOT / "README.md").read_text()
    [program] = [step.command for step in console["steps"](text) if step.python]
    exec(program, {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*  # (.+)$", program, flags=re.MULTILINE)
    tutorial = (DOCS / "your-own-photos.md").read_text()
    for step in console["steps"](text):
        if not step.python:
            assert step.command in tutorial
            assert all(line in tutorial for line in step.expected), step.command


def test_every_error_has_a_heading_in_troubleshooting():
    text = (DOCS / "troubleshooting.md").read_text()
    anchors = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    families = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.MixerError)]
    for family in families:
        assert family.topic in anchors, family
        assert family is errors.MixerError or f"`{family.__name__}` | {family.exit_code} |" in text
    assert len({family.topic for family in families}) == len(families)


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path):
    pytest.importorskip("zensical")
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "weights/bundled"))
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    loaded = []
    for path in (tmp_path / "site").rglob("*.html"):
        text = path.read_text()
        assert "::: mlpmixer" not in text
        tags = re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*>", text)
        loaded += [f"{path.name}: {tag}" for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)]
        loaded += [f"{path.name}: mermaid" for _ in re.findall(r'class="mermaid"', text)]
    for path in (tmp_path / "site").rglob("*.css"):
        loaded += [f"{path.name}: {url}" for url in re.findall(r"url\([\"']?(?:https?:)?//[^)]*", path.read_text())]
    assert not loaded
    api = (tmp_path / "site" / "reference" / "api.html").read_text()
    assert all(f'id="mlpmixer.{name}"' in api for name in ("create", "evaluate", "fit", "load", "save", "Predictor"))


def test_public_names_have_examples_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[Path]):
    """And say what they take, return and raise."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(PHOTO, "photo.jpg")
    for photo in photos[:3]:
        (tmp_path / "photos" / photo.stem).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "photos" / photo.stem)
    wrong = []
    for name in (name for name in mlpmixer.__all__ if name != "__version__"):
        public = getattr(mlpmixer, name)
        doc = public.__doc__ or ""
        sections = {"Recipe": ["Attributes:"], "MixerError": []}.get(name, ["Args:"])
        if inspect.isfunction(public):
            sections.append("Returns:")
        wrong += [f"{name} has no {section}" for section in (*sections, "Examples:") if section not in doc]
        test = doctest.DocTestParser().get_doctest(doc, {"mlpmixer": mlpmixer, "torch": torch}, name, None, None)
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(test, out=wrong.append)
        assert runner.tries, name
    assert not wrong, "\n".join(wrong)


def test_console_blocks_are_read_and_compared():
    page = "```console\n$ one\nlabel 91.2 %\n...\nend\n$ two \\\n  more\n```\n"
    first, second = console["steps"](page)
    assert (first.command, second.command) == ("one", "two \\\n  more")
    same, differ = ["label 3 %", "x", "y", "end"], ["name 3 %", "end"]
    assert console["differences"](first.expected, same) == []
    assert console["differences"](first.expected, differ)
    assert console["differences"](first.expected, ["label 1 %", "x"])
    assert console["differences"](["cat 1"], ["Ankle boot 2"], ["cat", "Ankle boot"]) == []
    assert console["differences"](["one"], ["one", "two"]) == ["unexpected: two"]
    written = console["recorded"](page, lambda step: [f"printed {len(step.command)}"])
    assert written == "```console\n$ one\nprinted 3\n$ two \\\n  more\nprinted 12\n```\n"


CLASSES = ["Ankle boot", "Bag", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt top", "Trouser"]
SHORTER = {"mixer train ": " --train.min_steps 0 --train.epochs 2"}


@pytest.mark.docs
def test_every_step_of_the_tutorial_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From a folder of images to an ONNX file; the run is shorter than the page's, so figures and labels differ."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    wrong = []
    for step in console["steps"]((DOCS / "your-own-photos.md").read_text()):
        more = next((more for command, more in SHORTER.items() if step.command.startswith(command)), "")
        printed = console["run"](console["Step"](step.command + more, python=step.python), tmp_path)
        if not step.python:
            wrong += [f"{step.command}: {line}" for line in console["differences"](step.expected, printed, CLASSES)]
    assert not wrong, "\n".join(wrong)
    assert {path.name for path in tmp_path.glob("garments.*")} == {"garments.onnx", "garments.onnx.md"}
    assert (tmp_path / "runs" / "garments" / "report.html").exists()
    assert (tmp_path / "why" / "interpret.html").exists()


EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
print("".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())))
"""


@pytest.mark.docs
def test_the_notebook_runs_from_the_first_cell_to_the_last(tmp_path: Path):
    pytest.importorskip("nbclient")
    text = (DOCS / "mlpmixer.ipynb").read_text()
    assert all(cell.get("outputs", []) == [] for cell in json.loads(text)["cells"])
    shorter = text.replace('\\"train.steps\\": 200', '\\"train.steps\\": 30, \\"data.share\\": 0.1')
    assert shorter != text
    (tmp_path / "short.ipynb").write_text(shorter)
    ran = subprocess.run(
        [sys.executable, "-c", EXECUTE, "short.ipynb"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "validation" in ran.stdout
    assert "['notebook.onnx', 'notebook.onnx.md']" in ran.stdout
    assert (tmp_path / "notebook.onnx").exists()
