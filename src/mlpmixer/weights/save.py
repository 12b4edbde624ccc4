"""Saving: `save` writes a model to one file, ours or in the layout of others."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from mlpmixer.errors import UsageError
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models import family_of, with_metadata
from mlpmixer.models.classifier import Classifier
from mlpmixer.version import __version__
from mlpmixer.weights import files, layouts
from mlpmixer.weights.adapters import layout_called
from mlpmixer.weights.checkpoint import Quirks, header
from mlpmixer.weights.quantized import narrowed

LayoutName = Literal["mlpmixer", "timm", "linen", "older", "vit_jax"]

# The ending of a file → the layouts that it can have, the usual one first.
ENDINGS: dict[str, tuple[str, tuple[LayoutName, ...]]] = {
    ".safetensors": ("safetensors", ("mlpmixer", "timm")),
    ".npz": ("npz", ("linen", "older", "vit_jax")),
    ".pth": ("pth", ("timm",)),
    ".pt": ("pth", ("timm",)),
}


def save(
    model: Classifier,
    path: str | os.PathLike[str],
    *,
    layout: LayoutName | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    provenance: dict[str, str] | None = None,
) -> Path:
    """Writes the weights of `model` to `path`, whole or not at all.

    The ending chooses the kind of file: `.safetensors` is ours and carries all that is needed to predict, `.npz` is
    the authors', `.pth` is timm's. Only ours keeps the metadata, and options that are no arrays, such as the form of
    GELU: timm computes the exact one unless told otherwise.

    Args:
        model: The model.
        path: Ends with `.safetensors`, `.npz`, `.pth` or `.pt`.
        layout: Another than the usual layout of that ending: "timm" with `.safetensors`; with `.npz` "older", as the
            authors named arrays before Linen, or "vit_jax", as today's vit_jax names a ViT's in memory.
        classes: The names of the classes; by default those of the model's metadata.
        preprocessing: How to prepare images; by default as the model's metadata says.
        provenance: Where the weights come from; added to that of the model's metadata.

    Returns:
        The path.

    Raises:
        UsageError: The layout has no place for this model, the metadata does not fit it, or `path` cannot be written.

    Examples:
        >>> model = mlpmixer.create("mixer_pico", num_classes=2)
        >>> mlpmixer.save(model, "mine.safetensors", classes=["cat", "dog"]).name
        'mine.safetensors'
        >>> mlpmixer.load("mine.safetensors").metadata.classes
        ('cat', 'dog')
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UsageError(f"cannot tell the kind of file from '{path.name}'; end it with {', '.join(ENDINGS)}")
    kind, possible = ENDINGS[path.suffix]
    layout = layout or possible[0]
    if layout not in possible:
        raise UsageError(f"a {path.suffix} file has the layout {' or '.join(possible)}, not '{layout}'")
    info = with_metadata(model, classes, preprocessing).metadata
    origin = {**info.provenance, **(provenance or {}), "saved_by": f"mlpmixer {__version__}"}
    info = dataclasses.replace(info, provenance=origin)
    state = model.state_dict()
    if layout == "mlpmixer":
        files.write(path, kind, narrowed(state, info.layer_precisions), header(model, info))
    else:
        files.write(path, kind, _theirs(model, state, layout, info), {"format": "pt"})
    return path


def _theirs(model: Classifier, state: dict[str, Tensor], layout: LayoutName, info: ModelInfo) -> dict[str, Tensor]:
    known = layout_called(layout, model.config, family_of(model))
    theirs: dict[str, Tensor] = {}
    for line in layouts.pair(known, state):
        if not line.theirs:
            raise UsageError(f"the {layout} layout has no place for {line.ours[0]}; save as .safetensors")
        arrays = line.form.to_theirs(tuple(state[name] for name in line.ours), model.config)
        theirs |= dict(zip(line.theirs, arrays, strict=True))
    return _quirks_in(info, layout).restore(theirs)


def _quirks_in(info: ModelInfo, layout: str) -> Quirks:
    """How the file that the model came from departed from this layout, so that it is written the same way again."""
    if info.provenance.get("layout") != layout or "quirks" not in info.provenance:
        return Quirks()
    return Quirks(**json.loads(info.provenance["quirks"]))
