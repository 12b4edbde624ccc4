"""`evaluate`: weights and images in, the evaluation card out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mlpmixer import data
from mlpmixer.data import sampling
from mlpmixer.data.dataset import Part, Split
from mlpmixer.data.loader import Transform, all_batches, usual_workers
from mlpmixer.data.preprocess import normalize, prepare
from mlpmixer.data.select import select, title
from mlpmixer.data.tta import TTA, count, half_patch, prepared_views
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.fastest import start
from mlpmixer.errors import DataError, RunError, UsageError
from mlpmixer.evaluation import imagenet_variants
from mlpmixer.evaluation.card import Card, DataRecord, ModelRecord, Origin, Unreadable, head_fields, measure
from mlpmixer.evaluation.card_files import digest_of_weights, keep
from mlpmixer.evaluation.preprocessing_check import IMAGES, check_preprocessing
from mlpmixer.machine.description import describe_machine
from mlpmixer.machine.devices import device_of
from mlpmixer.machine.distributed import Group
from mlpmixer.metadata import Preprocessing
from mlpmixer.metrics.class_mapping import outputs_for
from mlpmixer.metrics.metric import MetricInputs, fraction
from mlpmixer.metrics.predictions import Predictions, class_predictions, predict
from mlpmixer.models import with_metadata
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipes import toml
from mlpmixer.run.folder import RunFolder
from mlpmixer.text import printable
from mlpmixer.weights.load import load

Protocol = Literal["own", "i", "ii"]
Progress = Callable[[str, int, int], None]  # what is being done, how much so far, and how much there is

AGREEING = 8  # images on which an engine is compared with the model as it is written
FURTHEST = 1e-4  # from the model's logits, as a share of their spread


def evaluate(
    source: Classifier | str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    split: str = "auto",
    protocol: Protocol = "own",
    train_images: int = 10_000,
    real: str | os.PathLike[str] | None = None,
    variants: Mapping[imagenet_variants.Variant, str | os.PathLike[str]] | None = None,
    strict: bool = False,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "fp32",
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    transform: Transform | None = None,
    tta: TTA = "none",
    workers: int = -1,
    batch_size: int = 64,
    progress: Progress = lambda *_: None,
) -> Card:
    """Evaluates a model on a data set: accuracy with 95 % intervals, per class, calibration, quality of its features.

    The card of a run folder is also kept there, in cards/, together with what was measured of the same images before.

    Args:
        source: A model, or anything that `mlpmixer.load` takes.
        data: Anything that `mlpmixer.data.open` takes; None: what the run in `source` was tested on.
        split: A split of the data; "auto": test, or else val, or else what a run held out of train, or else all.
        protocol: "own": preprocessing of the model's metadata; "i", "ii": as for Tables 2 and 3 of the paper.
        train_images: Images used to fit k-NN and linear probes, evenly over classes; 0: without these metrics.
        real: ReaL's label file (real.json), for ImageNet's val.
        variants: Folders of ImageNet-V2, -A, -R, -Sketch and -C.
        strict: Raise on an image that cannot be read, instead of leaving it out and listing it.
        device: "cpu", "cuda" or "auto".
        engine: Inference backend, as for `Predictor`. "auto": the one that is usually the fastest, if its logits for
            some of the images agree with those of "eager", the model as it is written.
        precision: Numeric precision.
        classes: What the model's outputs are called, instead of what it came with.
        preprocessing: How images are prepared, instead of what it came with.
        transform: Applied to every prepared image, as in `fit`.
        tta: Test-time augmentation, as for `Predictor`, but not "crops": one more accuracy on the card, of predictions
            that are averages over several views of each image.
        workers: Processes that load images; -1: by the number of cores.
        batch_size: Images in a batch.
        progress: Called with what is being done, how much of it so far, and how much there is.

    Returns:
        The card; `card["top1"].value` is the accuracy.

    Raises:
        UsageError: An option that does not exist or does not fit.
        DataError: Images that are not there, or none that can be read; with `strict`, one that cannot.
        MixerError: Weights that cannot be loaded.

    Examples:
        >>> card = mlpmixer.evaluate("mixer_clothing", "photos/", train_images=0)
        >>> 0 <= card["top1"].value <= 1
        True
    """
    if tta == "crops":
        raise UsageError("evaluate measures views of prepared images: tta flip or shifts, not crops")
    labels = None if real is None else imagenet_variants.real_labels(real)
    for name, folder in (variants or {}).items():
        imagenet_variants.require(name, folder)
    place = device_of(device)
    images = _images(source, data, split)
    model = (source if isinstance(source, Classifier) else load(source, dtype=torch.float32)).to(place).eval()
    model = with_metadata(model, classes, preprocessing)
    how = prepared_by(model.metadata.preprocessing, protocol)
    run = None
    if (engine, precision) != ("eager", "fp32"):
        run, _ = start(
            model,
            how,
            engine=engine,
            precision=precision,
            batch=batch_size,
            device=place,
            layer_precisions=model.metadata.layer_precisions,
            measure=False,  # which may take longer than the evaluation
        )
    workers = usual_workers() if workers < 0 else workers
    applied = None if transform is None else str(transform)
    as_trained = applied == model.metadata.provenance.get("transform")
    inference = _Inference(model, run, how, place, strict, workers, batch_size, progress, transform)
    if engine == "auto" and run is not None and not inference.agrees(images.test):
        inference.engine = run = None

    digest = hashlib.blake2b(digest_size=8)
    test = inference("test images", images.test, digest=digest)
    outputs = outputs_for(images.classes, model)
    head, trials = None, []
    if (outputs >= 0).any():
        head = class_predictions(test, images.classes, outputs)
        some = np.unique(np.linspace(0, len(images.test) - 1, IMAGES).round().astype(np.int64))
        rows = [*inference.pixels("preprocessing check", Part(images.test, some))]
        pixels, truth = (torch.cat([row[n] for row in rows]) for n in (0, 1))
        trials = check_preprocessing(model, pixels, torch.from_numpy(outputs)[truth], how)
    others = {}
    if head is not None and tta != "none":
        views = count(tta, how)
        averaged = inference(f"{views} views of test images", images.test, tta=tta)
        right = class_predictions(averaged, images.classes, outputs).correct
        others[f"top1_{tta}"] = fraction(f"top-1, mean of {views} views ({tta})", right)
    if labels is not None:
        of_imagenet = outputs_for(imagenet_variants.CLASSES, model)
        others["real"] = imagenet_variants.real_accuracy(test, images.test, of_imagenet, labels)
    train = None
    if train_images and images.train is not None:
        part = min(1.0, train_images / len(images.train))
        train = inference("training images", Part(images.train, sampling.share(images.train.labels, part, seed=0)))
    corruptions = None
    for name, folder in (variants or {}).items():
        if name == "imagenet_c":
            corruptions, found = imagenet_variants.corruption_errors(folder, model, how, inference)
        else:
            found = imagenet_variants.variant_accuracy(name, folder, model, how, inference)
        others |= {name: found} if found else {}
    metrics = measure(MetricInputs(classes=len(images.classes), test=test, head=head, train=train), progress) | others
    folder = None if isinstance(source, Classifier) else RunFolder(source)
    run_folder = folder if folder is not None and folder.recipe is not None else None
    machine = describe_machine(Group(place))
    used = f"{run.name}, {run.precision}" if run else "eager, fp32"
    origin = Origin(**{name: machine[name] for name in ("started", "command", "mlpmixer")}, engine=used)
    card = Card(
        model=ModelRecord(
            name=model.name,
            source=None if isinstance(source, Classifier) else str(source),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            image_size=model.config.image_size,
            classes=model.config.num_classes,
            provenance={name: text for name, text in model.metadata.provenance.items() if name != "quirks"},
            digest="" if run_folder is None else digest_of_weights(run_folder),
        ),
        data=replace(images.record, digest=digest.hexdigest(), count=len(test), own=images.record.own and as_trained),
        protocol=protocol,
        preprocessing=how,
        transform=applied,
        engine=used,
        metrics=metrics,
        corruptions=corruptions,
        preprocessing_check=trials,
        unreadable=[Unreadable(image, why) for image, why in inference.unreadable],
        origins=dict.fromkeys(metrics, origin),
        machine=machine,
        **(head_fields(head, images.classes) if head is not None else {}),
    )
    card = replace(card, warnings=_warnings(card, images.classes, outputs))
    if run_folder is not None:
        try:
            unread = keep(run_folder, card, lambda whole: _warnings(whole, images.classes, outputs))
            card.warnings.extend([] if unread is None else [f"the new card is kept beside another: {unread}"])
        except RunError as error:  # what was measured is worth having all the same
            card.warnings.append(f"the card is not kept: {error}")
    return card


def prepared_by(own: Preprocessing, protocol: Protocol) -> Preprocessing:
    """The paper's two ways, in the proportion of 256 to 224; numbers are scaled as the model wants them."""
    if protocol == "own":
        return own
    usual = Preprocessing.usual(own.crop)
    shape = "stretch" if protocol == "i" else "short_side"
    return replace(usual, shape=shape, mean=own.mean, std=own.std)


@dataclass(frozen=True)
class _Images:
    classes: tuple[str, ...]
    test: Split
    train: Split | None
    record: DataRecord


def _images(source: object, spec: str | os.PathLike[str] | None, split: str) -> _Images:
    titles: dict[str, str] = {}
    if spec is None:
        recipe = None if isinstance(source, Classifier) else RunFolder(str(source)).recipe
        if recipe is None:
            raise UsageError("which images? give a data set: --data photos/, or --data cifar10")
        chosen = select(toml.loads(recipe, f"{source}/recipe.toml").data)
        splits: dict[str, Split] = {}
        for role, found in {"test": chosen.test, "val": chosen.val, "train": chosen.train}.items():
            if found is not None:
                name = title(chosen.record, role)
                # A whole split has its own name; a part of train has the name of its role, which is no split's.
                key = name if re.fullmatch(r"[\w.-]+", name) else role
                splits[key], titles[key] = found, name
        if split == "val" and chosen.val is not None:
            splits.setdefault("val", chosen.val)
        classes, train, origin = chosen.classes, chosen.train, str(chosen.record["source"])
        usual = next(iter(splits))
    else:
        opened = data.open(spec)
        splits, classes, origin = dict(opened.splits), opened.classes, opened.source
        train = splits.get("train")
        usual = next((name for name in ("test", "val") if name in splits), next(iter(splits)))
    own = spec is None and split in ("auto", usual)
    split = usual if split == "auto" else split
    if split not in splits:
        all_of_it = "" if spec is not None else f"; --data {origin} has all that lies there"
        raise DataError(f"{origin} has no split '{split}' (it has {', '.join(splits)}){all_of_it}")
    test = splits[split]
    record = DataRecord(
        source=origin, split=split, title=titles.get(split, split), own=own, count=len(test), classes=len(classes)
    )
    return _Images(classes, test, None if train is test else train, record)


@dataclass
class _Inference:
    """Passes over splits through the model, or through `engine`; unreadable images are left out and listed."""

    model: Classifier
    engine: Engine | None
    how: Preprocessing
    device: torch.device
    strict: bool
    workers: int
    batch_size: int
    progress: Progress
    transform: Transform | None
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __call__(
        self,
        what: str,
        split: Split,
        how: Preprocessing | None = None,
        digest: hashlib.blake2b | None = None,
        tta: TTA = "none",
    ) -> Predictions:
        """`how`: preprocessing up to the values, if it is not the usual one. `digest`: is fed with all images."""
        pixels = self.pixels(what, split, how)
        if digest is not None:
            pixels = _digested(pixels, digest)
        shift, rows = half_patch(self.model.config), []
        for images, labels, indices in pixels:
            views = prepared_views(images, tta, shift).split(len(images))
            features, logits = zip(*[self._outputs(view) for view in views], strict=True)
            if len(views) == 1:
                rows.append((*features, *logits, labels, indices))
            else:
                scores = torch.stack([one.softmax(1) for one in logits]).mean(0)
                rows.append((torch.stack(features).mean(0), scores.log(), labels, indices))
        return Predictions(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    def _outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits, on the CPU."""
        if self.engine is not None:
            return self.engine(images)
        nobody = torch.zeros(len(images), dtype=torch.int64)
        found = predict(self.model, [(normalize(images.to(self.device), self.how), nobody, nobody)])
        return found.features, found.logits

    def agrees(self, split: Split) -> bool:
        """Whether the engine's logits (without a head: its features) are the model's, for some images of the split."""
        assert self.engine is not None
        some = np.unique(np.linspace(0, len(split) - 1, AGREEING).round().astype(np.int64))
        batches = replace(self, workers=0, batch_size=AGREEING, unreadable=[]).pixels("engine", Part(split, some))
        try:
            images, labels, indices = next(iter(batches))
        except DataError:  # just these cannot be read; the pass over all of them says what is to be said
            return False
        wanted = predict(self.model, [(normalize(images.to(self.device), self.how), labels, indices)])
        column = 1 if self.model.config.num_classes else 0
        found = self.engine(images)[column]
        wanted = (wanted.features, wanted.logits)[column]
        return bool((found - wanted).abs().max() <= FURTHEST * wanted.std())

    def pixels(
        self, what: str, split: Split, how: Preprocessing | None = None
    ) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        done = read = 0
        self.progress(what, 0, len(split))
        ready, pin = partial(prepare, how=how or self.how), self.device.type == "cuda"
        for batch in all_batches(
            split,
            ready,
            skip_broken=not self.strict,
            workers=self.workers,
            batch_size=self.batch_size,
            pin=pin,
            transform=self.transform,
        ):
            self.unreadable += [pair for pair in batch.broken if pair not in self.unreadable]
            read += len(batch.labels)
            done += len(batch.labels) + len(batch.broken)
            self.progress(what, done, len(split))
            if len(batch.labels):
                yield batch.images, batch.labels, batch.indices
        if not read:
            raise DataError(f"no image of {len(split)} can be read; `mixer doctor` says more")


def _digested(
    batches: Iterable[tuple[Tensor, Tensor, Tensor]], digest: hashlib.blake2b
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Prepared images and labels go into the digest: two sets are the same if they are to the model."""
    for images, labels, indices in batches:
        for image, label in zip(images.numpy(), labels.tolist(), strict=True):
            digest.update(f"{label} {image.shape} ".encode() + image.tobytes())
        yield images, labels, indices


def _warnings(card: Card, classes: tuple[str, ...], outputs: np.ndarray) -> list[str]:
    found = []
    unknown = [name for name, output in zip(classes, outputs, strict=True) if output < 0]
    if len(unknown) == len(classes):
        found.append(
            "the model has no class of this data set, so only its features are measured; "
            f"the data's are {_some(classes)}"
        )
    elif unknown:
        found.append(f"the model has no class {_some(unknown)}: its images all count as wrong")
    if "top1" in card:
        interval, majority = card["top1"].interval, card["majority_class"].value
        if interval is not None and interval[0] <= majority:
            found.append(f"top-1 is not above the majority-class baseline ({majority:.1%}); is this the right model?")
    for trial in card.preprocessing_check:
        if trial.better:
            usual = card.preprocessing_check[0].top1
            found.append(
                f"with {trial.preprocessing} accuracy is higher ({trial.top1:.1%} instead of {usual:.1%} of {IMAGES} "
                "images): the model's preprocessing metadata seems to be wrong"
            )
    if (trained := card.model.provenance.get("transform")) != card.transform:
        found.append(f"the model was trained with the transform {trained}, and the images have {card.transform}")
    if card.unreadable:
        first = card.unreadable[0]
        found.append(f"skipped {len(card.unreadable)} images that cannot be read; the first: {first.why}")
    return found


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(f"'{printable(name)}'" for name in listed[:3]) + more
