"""`load`: a checkpoint of any origin becomes a model, exactly or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlpmixer.errors import UsageError, nearest
from mlpmixer.metadata import ModelInfo
from mlpmixer.models import build, canonical, revise, sides
from mlpmixer.models.classifier import Classifier, ClassifierConfig
from mlpmixer.models.layers import head
from mlpmixer.weights import model_zoo
from mlpmixer.weights.bundled import BUNDLED
from mlpmixer.weights.checkpoint import Checkpoint, Quirks, heads_of, lines_of, recognize, settle_shapes
from mlpmixer.weights.fetch import fetch
from mlpmixer.weights.files import look
from mlpmixer.weights.header import ArrayFile
from mlpmixer.weights.key_check import compare
from mlpmixer.weights.quantized import widened
from mlpmixer.weights.resolution import Scheme, change_resolution


def load(
    source: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: Scheme = "resample",
    fresh: Iterable[str] = (),
    dtype: torch.dtype | None = None,
    model: str | None = None,
    entry: str | None = None,
    stored_size: tuple[int, int] | None = None,
    **options: Any,
) -> Classifier:
    """The model in `source`, in evaluation mode, with its metadata.

    source: a file, a run folder, an address, or a name that `mixer models --weights` lists.
    num_classes: another number of classes than the file's; needs `fresh=("head",)`.
    image_size: another side, or (height, width), in pixels than the weights were made for; see `resize`.
    resize: how a Mixer's token mixing follows it: "resample" (any size), or "tiles" (the paper's, whole multiples).
    fresh: parts of ours, such as "head" or "blocks.11", that start anew instead of being read.
    dtype: of the weights; the file's own if not said.
    model: the name that the checkpoint must have.
    entry: which set of weights, where a .pth holds several.
    stored_size: (height, width) that the file's weights were made for, where their shape does not tell.
    options: fields of the family's config that leave shapes as they are, such as `dropout` or `gelu`.
    """
    fresh = (fresh,) if isinstance(fresh, str) else tuple(fresh)
    path, listed = _locate(source)
    file = look(path, entry)
    heads = options.get("heads")
    checkpoint = recognize(file, stored_size, heads, listed.preprocessing if listed else None)
    if listed is not None:
        model = model or listed.model
        if listed.gelu is not None:
            options.setdefault("gelu", listed.gelu)
    if model is not None and canonical(model) != checkpoint.name:
        raise UsageError(f"{path} holds a {checkpoint.name}, not a {canonical(model)}")
    if (crop := checkpoint.info.preprocessing.crop) != checkpoint.config.image_size:  # of what the model zoo says
        made_for, prepared = ("×".join(map(str, size)) for size in (checkpoint.config.image_size, crop))
        raise UsageError(f"{path} was made for images of {made_for} pixels, and {source} is for {prepared}")

    stored = revise(checkpoint.config, **options)
    _check_classes(path, checkpoint, num_classes, fresh)
    state = _read(file, checkpoint, stored, fresh)
    config = stored
    if image_size is not None and sides(image_size) != stored.image_size:
        state, config = change_resolution(state, stored, sides(image_size), resize)
    config = revise(config, num_classes)

    dtypes = {tensor.dtype for tensor in state.values()}
    if dtype is None and len(dtypes) > 1:
        raise UsageError(f"{path} mixes {' and '.join(sorted(str(d)[6:] for d in dtypes))}; say which: dtype=")
    # Drawing first weights only to replace them takes seconds for a large model; a head of zeros takes none.
    with torch.device("meta" if {*fresh} <= {"head"} else "cpu"):
        loaded = build(checkpoint.layout.family, config, checkpoint.name)
    if "head" in fresh and isinstance(loaded.head, nn.Linear):
        loaded.head = head(loaded.head.in_features, config.num_classes, config.head_bias)
    loaded.load_state_dict(state, strict=False, assign=True)  # _read was strict
    loaded.to(dtype or next(iter(dtypes), torch.float32))
    loaded.metadata = _stamp(checkpoint, stored, config)
    return loaded.eval()


def glance(source: str | os.PathLike[str]) -> Checkpoint:
    """What a checkpoint is, without reading its numbers."""
    path, listed = _locate(source)
    return recognize(look(path), preprocessing=listed.preprocessing if listed else None)


def _locate(source: str | os.PathLike[str]) -> tuple[Path, model_zoo.Entry | None]:
    name = os.fspath(source)
    if (finished := Path(name, "weights.safetensors")).is_file():  # a run folder
        if finished.is_symlink():
            raise UsageError(f"{finished} is a link, which may lead anywhere; name the file that it leads to")
        return finished, None
    if Path(name, "recipe.toml").is_file():
        best = Path(name, "best.safetensors")
        so_far = f"; the best so far is {best}" if best.is_file() else ""
        raise UsageError(f"the run in {name} is not finished: the same `mixer train` goes on{so_far}")
    if os.path.exists(name):  # noqa: PTH110 (a Path complains of a name that is too long)
        return Path(name), None
    if name.startswith(("http://", "https://")):
        return fetch(name), None
    if name in BUNDLED:
        return BUNDLED[name], None
    if name in model_zoo.MODEL_ZOO:
        return fetch(name), model_zoo.MODEL_ZOO[name]
    known = [*BUNDLED, *model_zoo.MODEL_ZOO]
    raise UsageError(f"there is no file '{name}' and no known checkpoint of that name{nearest(name, known)}")


def _check_classes(path: Path, checkpoint: Checkpoint, asked: int | None, fresh: tuple[str, ...]) -> None:
    has = checkpoint.config.num_classes
    headless = has == 0 and checkpoint.layout.name != "mlpmixer"  # ours say that they have none; others may lack it
    if "head" in fresh or (asked is None and not headless) or asked == has:
        return
    if headless:
        raise UsageError(
            f"{path} has no head; take it without one with num_classes=0, "
            "or start one with num_classes=N, fresh=('head',)"
        )
    raise UsageError(f"{path} has {has} classes, not {asked}; start the head anew with fresh=('head',)")


def _read(
    file: ArrayFile, checkpoint: Checkpoint, config: ClassifierConfig, fresh: tuple[str, ...]
) -> dict[str, Tensor]:
    """Our arrays for a model of `config`, but those under `fresh`, out of a file that has exactly them."""
    lines, ours = lines_of(checkpoint, config)
    parts = {name for key in ours for name in _prefixes(key)} | {"head"}
    for part in fresh:
        if part not in parts:
            raise UsageError(f"fresh: the model has no part '{part}'{nearest(part, parts)}")
    kept, wanted = [], {}
    layer_precisions = checkpoint.info.layer_precisions
    given = widened(checkpoint.quirks.strip(file.claims), layer_precisions)
    for line in lines:
        if any(name == part or name.startswith(f"{part}.") for name in line.ours for part in fresh):
            for name in line.theirs:
                given.pop(name, None)
            continue
        kept.append(line)
        shapes = line.form.to_theirs(tuple(ours[name] for name in line.ours), heads_of(config))
        wanted |= dict(zip(line.theirs, shapes, strict=True))
    given = settle_shapes(checkpoint, given, wanted)
    compare(str(file.path), f"{checkpoint.name} ({checkpoint.layout.name} layout)", wanted, given)

    theirs = widened(checkpoint.quirks.strip(file.read()), layer_precisions)
    state: dict[str, Tensor] = {}
    for line in kept:
        arrays = line.form.to_ours(tuple(theirs.pop(name).reshape(wanted[name].shape) for name in line.theirs))
        for name, array in zip(line.ours, arrays, strict=True):
            # A copy of our own: the file may change under a mapped one, or share memory between arrays.
            state[name] = array.clone(memory_format=torch.contiguous_format)
    return state


def _prefixes(key: str) -> list[str]:
    words = key.split(".")
    return [".".join(words[:n]) for n in range(1, len(words) + 1)]


def _stamp(checkpoint: Checkpoint, stored: ClassifierConfig, config: ClassifierConfig) -> ModelInfo:
    """The metadata, for the size and the classes that the model has now."""
    info, quirks = checkpoint.info, checkpoint.quirks
    if config != stored:
        quirks = dataclasses.replace(quirks, shapes={})  # they were those of other arrays
    if quirks != Quirks():
        noted = {**info.provenance, "quirks": json.dumps(dataclasses.asdict(quirks))}
        info = dataclasses.replace(info, provenance=noted)
    if config.image_size != stored.image_size:
        old = info.preprocessing
        grown = max(new / before for new, before in zip(config.image_size, old.crop, strict=True))
        preprocessing = dataclasses.replace(old, crop=config.image_size, resize=round(old.resize * grown))
        info = dataclasses.replace(info, preprocessing=preprocessing, layer_precisions=())
    if config.num_classes != stored.num_classes:
        info = dataclasses.replace(info, classes=None)
    return info
