"""Images are moved into the folders of their classes: what was said becomes true of the folder.

Where each image goes is written down first, in a file that stays. A move that was cut short by a crash goes on from
that file, and can be taken back by it. Nothing is ever written over: where there is an image of the same name already,
the moved one gets another.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlpmixer.errors import DataError
from mlpmixer.files import read_text, whole
from mlpmixer.studio.photos import UNSORTED, Photo

NO_SECOND_NAMES = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # of some file systems


@dataclass(frozen=True)
class Move:
    """Of one image; both paths are within the folder."""

    source: str
    target: str


def plan(root: Path, photos: Iterable[Photo], labels: dict[str, str | None]) -> list[Move]:
    """Moves for all images whose folder says something else than `labels`."""
    taken: set[str] = set()
    moves = []
    for photo in photos:
        if photo.path not in labels or (label := labels[photo.path]) == photo.label:
            continue
        folder = PurePosixPath(photo.path.split("/")[0] if photo.split else "", label or UNSORTED)
        name = PurePosixPath(photo.path)
        target, count = folder / name.name, 1
        while str(target).lower() in taken or os.path.lexists(root / target):
            count += 1
            target = folder / f"{name.stem}-{count}{name.suffix}"
        taken.add(str(target).lower())  # some file systems take Hat.jpg for hat.jpg
        moves.append(Move(photo.path, str(target)))
    return moves


def write(path: Path, moves: Iterable[Move]) -> None:
    with whole(path) as part:
        part.write_text("".join(f"{json.dumps([one.source, one.target])}\n" for one in moves), encoding="utf-8")


def read(path: Path) -> list[Move]:
    """Raises `DataError` where the file is another."""
    try:
        return [Move(*map(str, json.loads(line))) for line in read_text(path).splitlines()]
    except (ValueError, TypeError):
        raise DataError(f"{path} has no moves; move it away") from None


def perform(root: Path, moves: Iterable[Move]) -> list[str]:
    """Moves what is not moved yet.

    Returns:
        What could not be moved, a line each.
    """
    failed = []
    for move in moves:
        source, target = root / move.source, root / move.target
        if not os.path.lexists(source):  # moved already, or deleted by somebody else
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _move(source, target)
        except FileExistsError:
            failed.append(f"{move.source}: there is another {move.target} now")
        except OSError as error:
            failed.append(f"{move.source}: {error.strerror}")
    return failed


def _move(source: Path, target: Path) -> None:
    """By a second name, which unlike a renaming never replaces what is there."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not target.samefile(source):  # else a crash came between the two names
            raise
    except OSError as error:
        if error.errno not in NO_SECOND_NAMES:
            raise
        if os.path.lexists(target):
            raise FileExistsError from error
        source.rename(target)
        return
    source.unlink()


def back(moves: Iterable[Move]) -> list[Move]:
    """The moves that undo these."""
    return [Move(move.target, move.source) for move in reversed(list(moves))]
