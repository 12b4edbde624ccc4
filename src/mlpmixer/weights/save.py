"""`save`: a model becomes one file, ours or in the layout of others."""

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
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer
from mlpmixer.version import __version__
from mlpmixer.weights import files, layouts
from mlpmixer.weights.checkpoint import Quirks, family_of, header, heads_of
from mlpmixer.weights.info import info_of
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
    """Writes the weights to `path`, whole or not at all, and returns it.

    The ending chooses the kind of file: `.safetensors` is ours and carries all that is needed to predict, `.npz` is
    the authors', `.pth` is timm's; `layout="timm"` with `.safetensors` is timm's too, `layout="older"` with `.npz` the
    authors' before Linen, and `layout="vit_jax"` a ViT as today's vit_jax names it in memory. Only ours keeps the
    metadata; what is not said here is taken from the model's own.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UsageError(f"cannot tell the kind of file from '{path.name}'; end it with {', '.join(ENDINGS)}")
    kind, possible = ENDINGS[path.suffix]
    layout = layout or possible[0]
    if layout not in possible:
        raise UsageError(f"a {path.suffix} file has the layout {' or '.join(possible)}, not '{layout}'")
    info = info_of(model, classes, preprocessing)
    origin = {**info.provenance, **(provenance or {}), "saved_by": f"mlpmixer {__version__}"}
    info = dataclasses.replace(info, provenance=origin)
    state = model.state_dict()
    if layout == "mlpmixer":
        files.write(path, kind, narrowed(state, info.layer_precisions), header(model, info))
    else:
        files.write(path, kind, _theirs(model, state, layout, info), {"format": "pt"})
    return path


def _theirs(model: Classifier, state: dict[str, Tensor], layout: LayoutName, info: ModelInfo) -> dict[str, Tensor]:
    if isinstance(model, Mixer):
        config = model.config
        if config.untied or config.groups > 1 or config.pyramid or config.group_projection:
            raise UsageError(f"the {layout} layout has no untied, grouped or pyramid Mixers; save as .safetensors")
    known = layouts.find(family_of(model), layout)
    theirs: dict[str, Tensor] = {}
    for line in layouts.pair(known, state):
        if not line.theirs:
            raise UsageError(f"the {layout} layout has no place for {line.ours[0]}; save as .safetensors")
        arrays = line.form.to_theirs(tuple(state[name] for name in line.ours), heads_of(model.config))
        theirs |= dict(zip(line.theirs, arrays, strict=True))
    return _quirks_in(info, layout).restore(theirs)


def _quirks_in(info: ModelInfo, layout: str) -> Quirks:
    """How the file that the model came from departed from this layout, so that it is written the same way again."""
    if info.provenance.get("layout") != layout or "quirks" not in info.provenance:
        return Quirks()
    return Quirks(**json.loads(info.provenance["quirks"]))
