"""`evaluate`: weights and images in, the evaluation card out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mlpmixer import data
from mlpmixer.data import sampling
from mlpmixer.data.dataset import Part, Split
from mlpmixer.data.loader import Transform, all_batches, usual_workers
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.data.select import choose, title
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.fastest import start
from mlpmixer.errors import DataError, RunError, UsageError
from mlpmixer.evaluation import imagenet_variants
from mlpmixer.evaluation.card import answered, learnt
from mlpmixer.evaluation.card_files import digest_of_weights, keep
from mlpmixer.evaluation.class_mapping import outputs_for
from mlpmixer.evaluation.preprocessing_check import IMAGES, tried_otherwise
from mlpmixer.machine.description import describe_machine
from mlpmixer.machine.devices import device_of
from mlpmixer.machine.distributed import Group
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.predictions import Answers, ask
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipes import toml
from mlpmixer.run.folder import RunFolder
from mlpmixer.text import printable
from mlpmixer.version import __version__
from mlpmixer.weights.info import with_info
from mlpmixer.weights.load import load

Protocol = Literal["own", "i", "ii"]
Watch = Callable[[str, int, int], None]  # what is looked at, how many images of how many

# Of a card, each measured at its own time; top1 stands for all that the head says.
PARTS = ("top1", "real", "learnt", *get_args(imagenet_variants.Variant))


def evaluate(
    source: Classifier | str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    split: str = "auto",
    protocol: Protocol = "own",
    known: int = 10_000,
    real: str | os.PathLike[str] | None = None,
    variants: Mapping[imagenet_variants.Variant, str | os.PathLike[str]] | None = None,
    strict: bool = False,
    device: str = "auto",
    engine: str = "eager",
    precision: str = "fp32",
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    transform: Transform | None = None,
    workers: int = -1,
    batch_size: int = 64,
    watch: Watch = lambda *_: None,
) -> dict[str, Any]:
    """The card; of a run folder it is kept there as well, in cards/, with what is known of the same images already.

    source: a model, or what `load` takes.
    data: what `mlpmixer.data.open` takes; None: what the run in `source` was measured on.
    split: of the data; auto: test, or else val, or else what a run held out of train, or else all there is.
    protocol: own: images are prepared as the model's metadata says; i and ii: as for Table 2 and 3 of the paper.
    known: training images, evenly over classes, for what is learnt from the model's features; 0: that is left out.
    real: ReaL's label file, for ImageNet's val.
    variants: folders of ImageNet-V2, -A, -R, -Sketch and -C.
    strict: an image that cannot be read stops it; otherwise it is left out, and listed.
    engine, precision: how the model is run, as for `Predictor`; eager in fp32 is the model as it is written.
    classes, preprocessing: what its outputs are called, and how images are prepared, instead of what it came with.
    transform: applied to every prepared image, as `fit` does it.
    """
    labels = None if real is None else imagenet_variants.real_labels(real)
    for name, folder in (variants or {}).items():
        imagenet_variants.require(name, folder)
    place = device_of(device)
    images = _images(source, data, split)
    model = (source if isinstance(source, Classifier) else load(source, dtype=torch.float32)).to(place).eval()
    model = with_info(model, classes, preprocessing)
    assert model.metadata is not None
    how = prepared_by(model.metadata.preprocessing, protocol)
    applied = None if transform is None else str(transform)
    images.record["own"] &= applied == model.metadata.provenance.get("transform")
    layer_precisions = model.metadata.layer_precisions
    run = None
    if (engine, precision) != ("eager", "fp32"):
        run, _ = start(
            model,
            how,
            engine=engine,
            precision=precision,
            batch=batch_size,
            device=place,
            layer_precisions=layer_precisions,
        )
    workers = usual_workers() if workers < 0 else workers
    look = _Looking(model, run, how, place, strict, workers, batch_size, transform, watch)

    seen = hashlib.blake2b(digest_size=8)
    asked = look("the images", images.asked, digest=seen)
    outputs = outputs_for(images.classes, model)
    card: dict[str, Any] = {
        "model": _described(model, source),
        "data": {
            **images.record,
            "digest": seen.hexdigest(),
            "count": len(asked),
            "classes": len(images.classes),
        },
        "preprocessing": {"protocol": protocol, **asdict(how), "transform": applied},
        "engine": f"{run.name}, {run.precision}" if run else "eager, fp32",
        "mlpmixer": __version__,
        "machine": describe_machine(Group(place)),
        "warnings": [],
    }
    if (outputs >= 0).any():
        card |= answered(asked, images.classes, outputs)
        card["otherwise"] = _otherwise(model, how, images.asked, outputs, look)
    if labels is not None:
        card["real"] = imagenet_variants.real(
            asked, images.asked, outputs_for(imagenet_variants.CLASSES, model), labels
        )
    if known and images.known is not None:
        part = min(1.0, known / len(images.known))
        chosen = Part(images.known, sampling.share(images.known.labels, part, seed=0))
        card["learnt"] = learnt(look("known ones", chosen), asked, len(images.classes))
    for name, folder in (variants or {}).items():
        card[name] = imagenet_variants.variant(name, folder, model, how, look)
    card["broken"] = [{"image": where, "why": why} for where, why in look.broken]
    origin = {name: card["machine"][name] for name in ("started", "command", "mlpmixer")}
    card["parts"] = dict.fromkeys((part for part in PARTS if part in card), origin)
    card["warnings"] = _warnings(card, images.classes, outputs)
    if not isinstance(source, Classifier) and (run_folder := RunFolder(source)).recipe is not None:
        card["model"]["digest"] = digest_of_weights(run_folder)
        try:
            keep(run_folder, card, lambda whole: _warnings(whole, images.classes, outputs))
        except RunError as error:  # what was measured is worth having all the same
            card["warnings"].append(f"the card is not kept: {error}")
    return card


def prepared_by(own: Preprocessing, protocol: Protocol) -> Preprocessing:
    """The paper's two ways, in the proportion of 256 to 224; numbers are scaled as the model wants them."""
    if protocol == "own":
        return own
    usual = Preprocessing.usual(own.crop)
    shape = "stretch" if protocol == "i" else "short_side"
    return replace(usual, shape=shape, mean=own.mean, std=own.std)


class _Images:
    """`asked`: those that are measured on; `known`: those that may be learnt from."""

    def __init__(self, classes: tuple[str, ...], asked: Split, known: Split | None, record: dict[str, Any]):
        self.classes, self.asked, self.known, self.record = classes, asked, known, record


def _images(source: object, spec: str | os.PathLike[str] | None, split: str) -> _Images:
    titles: dict[str, str] = {}
    if spec is None:
        recipe = None if isinstance(source, Classifier) else RunFolder(str(source)).recipe
        if recipe is None:
            raise UsageError("which images? give a data set: --data photos/, or --data cifar10")
        chosen = choose(toml.loads(recipe, f"{source}/recipe.toml").data)
        splits: dict[str, Split] = {}
        for role, found in {"test": chosen.test, "val": chosen.val, "train": chosen.train}.items():
            if found is not None:
                said = title(chosen.record, role)
                # A whole split has its own name; a part of train has the name of its role, which is no split's.
                name = said if re.fullmatch(r"[\w.-]+", said) else role
                splits[name], titles[name] = found, said
        if split == "val" and chosen.val is not None:
            splits.setdefault("val", chosen.val)
        classes, known, origin = chosen.classes, chosen.train, str(chosen.record["source"])
        usual = next(iter(splits))
    else:
        opened = data.open(spec)
        splits, classes, origin = dict(opened.splits), opened.classes, opened.source
        known = splits.get("train")
        usual = next((name for name in ("test", "val") if name in splits), next(iter(splits)))
    own = spec is None and split in ("auto", usual)
    split = usual if split == "auto" else split
    if split not in splits:
        all_of_it = "" if spec is not None else f"; --data {origin} has all that lies there"
        raise DataError(f"{origin} has no split '{split}' (it has {', '.join(splits)}){all_of_it}")
    asked = splits[split]
    record = {"source": origin, "split": split, "title": titles.get(split, split), "own": own}
    return _Images(classes, asked, None if known is asked else known, record)


class _Looking:
    """Passes over splits; broken images are left out and remembered."""

    def __init__(
        self,
        model: Classifier,
        run: Engine | None,
        how: Preprocessing,
        device: torch.device,
        strict: bool,
        workers: int,
        batch_size: int,
        transform: Transform | None,
        watch: Watch,
    ):
        self.model, self.run, self.how, self.device = model, run, how, device
        self.strict, self.watch = strict, watch
        self.loading: dict[str, Any] = {
            "transform": transform,
            "workers": workers,
            "batch_size": batch_size,
            "pin": device.type == "cuda",
        }
        self.broken: list[tuple[str, str]] = []

    def __call__(
        self, what: str, split: Split, how: Preprocessing | None = None, digest: hashlib.blake2b | None = None
    ) -> Answers:
        """`how`: images are prepared, but for their numbers; None: as all others. `digest`: fed with all of them."""
        pixels = self.pixels(what, split, how)
        if digest is not None:
            pixels = _digested(pixels, digest)
        if self.run is not None:
            rows = [(*self.run(images), labels, indices) for images, labels, indices in pixels]
            return Answers(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        ready = ((normalize(images.to(self.device), self.how), labels, indices) for images, labels, indices in pixels)
        return ask(self.model, ready)

    def pixels(
        self, what: str, split: Split, how: Preprocessing | None = None
    ) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        done, some = 0, False
        self.watch(what, 0, len(split))
        ready = partial(prepare, how=how or self.how)
        for batch in all_batches(split, ready, skip_broken=not self.strict, **self.loading):
            self.broken += [pair for pair in batch.broken if pair not in self.broken]
            done += len(batch.labels) + len(batch.broken)
            self.watch(what, done, len(split))
            if len(batch.labels):
                some = True
                yield batch.images, batch.labels, batch.indices
        if not some:
            raise DataError(f"no image of {len(split)} can be read; `mixer doctor` says more")


def _digested(
    batches: Iterable[tuple[Tensor, Tensor, Tensor]], digest: hashlib.blake2b
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Images and labels as the model is shown them: two sets are the same if they are to it, whatever their names."""
    for images, labels, indices in batches:
        for image, label in zip(images.numpy(), labels.tolist(), strict=True):
            digest.update(f"{label} {image.shape} ".encode() + image.tobytes())
        yield images, labels, indices


def _otherwise(
    model: Classifier, how: Preprocessing, split: Split, outputs: np.ndarray, look: _Looking
) -> list[dict[str, Any]]:
    some = np.unique(np.linspace(0, len(split) - 1, IMAGES).round().astype(np.int64))
    rows = list(look.pixels("some otherwise", Part(split, some)))
    images, labels = torch.cat([images for images, _, _ in rows]), torch.cat([labels for _, labels, _ in rows])
    return tried_otherwise(model, images, torch.from_numpy(outputs)[labels], how)


def _described(model: Classifier, source: object) -> dict[str, Any]:
    assert model.metadata is not None
    provenance = {name: text for name, text in model.metadata.provenance.items() if name != "quirks"}
    return {
        "name": model.name,
        "source": None if isinstance(source, Classifier) else str(source),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": model.config.image_size,
        "classes": model.config.num_classes,
        "provenance": provenance,
    }


def _warnings(card: Mapping[str, Any], classes: tuple[str, ...], outputs: np.ndarray) -> list[str]:
    found = []
    strange = [name for name, output in zip(classes, outputs, strict=True) if output < 0]
    if len(strange) == len(classes):
        found.append(
            "the model has no class of this data set, so only its features are measured; "
            f"the data's are {_some(classes)}"
        )
    elif strange:
        found.append(f"the model has no class {_some(strange)}: its images all count as wrong")
    if "chance" in card and not card["chance"]["beaten"]:
        most = card["chance"]["share"]
        found.append(f"no better than to name the most frequent class each time ({most:.1%}); is this the right model?")
    for other in card.get("otherwise", ()):
        if other.get("better"):
            usual = card["otherwise"][0]["top1"]
            found.append(
                f"with {other['how']} it is right more often ({other['top1']:.1%} instead of {usual:.1%} of "
                f"{IMAGES} images): its metadata seems to be wrong"
            )
    trained, applied = card["model"]["provenance"].get("transform"), card["preprocessing"].get("transform")
    if trained != applied:
        found.append(f"the model was trained with the transform {trained}, and the images have {applied}")
    if card["broken"]:
        first = card["broken"][0]
        found.append(f"{len(card['broken'])} images cannot be read and were left out; the first: {first['why']}")
    return found


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(f"'{printable(name)}'" for name in listed[:3]) + more
