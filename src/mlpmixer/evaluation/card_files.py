"""Cards in a run folder, cards/: each of one set of images, and of the same weights, preprocessing and precision.

What is measured later of the same is added to a card; what is of others becomes another card. Nothing that was measured
is lost to something that says less. Cards of another version are not read, and never written over.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from mlpmixer import files
from mlpmixer.errors import RunError
from mlpmixer.evaluation.card import Card
from mlpmixer.run.folder import RunFolder


def keep(run: RunFolder, card: Card, warnings: Callable[[Card], list[str]]) -> str | None:
    """Writes a card, merged with what was measured of the same before.

    Args:
        run: The run that was measured.
        card: What was measured now.
        warnings: Computes the warnings of the merged card.

    Returns:
        Why a card that lies there was not read, if so; the new one is kept beside it.

    Raises:
        RunError: It cannot be written.
    """
    try:
        files.below(run.path, "cards").mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {run.path / 'cards'}: {error.strerror}") from error
    usual, subject = _name(card), _subject(card)
    name, before, unread = usual, None, None
    for name in (usual, f"{usual}-{hashlib.blake2b(json.dumps(subject).encode(), digest_size=4).hexdigest()}"):
        try:
            before = _read(run, name)
        except RunError as error:
            unread, before = str(error), None
            continue
        if before is None or _subject(before) == subject:
            break
    if before is not None and _subject(before) == subject:
        card = _merged(before, card)
        card = replace(card, warnings=warnings(card))
    run.write(f"cards/{name}.json", card.to_json())
    return unread


def own_card(folder: str | os.PathLike[str]) -> Card | None:
    """The card of a run on its own test images, measured in the usual way; the newest, if there are several."""
    run = RunFolder(folder)
    for content in run.cards():
        with suppress(RunError):
            card = Card.from_json(content)
            usual = card.data.own and card.protocol == "own" and card.precision == "fp32"
            if usual and _fitted(card) and card.model.digest == digest_of_weights(run):
                return card
    return None


def digest_of_weights(run: RunFolder) -> str:
    """Empty while there are none."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with files.open_regular(run.weights, follow=False) as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def _subject(card: Card) -> list[object]:
    """What a card is about, as JSON has it."""
    how = json.loads(json.dumps([card.protocol, asdict(card.preprocessing)]))
    return [card.data.digest, card.model.digest, how, card.precision]


def _merged(before: Card, card: Card) -> Card:
    """All metrics of both, each with its origin; the newer ones, unless they were fitted on fewer images."""
    fitted = _fitted(card)
    kept = [key for key, one in before.metrics.items() if key not in card or (one.train_images or 0) > fitted]
    parts = ("per_class", "confusion", "reliability", "corruptions", "preprocessing_check")
    return replace(
        card,
        metrics=card.metrics | {key: before.metrics[key] for key in kept},
        origins=card.origins | {key: before.origins[key] for key in kept if key in before.origins},
        data=before.data if before.data.own else card.data,
        unreadable=before.unreadable + [one for one in card.unreadable if one not in before.unreadable],
        **{name: getattr(card, name) or getattr(before, name) for name in parts},
    )


def _fitted(card: Card) -> int:
    """Training images that metrics were fitted on."""
    return max((metric.train_images or 0 for metric in card.metrics.values()), default=0)


def _read(run: RunFolder, name: str) -> Card | None:
    """None where there is none."""
    path = f"cards/{name}.json"
    content = run.json(path)
    if content is None and os.path.lexists(run.path / path):
        raise RunError(f"{path} cannot be read")
    return None if content is None else Card.from_json(content, path)


def _name(card: Card) -> str:
    words = [Path(card.data.source).name or "data", card.data.split]
    words += [] if card.protocol == "own" else [card.protocol]
    words += [] if card.precision == "fp32" else [card.precision]
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in "-".join(words))
