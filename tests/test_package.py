"""The outside of the package: its names, its version, what an import costs, who imports whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from messages import Says

import mlpmixer
from mlpmixer.cli import COMMANDS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "mlpmixer"

FLOORS = [
    {"errors", "text", "version"},
    {"files", "metadata", "packages", "recipe"},
    {"machine", "download"},
    {"kernels", "draw"},
    {"models", "data", "recipes", "run"},
    {"weights", "metrics", "interpret", "engines"},
    {"train", "predict", "export", "evaluation"},
    {"serve"},
    {"bench"},
    {"experiments", "studio"},
    {"report"},
    {"cli"},
]


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_public_names(says: Says):
    assert sorted(mlpmixer.__all__) == [
        "MixerError",
        "Predictor",
        "Recipe",
        "__version__",
        "create",
        "evaluate",
        "fit",
        "list_models",
        "load",
        "save",
        "transform",
    ]
    assert all(hasattr(mlpmixer, name) for name in mlpmixer.__all__)
    assert set(mlpmixer.__all__) <= set(dir(mlpmixer))
    with says(AttributeError):
        mlpmixer.lode  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_all_models_have_names_of_the_paper():
    names = mlpmixer.list_models()
    assert names[:7] == [f"mixer_{size}" for size in ("s32", "s16", "b32", "b16", "l32", "l16", "h14")]
    assert len(names) == len(set(names))


def test_import_and_help_leave_torch_alone():
    probe = "import sys, mlpmixer; mlpmixer.list_models(); import mlpmixer.cli; assert 'torch' not in sys.modules"
    python(probe)
    commands = [["--help"], *([name, "--help"] for name in COMMANDS)]
    commands += [["models", "--json"], ["recipes"], ["recipes", "cifar10"]]
    python(
        "import sys\nfrom mlpmixer.cli import main\n"
        f"for command in {commands}:\n"
        "    try: main(command)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "    assert 'torch' not in sys.modules, command"
    )


def test_importing_the_models_brings_no_torchvision():
    python("import sys, mlpmixer; mlpmixer.load, mlpmixer.Predictor; assert 'torchvision' not in sys.modules")


def test_changelog_and_citation_tell_the_version():
    released = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert released[0] == "Unreleased"
    assert released[1] == mlpmixer.__version__
    assert f"version: {mlpmixer.__version__}" in (ROOT / "CITATION.cff").read_text()


def imports(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {module.split(".")[1] for module in modules if module.startswith("mlpmixer.")}
    return found


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_imports_only_go_down():
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    for path in SOURCE.rglob("*.py"):
        here = room(path)
        if here in ("__init__", "__main__"):  # the front door sees all rooms
            continue
        for other in imports(path) - {here}:
            assert floor[other] < floor[here], f"{path.relative_to(ROOT)} may not import {other}"


def test_the_ground_floor_needs_the_standard_library_only():
    """But for the bar of a download, locks and the cache folder."""
    others = {"download": {"rich"}, "files": {"filelock", "platformdirs"}}
    for name in ("errors", "text", "version", "files", "metadata", "packages", "recipe", "download"):
        for node in ast.walk(ast.parse((SOURCE / f"{name}.py").read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            allowed = {*sys.stdlib_module_names, "mlpmixer", *others.get(name, ())}
            assert all(module.split(".")[0] in allowed for module in modules)
