"""Bodies of requests: one image as it is, or several in a form or in JSON, with the options that stand beside them.

image/*, application/octet-stream    the image itself; options in the query
multipart/form-data                  every file is an image; fields are options
application/json                     {"images": [base64, …]} or {"image": base64}, and options
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from mlpmixer.serve.problems import Problem, invalid, malformed, too_large

logging.getLogger("python_multipart.multipart").disabled = True  # it logs what it reads

MOST_PARTS = 1_000  # of a form or a list
# While JSON is read or written, nobody else is answered: a million values take half a second.
MOST_VALUES = 10 * MOST_PARTS  # of a body
MOST_NUMBERS = 1_000_000  # of a tensor in a body, and of an answer
FIELD = 1_000  # bytes of an option
Hold = Callable[[int], object]  # counts bytes that stay in memory, and refuses too many
OPTIONS = ("model", "top")


@dataclass
class Asked:
    """Images and options.

    Attributes:
        images: As they came.
        one: Whether the request was of one image as it is, so that its answer is not a list.
        options: Of `OPTIONS`, as text.
    """

    images: list[bytes]
    one: bool = False
    options: dict[str, str] = field(default_factory=dict)


async def read_body(request: Request, most: int, hold: Hold, encodings: Sequence[str] = ()) -> bytes:
    """The whole body, in `most` bytes at most.

    Args:
        request: Of which nothing has been read.
        most: Bytes, also after decompression.
        hold: Told of the bytes as they come.
        encodings: Of the content that are decompressed, of gzip and deflate.

    Raises:
        Problem: 413, before anything is read if its length is told; 415 if it is compressed otherwise.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", *encodings):
        raise Problem(415, "compressed", "a body that is compressed in this way is not read here")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large(most)
    parts: list[bytes] = []
    read = 0
    async for part in request.stream():
        read += len(part)
        if read > most:
            raise too_large(most)
        hold(len(part))
        parts.append(part)
    body = b"".join(parts)
    if encoding == "identity":
        return body
    body = await asyncio.to_thread(_inflated, body, most)
    hold(len(body))
    return body


def _inflated(body: bytes, most: int) -> bytes:
    """What was compressed by gzip or zlib."""
    inflating = zlib.decompressobj(32 + zlib.MAX_WBITS)
    try:
        whole = inflating.decompress(body, most + 1)
    except zlib.error:
        raise malformed("the compressed body is damaged") from None
    if len(whole) > most:
        raise too_large(most)
    if not inflating.eof or inflating.unused_data:
        raise malformed("the compressed body ends in the middle, or goes on after its end")
    return whole


def read_json(body: bytes, most: int = MOST_VALUES) -> dict[str, Any]:
    """A JSON object of `most` values at most."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > most:
        raise Problem(413, "too_large", f"a JSON body may have {most:,} values")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise malformed("the body is no JSON") from None
    if not isinstance(found, dict):
        raise invalid("the body must be an object")
    return found


def require_few_numbers(images: int, each: int) -> None:
    """Refuses a request whose answer would be endless: of some bytes, a thousand images of ten thousand classes.

    Raises:
        Problem: 413.
    """
    if images * each > MOST_NUMBERS:
        raise Problem(
            413, "too_large", f"the answer would have {images * each:,} numbers, and may have {MOST_NUMBERS:,} in JSON"
        )


async def asked(request: Request, most: int, hold: Hold) -> Asked:
    """The images and options of a request; the arguments are those of `read_body`.

    Raises:
        Problem: What it is that is wrong with it.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    readers = {b"multipart/form-data": _form, b"application/json": _json}
    if kind.startswith(b"image/") or kind in (b"application/octet-stream", b""):
        found = Asked([await read_body(request, most, hold)], one=True)
    elif kind in readers:
        found = readers[kind](await read_body(request, most, hold), parameters)
    else:
        raise Problem(415, "content_type", "send an image, multipart/form-data or application/json")
    for name, text in request.query_params.items():
        _set(found.options, name, text)
    if not found.images or not all(found.images):
        raise malformed("there is no image in the request")
    return found


def _set(options: dict[str, str], name: str, text: str) -> None:
    if name not in OPTIONS:
        raise invalid(f"an option is not known (there are: {', '.join(OPTIONS)})")
    options[name] = text


def _json(body: bytes, _parameters: Mapping[bytes, bytes]) -> Asked:
    found = read_json(body)
    images: Any = found.pop("images", None)
    if "image" in found and images is None:
        images = [found.pop("image")]
    if not isinstance(images, list) or not all(isinstance(one, str) for one in images):
        raise invalid("images must be a list of texts in base64")
    if len(images) > MOST_PARTS:
        raise invalid(f"a request may have {MOST_PARTS:,} images")
    asked = Asked([])
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise invalid("options are texts or numbers")
        _set(asked.options, name, str(value))
    asked.images = [from_base64(text) for text in images]
    return asked


def from_base64(text: str) -> bytes:
    """The bytes of a base64 text, which may be a data URL."""
    try:
        return base64.b64decode(text.partition(",")[2] if text[:5] == "data:" else text, validate=True)
    except (binascii.Error, ValueError):
        raise malformed("an image is not in base64") from None


def _form(body: bytes, parameters: Mapping[bytes, bytes]) -> Asked:
    boundary = parameters.get(b"boundary")
    if not boundary or len(boundary) > 70:
        raise malformed("the form has no boundary")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())  # pyright: ignore[reportArgumentType] (a dictionary of them)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise malformed("the form is broken") from None
    if not form.ended:
        raise malformed("the form ends in the middle")
    return Asked(form.files, options=form.options)


class _Form:
    """Collects the parts of a form while it is parsed."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self.options: dict[str, str] = {}
        self.ended = False
        self.parts = 0

    def callbacks(self) -> dict[str, Any]:
        names = (
            "part_begin",
            "part_data",
            "part_end",
            "header_field",
            "header_value",
            "header_end",
            "headers_finished",
        )
        return {**{f"on_{name}": getattr(self, name) for name in names}, "on_end": self.end}

    def part_begin(self) -> None:
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise invalid(f"a request may have {MOST_PARTS:,} images")
        self.headers: dict[bytes, bytes] = {}
        self.name, self.value = bytearray(), bytearray()
        self.data = bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def header_end(self) -> None:
        if len(self.headers) < 10:
            self.headers[bytes(self.name).lower()] = bytes(self.value)
        self.name, self.value = bytearray(), bytearray()

    def headers_finished(self) -> None:
        _, self.disposition = parse_options_header(self.headers.get(b"content-disposition", b""))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.data += memoryview(data)[start:end]

    def part_end(self) -> None:
        if b"filename" in self.disposition:
            if self.data:  # a form sends a file without a name and a byte where none was chosen
                self.files.append(bytes(self.data))
            return
        if len(self.data) > FIELD:
            raise invalid("an option is too long")
        name = self.disposition.get(b"name", b"").decode("utf-8", "replace")
        _set(self.options, name, bytes(self.data).decode("utf-8", "replace"))

    def end(self) -> None:
        self.ended = True
