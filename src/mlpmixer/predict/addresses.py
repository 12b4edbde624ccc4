"""Images behind http(s) addresses, as `mixer predict` takes them: a name that is read from the network."""

from __future__ import annotations

from mlpmixer.download import get
from mlpmixer.errors import FetchError, ImageError

MOST = 1 << 26  # bytes of an image
SECONDS = 30.0  # for all of it


def is_address(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


class Address(str):
    """Only the command makes these: the strings that a program hands to a `Predictor` name files, and nothing else."""

    __slots__ = ()

    def read(self) -> bytes:
        """The bytes behind it.

        Raises:
            ImageError: They do not come, or not within the limits.
        """
        try:
            return get(self, most=MOST, seconds=SECONDS)
        except FetchError as error:
            raise ImageError(f"{self} cannot be read: {error}") from error
