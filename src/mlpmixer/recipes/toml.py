"""Recipes as TOML files, and changes to them by name: both go through one strict door."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlpmixer.errors import RecipeError, nearest
from mlpmixer.recipe import Option, Recipe


def read(path: str | os.PathLike[str]) -> Recipe:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise RecipeError(f"cannot read {os.fspath(path)}: {why}") from error
    return loads(text, os.fspath(path))


def loads(text: str, name: str = "the recipe") -> Recipe:
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name} is not TOML: {error}") from None
    return _build(Recipe, given, "", name)


def change(recipe: Recipe, changes: Mapping[str, str | Any]) -> Recipe:
    """The recipe with other values, by dotted name. Texts are read as TOML would read them: `{"optim.lr": "1e-3"}`."""
    for name, value in changes.items():
        recipe = _changed(recipe, name.split("."), value, name)
    return recipe


def dumps(recipe: Recipe, explain: bool = False) -> str:
    """As TOML; `explain` adds to each line what it means."""
    lines = [f"name = {_toml(recipe.name)}"]
    for table in dataclasses.fields(recipe)[1:]:
        part = getattr(recipe, table.name)
        notes = comments(type(part)) if explain else {}
        lines += ["", f"[{table.name}]"]
        nested: list[str] = []
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            note = f"  # {notes[field.name]}" if field.name in notes else ""
            if isinstance(value, dict):
                nested += ["", f"[{table.name}.{field.name}]{note}"] if value or explain else []
                nested += [f"{key} = {_toml(one)}" for key, one in value.items()]
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
    """What the source says beside or above the end of each field: it is the one place where fields are explained."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.getsource(part).splitlines():
        if start := re.match(r"    (\w+):", line):
            name = start[1]
        if name and (note := re.search(r"  # (.+)$", line)):
            found[name] = note[1]
    return found


def _changed(part: Any, path: list[str], value: Any, name: str) -> Any:
    first, *rest = path
    if isinstance(part, dict):
        return {**part, ".".join(path): _read_as(Option, value, name)}
    kinds = get_type_hints(type(part))
    if first not in kinds:
        raise RecipeError(_unknown(name, type(part), first))
    if not rest:
        if dataclasses.is_dataclass(kinds[first]) or get_origin(kinds[first]) is dict:
            raise RecipeError(f"{name} is a table; change one of its lines, such as {name}.KEY")
        return dataclasses.replace(part, **{first: _read_as(kinds[first], value, name)})
    inner = getattr(part, first)
    if not (dataclasses.is_dataclass(inner) or isinstance(inner, dict)):
        raise RecipeError(f"{name}: there is nothing below {name.removesuffix('.' + '.'.join(rest))}")
    return dataclasses.replace(part, **{first: _changed(inner, rest, value, name)})


def _build(kind: type, given: Any, prefix: str, source: str) -> Any:
    if not isinstance(given, dict):
        raise RecipeError(f"{source}: {prefix or 'it'} must be a table")
    kinds = get_type_hints(kind)
    values = {}
    for key, value in given.items():
        name = f"{prefix}.{key}" if prefix else key
        if key not in kinds:
            raise RecipeError(f"{source}: {_unknown(name, kind, key)}")
        inner = kinds[key]
        if dataclasses.is_dataclass(inner):
            values[key] = _build(inner, value, name, source)  # pyright: ignore[reportArgumentType] (a class)
        else:
            values[key] = _read_as(inner, value, f"{source}: {name}")
    return kind(**values)


def _unknown(name: str, kind: type, key: str) -> str:
    near = nearest(key, [field.name for field in dataclasses.fields(kind)])
    if not near:  # right name, wrong table?
        homes = [full for full in fields() if full.split(".")[-1] == key]
        near = f"; did you mean '{homes[0]}'?" if homes else nearest(name, fields())
    return f"a recipe has no '{name}'{near}"


def _read_as(kind: Any, value: Any, name: str) -> Any:
    """`value`, or the text of it, as the type of a field; strictly."""
    if (isinstance(value, str) and not _takes_text(kind)) or (isinstance(value, str) and kind == Option):
        value = _from_text(value)
    fitted = _fit(kind, value)
    if fitted is _MISFIT:
        raise RecipeError(f"{name} must be {_words(kind)}, not {_toml(value)}")
    return fitted


def _from_text(text: str) -> Any:
    """As TOML reads it; lists may come without brackets, and what is no TOML is a plain text."""
    for candidate in (text, f"[{text}]", text.lower()):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    try:
        return float(text)  # 1e-3 is TOML, .001 and 3. are not
    except ValueError:
        return text


_MISFIT = object()


def _fit(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value if value in inner else _MISFIT
    if origin in (Union, UnionType):
        return next((fitted for one in inner if (fitted := _fit(one, value)) is not _MISFIT), _MISFIT)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            value = [value]
        kinds = [inner[0]] * len(value) if inner[1:] == (...,) else [*inner]
        if len(kinds) != len(value):
            return _MISFIT
        fitted = tuple(_fit(one, item) for one, item in zip(kinds, value, strict=True))
        return _MISFIT if _MISFIT in fitted else fitted
    if origin is dict:
        if not isinstance(value, dict):
            return _MISFIT
        fitted = {key: _fit(inner[1], item) for key, item in value.items()}
        return _MISFIT if _MISFIT in fitted.values() else fitted
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is kind else _MISFIT


def _takes_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return True
    return kind is str or (get_origin(kind) is UnionType and str in get_args(kind) and kind != Option)


def _words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(json.dumps(one) for one in inner)
    if origin is tuple:
        if inner[1:] == (...,):
            return f"a list of {_words(inner[0]).removeprefix('a ').removeprefix('an ')}s"
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
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    return repr(value)
