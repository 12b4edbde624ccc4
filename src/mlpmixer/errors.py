"""Exceptions: all errors that a user can cause, in one tree.

A message is one line that names the cause and the way out. The command line prints it and exits with `exit_code`;
a bug of ours is an `assert` or any other exception, and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class MixerError(Exception):
    """The base class: catch it to catch every error that mlpmixer raises on purpose.

    Examples:
        >>> try:
        ...     mlpmixer.create("mixer_b61")
        ... except mlpmixer.MixerError as error:
        ...     print(error)
        no model is called 'mixer_b61'; did you mean 'mixer_b16'? (`mixer models` lists them)
    """

    exit_code = 1
    topic = "errors"  # its heading in docs/troubleshooting.md


class UsageError(MixerError, ValueError):
    """A name, an option or a size that does not exist or does not fit."""

    exit_code = 2
    topic = "usage"


class MissingPackage(UsageError):
    """An optional package that is not installed; the message has the command that installs it."""

    topic = "missing-packages"


class ImageError(MixerError, ValueError):
    """An image that cannot be read, or not decoded safely."""

    topic = "images"


class DataError(MixerError, ValueError):
    """A data set that does not exist, is damaged or does not fit."""

    topic = "data-sets"


class RecipeError(UsageError):
    """A recipe with an invalid value or an unknown key."""

    topic = "recipes"


class RunError(MixerError):
    """A run that cannot be resumed, or a run folder that cannot be used."""

    topic = "runs"


class Diverged(RunError):
    """A run that diverged: its loss is not finite, or far too high."""

    topic = "divergence"


class RunStopped(RunError):
    """A run that was stopped by the user and can be resumed."""

    exit_code = 130
    topic = "stopped-runs"


class WeightsError(MixerError, ValueError):
    """A checkpoint that cannot be used."""

    topic = "weights"


class BrokenFile(WeightsError):
    """A checkpoint file that is damaged or hostile, or not a checkpoint."""

    topic = "damaged-weights"


class KeyMismatch(WeightsError):
    """A checkpoint whose arrays are not those of the model: missing, extra or misshapen."""

    topic = "other-arrays-than-the-models"


class FetchError(MixerError, OSError):
    """A download that failed or is incomplete."""

    topic = "downloads"


class NotThere(FetchError):
    """A file that the server does not have."""

    topic = "missing-downloads"


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name closest to `name`, or nothing when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def nearest_path(path: str) -> str:
    """The same for the name closest to that of `path` in its folder."""
    folder, name = Path(path).parent, Path(path).name
    try:
        beside = [file.name for file in folder.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(name, beside, n=1)
    return f"; did you mean '{folder / close[0]}'?" if close else ""
