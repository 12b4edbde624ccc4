"""The model zoo: the pretrained weights that have a name, read from `model_zoo.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mlpmixer import models
from mlpmixer.errors import UsageError, nearest
from mlpmixer.metadata import Preprocessing
from mlpmixer.weights.bundled import BUNDLED

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One public file.

    Attributes:
        name: As `load` takes it.
        model: As `mlpmixer.create` takes it.
        what: What the weights are, in a sentence.
        says: Who says so.
        url: Where the file is.
        layout: How its arrays are named.
        preprocessing: How images are prepared for it.
        gelu: The form it was trained with; None: it has no GELU.
        num_classes: Outputs of its head.
        top1: Accuracy on ImageNet's validation set, in percent.
        top1_source: Who measured it.
        sha256: The hexadecimal checksum of the file, or as many of its first digits as are known.
    """

    name: str
    model: str
    what: str
    says: str
    url: str
    layout: Literal["linen", "older", "timm"]
    preprocessing: Preprocessing
    gelu: Literal["tanh", "erf"] | None = None
    num_classes: int
    top1: float | None = None
    top1_source: str | None = None
    sha256: str | None = None


@cache
def model_zoo() -> dict[str, Entry]:
    """All entries by name, in the order of the file."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    texts: dict[str, str] = {}
    for name, text in table["texts"].items():
        texts[name] = text.format(**texts)
    found: list[Entry] = []
    for group in table["groups"]:
        files = group.pop("files")
        found += [_entry({**group, **file}, texts) for file in files]
    return {entry.name: entry for entry in found}


def _entry(fields: dict[str, Any], texts: dict[str, str]) -> Entry:
    filled: dict[str, Any] = {k: v.format(**texts) if isinstance(v, str) else v for k, v in fields.items()}
    how: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in filled.pop("preprocessing").items()}
    return Entry(preprocessing=Preprocessing(**how), **filled)


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """The names that `create` takes.

    Args:
        pattern: A shell pattern that they match, such as `mixer_*`.
        pretrained: List weights instead of models: those in the package, then those that others have published.

    Returns:
        Names, the paper's Mixers first.

    Examples:
        >>> mlpmixer.list_models("mixer_b*")
        ['mixer_b32', 'mixer_b16']
        >>> mlpmixer.list_models(pretrained=True)[:2]
        ['mixer_cifar10', 'mixer_clothing']
    """
    if not pretrained:
        return models.list_models(pattern)
    return [name for name in (*BUNDLED, *model_zoo()) if fnmatchcase(name, pattern)]


def pretrained_for(name: str) -> str:
    """The name of the weights called `name`, or of the first for the model called so.

    Raises:
        UsageError: There are none.
    """
    if name in BUNDLED or name in model_zoo():
        return name
    model = models.canonical(name)
    found = next((entry.name for entry in model_zoo().values() if entry.model == model), None)
    if found is None:
        raise UsageError(f"there are no pretrained weights for {model} (`mixer models --weights` lists what there is)")
    return found


def find(name: str) -> Entry:
    """The entry called `name`.

    Raises:
        UsageError: There is none.
    """
    if name not in model_zoo():
        hint = nearest(name, model_zoo()) or "; a name looks like 'mixer_b16.imagenet21k', see `mixer models --weights`"
        raise UsageError(f"no public checkpoint is called '{name}'{hint}")
    return model_zoo()[name]
