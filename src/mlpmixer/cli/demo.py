"""`mixer demo`: train, evaluate and predict once, on this machine."""

from __future__ import annotations

import shlex
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlpmixer.recipe import Recipe


def demo(folder: Path = Path("runs/demo")) -> None:
    """Train a small Mixer on bundled images, in minutes.

    About 3 minutes on 2 cores; it gets 89.5 to 90.0 % of the 10,000 test images right, depending on the processor, and
    shows some of its predictions. A run that was stopped is resumed.

    Args:
        folder: The run folder.
    """
    from mlpmixer.kernels.library import library
    from mlpmixer.recipes import find, toml

    recipe = find("fashion_mnist")
    if not isinstance(library("mixing"), str):  # the kernels are three times as fast, and as accurate
        recipe = toml.change(recipe, {"train.precision": "bf16"})
    show(recipe, folder)


def show(recipe: Recipe, folder: Path) -> None:
    """Runs any recipe that has a test split, and shows what it learned."""
    from mlpmixer.report.run_figure import write_run_figure
    from mlpmixer.run.folder import RunFolder
    from mlpmixer.train.loop import fit

    run = RunFolder(folder)
    image, example = folder / "image.svg", folder / "example.png"
    if run.result() is None:
        _say(recipe.about.description)
        how = "is resumed" if run.recipe else "begins; Ctrl-C stops it, the same command resumes it"
        _say(f"The run in {folder} {how}.")
    result = fit(recipe, folder)
    assert result.test is not None
    score = f"Test accuracy {result.test['top1']:.2%} ({result.test['count']:,.0f} images)"
    if image.exists():
        fresh = next(name for n in count(2) if not (name := folder.with_name(f"{folder.name}-{n}")).exists())
        _say(f"{folder} is finished. {score}. A new one: mixer demo --folder {_quoted(fresh)}")
        _say(f"Its curves and predictions: {image}")
        return

    _say(f"\n{score}.\nPrediction for one of them, {example}:\n")
    _predict(recipe, folder, example)
    write_run_figure(folder)
    _say(f"\nCurves and more predictions, for a browser: {image}\n")
    _say("What next:")
    commands = {
        f"mixer predict {_quoted(example)} --weights {_quoted(folder)}": "classify an image",
        f"mixer report {_quoted(folder)}": "a report with all figures",
        f"mixer train {recipe.name} --train.epochs {3 * recipe.train.epochs:g}": "train for longer",
        "mixer recipes": "list all recipes",
    }
    for command, what in commands.items():
        _say(f"  {command:{max(map(len, commands))}}  # {what}")


def _predict(recipe: Recipe, folder: Path, example: Path) -> None:
    from mlpmixer.data.images import decode
    from mlpmixer.data.select import select
    from mlpmixer.predict.predictor import Predictor

    images = select(recipe.data)
    assert images.test is not None
    decode(images.test.read(0)).save(example)
    for label, score in Predictor(folder, top=3)(example).top:
        true = "  (true)" if label == images.classes[images.test.labels[0]] else ""
        _say(f"  {label:12} {score:6.1%}{true}")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _say(line: str) -> None:
    print(line, flush=True)  # in order with what training says on standard error
