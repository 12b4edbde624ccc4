"""Recipes as TOML files, and changes by dotted name: both are read equally strictly."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlpmixer import files
from mlpmixer.errors import RecipeError
from mlpmixer.recipe import About, Machine, Option, Recipe, tables
from mlpmixer.text import printable

# What other programs call the lines of a recipe.
ALIASES = {
    "amp": ["train.precision"],
    "arch": ["model.name"],
    "batch": ["train.batch_size"],
    "bs": ["train.batch_size"],
    "checkpoint": ["model.weights"],
    "class_names": ["data.classes"],
    "clip_grad": ["optim.clip"],
    "data": ["data.source"],
    "data_dir": ["data.source"],
    "dataset": ["data.source"],
    "dtype": ["train.precision"],
    "epoch": ["train.epochs"],
    "finetune": ["model.weights"],
    "gpu": ["machine.device"],
    "gradient_clip": ["optim.clip"],
    "image": ["model.image_size"],
    "images": ["data.source"],
    "img_size": ["model.image_size"],
    "imgsz": ["model.image_size"],
    "init_lr": ["optim.lr"],
    "input_size": ["model.image_size"],
    "label_smoothing": ["loss.smoothing"],
    "learning_rate": ["optim.lr"],
    "max_epochs": ["train.epochs"],
    "max_steps": ["train.steps"],
    "model": ["model.name"],
    "num_epochs": ["train.epochs"],
    "num_workers": ["machine.workers"],
    "opt": ["optim.name"],
    "optimizer": ["optim.name"],
    "pretrained": ["model.weights"],
    "random_seed": ["train.seed"],
    "scheduler": ["optim.schedule"],
    "seed": ["train.seed"],
    "validation": ["data.val"],
    "val_split": ["data.val"],
    "warmup": ["optim.warmup_steps"],
    "wd": ["optim.weight_decay"],
}


def read(path: str | os.PathLike[str]) -> Recipe:
    try:
        text = files.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise RecipeError(f"cannot read {os.fspath(path)}: {why}") from error
    return loads(text, os.fspath(path))


def loads(text: str, name: str = "the recipe") -> Recipe:
    try:
        given = tables(text)
    except ValueError as error:
        raise RecipeError(f"{name} is not TOML: {error}") from None
    try:
        return _merged(Recipe(), given, "", _as)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None


def change(recipe: Recipe, changes: Mapping[str, str | Any]) -> Recipe:
    """The recipe with other values, by dotted name: `{"optim.lr": 0.003}`.

    Texts are read as TOML, with what people leave out: "1e-3" and ".001", "0.9,0.95", "cat,dog". The expected result
    and the curve are dropped when they no longer apply.

    Raises:
        RecipeError: A line does not exist, or cannot have that value.
    """
    changed = recipe
    for name, value in changes.items():
        parts, given = name.split("."), value
        if not all(parts):
            raise RecipeError(f"a recipe has no {name!r}")
        for part in reversed(parts):
            given = {part: given}
        changed = _merged(changed, given, "", _read)
    return without_stale_claims(changed, recipe)


def without_stale_claims(recipe: Recipe, before: Recipe) -> Recipe:
    """Without the result and the curve of `before`, if `recipe` learns something else: they say nothing about it."""
    if _learnt(recipe) == _learnt(before):
        return recipe
    about, old = recipe.about, before.about
    return dataclasses.replace(
        recipe,
        about=dataclasses.replace(
            about,
            curve=() if about.curve == old.curve else about.curve,
            expected="" if about.expected == old.expected else about.expected,
        ),
    )


def _learnt(recipe: Recipe) -> Recipe:
    """Only what decides what is learned, up to chance and rounding. The same images may lie elsewhere: imagenet may be
    /data/imagenet."""
    return dataclasses.replace(
        recipe,
        name="",
        about=About(),
        data=dataclasses.replace(recipe.data, source=Path(recipe.data.source).name, seed=0),
        evaluation=dataclasses.replace(recipe.evaluation, every_epochs=1.0),
        train=dataclasses.replace(recipe.train, seed=0, precision="fp32"),
        machine=Machine(),
    )


def dumps(recipe: Recipe, explain: bool = False) -> str:
    """The recipe as TOML; `explain` adds the help of each line, and its choices."""
    lines = [f"name = {_toml(recipe.name)}"]
    for table in dataclasses.fields(recipe)[1:]:
        part = getattr(recipe, table.name)
        kinds = get_type_hints(type(part))
        lines += ["", f"[{table.name}]"]
        nested: list[str] = []
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            note = f"  # {_note(field, kinds[field.name])}" if explain else ""
            if isinstance(value, dict):
                nested += ["", f"[{table.name}.{field.name}]{note}"] if value or explain else []
                nested += [f"{_key(key)} = {_toml(one)}" for key, one in value.items()]
            else:
                lines.append(f"{field.name} = {_toml(value)}{note}")
        lines += nested
    return "\n".join(lines) + "\n"


def differences(ours: Recipe, theirs: Recipe, apart_from: tuple[str, ...] = ()) -> list[str]:
    """Lines such as `optim.lr: 0.001, not 0.003`, for all tables but some."""
    found = []
    for table in dataclasses.fields(Recipe)[1:]:
        if table.name in apart_from:
            continue
        a, b = (dataclasses.asdict(getattr(recipe, table.name)) for recipe in (ours, theirs))
        found += [f"{table.name}.{name}: {_toml(a[name])}, not {_toml(b[name])}" for name in a if a[name] != b[name]]
    return found


def fields() -> dict[str, tuple[str, Any, str]]:
    """Every line that a recipe may have, by dotted name: (type in words, default, help)."""
    plain = Recipe()
    found: dict[str, tuple[str, Any, str]] = {}
    for table in dataclasses.fields(Recipe)[1:]:
        part = getattr(plain, table.name)
        kinds = get_type_hints(type(part))
        for field in dataclasses.fields(part):
            words = _words(kinds[field.name])
            found[f"{table.name}.{field.name}"] = words, getattr(part, field.name), field.metadata["doc"]
    return found


def meant_by(word: str) -> list[str]:
    """The lines of a recipe that `word` stands for: by their last name, or by what other programs call them."""
    return ALIASES.get(word) or [name for name in fields() if name.split(".")[1] == word]


def _note(field: dataclasses.Field[Any], kind: Any) -> str:
    """The help of a line, with the words to choose from."""
    doc = field.metadata["doc"]
    return f"{doc}: {_words(kind)}" if get_origin(kind) is Literal else doc


def _merged(part: Any, given: Any, prefix: str, read: Callable[[Any, Any, str], Any]) -> Any:
    """A part of a recipe with the values of a table in place of its own.

    prefix: where the part stands, "" or such as "optim.". read: makes of (type, value, name) a value of that type.
    """
    if not isinstance(given, dict):
        table = prefix.removesuffix(".")
        shown = printable(_shown(given))
        raise RecipeError(f"{table} is a table, not {shown}; set one of its lines, such as {table}.KEY")
    if isinstance(part, dict):
        return {**part, **{key: read(Option, value, prefix + _key(key)) for key, value in given.items()}}
    kinds, values = get_type_hints(type(part)), {}
    for key, value in given.items():
        name = prefix + _key(key)
        if key not in kinds:
            raise RecipeError(_unknown(name, prefix, type(part), key))
        inner = getattr(part, key)
        if dataclasses.is_dataclass(inner) or isinstance(inner, dict):
            values[key] = _merged(inner, value, f"{name}.", read)
        else:
            values[key] = read(kinds[key], value, name)
    return dataclasses.replace(part, **values)


def _unknown(name: str, prefix: str, kind: type, key: str) -> str:
    """The message for a line that does not exist: perhaps it stands in another table, or is spelled otherwise."""
    homes = {full: full.split(".")[-1] for full in fields()}
    near = get_close_matches(key, [field.name for field in dataclasses.fields(kind)], n=1)
    meant = [] if near and not prefix else meant_by(key)  # a table's name is none of a line
    if not meant and near:
        meant = [prefix + near[0]]
    if not meant and (near := get_close_matches(key, homes.values(), n=1)):
        meant = [full for full, last in homes.items() if last == near[0]]
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    return f"a recipe has no {name!r}{hint}"


def _read(kind: Any, value: Any, name: str) -> Any:
    """`value`, or what a text stands for, as the type of a field."""
    if isinstance(value, str) and kind is not str and get_origin(kind) is not Literal:
        listed = kind == tuple[str, ...] and not value.lstrip().startswith("[")
        value = _texts(value) if listed else _value(value)
    return _as(kind, value, name)


def _texts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _value(text: str) -> Any:
    """As TOML reads it; but lists may come without brackets, and numbers as Python has them, such as .001 and 3."""
    for candidate in (text, f"[{text}]", text.lower()):
        try:
            given = tomllib.loads(f"value = {candidate}")
        except (ValueError, RecursionError):
            continue
        if [*given] == ["value"]:  # not a text with lines of its own
            return given["value"]
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    return numbers if len(numbers) > 1 else numbers[0]


def _as(kind: Any, value: Any, name: str) -> Any:
    """`value` as the type of a field, or a `RecipeError`."""
    fitted = _fit(kind, value)
    if fitted is _MISFIT:
        raise RecipeError(printable(f"{name} must be {_words(kind)}, not {_shown(value)}"))
    return fitted


_MISFIT = object()


def _fit(kind: Any, value: Any) -> Any:
    """`value` as a `kind`, or `_MISFIT`. Whole numbers pass for others and back; one thing passes for a list of one."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value if value in inner else _MISFIT
    if origin in (Union, UnionType):
        fits = [fitted for one in inner if (fitted := _fit(one, value)) is not _MISFIT]
        return next((fitted for fitted in fits if type(fitted) is type(value)), fits[0] if fits else _MISFIT)
    if origin is tuple:
        items = [*value] if isinstance(value, list | tuple) else [value]
        kinds = [inner[0]] * len(items) if inner[1:] == (...,) else [*inner]
        if len(kinds) != len(items):
            return _MISFIT
        fitted = tuple(_fit(one, item) for one, item in zip(kinds, items, strict=True))
        return _MISFIT if any(item is _MISFIT for item in fitted) else fitted
    if kind in (int, float) and type(value) in (int, float):
        if kind is int or type(value) is int:
            fits = -(2**63) <= value < 2**63 and (kind is float or value % 1 == 0)  # what TOML promises to hold
        else:
            fits = math.isfinite(value)
        return kind(value) if fits else _MISFIT
    if kind is str and isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # a file name that is no Unicode, which TOML cannot say
            return _MISFIT
    return value if type(value) is kind else _MISFIT


def _words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(json.dumps(one) for one in inner)
    if origin is tuple:
        if inner[1:] == (...,):
            word = _words(inner[0]).removeprefix("a ").removeprefix("an ")
            return f"a list of {word}" if word.endswith("]") else f"a list of {word}s"
        return "[" + ", ".join(_words(one) for one in inner) + "]"
    if kind == Option:
        return "true, a number, a text or a list of integers"
    if origin is dict:
        return "a table"
    return {bool: "true or false", int: "an integer", float: "a number", str: "a text"}[kind]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, int) and value.bit_length() > 64:
        return hex(value)  # a number of more than 4,300 digits would be refused as str
    return str(value)


def _key(key: str) -> str:
    """Bare where TOML allows it."""
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _toml(key)


def _shown(value: Any) -> str:
    text = _toml(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
