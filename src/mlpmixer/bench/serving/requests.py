"""Whole requests as bytes, built once and sent many times."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from PIL import Image, ImageEnhance

from mlpmixer.data.sources.naming import EXTENSIONS
from mlpmixer.errors import UsageError
from mlpmixer.weights.bundled import PHOTO

OWN = 64  # images that are made of the bundled photo where there is no folder
SIZE = (400, 533)  # pixels
QUALITY = 90
BOUNDARY = "mlpmixer-bench-27d5b0c1"


def read_images(folder: Path | None, most: int) -> list[bytes]:
    """Files of a folder as they are, in a fixed order, spread over all of it; or versions of the bundled photo.

    Raises:
        UsageError: There are none.
    """
    if folder is None:
        return [*islice(_versions(), most)]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not paths:
        raise UsageError(f"there are no image files in {folder}")
    step = max(1, len(paths) // most)
    return [path.read_bytes() for path in paths[::step][:most]]


def _versions() -> list[bytes]:
    found = []
    with Image.open(PHOTO) as photo:
        whole = photo.convert("RGB").resize((SIZE[0] + OWN, SIZE[1] + OWN))
    for number in range(OWN):
        part = whole.crop((number, OWN - number, number + SIZE[0], OWN - number + SIZE[1]))
        file = io.BytesIO()
        ImageEnhance.Brightness(part).enhance(0.7 + 0.01 * number).save(file, "JPEG", quality=QUALITY)
        found.append(file.getvalue())
    return found


def head(path: str, kind: str, length: int, *lines: str) -> bytes:
    """Of a POST."""
    fields = ("Host: 127.0.0.1", f"Content-Type: {kind}", f"Content-Length: {length}", *lines)
    return "\r\n".join([f"POST {path} HTTP/1.1", *fields, "", ""]).encode()


def post(path: str, kind: str, body: bytes, *lines: str) -> bytes:
    return head(path, kind, len(body), *lines) + body


def raw(image: bytes, path: str = "/v1/predict") -> bytes:
    return post(path, "image/jpeg", image)


def form(images: Sequence[bytes], path: str = "/v1/predict") -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{number}.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + image
        + b"\r\n"
        for number, image in enumerate(images)
    ]
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    return post(path, f"multipart/form-data; boundary={BOUNDARY}", body)


def in_json(images: Sequence[bytes], path: str = "/v1/predict") -> bytes:
    texts = [base64.b64encode(image).decode() for image in images]
    return post(path, "application/json", json.dumps({"images": texts}).encode())


def v2(image: bytes, model: str) -> bytes:
    """The Open Inference Protocol, with a binary tensor."""
    data = len(image).to_bytes(4, "little") + image
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    return post(f"/v2/models/{model}/infer", "application/octet-stream", text + data, length)


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
