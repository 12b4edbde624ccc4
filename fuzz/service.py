"""Requests of strangers: a service in this process is sent damaged ones, as bytes of a connection and as whole bodies.

Whatever comes, each answer has a status below 500 (or 503, 504), nothing is left in memory, and the next request is
answered.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import uvicorn

from mlpmixer.serve.app import app_of
from mlpmixer.serve.guard import Guard
from mlpmixer.serve.served import Models
from mlpmixer.serve.server import Server, listen
from mlpmixer.serve.service import Service, Settings
from mlpmixer.weights.bundled import PHOTO

MODEL = "mixer_cifar10"
INFER = f"/v2/models/{MODEL}/infer"
LENGTH = "Inference-Header-Content-Length"
STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})", re.MULTILINE)
PATIENCE = 15  # seconds

# File → path and headers with which it is sent as a body, after it was damaged.
BODIES: dict[str, tuple[str, dict[str, str]]] = {
    "image.jpg": ("/v1/predict", {"Content-Type": "image/jpeg"}),
    "explained.png": ("/v1/explain?top=2", {"Content-Type": "application/octet-stream"}),
    "form.bin": ("/v1/embed", {"Content-Type": "multipart/form-data; boundary=b"}),
    "images.json": ("/v1/predict", {"Content-Type": "application/json"}),
    "one.gif": (INFER, {LENGTH: "0", "Accept-Encoding": "gzip"}),
    "infer.json": (INFER, {}),
    "zipped.gz": (INFER, {"Content-Encoding": "gzip"}),
    "index.json": ("/v2/repository/index", {}),
}


class Running:
    """A service on a port of this machine, for as long as the process lives."""

    def __init__(self) -> None:
        self.service = Service(Models([MODEL], {}), Settings(max_body=10_000_000), workers=1, tell=lambda _: None)
        self.service.load()
        listener = listen("127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        guard = Guard()
        config = uvicorn.Config(
            app_of(self.service),
            http=guard.protocol,  # pyright: ignore[reportArgumentType] (it makes what a class would)
            lifespan="off",
            log_config=None,
            access_log=False,
        )

        async def serve() -> None:
            self.service.start()
            await Server(config).serve(sockets=[listener])

        threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
        self.check("/v1/predict", PHOTO.read_bytes(), {})

    def check(self, path: str, body: bytes, headers: Mapping[str, str], statuses: tuple[int, ...] = (200,)) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("POST", path, body, {**headers})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status in statuses, (answer.status, text[:200])
        finally:
            connection.close()

    def send(self, data: bytes) -> None:
        """Bytes of a connection, and then no more: it must end, too."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            answer = b""
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(1 << 20):
                    answer += part
            except TimeoutError:
                raise
            except OSError:  # it had enough before the end
                pass
        wrong = {int(status) for status in STATUS.findall(answer)} - {*FINE}
        assert not wrong, (wrong, answer[:500])

    def is_empty(self) -> bool:
        return self.service.held == 0 and self.service.in_flight == 0


FINE = (100, *range(200, 500), 503, 504)
running: Running | None = None


def build_requests(folder: Path) -> None:
    from fuzz.readers import photo, saved

    global running
    running = Running()
    files = {"jpg": saved(photo(0), "JPEG"), "png": saved(photo(1), "PNG"), "gif": saved(photo(2), "GIF")}
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    option = b'--b\r\nContent-Disposition: form-data; name="top"\r\n\r\n1\r\n'
    texts = [base64.b64encode(file).decode() for file in files.values()]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3]}
    infer = {"id": "1", "inputs": [{**tensor, "data": texts}], "parameters": {"binary_data_output": True}}
    bodies = {
        "image.jpg": files["jpg"],
        "explained.png": files["png"],
        "form.bin": b"".join(part + file + b"\r\n" for file in files.values()) + option + b"--b--\r\n",
        "images.json": json.dumps({"images": texts, "top": 2, "model": MODEL}).encode(),
        "one.gif": files["gif"],
        "infer.json": json.dumps({**infer, "outputs": [{"name": "scores"}, {"name": "label"}]}).encode(),
        "zipped.gz": gzip.compress(json.dumps(infer).encode(), mtime=0),
        "index.json": b'{"ready": true}',
    }
    for name, body in bodies.items():
        (folder / name).write_bytes(body)
    # The same as bytes of connections, and what else there is.
    data = b"".join(struct.pack("<I", len(file)) + file for file in files.values())
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(file), file) for file in (files["jpg"][:500], files["jpg"][500:], b""))
    connections = {name: request(*BODIES[name], body) for name, body in bodies.items()}
    connections["tensor"] = request(INFER, {LENGTH: str(len(head))}, head + data)
    connections["chunks"] = request("/v1/predict", {"Transfer-Encoding": "chunked"}, b"", length=False) + chunks
    connections["waits"] = request("/v1/predict", {"Expect": "100-continue"}, files["jpg"])
    paths = ("/", "/healthz", "/metrics", "/v1/models", "/openapi.json", f"/v2/models/{MODEL}/config", "/v2", "/x")
    connections["several"] = b"".join(request(path, {}, b"", "GET", length=False) for path in paths)
    for name, text in connections.items():
        (folder / f"{name.partition('.')[0]}.http").write_bytes(text)


def request(path: str, headers: Mapping[str, str], body: bytes, method: str = "POST", *, length: bool = True) -> bytes:
    fields = {"Host": "localhost", **headers, **({"Content-Length": str(len(body))} if length else {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def read_request(_: Path, changed: Path) -> None:
    assert running is not None
    if changed.suffix == ".http":
        running.send(changed.read_bytes())
    else:
        try:
            running.check(*_sent(changed), statuses=FINE)
        except (ConnectionError, HTTPException):  # more than a request may have
            assert changed.stat().st_size > running.service.settings.max_body
    until = time.monotonic() + PATIENCE
    while not running.is_empty():
        assert time.monotonic() < until, "a request stays in memory"
        time.sleep(0.001)
    running.check("/v1/predict", PHOTO.read_bytes(), {})


def _sent(changed: Path) -> tuple[str, bytes, dict[str, str]]:
    path, headers = BODIES[changed.name]
    return path, changed.read_bytes(), headers
