"""Everything that can go wrong by a user's hand, as one tree.

A message is one line that names the cause and the way out. The command line prints it and exits with `exit_code`;
a bug of ours is an `assert` or any other exception, and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MixerError(Exception):
    """The root: catch this to catch all that mlpmixer raises on purpose."""

    exit_code = 1


class UsageError(MixerError, ValueError):
    """A name, an option or a size that does not exist or does not fit."""

    exit_code = 2


class MissingPackage(UsageError):
    """An optional package that is not installed; the message has the command that installs it."""


class ImageError(MixerError, ValueError):
    """A file that is no image, or one that cannot be decoded safely."""


class DataError(MixerError, ValueError):
    """A data set that is not there, or not what it should be."""


class RecipeError(UsageError):
    """A recipe that says what cannot be, or a line that recipes do not have."""


class RunError(MixerError):
    """A run that cannot go on, or a run folder that cannot be used."""


class Diverged(RunError):
    """A run that has lost its loss: it is no number any more, or far too high."""


class RunStopped(RunError):
    """A run that was asked to stop, and can go on."""

    exit_code = 130


class WeightsError(MixerError, ValueError):
    """A checkpoint that cannot be used."""


class BrokenFile(WeightsError):
    """A checkpoint file that is damaged, hostile, or no checkpoint at all."""


class KeyMismatch(WeightsError):
    """A checkpoint whose arrays are not those of the model: missing, extra or misshapen."""


class FetchError(MixerError, OSError):
    """A download that did not arrive whole."""


class NotThere(FetchError):
    """A file that the server does not have."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name closest to `name`, or nothing when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
