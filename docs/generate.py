"""Reference pages, written from what the code says of itself: commands, recipes and their fields, models, weights, API.

`python docs/generate.py` writes them, `python docs/generate.py --check` compares them with what is there, and exits
with 1 where they differ.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse

import mlpmixer
from mlpmixer.cli import COMMANDS
from mlpmixer.models.measured import TABLE_1, measured
from mlpmixer.recipe import Recipe
from mlpmixer.recipes import RECIPES, find, toml
from mlpmixer.weights.bundled import BUNDLED, DEFAULT
from mlpmixer.weights.model_zoo import Entry, model_zoo

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py. -->\n\n"
VALUES = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def pages() -> dict[str, str]:
    """Every generated page: path below docs/ → Markdown."""
    written = {
        "cli": commands(),
        "recipes": recipes(),
        "recipe-fields": recipe_fields(),
        "models": models(),
        "api": api(),
    }
    return {f"reference/{name}.md": NOTE + text.rstrip() + "\n" for name, text in written.items()}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def commands() -> str:
    parts = [
        "# Commands",
        "`mixer COMMAND --help` prints the same. Options of a recipe, such as `--optim.lr`, are on the page of "
        "[recipe fields](recipe-fields.md).",
        " · ".join(f"[{name}](#{name})" for name in COMMANDS),
    ]
    for name, command in COMMANDS.items():
        doc = parse(command.__doc__ or "")
        helps = {param.arg_name: param.description or "" for param in doc.params}
        given = [_option(param, hint, helps) for param, hint in _parameters(command)]
        positional = [usage for usage, _, _ in given if not usage.startswith("-")]
        parts += [f"## {name}", f"```text\nmixer {' '.join([name, *positional, '[OPTIONS]'])}\n```"]
        parts += [doc.short_description or "", doc.long_description or ""]
        rows = [
            [code(usage), f"{text}{f' Default: {code(default)}.' if default else ''}"] for usage, default, text in given
        ]
        parts.append(table(["Option", "What it does"], rows))
    return "\n\n".join(filter(None, parts))


def _parameters(command: Any) -> list[tuple[inspect.Parameter, Any]]:
    hints = get_type_hints(command, include_extras=True)
    found = inspect.signature(command).parameters.values()
    return [(one, hints[one.name]) for one in found if one.name != "changes"]


def _option(parameter: inspect.Parameter, hint: Any, helps: dict[str, str]) -> tuple[str, str, str]:
    """How an option is written, its default, and its help."""
    extras = getattr(hint, "__metadata__", ())
    kind = get_args(hint)[0] if extras else hint
    kind = next((one for one in get_args(kind) if one is not type(None)), kind) if _optional(kind) else kind
    metavar = next((extra.metavar for extra in extras if getattr(extra, "metavar", None)), None)
    if metavar is None:
        inner = get_args(kind)
        choices = get_origin(kind) is Literal
        metavar = "|".join(map(str, inner)) if choices else VALUES.get(inner[0] if inner else kind, "TEXT")
    metavar = str(metavar).strip("{}").replace(",", "|")
    default = parameter.default
    shown = "" if default in (None, False, (), inspect.Parameter.empty, "") else str(default)
    name = "--" + parameter.name.replace("_", "-")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        written = metavar if default is inspect.Parameter.empty else f"[{metavar}]"
    else:
        written = name if kind is bool else f"{name} {metavar}"
    return written, shown, helps.get(parameter.name, "")


def _optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def recipes() -> str:
    parts = [
        "# Recipes",
        "A recipe is the frozen description of one run. `mixer recipes NAME > my.toml` writes one as a file, "
        "`mixer train NAME` runs it, and every line of it is a flag ([recipe fields](recipe-fields.md)).",
        table(
            ["Recipe", "What is trained", "Expected result"],
            [
                [f"[`{name}`](#{name})", about.description, about.expected]
                for name in RECIPES
                if (about := find(name).about)
            ],
        ),
    ]
    for name in RECIPES:
        recipe = find(name)
        parts += [f"## {name}", f"```sh\n{recipe.about.command}\n```", recipe_table(recipe)]
    return "\n\n".join(parts)


def recipe_table(recipe: Recipe) -> str:
    train, model, optim = recipe.train, recipe.model, recipe.optim
    steps = f"{train.steps:,} steps" if train.steps else f"{train.epochs:g} epochs"
    weights = f" from {code(model.weights)}" if model.weights else ""
    size = "×".join(map(str, model.image_size))
    rows = {
        "Hardware": recipe.about.hardware,
        "Expected": recipe.about.expected,
        "Model": f"{code(model.name)}{weights}{f', images of {size} pixels' if size else ''}",
        "Data": code(recipe.data.source),
        "Length": f"{steps}, batches of {train.batch_size:,}, {train.precision}",
        "Optimizer": f"{optim.name}, learning rate {optim.lr:g}, {optim.schedule} schedule, weight decay "
        f"{optim.weight_decay:g}",
    }
    return table(["", ""], [[name, text] for name, text in rows.items() if text])


def recipe_fields() -> str:
    parts = [
        "# Recipe fields",
        "Each line of a recipe, with the value that it has where nothing else is said. In a file `lr` stands in the "
        "table `[optim]`; as a flag it is `--optim.lr 0.003`; in Python it is "
        '`recipes.toml.change(recipe, {"optim.lr": 0.003})`.',
    ]
    groups: dict[str, list[list[str]]] = {}
    for name, (words, default, doc) in toml.fields().items():
        part, field = name.split(".")
        groups.setdefault(part, []).append([f"<a id='{name}'></a>`{field}`", words, code(_toml(default)), doc])
    for part, rows in groups.items():
        parts += [f"## [{part}]", table(["Field", "Type", "Default", "Meaning"], rows)]
    return "\n\n".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(f"{one:.4g}" if isinstance(one, float) else _toml(one) for one in value) + "]"
    return str(value)


def models() -> str:
    rows = []
    for row in measured():
        height, width = row["image_size"]
        paper = f"{TABLE_1[row['name']]} M" if row["name"] in TABLE_1 else ""
        cells = [f"{row['params']:,}", f"{row['params_without_head']:,}", paper, f"{row['gmacs']:.3f}"]
        rows.append([code(row["name"]), f"{height}×{width}", str(row["tokens"] or ""), *cells])
    parts = [
        "# Models and weights",
        "## Models",
        "Parameters at the default input size with a head for 1,000 classes, of the backbone alone, and in the paper's "
        "Table 1 (backbone). GMAC: 10⁹ multiply-adds per image. `mixer models NAME --image-size N` counts at "
        "another size.",
        table(["Model", "Input size", "Tokens", "Parameters", "Backbone", "Paper", "GMAC"], rows),
        "The four small Mixers are for images of 28 to 96 pixels. They keep the paper's proportions (D_S = C/2, "
        "D_C = 4C) and its number of patches (49 to 144 beside 49 to 256), with patches of 4 or 8 pixels: `mixer_pico` "
        "fits Fashion-MNIST, `mixer_nano` CIFAR-10, `mixer_tiny` Tiny ImageNet, `mixer_mini` STL-10.",
        "The paper's variants are options of the same class: `untied=True`, `groups=4`, `group_projection=True`, "
        '`pyramid=(6,)`; so are `gelu="erf"`, `dropout`, `stochastic_depth` (the paper\'s form, or rescaled), '
        "`head_bias`, any `patch_size`, `image_size` and `in_channels`. `models/convolutional.py` turns a Mixer into "
        "the same network written with convolutions only.",
        "## Bundled weights",
        f"These come with the package, so they need no network. `{DEFAULT}` is the default of `mixer predict`.",
        table(
            ["Name", "File", "Accuracy"],
            [
                [code(name), f"{path.stat().st_size / 1e6:.1f} MB", BUNDLED_ACCURACY.get(name, "")]
                for name, path in BUNDLED.items()
            ],
        ),
        "## Public weights",
        "A name is given wherever a file of weights is: it is downloaded once, and checked. Top-1 is on ImageNet's "
        "validation set, as its source reports it; where nobody states one there is none.",
    ]
    groups: dict[str, list[Entry]] = {}
    for entry in model_zoo().values():
        groups.setdefault(entry.model.split("_")[0], []).append(entry)
    for family, entries in groups.items():
        parts += [f"### {FAMILIES.get(family, family)}", _weights(entries)]
    parts += ["## Sources of the public weights", "\n".join(map(_source, model_zoo().values()))]
    return "\n\n".join(parts)


FAMILIES = {"mixer": "Mixer", "vit": "ViT", "bit": "BiT"}
BUNDLED_ACCURACY = {
    "mixer_cifar10": "91.09 % on the 10,000 test images of CIFAR-10",
    "mixer_clothing": "70.7 % on 372 photographs of ten kinds of clothes",
}


def _weights(entries: Sequence[Entry]) -> str:
    rows = [
        [
            code(entry.name),
            "×".join(map(str, entry.preprocessing.crop)),
            f"{entry.top1:.2f} %" if entry.top1 is not None else "",
            f"{entry.num_classes:,}",
            entry.what,
        ]
        for entry in entries
    ]
    return table(["Name", "Input size", "Top-1", "Classes", "Weights"], rows)


def _source(entry: Entry) -> str:
    top1 = f" Top-1: {entry.top1_source}." if entry.top1_source else ""
    return f"- `{entry.name}`: {entry.says.rstrip('.')}.{top1} `{entry.url}`"


RETURNED = (
    "mlpmixer.predict.predictor.Prediction",
    "mlpmixer.evaluation.card.Card",
    "mlpmixer.metrics.metric.Metric",
    "mlpmixer.train.loop.Result",
    "mlpmixer.metadata.ModelInfo",
    "mlpmixer.metadata.Preprocessing",
)


def _documented(name: str, members: str | None = None) -> str:
    return f"::: {name}" + (f"\n    options:\n      members: {members}" if members else "")


def api() -> str:
    names = sorted((name for name in mlpmixer.__all__ if not name.startswith("_")), key=str.lower)
    parts = [
        "# Python API",
        "`import mlpmixer` imports no torch; a name does when it is first used. All that a user can cause raises a "
        "`mlpmixer.errors.MixerError` ([troubleshooting](../troubleshooting.md)).",
    ]
    members = {"Predictor": "[stream]", "Recipe": "false"}
    parts += [_documented(f"mlpmixer.{name}", members.get(name)) for name in names]
    parts += ["## What these return", *map(_documented, RETURNED)]
    return "\n\n".join(parts)


def main(check: bool) -> int:
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"docs/{name} {'is not what the code says: python docs/generate.py' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
