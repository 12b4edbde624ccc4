"""The cards that a run keeps in its folder, cards/: each of one set of images, seen by the same weights in one way.

What is measured later of the same is added to a card; what is of others becomes another card. Nothing that was measured
is lost to something that says less.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlpmixer import files
from mlpmixer.errors import RunError
from mlpmixer.run.folder import RunFolder


def keep(run: RunFolder, card: Mapping[str, Any], warnings: Callable[[Mapping[str, Any]], list[str]]) -> None:
    """Writes the card, with what was known of the same before; `warnings` of all that are taken anew."""
    try:
        files.below(run.path, "cards").mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {run.path / 'cards'}: {error.strerror}") from error
    usual, subject = _name(card), _subject(card)
    name = usual
    if _is_of_another(run, name, subject):
        name = f"{usual}-{hashlib.blake2b(json.dumps(subject).encode(), digest_size=4).hexdigest()}"
    whole, before = dict(card), _read(run, name)
    if before is not None and _subject(before) == subject:
        whole = _together(before, card)
        whole["warnings"] = warnings(whole)
    run.write(f"cards/{name}.json", whole)


def own_card(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The card that a run has of its own test images, measured in the usual way; the newest, if there are several."""
    run = RunFolder(folder)
    for card in run.cards():
        if not _is_card(card) or not card["data"].get("own"):
            continue
        usual = card["preprocessing"]["protocol"] == "own" and card["engine"] == "eager, fp32" and "learnt" in card
        # Older cards do not say which weights they are of.
        if usual and card["model"].get("digest", "") in ("", digest_of_weights(run)):
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


def _subject(card: Mapping[str, Any]) -> list[Any] | None:
    """What a card is about; None for an older one, which does not say which images and weights it is of."""
    digests = card["data"].get("digest"), card["model"].get("digest")
    if not all(digests):
        return None
    # As JSON has it, in which tuples are lists.
    return [*digests, json.loads(json.dumps(card["preprocessing"], sort_keys=True)), card["engine"]]


def _together(before: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    """All parts of both, each with its origin; of a part that both have the newer one, unless it learnt from fewer."""
    kept = {**before, **card, "parts": {**before["parts"], **card["parts"]}}
    if "learnt" in before and before["learnt"]["known"] > card.get("learnt", {"known": 0})["known"]:
        kept["learnt"], kept["parts"]["learnt"] = before["learnt"], before["parts"]["learnt"]
    if before["data"]["own"]:
        kept["data"] = before["data"]
    kept["broken"] = before["broken"] + [one for one in card["broken"] if one not in before["broken"]]
    return kept


def _read(run: RunFolder, name: str) -> dict[str, Any] | None:
    """A card; None where there is none, or what is no card."""
    try:
        card = run.json(f"cards/{name}.json")
    except RunError:
        return None
    return card if card is not None and _is_card(card) else None


def _is_card(card: Mapping[str, Any]) -> bool:
    tables = [card.get(name) for name in ("data", "model", "preprocessing")]
    return all(isinstance(table, dict) for table in tables) and (
        {"engine", "warnings"} <= card.keys() and "protocol" in card["preprocessing"]
    )


def _name(card: Mapping[str, Any]) -> str:
    data, protocol, engine = card["data"], card["preprocessing"]["protocol"], card["engine"]
    words = [Path(data["source"]).name or "data", data["split"]]
    words += [] if protocol == "own" else [protocol]
    words += [] if engine == "eager, fp32" else [engine.replace(", ", "-")]
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in "-".join(words))


def _is_of_another(run: RunFolder, name: str, subject: list[Any] | None) -> bool:
    """Whether what lies there is no card of the same; an older card may be of anything."""
    before = _read(run, name)
    return (
        os.path.lexists(run.path / "cards" / f"{name}.json")
        if before is None
        else _subject(before) is None or _subject(before) != subject
    )
