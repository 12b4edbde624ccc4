"""Loading: `load` turns a checkpoint of any origin into a model, exactly or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mlpmixer.errors import KeyMismatch, UsageError, nearest
from mlpmixer.metadata import ModelInfo
from mlpmixer.models import canonical, revise, sides
from mlpmixer.models.classifier import Classifier, ClassifierConfig, head
from mlpmixer.text import listed
from mlpmixer.weights.adapters import Scheme, change_resolution
from mlpmixer.weights.checkpoint import Checkpoint, Quirks, lines_of, recognize, settle_shapes
from mlpmixer.weights.files import open_arrays
from mlpmixer.weights.layouts import OWN
from mlpmixer.weights.locate import locate

SHOWN = 4  # names of each kind in a message; a file of another model differs in hundreds


def load(
    source: str | os.PathLike[str] | Checkpoint,
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
    """The model in a checkpoint, in evaluation mode, with its metadata.

    Args:
        source: A file, a run folder, an address, a name that `mixer models --weights` lists, or what
            `open_checkpoint` returned.
        num_classes: Another number of classes than the file's; needs `fresh=("head",)`.
        image_size: Another side, or (height, width), in pixels than the weights were made for; see `resize`.
        resize: How a Mixer's token mixing follows it: "resample" (any size), or "tiles" (the paper's, whole multiples).
        fresh: Parts of the model, such as "head" or "blocks.11", that are initialized instead of being read.
        dtype: Of the weights; by default the file's own.
        model: The name that the checkpoint must have.
        entry: Which set of weights, where a .pth holds several.
        stored_size: (height, width) that the file's weights were made for, where their shape does not tell.
        **options: Fields of the family's config that leave shapes as they are, such as `dropout` or `gelu`.

    Returns:
        The model; `model.metadata` has its classes, its preprocessing and where it comes from.

    Raises:
        UsageError: There is no such file or name, or what is asked for does not fit it.
        WeightsError: The file is broken, or its arrays are not exactly those of the model.

    Examples:
        >>> model = mlpmixer.load("mixer_cifar10")
        >>> model.metadata.classes[:3]
        ('airplane', 'automobile', 'bird')
        >>> mlpmixer.load("mixer_cifar10", num_classes=2, fresh=("head",)).config.num_classes
        2
    """
    fresh = (fresh,) if isinstance(fresh, str) else tuple(fresh)
    if not isinstance(source, Checkpoint):
        source = open_checkpoint(source, model=model, entry=entry, stored_size=stored_size, heads=options.get("heads"))
    elif model is not None:
        _require_model(source, model)
    checkpoint = source
    if checkpoint.gelu is not None:
        options.setdefault("gelu", checkpoint.gelu)
    stored = revise(checkpoint.config, **options)
    _check_classes(checkpoint, num_classes, fresh)
    state = _read(checkpoint, stored, fresh)
    config = stored
    if image_size is not None and sides(image_size) != stored.image_size:
        state, config = change_resolution(checkpoint.family, state, stored, sides(image_size), resize)
    config = revise(config, num_classes)

    dtypes = {tensor.dtype for tensor in state.values()}
    if dtype is None and len(dtypes) > 1:
        raise UsageError(
            f"{checkpoint.path} mixes {' and '.join(sorted(str(d)[6:] for d in dtypes))}; say which: dtype="
        )
    # Drawing first weights only to replace them takes seconds for a large model; a head of zeros takes none.
    with torch.device("meta" if {*fresh} <= {"head"} else "cpu"):
        loaded = checkpoint.family.build(config, checkpoint.name)
    if "head" in fresh:
        loaded.head = head(loaded.num_features, config.num_classes, config.head_bias)
    loaded.load_state_dict(state, strict=False, assign=True)  # _read was strict
    loaded.to(dtype or next(iter(dtypes), torch.float32))
    loaded.metadata = _info_of(checkpoint, stored, config)
    return loaded.eval()


def open_checkpoint(
    source: str | os.PathLike[str],
    *,
    model: str | None = None,
    entry: str | None = None,
    stored_size: tuple[int, int] | None = None,
    heads: int | None = None,
) -> Checkpoint:
    """A checkpoint's config and metadata, without its numbers; `load` takes it and reads them.

    Args:
        source: As `load` takes it.
        model: As `load` takes it.
        entry: As `load` takes it.
        stored_size: As `load` takes it.
        heads: Attention heads of a ViT of unusual width.

    Raises:
        UsageError: There is no such file or name, or it is another model than asked for.
        WeightsError: The file is broken, or holds no model that is known here.
    """
    path, listed = locate(source)
    checkpoint = recognize(open_arrays(path, entry), stored_size, heads, listed.preprocessing if listed else None)
    if listed is not None:
        model, checkpoint.gelu = model or listed.model, listed.gelu
    if model is not None:
        _require_model(checkpoint, model)
    if (crop := checkpoint.info.preprocessing.crop) != checkpoint.config.image_size:  # of what the model zoo says
        made_for, prepared = ("×".join(map(str, size)) for size in (checkpoint.config.image_size, crop))
        raise UsageError(f"{path} was made for images of {made_for} pixels, and {source} is for {prepared}")
    return checkpoint


def _require_model(checkpoint: Checkpoint, model: str) -> None:
    if canonical(model) != checkpoint.name:
        raise UsageError(f"{checkpoint.path} holds a {checkpoint.name}, not a {canonical(model)}")


def _check_classes(checkpoint: Checkpoint, asked: int | None, fresh: tuple[str, ...]) -> None:
    has = checkpoint.config.num_classes
    headless = has == 0 and checkpoint.layout is not OWN  # ours say that they have none; others may lack it
    if "head" in fresh or (asked is None and not headless) or asked == has:
        return
    if headless:
        raise UsageError(
            f"{checkpoint.path} has no head; take it without one with num_classes=0, "
            "or start one with num_classes=N, fresh=('head',)"
        )
    raise UsageError(f"{checkpoint.path} has {has} classes, not {asked}; start the head anew with fresh=('head',)")


def _read(checkpoint: Checkpoint, config: ClassifierConfig, fresh: tuple[str, ...]) -> dict[str, Tensor]:
    """Our arrays for a model of `config`, but those under `fresh`, out of a file that has exactly them."""
    lines, ours = lines_of(checkpoint, config)
    parts = {name for key in ours for name in _prefixes(key)} | {"head"}
    for part in fresh:
        if part not in parts:
            raise UsageError(f"fresh: the model has no part '{part}'{nearest(part, parts)}")
    read, wanted, given = [], {}, dict(checkpoint.arrays)
    for line in lines:
        if any(name == part or name.startswith(f"{part}.") for name in line.ours for part in fresh):
            for name in line.theirs:
                given.pop(name, None)
            continue
        read.append(line)
        shapes = line.form.to_theirs(tuple(ours[name] for name in line.ours), config)
        wanted |= dict(zip(line.theirs, shapes, strict=True))
    given = settle_shapes(checkpoint, given, wanted)
    _compare(str(checkpoint.path), f"{checkpoint.name} ({checkpoint.layout.name} layout)", wanted, given)

    theirs = checkpoint.read()
    state: dict[str, Tensor] = {}
    for line in read:
        arrays = line.form.to_ours(tuple(theirs.pop(name).reshape(wanted[name].shape) for name in line.theirs))
        for name, array in zip(line.ours, arrays, strict=True):
            # A copy of our own: the file may change under a mapped one, or share memory between arrays.
            state[name] = array.clone(memory_format=torch.contiguous_format)
    return state


def _prefixes(key: str) -> list[str]:
    words = key.split(".")
    return [".".join(words[:n]) for n in range(1, len(words) + 1)]


def _info_of(checkpoint: Checkpoint, stored: ClassifierConfig, config: ClassifierConfig) -> ModelInfo:
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


def _compare(file: str, model: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Stops unless `given` has exactly the names and shapes of `wanted`, both named as in the file."""
    missing = [f"{name} {_shape(wanted[name])}" for name in wanted if name not in given]
    extra = [f"{name} {_shape(given[name])}" for name in given if name not in wanted]
    misshapen = [
        f"{name} is {_shape(given[name])} in the file and {_shape(wanted[name])} in the model"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    if not (missing or extra or misshapen):
        return
    sides = [
        f"the model has {listed(missing, SHOWN)} that the file lacks" if missing else "",
        f"the file has {listed(extra, SHOWN)} that the model lacks" if extra else "",
        listed(misshapen, SHOWN) if misshapen else "",
    ]
    raise KeyMismatch(
        f"{file} does not fit {model}: {'; '.join(side for side in sides if side)}"
        " (to start parts anew instead: fresh=('head',) with the names of our parts)"
    )


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
