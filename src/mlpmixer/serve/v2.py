"""The Open Inference Protocol, version 2, as Triton and KServe speak it over HTTP.

A model takes one of three inputs, and gives all of its outputs or those that are asked for:

    image     BYTES [n]                   files, such as JPEGs; in JSON as base64
    pixels    UINT8 [n, height, width, 3] images of any size, prepared here
    prepared  UINT8 [n, height, width, 3] images that have been prepared, of the model's size

    label     BYTES [n]                   the likeliest class
    scores    FP32 [n, classes]           probabilities
    embedding FP32 [n, D]

With the extensions binary_tensor_data (in both directions), classification, model_configuration, statistics,
model_repository (its index alone: nothing is loaded on request) and timeouts in `parameters`. A version is the digest
of the model's file, by which a client can insist on one; "1" stands for whichever is there.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlpmixer.predict.predictor import Scores
from mlpmixer.serve.bodies import (
    MOST_NUMBERS,
    MOST_PARTS,
    Hold,
    from_base64,
    read_body,
    read_json,
    require_few_numbers,
)
from mlpmixer.serve.metrics import Metrics
from mlpmixer.serve.problems import Problem, malformed, not_found
from mlpmixer.serve.served import Served
from mlpmixer.serve.service import Count, Kind, Service, problem_of
from mlpmixer.version import __version__

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
LENGTH = "Inference-Header-Content-Length"
PLATFORM = "mlpmixer"

# Input → its type, and what workers are asked.
INPUTS: dict[str, tuple[str, Kind]] = {
    "image": ("BYTES", "scores"),
    "pixels": ("UINT8", "scores"),
    "prepared": ("UINT8", "prepared"),
}
# Output → its type, and what of an answer it has.
OUTPUTS: dict[str, tuple[str, Callable[[Served, Scores], Any]]] = {
    "label": ("BYTES", lambda served, found: served.predictor.classes[int(found.probabilities.argmax())]),
    "scores": ("FP32", lambda _, found: found.probabilities),
    "embedding": ("FP32", lambda _, found: found.embedding),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, 1, mtime=0),
    "deflate": lambda body: zlib.compress(body, 1),
}


def shapes(served: Served) -> dict[str, list[int]]:
    """Of all inputs and outputs; -1: any number."""
    height, width = served.predictor.preprocessing.crop
    return {
        "image": [-1],
        "pixels": [-1, -1, -1, 3],
        "prepared": [-1, height, width, 3],
        "label": [-1],
        "scores": [-1, len(served.predictor.classes)],
        "embedding": [-1, served.predictor.width],
    }


@dataclass(frozen=True)
class Output:
    """An output that is asked for.

    Attributes:
        name: Of `OUTPUTS`.
        binary: It follows the JSON as bytes.
        classes: So many of the best, as texts "score:index:label"; 0: the tensor itself.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True)
class Inference:
    """A request, read.

    Attributes:
        kind: What workers are asked.
        images: Files or arrays.
        outputs: In the order of the answer.
        id: Given back.
        timeout: Seconds; None: those of the service.
    """

    kind: Kind
    images: list[Any]
    outputs: list[Output]
    id: str | None = None
    timeout: float | None = None


class V2:
    """The routes under /v2."""

    def __init__(self, service: Service, metrics: Metrics):
        self.service, self.metrics = service, metrics

    def routes(self) -> list[Route]:
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/v2", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("POST", "/v2/repository/index", self.index),
            ("GET", "/v2/models/stats", self.stats),
        ]
        for path in (model, version):
            table += [
                ("GET", path, self.metadata),
                ("GET", f"{path}/ready", self.model_ready),
                ("GET", f"{path}/config", self.config),
                ("GET", f"{path}/stats", self.stats),
                ("POST", f"{path}/infer", self.infer),
            ]
        return [Route(path, self.answering(answer), methods=[method]) for method, path, answer in table]

    def answering(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            started = time.perf_counter()
            try:
                response = await answer(request)
            except Problem as problem:
                problem.status = 400 if problem.status == 422 else problem.status
                response = problem.response("/v2")
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            if answer == self.infer:
                self.metrics.request("infer", response.status_code, time.perf_counter() - started)
            return response

        return answered

    def find(self, request: Request) -> Served:
        served = self.service.model(request.path_params["model"])
        if request.path_params.get("version", "1") not in ("1", served.version):
            raise not_found(f"the model has no such version; there is {served.version}")
        return served

    # What there is.

    async def server(self, _request: Request) -> Response:
        return JSONResponse({"name": "mlpmixer", "version": __version__, "extensions": EXTENSIONS})

    async def live(self, _request: Request) -> Response:
        return Response(status_code=200 if self.service.alive else 503)

    async def ready(self, _request: Request) -> Response:
        return Response(status_code=200 if self.service.ready else 503)

    async def model_ready(self, request: Request) -> Response:
        self.find(request)
        return await self.ready(request)

    async def index(self, request: Request) -> Response:
        body = await read_body(request, 65_536, lambda _: None)
        only_ready = read_json(body).get("ready", False) if body else False
        if not isinstance(only_ready, bool):
            raise malformed("ready must be true or false")
        found = [
            {
                "name": name,
                "version": "" if slot.served is None else slot.served.version,
                "state": "UNAVAILABLE" if slot.served is None else "READY",
                "reason": slot.error,
            }
            for name, slot in self.service.models.slots.items()
            if slot.served is not None or not only_ready
        ]
        return JSONResponse(found)

    async def metadata(self, request: Request) -> Response:
        served = self.find(request)
        sizes = shapes(served)
        tensors = [
            [{"name": name, "datatype": row[0], "shape": sizes[name]} for name, row in table.items()]
            for table in (INPUTS, OUTPUTS)
        ]
        versions = {"name": served.name, "versions": [served.version], "platform": PLATFORM}
        return JSONResponse({**versions, "inputs": tensors[0], "outputs": tensors[1]})

    async def config(self, request: Request) -> Response:
        served = self.find(request)
        sizes = shapes(served)
        types = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32"}
        tensors = {
            key: [{"name": name, "data_type": types[row[0]], "dims": sizes[name]} for name, row in table.items()]
            for key, table in (("input", INPUTS), ("output", OUTPUTS))
        }
        for tensor in tensors["input"]:
            tensor["optional"] = True  # one of the three
        facts = {key: {"string_value": str(served.facts()[key])} for key in ("architecture", "engine", "precision")}
        config = {"name": served.name, "platform": PLATFORM, "backend": PLATFORM, "max_batch_size": 0}
        return JSONResponse({**config, **tensors, "parameters": facts})

    async def stats(self, request: Request) -> Response:
        slots = self.service.models.slots.values()
        given = "model" in request.path_params
        found = [self.find(request)] if given else [slot.served for slot in slots if slot.served is not None]
        return JSONResponse({"model_stats": [self.stats_of(served) for served in found]})

    def stats_of(self, served: Served) -> dict[str, Any]:
        count = self.service.counts.get(served.name, Count())
        took = {"count": count.answered, "ns": int(count.seconds * 1e9)}
        return {
            "name": served.name,
            "version": served.version,
            "last_inference": int(count.last * 1000),
            "inference_count": count.answered,
            "execution_count": count.batches,
            "inference_stats": {"success": took, "fail": {"count": count.failed, "ns": 0}, "compute_infer": took},
            "batch_stats": [],
        }

    # Inference.

    async def infer(self, request: Request) -> Response:
        with self.service.holding() as hold:
            return await self.inferred(request, hold)

    async def inferred(self, request: Request, hold: Hold) -> Response:
        async with self.service.admitted():
            served = self.find(request)
            body = await read_body(request, self.service.settings.max_body, hold, tuple(COMPRESS))
        asked = self.read(served, request.headers.get(LENGTH), body)
        sizes = shapes(served)
        in_json = [output.name for output in asked.outputs if output.classes or not output.binary]
        require_few_numbers(len(asked.images), sum(math.prod(sizes[name][1:]) for name in in_json))
        gone = request.scope.get("mlpmixer.jobs")
        async with self.service.deadline(asked.timeout):
            answers = await self.service.ask(served, asked.images, kind=asked.kind, gone=gone)
        for number, answer in enumerate(answers):
            problem = problem_of(answer)
            if problem is not None:
                status = 500 if problem.status == 500 else 400
                raise Problem(status, problem.code, f"element {number} of the input: {problem.message}")
        self.metrics.images.labels(served.name).inc(len(answers))
        head, data = written(served, asked, answers)
        headers = {LENGTH: str(len(head))} if data is not None else {}
        kind = "application/json" if data is None else "application/octet-stream"
        whole = head + (data or b"")
        accepted = accepted_encoding(request.headers.get("accept-encoding", ""))
        if accepted is not None:
            whole = await asyncio.to_thread(COMPRESS[accepted], whole)
            headers["Content-Encoding"] = accepted
        return Response(whole, media_type=kind, headers=headers)

    def read(self, served: Served, length: str | None, body: bytes) -> Inference:
        """A request: JSON, JSON with tensors behind it, or (with a length of 0) a tensor by itself: one file."""
        if length is None:
            return read_inference(served, read_json(body, MOST_NUMBERS), b"", self.service.limits.pixels)
        if not length.isdecimal() or int(length[:20]) > len(body):
            raise malformed(f"{LENGTH} must be the length of the JSON in the body")
        if int(length) == 0:
            if not body:
                raise malformed("there is no image in the request")
            return Inference("scores", [body], [Output(name, binary=True) for name in OUTPUTS])
        at = int(length)
        return read_inference(served, read_json(body[:at], MOST_NUMBERS), body[at:], self.service.limits.pixels)


def _object(found: Any, what: str) -> dict[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise malformed(f"{what} must be an object")
    return found


def read_inference(served: Served, found: Mapping[str, Any], data: bytes, most: int) -> Inference:
    """The JSON of a request, and the bytes behind it.

    Args:
        served: The model.
        found: JSON.
        data: Tensors in binary, in the order of the inputs.
        most: Pixels of an image.

    Raises:
        Problem: 400, or 413.
    """
    parameters = _object(found.get("parameters"), "parameters")
    given = found.get("inputs")
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        raise malformed(f"a request must have one input, of {', '.join(INPUTS)}")
    identity, timeout = found.get("id"), parameters.get("timeout", 0)
    if identity is not None and (not isinstance(identity, str) or len(identity) > 1_000):
        raise malformed("id must be a short text")
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise malformed("timeout must be a number of microseconds")
    name = given[0].get("name")
    if not isinstance(name, str) or name not in INPUTS:
        raise malformed(f"the model has no such input; it has {', '.join(INPUTS)}")
    images = _tensor(given[0], name, shapes(served)[name], data, most)
    outputs = _outputs(found.get("outputs"), parameters.get("binary_data_output", False))
    # A timeout of more than a day is as good as none, and the others fit into a float.
    return Inference(INPUTS[name][1], images, outputs, identity, min(timeout, 10**11) / 1e6 if timeout else None)


def _tensor(given: Mapping[str, Any], name: str, expected: Sequence[int], data: bytes, most: int) -> list[Any]:
    """The elements of an input along its first dimension: files, or arrays."""
    datatype = INPUTS[name][0]
    if given.get("datatype") != datatype:
        raise malformed(f"the input {name} must be of the datatype {datatype}")
    shape: Any = given.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and 0 < side < 2**31 for side in shape):
        raise malformed("shape must be a list of positive numbers")
    if datatype == "BYTES" and shape[1:] == [1]:
        shape = shape[:1]
    if len(shape) != len(expected) or any(b not in (-1, a) for a, b in zip(shape, expected, strict=True)):
        raise malformed(f"the input {name} must have the shape {[*expected]}, where -1 is any number")
    if shape[0] > MOST_PARTS:
        raise malformed(f"a request may have {MOST_PARTS:,} images")
    if math.prod(shape[1:]) > 3 * most:
        raise malformed(f"an image may have {most:,} pixels")
    parameters = _object(given.get("parameters"), "parameters of an input")
    if any(key.startswith("shared_memory") for key in parameters):
        raise malformed("shared memory is not available here")
    length = parameters.get("binary_data_size")
    if length is None:
        if data:
            raise malformed("there are bytes behind the JSON that belong to no input")
        values = _flat(given.get("data"), len(shape))
        elements = [_text(value) for value in values] if datatype == "BYTES" else [_octets(values)]
    else:
        if type(length) is not int or length != len(data) or "data" in given:
            raise malformed(f"binary_data_size must be the bytes behind the JSON, which are {len(data):,}")
        elements = _elements(data) if datatype == "BYTES" else [data]
    if datatype == "BYTES":
        if len(elements) != shape[0] or not all(elements):
            raise malformed("the input must have as many files as its shape says, none of them empty")
        return elements
    if len(elements[0]) != math.prod(shape):
        raise malformed(f"the input has {len(elements[0]):,} bytes, and its shape {math.prod(shape):,}")
    images = np.frombuffer(elements[0], np.uint8).reshape(shape)
    if name == "prepared":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return [*images]


def _flat(values: Any, depth: int) -> list[Any]:
    """Row-major, whether it is nested as its shape is or flat."""
    for _ in range(depth):
        if not isinstance(values, list):
            break
        if not values or not isinstance(values[0], list):
            return values
        if not all(isinstance(row, list) for row in values):
            break
        values = [value for row in values for value in row]
    raise malformed("data must be a list of values, or nested as the shape says")


def _octets(values: list[Any]) -> bytes:
    try:
        return bytes(values)
    except (TypeError, ValueError):
        raise malformed("data must be whole numbers from 0 to 255") from None


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise malformed("data must be texts in base64; files themselves go behind the JSON, as binary data")
    return from_base64(value)


def _elements(data: bytes) -> list[bytes]:
    """Of a tensor of BYTES: each has its length in four bytes before it."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + length > len(data) or len(found) == MOST_PARTS:
            raise malformed("the lengths within the tensor do not fit its size")
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _outputs(given: Any, binary: Any) -> list[Output]:
    if not isinstance(binary, bool):
        raise malformed("binary_data_output must be true or false")
    if given is None or given == []:
        return [Output(name, binary) for name in OUTPUTS]
    if not isinstance(given, list) or not all(isinstance(output, dict) for output in given):
        raise malformed("outputs must be a list of objects")
    found: list[Output] = []
    for output in given:
        name, parameters = output.get("name"), _object(output.get("parameters"), "parameters of an output")
        if not isinstance(name, str) or name not in OUTPUTS or any(other.name == name for other in found):
            raise malformed(f"each output must be another of {', '.join(OUTPUTS)}")
        if any(key.startswith("shared_memory") for key in parameters):
            raise malformed("shared memory is not available here")
        binary_data, classes = parameters.get("binary_data", binary), parameters.get("classification", 0)
        if not isinstance(binary_data, bool):
            raise malformed("binary_data must be true or false")
        if type(classes) is not int or classes < 0 or (classes and OUTPUTS[name][0] != "FP32"):
            raise malformed("classification must be a number of classes, of an output of numbers")
        found.append(Output(name, binary_data, classes))
    return found


def written(served: Served, asked: Inference, answers: Sequence[Scores]) -> tuple[bytes, bytes | None]:
    """The answer as JSON, and the bytes that go behind it; None: all is JSON."""
    outputs: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for output in asked.outputs:
        datatype, take = OUTPUTS[output.name]
        values = [take(served, answer) for answer in answers]
        if output.classes:
            labels = served.predictor.classes if output.name == "scores" else None
            datatype, values = "BYTES", [_best(row, output.classes, labels) for row in values]
        array = np.array(values, object if datatype == "BYTES" else np.float32)
        shown: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": [*array.shape]}
        if output.binary:
            data = _packed(array) if datatype == "BYTES" else array.astype("<f4").tobytes()
            behind.append(data)
            shown["parameters"] = {"binary_data_size": len(data)}
        else:
            shown["data"] = array.ravel().tolist()
        outputs.append(shown)
    answer = {"model_name": served.name, "model_version": served.version, "outputs": outputs}
    if asked.id is not None:
        answer["id"] = asked.id
    head = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return head, b"".join(behind) if any(output.binary for output in asked.outputs) else None


def _best(row: np.ndarray, count: int, labels: Sequence[str] | None) -> list[str]:
    """As Triton writes them: score:index, and the label where there is one."""
    order = np.argsort(-row, kind="stable")[:count]
    return [f"{row[i]:f}:{i}" + ("" if labels is None else f":{labels[i]}") for i in order]


def _packed(array: np.ndarray) -> bytes:
    texts = [text.encode("utf-8", "backslashreplace") for text in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def accepted_encoding(header: str) -> str | None:
    """The compression that a client accepts, as Accept-Encoding says."""
    for part in header.lower().split(","):
        name, _, quality = part.replace(" ", "").partition(";")
        if name in COMPRESS and quality not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name
    return None
