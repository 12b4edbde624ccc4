"""The kind and size of an image, read off the bytes of its file; nothing is decoded.

Pillow reads all of a header when it opens a file, part by part, which takes it minutes where there are millions of
parts. Here no file takes longer than some milliseconds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from mlpmixer.errors import ImageError

PARTS = 1_000  # segments of a JPEG before its pixels, chunks of a PNG beyond one for each KB, blocks of a GIF, tags
BETWEEN = 65_536  # bytes of a JPEG that belong to no segment
STRIPS = 100_000  # of a TIFF
VALUES = 4 * STRIPS  # of all tags of a TIFF
TILE = 4_096  # pixels of a side of its tiles
WHOLE = {1: "B", 3: "H", 4: "I", 16: "Q"}  # kind of a tag → its number
WORTH = {
    1: 0,
    2: 0,
    6: 0,
    7: 0,
    5: 50,
    10: 50,
}  # kind → what a value counts: bytes stay together, fractions are slow

MARKER = re.compile(rb"\xff([^\x00\xff])")  # of a JPEG
BARE = (0x01, *range(0xD0, 0xD9))  # markers that have no length
SIZED = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those that begin a frame

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        format: As Pillow calls it.
        size: Height and width; None where they are not where they usually are, or the file is damaged.
    """

    format: str
    size: Size | None


def header_of(data: bytes) -> Header | None:
    """The header of a file; None: its first bytes are of no kind that is known here.

    Raises:
        ImageError: It has so many parts that reading them would take too long.
    """
    for name, start, size in KINDS:
        if data.startswith(start) and (name != "WEBP" or data[8:12] == b"WEBP"):
            try:
                return Header(name, size(data))
            except (struct.error, IndexError):  # it ends in the middle
                return Header(name, None)
    return None


def _too_many(what: str) -> ImageError:
    return ImageError(f"has more than {what}; that is a mistake or an attack")


def _jpeg(data: bytes) -> Size | None:
    at, between = 2, 0
    size: Size | None = None
    for _ in range(PARTS):
        found = MARKER.search(data, at)
        between += max(0, (len(data) if found is None else found.start()) - at)
        if between > BETWEEN:
            raise _too_many(f"{BETWEEN:,} bytes between its segments")
        if found is None or (marker := found[1][0]) in (0xD9, 0xDA):  # its end, or pixels
            return size
        at = found.end()
        if marker in SIZED and size is None:
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = height, width
        if marker not in BARE:
            at += struct.unpack_from(">H", data, at)[0]
    raise _too_many(f"{PARTS:,} segments")


def _png(data: bytes) -> Size:
    at, most = 8, PARTS + len(data) // 1024
    for _ in range(most):
        if at >= len(data):
            break
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    else:
        raise _too_many(f"{most:,} chunks")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _gif(data: bytes) -> Size:
    """The screen, or more where the first frame goes beyond it."""
    width, height = struct.unpack_from("<HH", data, 6)
    at, inside = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0), False
    most = PARTS + len(data) // 128  # a block has up to 255 bytes
    for _ in range(most):
        kind = data[at : at + 1]
        if inside:  # an extension, which ends with an empty block
            inside, at = kind != b"\0", at + 1 + data[at]
        elif kind == b"!":
            inside, at = True, at + 2
        elif kind == b",":
            left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
            return max(height, top + high), max(width, left + wide)
        elif kind in (b";", b""):
            return height, width
        else:
            at += 1
    raise _too_many(f"{most:,} blocks")


def _bmp(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
    return abs(height), abs(width)


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _tiff(data: bytes) -> Size | None:
    order = "<" if data[:2] == b"II" else ">"
    if b"+" in data[2:4]:  # BigTIFF, for files of more than 4 GB
        (at,) = struct.unpack_from(f"{order}Q", data, 8)
        entry, start, value = f"{order}HHQ", f"{order}Q", 12
    else:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        entry, start, value = f"{order}HHI", f"{order}H", 8
    (count,) = struct.unpack_from(start, data, at)
    at += struct.calcsize(start)
    if count > PARTS:
        raise _too_many(f"{PARTS:,} tags")
    found: dict[int, int] = {}
    values = 0
    for _ in range(count):
        tag, kind, several = struct.unpack_from(entry, data, at)
        if tag in (273, 324) and several > STRIPS:
            raise _too_many(f"{STRIPS:,} strips")
        values += several * WORTH.get(kind, 1)
        if values > VALUES:
            raise _too_many(f"{VALUES:,} values of tags")
        if tag in (256, 257, 322, 323) and kind in WHOLE:
            (found[tag],) = struct.unpack_from(order + WHOLE[kind], data, at + value)
        if tag in (322, 323) and found.get(tag, TILE + 1) > TILE:  # the memory of one is taken as a whole
            raise ImageError(f"has tiles of more than {TILE:,} pixels a side; save it with smaller ones")
        at += value + (8 if value == 12 else 4)
    return (found[257], found[256]) if 256 in found and 257 in found else None


# Format, first bytes, how its size is found.
KINDS: tuple[tuple[str, bytes | tuple[bytes, ...], Callable[[bytes], Size | None]], ...] = (
    ("JPEG", b"\xff\xd8\xff", _jpeg),
    ("PNG", b"\x89PNG\r\n\x1a\n", _png),
    ("WEBP", b"RIFF", _webp),
    ("GIF", (b"GIF87a", b"GIF89a"), _gif),
    ("BMP", b"BM", _bmp),
    ("TIFF", (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"), _tiff),
)
