"""Limits on what decoding one image may cost, checked before it is decoded.

A file of some kilobytes can claim hundreds of millions of pixels, or thousands of passes over them. Nothing here looks
at more than a file's bytes and the size that its header claims.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlpmixer.data.headers import header_of
from mlpmixer.errors import ImageError, UsageError
from mlpmixer.files import size

VARIABLE = "MLPMIXER_MAX_PIXELS"

# By the content, whatever a file is called. Pillow knows many more; some are slow, and one starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")

WORK = 2_000_000_000  # pixels times scans of a JPEG: about two seconds
NOTES = 32  # blocks of Exif in a JPEG, which Pillow joins one by one: a photograph has one, with all its previews a few
ONE_BY_ONE = 1 << 22  # bytes of a PPM that is written in digits, or of a BMP in runs, which Python reads one by one
RUNS = (1, 2)  # how a BMP says so
ROOM = 2 << 30  # bytes that images may take together while they are decoded
ROOM_A_PIXEL = 16  # at most, with all copies: RGBA on white
ROOM_A_JPEG_PIXEL = 4


@dataclass(frozen=True)
class Limits:
    """Limits for one image.

    Attributes:
        bytes: Of its file.
        pixels: Height × width.
        scans: Of a JPEG; a photograph has up to a dozen.
        formats: Those that are decoded, as Pillow calls them.
    """

    bytes: int = 1 << 29
    pixels: int = 1 << 26  # 64-megapixel cameras just fit; decoding takes 1 GB then
    scans: int = 100
    formats: tuple[str, ...] = FORMATS

    def check_bytes(self, data: bytes) -> None:
        if len(data) > self.bytes:
            raise ImageError(f"is larger than {size(self.bytes)}")
        if data.startswith(b"\xff\xd8") and (notes := data.count(b"Exif\0\0")) > NOTES:
            raise ImageError(f"has {notes:,} blocks of Exif; that is a mistake or an attack")
        if len(data) > ONE_BY_ONE:
            if data[:2] in (b"P1", b"P2", b"P3"):
                raise ImageError("is a large image in digits; save it as PNG")
            if data[:2] == b"BM" and int.from_bytes(data[30:34], "little") in RUNS:
                raise ImageError("is a large BMP in runs; save it as PNG")
        header_of(data)  # refuses one of too many parts

    def check_pixels(self, height: int, width: int) -> None:
        if height * width > self.pixels:
            raise ImageError(
                f"has {height * width / 1e6:,.0f} million pixels, and {self.pixels / 1e6:,.0f} million are allowed; "
                f"scale it down, or set {VARIABLE}"
            )

    def check_scans(self, data: bytes, height: int, width: int) -> int:
        """The number of scans of a JPEG, refused where decoding them would take too long."""
        scans = data.count(b"\xff\xda")
        if scans > self.scans or scans * height * width > WORK:
            raise ImageError(
                f"is stored in {scans:,} passes over {height * width / 1e6:,.0f} million pixels; that is a mistake or "
                "an attack"
            )
        return scans


@functools.cache
def usual_limits() -> Limits:
    """The default limits; `MLPMIXER_MAX_PIXELS` sets the number of pixels."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return Limits()
    try:
        return Limits(pixels=int(float(text)))
    except (ValueError, OverflowError):
        raise UsageError(f"{VARIABLE} is a number of pixels, such as 200e6; it is '{text}'") from None


class Room:
    """A budget of `total` bytes shared by threads; one that wants more than all of it waits until it is alone."""

    def __init__(self, total: int):
        self.total = total
        self._renew()
        if hasattr(os, "register_at_fork"):  # threads that hold some are not there in a child
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._free, self._changed = self.total, threading.Condition()

    @contextmanager
    def of(self, wanted: int) -> Iterator[None]:
        wanted, changed = min(wanted, self.total), self._changed
        with changed:
            changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with changed:
                self._free += wanted
                changed.notify_all()


DECODING = Room(ROOM)
