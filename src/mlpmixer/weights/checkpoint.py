"""What a file turns out to be: a model's description, and how its arrays are named and shaped in the file."""

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
from mlpmixer.metadata import MOST_MEAN, STD_RANGE, ModelInfo, Preprocessing
from mlpmixer.models import CLASSES, build
from mlpmixer.models.bit import BiTConfig
from mlpmixer.models.classifier import Classifier, ClassifierConfig
from mlpmixer.models.mixer import MixerConfig
from mlpmixer.models.vit import ViTConfig
from mlpmixer.text import fault, first_line
from mlpmixer.weights import layouts
from mlpmixer.weights.header import ArrayFile
from mlpmixer.weights.infer import config_of, name_of
from mlpmixer.weights.layouts import Layout, Line

HEADER = "mlpmixer"  # our entry in the metadata of a safetensors file
VERSION = 4  # 4: "metadata" and "layer_precisions" (0.2.0)
MAX_LAYERS = 500  # the deepest model here has 68, and more would not fit into files.MAX_ARRAYS
MAX_PIXELS = 16_384  # of a side of a prepared image
MOST_RANGE = 1e6  # where a table of a quantized Mixer may end; LayerNorm and the GELU give some tens
CONFIGS: dict[str, type[ClassifierConfig]] = {"mixer": MixerConfig, "vit": ViTConfig, "bit": BiTConfig}


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
        # Some of BiT's first files number their convolutions as TensorFlow happened to.
        usual = {re.sub(r"/standardized_conv2d_\d+/", "/standardized_conv2d/", n): n for n in names}
        renamed = {k.removeprefix(prefix): v.removeprefix(prefix) for k, v in usual.items() if k != v}
        return cls(prefix, renamed)


@dataclass
class Checkpoint:
    path: Path
    name: str
    config: ClassifierConfig
    info: ModelInfo
    layout: Layout
    quirks: Quirks = field(default_factory=Quirks)


def recognize(
    file: ArrayFile,
    stored_size: tuple[int, int] | None = None,
    heads: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Checkpoint:
    """Our own files say what they are; others are told by their names and shapes, and by what the caller knows."""
    checkpoint = _ours(file) if HEADER in file.metadata else _others(file, stored_size, heads, preprocessing)
    config = checkpoint.config
    depth = config.layers if isinstance(config, MixerConfig | ViTConfig) else sum(config.units)  # pyright: ignore[reportAttributeAccessIssue]
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
    layout = layouts.recognize(theirs)
    if layout is None:
        shown = ", ".join(list(file.claims)[:4])
        raise KeyMismatch(f"{file.path} is no Mixer, ViT or BiT in a layout known here; its arrays begin with {shown}")
    if layout.family == "bit" and preprocessing is not None:  # its arrays fit any size, but it was made for one
        stored_size = stored_size or preprocessing.crop
    try:
        shapes = layouts.our_shapes(layout, _squeezed(layout, theirs))
        config = config_of(layout, shapes, stored_size, heads or layouts.heads_in(theirs))
    except KeyMismatch as error:
        raise KeyMismatch(f"{file.path} {error}") from None
    except UsageError as error:
        raise UsageError(f"{file.path}: {error}") from None
    provenance = {"file": file.path.name, "layout": layout.name}
    if preprocessing is None:
        provenance["preprocessing"] = "assumed: the authors' [-1, 1]; the file does not say"
    return Checkpoint(
        path=file.path,
        name=name_of(layout.family, config),
        config=config,
        info=ModelInfo(preprocessing=preprocessing or Preprocessing.usual(config.image_size), provenance=provenance),
        layout=layout,
        quirks=quirks,
    )


def header(model: Classifier, info: ModelInfo) -> dict[str, str]:
    """The metadata of our own files: JSON with all that is needed to use the arrays."""
    about = {
        "version": VERSION,
        "name": model.name,
        "family": family_of(model),
        "config": dataclasses.asdict(model.config),
        "metadata": dataclasses.asdict(info),
    }
    written = json.dumps(about, ensure_ascii=False)
    # Half a letter, from a file's name that is no text, is written out, which in JSON means the same.
    return {HEADER: written.encode("utf-8", "backslashreplace").decode(), "format": "pt"}


def family_of(model: Classifier) -> str:
    return next(family for family, kind in CLASSES.items() if type(model).__name__ == kind)


def _ours(file: ArrayFile) -> Checkpoint:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    try:
        about: dict[str, Any] = json.loads(file.metadata[HEADER])
        if about["version"] > VERSION:
            raise BrokenFile(f"{file.path} was written by a newer mlpmixer; update with pip install -U mlpmixer")
        family = about["family"]
        config = converter.structure(about["config"], CONFIGS[family])
        info = converter.structure(about["metadata"], ModelInfo)
        check_info(info, config)
        converter.structure(json.loads(info.provenance.get("quirks", "{}")), Quirks)  # `save` reads them
        name = first_line(about["name"])
    except BrokenFile:
        raise
    except Exception as error:  # any way in which the header is not what `header` writes
        raise BrokenFile(f"{file.path} has a header that makes no sense: {first_line(error)}") from error
    return Checkpoint(file.path, name, config, info, layouts.own(family))


def check_info(info: ModelInfo, config: ClassifierConfig) -> None:
    """Stops what would go wrong only when an image is prepared or a class is named."""
    if info.classes is not None:
        if len(info.classes) != config.num_classes:
            raise ValueError(f"{len(info.classes)} class names for {config.num_classes} classes")
        if (wrong := fault(info.classes)) is not None:
            raise ValueError(f"it {wrong}")
    how = info.preprocessing
    if not all(1 <= side <= MAX_PIXELS for side in (how.resize, *how.crop)):
        raise ValueError(f"images scaled to {how.resize} and cropped to {how.crop} pixels")
    if how.crop != config.image_size:
        cropped, taken = ("×".join(map(str, size)) for size in (how.crop, config.image_size))
        raise ValueError(f"images cropped to {cropped} pixels for a model that takes {taken}")
    low, high = STD_RANGE
    sound = all(abs(value) <= MOST_MEAN for value in how.mean) and all(low <= value <= high for value in how.std)
    if not sound or len(how.mean) != 3 or len(how.std) != 3:
        raise ValueError(f"images with a mean of {how.mean} and a deviation of {how.std}")
    halves = 2 * config.layers if isinstance(config, MixerConfig) else 0
    if info.layer_precisions and len(info.layer_precisions) != halves:
        raise ValueError(f"{len(info.layer_precisions)} layer precisions for {halves} halves of layers")
    for layer in info.layer_precisions:
        if not all(abs(end) <= MOST_RANGE for table in (layer.normed, layer.active) for end in (table.low, table.high)):
            raise ValueError(f"a layer precision without ranges: {layer}")


def lines_of(checkpoint: Checkpoint, config: ClassifierConfig) -> tuple[list[Line], dict[str, Tensor]]:
    """How each of our arrays stands in the file, and our arrays themselves, as shapes."""
    try:
        with torch.device("meta"):
            ours = build(checkpoint.layout.family, config).state_dict()
    except (RuntimeError, TypeError, OverflowError) as error:  # torch counts in 64 bits, even what it does not allocate
        raise BrokenFile(f"{checkpoint.path} claims a model too large to exist: {first_line(error)}") from error
    return layouts.pair(checkpoint.layout, ours), ours


def heads_of(config: ClassifierConfig) -> int:
    return config.heads if isinstance(config, ViTConfig) else 1


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


def _squeezed(layout: Layout, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    if (layout.family, layout.name) != ("mixer", "older"):
        return theirs
    return {name: array.squeeze() if "_phase_0/" in name else array for name, array in theirs.items()}
