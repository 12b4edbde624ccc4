"""An opened checkpoint: what model is in a file, and how its arrays are named and shaped there."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cattrs
import torch
from torch import Tensor

from mlpmixer.errors import BrokenFile, KeyMismatch, UsageError
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models import FAMILIES, family, family_of
from mlpmixer.models.classifier import Classifier, ClassifierConfig
from mlpmixer.models.family import Family
from mlpmixer.text import first_line
from mlpmixer.weights import adapters, layouts
from mlpmixer.weights.header import COUNTER, ArrayFile
from mlpmixer.weights.layouts import OWN, Layout, Line
from mlpmixer.weights.quantized import widened

HEADER = "mlpmixer"  # our entry in the metadata of a safetensors file
VERSION = 4  # 4: "metadata" and "layer_precisions" (0.2.0)
MAX_LAYERS = 500  # the deepest model here has 88, and more would not fit into files.MAX_ARRAYS


@dataclass
class Quirks:
    """In what a file departs from its layout though it means the same; kept, so that saving gives the same file."""

    prefix: str = ""  # before every name
    renamed: dict[str, str] = field(default_factory=dict)  # the layout's name → the file's
    shapes: dict[str, list[int]] = field(default_factory=dict)  # the layout's name → the file's shape

    def strip(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's arrays under the layout's names."""
        back = {actual: usual for usual, actual in self.renamed.items()}
        stripped = {name.removeprefix(self.prefix): array for name, array in arrays.items()}
        return {back.get(name, name): array for name, array in stripped.items()}

    def restore(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            self.prefix + self.renamed.get(name, name): array.reshape(self.shapes.get(name, list(array.shape)))
            for name, array in arrays.items()
        }

    @classmethod
    def of(cls, names: Iterable[str]) -> Quirks:
        names = list(names)
        prefix = next((p for p in ("module.", "params/", "opt/target/") if all(n.startswith(p) for n in names)), "")
        usual = {name: name for name in names}
        for _, adapter in adapters.adapters():
            for odd, plain in adapter.spellings.items():
                usual = {re.sub(odd, plain, spelled): name for spelled, name in usual.items()}
        renamed = {k.removeprefix(prefix): v.removeprefix(prefix) for k, v in usual.items() if k != v}
        return cls(prefix, renamed)


@dataclass
class Checkpoint:
    """A file that was opened and recognized, whose numbers were not read yet.

    Attributes:
        file: Its arrays and metadata.
        family: Of the model.
        layout: How its arrays are named.
        name: The model's.
        config: The model's.
        info: The model's metadata.
        quirks: In what the file departs from the layout.
        arrays: What it claims to hold, as meta tensors under the layout's names.
        gelu: The form the weights were trained with, where the model zoo says another than the layout's code.
    """

    file: ArrayFile
    family: Family
    layout: Layout
    name: str
    config: ClassifierConfig
    info: ModelInfo
    quirks: Quirks = field(default_factory=Quirks)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    gelu: str | None = None

    @property
    def path(self) -> Path:
        return self.file.path

    def read(self) -> dict[str, Tensor]:
        """The numbers, under the layout's names."""
        return widened(self.quirks.strip(self.file.read()), self.info.layer_precisions)


def recognize(
    file: ArrayFile,
    stored_size: tuple[int, int] | None = None,
    heads: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Checkpoint:
    """Our own files say what they are; others are told by their names and shapes, and by what the caller knows.

    Args:
        file: The arrays.
        stored_size: (height, width) that the weights were made for.
        heads: Attention heads.
        preprocessing: What the model zoo says of it.
    """
    checkpoint = _ours(file) if HEADER in file.metadata else _others(file, stored_size, heads, preprocessing)
    depth = checkpoint.family.layers(checkpoint.config)
    if depth > MAX_LAYERS:
        raise BrokenFile(f"{file.path} claims {depth:,} layers; no model here has over {MAX_LAYERS}")
    return checkpoint


def _others(
    file: ArrayFile, stored_size: tuple[int, int] | None, heads: int | None, preprocessing: Preprocessing | None
) -> Checkpoint:
    quirks = Quirks.of(file.claims)
    theirs = quirks.strip(file.claims)
    if len(theirs) != len(file.claims):
        raise KeyMismatch(f"{file.path} holds two arrays for one place in the model")
    for name in [name.removesuffix(COUNTER) for name in theirs if name.endswith(COUNTER)]:
        if f"{name}.running_mean" in theirs:
            del theirs[name + COUNTER]
    found = adapters.recognize(theirs)
    if found is None:
        *some, last = [one.title for one, adapter in adapters.adapters() if adapter.layouts]
        shown = ", ".join(list(file.claims)[:4])
        raise KeyMismatch(
            f"{file.path} is no {', '.join(some)} or {last} in a layout known here; its arrays begin with {shown}"
        )
    family, layout = found
    hints = adapters.Hints(theirs, stored_size, heads, preprocessing.crop if preprocessing else None)
    try:
        config = adapters.config_of(family, layout, hints)
    except KeyMismatch as error:
        raise KeyMismatch(f"{file.path} {error}") from None
    except UsageError as error:
        raise UsageError(f"{file.path}: {error}") from None
    provenance = {"file": file.path.name, "layout": layout.name}
    if preprocessing is None:
        provenance["preprocessing"] = "assumed: the authors' [-1, 1]; the file does not say"
    info = ModelInfo(preprocessing=preprocessing or Preprocessing.usual(config.image_size), provenance=provenance)
    return Checkpoint(file, family, layout, family.size_of(config), config, info, quirks, theirs)


def header(model: Classifier, info: ModelInfo) -> dict[str, str]:
    """The metadata of our own files: JSON with all that is needed to use the arrays."""
    if (kind := family_of(model)).name not in FAMILIES:
        raise UsageError(f"a {kind.name} cannot be saved: its family has no row in mlpmixer.models.FAMILIES")
    about = {
        "version": VERSION,
        "name": model.name,
        "family": kind.name,
        "config": dataclasses.asdict(model.config),
        "metadata": dataclasses.asdict(info),
    }
    written = json.dumps(about, ensure_ascii=False)
    # Half a letter, from a file's name that is no text, is written out, which in JSON means the same.
    return {HEADER: written.encode("utf-8", "backslashreplace").decode(), "format": "pt"}


def _ours(file: ArrayFile) -> Checkpoint:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    try:
        about: dict[str, Any] = json.loads(file.metadata[HEADER])
        if about["version"] > VERSION:
            raise BrokenFile(f"{file.path} was written by a newer mlpmixer; update with pip install -U mlpmixer")
        if about["version"] < VERSION:
            raise BrokenFile(
                f"{file.path} was written by mlpmixer 0.1; load it there (pip install 'mlpmixer<0.2') and save it as "
                ".npz, which any version reads"
            )
        if about["family"] not in FAMILIES:
            raise BrokenFile(f"{file.path} holds an unknown model family '{first_line(about['family'])}'")
        kind = family(about["family"])
        config = converter.structure(about["config"], kind.config)
        info = converter.structure(about["metadata"], ModelInfo)
        info.check(config.num_classes, config.image_size, mixer_layers=kind.mixer_layers(config))
        converter.structure(json.loads(info.provenance.get("quirks", "{}")), Quirks)  # `save` reads them
        name = first_line(about["name"])
    except BrokenFile:
        raise
    except Exception as error:  # any way in which the header is not what `header` writes
        raise BrokenFile(f"{file.path} has an invalid header: {first_line(error)}") from error
    arrays = widened(file.claims, info.layer_precisions)
    return Checkpoint(file, kind, OWN, name, config, info, arrays=arrays)


def lines_of(checkpoint: Checkpoint, config: ClassifierConfig) -> tuple[list[Line], dict[str, Tensor]]:
    """How each of our arrays stands in the file, and our arrays themselves, as shapes."""
    try:
        with torch.device("meta"):
            ours = checkpoint.family.build(config).state_dict()
    except (RuntimeError, TypeError, OverflowError) as error:  # torch counts in 64 bits, even what it does not allocate
        raise BrokenFile(f"{checkpoint.path} claims a model too large to exist: {first_line(error)}") from error
    return layouts.pair(checkpoint.layout, ours), ours


def settle_shapes(checkpoint: Checkpoint, given: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The oldest Mixer files have sides of length 1 here and there; told from misshapen arrays, and noted."""
    if checkpoint.layout.name != "older":
        return given
    for name, array in given.items():
        if name in wanted and array.shape != wanted[name].shape and _bare(array) == _bare(wanted[name]):
            checkpoint.quirks.shapes[name] = list(array.shape)
            given[name] = array.reshape(wanted[name].shape)
    return given


def _bare(array: Tensor) -> list[int]:
    return [side for side in array.shape if side != 1]
