"""Recipes as TOML files, and changes to them by name: both go through one strict door."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlpmixer import files
from mlpmixer.errors import RecipeError
from mlpmixer.recipe import About, Machine, Option, Recipe, tables
from mlpmixer.text import printable


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
    return _build(Recipe, given, "", name)


def change(recipe: Recipe, changes: Mapping[str, str | Any]) -> Recipe:
    """The recipe with other values, by dotted name: `{"optim.lr": 0.003}`.

    Texts are read as TOML would read them, but for what people leave out: "1e-3" and ".001", "0.9,0.95", "cat,dog".
    What was expected of the recipe goes when something else is learnt.
    """
    changed = recipe
    for name, value in changes.items():
        changed = _changed(changed, name.split("."), value, name)
    return without_stale_claims(changed, recipe)


def without_stale_claims(recipe: Recipe, before: Recipe) -> Recipe:
    """Without the result and the curve of `before`, if `recipe` learns something else: they say nothing about it."""
    if _learnt(recipe) == _learnt(before):
        return recipe
    about, old = recipe.about, before.about
    curve, expect = () if about.curve == old.curve else about.curve, "" if about.expect == old.expect else about.expect
    return dataclasses.replace(recipe, about=dataclasses.replace(about, curve=curve, expect=expect))


def _learnt(recipe: Recipe) -> Recipe:
    """Only what decides what is learnt, up to chance and rounding. The same images may lie elsewhere: imagenet may be
    /data/imagenet."""
    return dataclasses.replace(
        recipe,
        name="",
        about=About(),
        data=dataclasses.replace(recipe.data, source=Path(recipe.data.source).name, seed=0),
        evaluation=dataclasses.replace(recipe.evaluation, every=1.0),
        train=dataclasses.replace(recipe.train, seed=0, precision="fp32"),
        machine=Machine(),
    )


def dumps(recipe: Recipe, explain: bool = False) -> str:
    """As TOML; `explain` adds to each line what it means, and what it may be where there is a choice of words."""
    lines = [f"name = {_toml(recipe.name)}"]
    for table in dataclasses.fields(recipe)[1:]:
        part = getattr(recipe, table.name)
        notes = _notes(type(part)) if explain else {}
        lines += ["", f"[{table.name}]"]
        nested: list[str] = []
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            note = f"  # {notes[field.name]}" if field.name in notes else ""
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
    """Every line that a recipe may have, by dotted name: (type in words, default, what it means)."""
    plain = Recipe()
    found: dict[str, tuple[str, Any, str]] = {}
    for table in dataclasses.fields(Recipe)[1:]:
        part = getattr(plain, table.name)
        kinds = get_type_hints(type(part))
        for field in dataclasses.fields(part):
            note = comments(type(part)).get(field.name, "")
            found[f"{table.name}.{field.name}"] = _words(kinds[field.name]), getattr(part, field.name), note
    return found


@cache
def comments(part: type) -> dict[str, str]:
    """What the source says above or beside each field: it is the one place where fields are explained."""
    found: dict[str, str] = {}
    name = above = ""
    for line in inspect.getsource(part).splitlines():
        if alone := re.fullmatch(r"    # (.+)", line):
            above = alone[1]
            continue
        if start := re.match(r"    (\w+):", line):
            name, above, note = start[1], "", above
            if note:
                found[name] = note
        if name and (beside := re.search(r"  # (.+)$", line)):
            found[name] = beside[1]
    return found


def _notes(part: type) -> dict[str, str]:
    """What `comments` say, and the words to choose from."""
    notes = dict(comments(part))
    for name, kind in get_type_hints(part).items():
        if get_origin(kind) is Literal:
            notes[name] = ": ".join(filter(None, (notes.get(name), _words(kind))))
    return notes


def _changed(part: Any, path: list[str], value: Any, name: str) -> Any:
    """`part` of a recipe with another value at `path` below it; `name` is the whole path from the recipe on."""
    first, *rest = path
    if isinstance(part, dict):
        if not all(path):
            raise RecipeError(f"{name!r} names no line")
        return {**part, ".".join(path): _read(Option, value, name)}
    kinds = get_type_hints(type(part))
    if first not in kinds:
        raise RecipeError(_unknown(name, name.removesuffix(".".join(path)), type(part), path))
    inner = getattr(part, first)
    is_table = dataclasses.is_dataclass(inner) or isinstance(inner, dict)
    if not rest:
        if is_table:
            raise RecipeError(f"{name} is a table; change one of its lines, such as {name}.KEY")
        return dataclasses.replace(part, **{first: _read(kinds[first], value, name)})
    if not is_table:
        raise RecipeError(f"{name}: there is nothing below {name.removesuffix('.' + '.'.join(rest))}")
    return dataclasses.replace(part, **{first: _changed(inner, rest, value, name)})


def _build(kind: type, given: Any, prefix: str, source: str) -> Any:
    """A part of a recipe from a table of TOML; `prefix` is where it stands, "" or such as "optim."."""
    if not isinstance(given, dict):
        raise RecipeError(f"{source}: {prefix.removesuffix('.')} must be a table, not {_shown(given)}")
    kinds = get_type_hints(kind)
    values = {}
    for key, value in given.items():
        name = prefix + _key(key)
        if key not in kinds:
            raise RecipeError(f"{source}: {_unknown(name, prefix, kind, [key])}")
        inner = kinds[key]
        if dataclasses.is_dataclass(inner):
            values[key] = _build(inner, value, f"{name}.", source)  # pyright: ignore[reportArgumentType] (a class)
        elif get_origin(inner) is dict:
            if not isinstance(value, dict):
                raise RecipeError(f"{source}: {name} must be a table, not {_shown(value)}")
            option = get_args(inner)[1]
            values[key] = {k: _as(option, v, f"{source}: {name}.{_key(k)}") for k, v in value.items()}
        else:
            values[key] = _as(inner, value, f"{source}: {name}")
    return kind(**values)


def _unknown(name: str, prefix: str, kind: type, path: list[str]) -> str:
    """What to say of a line that is not there: perhaps it stands in another table, or is spelt otherwise."""
    key, *rest = path
    homes = {full: full.split(".")[-1] for full in fields()}
    meant = [full for full, last in homes.items() if last == key]
    if not meant and (near := get_close_matches(key, [field.name for field in dataclasses.fields(kind)], n=1)):
        meant = [prefix + ".".join([*near, *rest])]
    if not meant and (near := get_close_matches(key, homes.values(), n=1)):
        meant = [full for full, last in homes.items() if last == near[0]]
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    return f"a recipe has no {name!r}{hint}"


def _read(kind: Any, value: Any, name: str) -> Any:
    """`value`, or what a text says, as the type of a field."""
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
