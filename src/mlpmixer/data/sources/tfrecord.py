"""TFRecord files without TensorFlow: where the records are, and the features of the `Example` in each.

A file is a row of records: 8 bytes of length, 4 of a checksum of these, the record, 4 of its checksum. An Example is a
protocol buffer: a map from names to lists of byte strings, floats or integers.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlpmixer.errors import DataError
from mlpmixer.files import open_regular

MAX_RECORD = 1 << 28  # bytes

Feature = list[bytes] | list[int] | np.ndarray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def record_offsets(path: Path) -> list[tuple[int, int]]:
    """The offset and the length of each record, in bytes."""
    at, found = 0, []
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            file.seek(at)
            head = file.read(12)
            length, checksum = struct.unpack("<QI", head) if len(head) == 12 else (size, 0)
            if at + length + 16 > size or checksum != _checksum(head[:8]):
                raise DataError(f"{path} is damaged, cut short, or no file of records; fetch it again")
            if length > MAX_RECORD:
                raise DataError(f"{path} has a record of {length:,} bytes; no image is as large")
            found.append((at + 12, length))
            at += length + 16
    return found


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [(value >> 1) ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return table


_TABLE = _crc_table()


def _checksum(content: bytes) -> int:
    """CRC-32C, turned and shifted as TensorFlow does it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def features(record: memoryview | bytes, wanted: tuple[str, ...]) -> dict[str, Feature]:
    """The wanted features of one Example; the others are skipped without a copy."""
    found: dict[str, Feature] = {}
    view = memoryview(record)
    try:
        for number, example in _fields(view):
            if number == 1:  # its only field: the map
                for _, entry in _fields(example):
                    pair = dict(_fields(entry))
                    name = bytes(_table(pair[1])).decode()
                    if name in wanted:
                        found[name] = _values(pair[2])
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise DataError("a record is damaged, or holds no Example") from error
    return found


def mapped(path: Path) -> memoryview:
    """The file, mapped into memory."""
    with open_regular(path) as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _values(feature: memoryview) -> Feature:
    for kind, block in _fields(feature):
        if kind == 1:
            return [bytes(_table(value)) for _, value in _fields(block)]
        if kind == 2:
            return np.concatenate(
                [np.frombuffer(_table(value), "<f4") for _, value in _fields(block)] or [np.zeros(0, "f4")]
            )
        if kind == 3:
            return [_signed(one) for _, value in _fields(block) for one in _integers(value)]
    return []


def _integers(value: memoryview | int) -> Iterator[int]:
    """Packed ones lie one after the other; a single one is a field of its own."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        one, at = _varint(value, at)
        yield one


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _table(value: memoryview | int) -> memoryview:
    """A number where bytes should be is noise; as a length it could fill the memory."""
    if isinstance(value, int):
        raise ValueError(value)
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, value) of each field. Fixed ones are given as their bytes."""
    message, at = _table(message), 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value  # pyright: ignore[reportReturnType] (as `_integers` wants it)
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(kind)
        if at + length > len(message):
            raise ValueError(length)
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("more than 64 bits")
