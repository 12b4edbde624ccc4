"""The Open Inference Protocol, as NVIDIA's own client speaks it, and as it should not be spoken."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Running, running

from mlpmixer.data.images import decode
from mlpmixer.predict.predictor import Scores

http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
PHOTOS = sorted(Path(__file__).with_name("photos").glob("*.jpg"))[:3]
FILES = [photo.read_bytes() for photo in PHOTOS]
ARRAYS = np.stack([np.asarray(decode(file).resize((120, 90))) for file in FILES])  # (3, 90, 120, 3)
MODEL = "mixer_cifar10"


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running((MODEL, "clothes=mixer_clothing"), max_body=4_000_000) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[Any]:
    with http.InferenceServerClient(served.address, network_timeout=60) as found:
        yield found


def scores(served: Running, images: Any, model: str = MODEL, **how: Any) -> list[Scores]:
    """As the Predictor itself gives them."""
    found = served.service.models.find(model).predictor.scores([*images], **how)
    assert all(isinstance(one, Scores) for one in found)
    return found  # pyright: ignore[reportReturnType]


def image_input(files: list[bytes], binary: bool = True) -> Any:
    given = http.InferInput("image", [len(files)], "BYTES")
    texts = files if binary else [base64.b64encode(file) for file in files]
    given.set_data_from_numpy(np.array(texts, np.object_), binary_data=binary)
    return given


def array_input(name: str, images: np.ndarray, binary: bool = True) -> Any:
    given = http.InferInput(name, [*images.shape], "UINT8")
    given.set_data_from_numpy(images, binary_data=binary)
    return given


def check(result: Any, expected: list[Scores], served: Running, model: str = MODEL) -> None:
    """Exactly, to the last bit."""
    assert np.array_equal(result.as_numpy("scores"), np.stack([one.probabilities for one in expected]))
    assert np.array_equal(result.as_numpy("embedding"), np.stack([one.embedding for one in expected]))
    classes = served.service.models.find(model).predictor.classes
    labels = [classes[int(one.probabilities.argmax())] for one in expected]
    assert [text if isinstance(text, str) else text.decode() for text in result.as_numpy("label")] == labels


def test_health_and_metadata(client: Any, served: Running):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "mlpmixer"
    version = served.service.models.find(MODEL).version
    for wanted in ("", "1", version):
        found = client.get_model_metadata(MODEL, wanted)
        assert found["versions"] == [version]
        assert [(row["name"], row["datatype"], row["shape"]) for row in found["inputs"] + found["outputs"]] == [
            ("image", "BYTES", [-1]),
            ("pixels", "UINT8", [-1, -1, -1, 3]),
            ("prepared", "UINT8", [-1, 32, 32, 3]),
            ("label", "BYTES", [-1]),
            ("scores", "FP32", [-1, 10]),
            ("embedding", "FP32", [-1, 128]),
        ]
    assert client.is_model_ready(MODEL, version)
    assert not client.is_model_ready(MODEL, "2")
    config = client.get_model_config(MODEL)
    assert config["input"][0] == {"name": "image", "data_type": "TYPE_STRING", "dims": [-1], "optional": True}
    assert [(one["name"], one["state"]) for one in client.get_model_repository_index()] == [
        (MODEL, "READY"),
        ("clothes", "READY"),
    ]
    for wrong in ("other", "../etc", "%2e%2e"):
        with pytest.raises(http.InferenceServerException, match=r"no model has this name|nothing here"):
            client.get_model_metadata(wrong)
    with pytest.raises(http.InferenceServerException, match=f"no such version; there is {version}"):
        client.get_model_metadata(MODEL, "2")


def test_nothing_is_loaded_on_request(client: Any):
    for ask in (client.load_model, client.unload_model):
        with pytest.raises(http.InferenceServerException, match="there is nothing here"):
            ask(MODEL)


def test_every_input_both_ways(client: Any, served: Running):
    prepared = np.stack([served.service.models.find(MODEL).predictor.prepared(file).numpy() for file in FILES])
    channels_last = np.ascontiguousarray(prepared.transpose(0, 2, 3, 1))
    for binary in (True, False):
        result = client.infer(MODEL, [image_input(FILES, binary)])
        check(result, scores(served, FILES), served)
        check(client.infer(MODEL, [array_input("pixels", ARRAYS, binary)]), scores(served, ARRAYS), served)
        # What is prepared already gives what the files give.
        check(client.infer(MODEL, [array_input("prepared", channels_last, binary)]), scores(served, FILES), served)
    tall = http.InferInput("image", [3, 1], "BYTES")  # as clients of batching models have it
    tall.set_data_from_numpy(np.array(FILES, np.object_)[:, None])
    check(client.infer("clothes", [tall], "1"), scores(served, FILES, "clothes"), served, "clothes")


def test_outputs(client: Any, served: Running):
    expected = scores(served, FILES)
    wanted = [
        http.InferRequestedOutput("scores", binary_data=False, class_count=2),
        http.InferRequestedOutput("embedding", binary_data=True),
    ]
    result = client.infer(MODEL, [image_input(FILES)], outputs=wanted, request_id="seven")
    assert result.get_response()["id"] == "seven"
    assert [output["name"] for output in result.get_response()["outputs"]] == ["scores", "embedding"]
    assert np.array_equal(result.as_numpy("embedding"), np.stack([one.embedding for one in expected]))
    predictor = served.service.models.find(MODEL).predictor
    rows = result.as_numpy("scores")
    assert rows.shape == (3, 2)
    for row, found in zip(rows, predictor(FILES), strict=True):
        for text, (label, score) in zip(row, found.top, strict=False):
            assert text == f"{score:f}:{predictor.classes.index(label)}:{label}"
    many = [http.InferRequestedOutput("embedding", class_count=1), http.InferRequestedOutput("label")]
    result = client.infer(MODEL, [image_input(FILES)], outputs=many)
    best = int(expected[0].embedding.argmax())
    assert result.as_numpy("embedding")[0][0].decode() == f"{expected[0].embedding[best]:f}:{best}"
    # Nobody asks for anything: JSON, and exact all the same.
    answer = served.client.post(
        f"/v2/models/{MODEL}/infer",
        json={"inputs": [image_input(FILES, binary=False)._get_tensor()]},
    ).json()
    assert answer["outputs"][1]["data"] == np.stack([one.probabilities for one in expected]).ravel().tolist()


def test_compression_both_ways(client: Any, served: Running):
    expected = scores(served, FILES)
    for way in ("gzip", "deflate"):
        result = client.infer(
            MODEL, [image_input(FILES)], request_compression_algorithm=way, response_compression_algorithm=way
        )
        check(result, expected, served)
    path = f"/v2/models/{MODEL}/infer"
    refused = {
        "zeros of more than 4 MB": ("gzip", gzip.compress(bytes(4_000_001)), 413),
        "no gzip": ("gzip", b"hello", 400),
        "cut off": ("gzip", gzip.compress(b"{}" * 50)[:-9], 400),
        "two of them": ("deflate", zlib.compress(b"{}") * 2, 400),
        "twice": ("gzip, gzip", gzip.compress(gzip.compress(b"{}")), 415),
        "another way": ("br", b"{}", 415),
    }
    for name, (way, body, status) in refused.items():
        answer = served.client.post(path, content=body, headers={"Content-Encoding": way})
        assert answer.status_code == status, name
        assert isinstance(answer.json()["error"], str), name
    for accept, expects in (("br", None), ("gzip;q=0", None), ("br, deflate;q=0.5", "deflate"), ("GZIP", "gzip")):
        answer = served.client.post(path, content=b"", headers={"Accept-Encoding": accept} | RAW)
        assert answer.status_code == 400
        answer = served.client.post(path, content=FILES[0], headers={"Accept-Encoding": accept} | RAW)
        assert answer.headers.get("content-encoding") == expects


RAW = {"Inference-Header-Content-Length": "0"}


def test_a_tensor_by_itself(served: Running):
    """The whole body is one file, and the answer is binary."""
    answer = served.client.post(f"/v2/models/{MODEL}/infer", content=FILES[0], headers=RAW)
    length = int(answer.headers["Inference-Header-Content-Length"])
    result = http.InferResult.from_response_body(answer.content, header_length=length)
    check(result, scores(served, FILES[:1]), served)


def test_asynchronously(client: Any, served: Running):
    expected = scores(served, FILES)
    waiting = [client.async_infer(MODEL, [image_input([file])]) for file in FILES]
    for one, alone in zip(waiting, expected, strict=True):
        check(one.get_result(timeout=60), [alone], served)

    import tritonclient.http.aio as aio

    async def ask() -> list[Any]:
        async with aio.InferenceServerClient(served.address) as other:
            assert await other.is_model_ready(MODEL)
            assert (await other.get_server_metadata())["name"] == "mlpmixer"
            return await asyncio.gather(*(other.infer(MODEL, [image_input([file])]) for file in FILES))

    for one, alone in zip(asyncio.run(ask()), expected, strict=True):
        check(one, [alone], served)


def test_statistics(client: Any):
    def of() -> dict[str, Any]:
        [found] = client.get_inference_statistics(MODEL)["model_stats"]
        return found

    before = of()
    client.infer(MODEL, [image_input(FILES)])
    with pytest.raises(http.InferenceServerException, match="element 1 of the input: the image is not a readable"):
        client.infer(MODEL, [image_input([FILES[0], FILES[1][:900]])])
    after = of()
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert 1 <= after["execution_count"] - before["execution_count"] <= 5
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    names = [one["name"] for one in client.get_inference_statistics()["model_stats"]]
    assert names == [MODEL, "clothes"]


def test_a_timeout(served: Running):
    body = {"inputs": [image_input(FILES * 30, binary=False)._get_tensor()], "parameters": {"timeout": 1}}
    answer = served.client.post(f"/v2/models/{MODEL}/infer", json=body)
    assert (answer.status_code, answer.json()) == (504, {"error": "the answer took too long, and was given up"})


def inputs(**changes: Any) -> bytes:
    """A good request of one prepared image, with some of it replaced; None leaves a key out."""
    tensor = {"name": "prepared", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072} | changes
    return json.dumps({"inputs": [{key: value for key, value in tensor.items() if value is not None}]}).encode()


def behind(data: bytes, length: int | None = None, **changes: Any) -> tuple[bytes, str]:
    """A request with a tensor behind its JSON."""
    size = {"binary_data_size": len(data) if length is None else length}
    head = inputs(data=None, parameters=size, **changes)
    return head + data, str(len(head))


FILE = {"name": "image", "datatype": "BYTES", "shape": [1]}
MALFORMED: dict[str, bytes | tuple[bytes, str]] = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "bad UTF-8": b'{"inputs": "\xff"}',
    "deep": b'{"a":' * 100_000,
    "a huge number": b'{"inputs":' + b"9" * 10_000 + b"}",
    "no inputs": b"{}",
    "two inputs": b'{"inputs": [{}, {}]}',
    "inputs of texts": b'{"inputs": ["image"]}',
    "another input": inputs(name="image"),
    "an input without a name": inputs(name=None),
    "another datatype": inputs(datatype="FP32"),
    "a shape of texts": inputs(shape=["1", 32, 32, 3]),
    "a shape of truths": inputs(shape=[True, 32, 32, 3]),
    "a negative shape": inputs(shape=[-1, 32, 32, 3]),
    "an empty shape": inputs(shape=[0, 32, 32, 3]),
    "an overflowing shape": inputs(name="pixels", shape=[1, 2**31 - 1, 2**31 - 1, 3]),
    "a shape that overflows 64 bits": inputs(name="pixels", shape=[2**62, 2**62, 4, 3]),
    "another size": inputs(shape=[1, 33, 32, 3]),
    "too few dimensions": inputs(shape=[32, 32, 3]),
    "too few numbers": inputs(data=[0] * 3071),
    "numbers of 9 bits": inputs(data=[256] * 3072),
    "fractions": inputs(data=[0.5] * 3072),
    "texts for numbers": inputs(data=["0"] * 3072),
    "uneven data": inputs(data=[[0] * 3071, 0]),
    "deeper data than its shape": inputs(data=[[[[[0] * 3072]]]]),
    "no data": inputs(data=None),
    "shared memory": inputs(data=None, parameters={"shared_memory_region": "a"}),
    "parameters of an input that are a list": inputs(parameters=[1]),
    "a file that is a number": inputs(**FILE, data=[7]),
    "a file that is no base64": inputs(**FILE, data=["%%%"]),
    "an empty file": inputs(**FILE, data=[""]),
    "two files in a shape of one": inputs(**FILE, data=["AA==", "AA=="]),
    "a file that is no image": inputs(**FILE, data=["AAAA"]),
    "very many files": inputs(**FILE | {"shape": [1_001]}, data=["AA=="] * 1_001),
    "bytes left over": (behind(bytes(3072))[0] + b"x", behind(bytes(3072))[1]),
    "bytes that nobody claims": (inputs() + b"x", str(len(inputs()))),
    "fewer bytes than claimed": behind(bytes(3071), 3072),
    "fewer bytes than the shape has": behind(bytes(3071)),
    "a size that is a text": behind(bytes(3072), "3072"),  # pyright: ignore[reportArgumentType]
    "a negative size": behind(b"", -1),
    "a length within that goes too far": behind(struct.pack("<I", 2**32 - 1) + b"ab", **FILE),
    "a length within that is cut off": behind(b"\1\0", **FILE),
    "more files than the shape has": behind(struct.pack("<I", 0) * 65_536, **FILE),
    "a longer head than the body": (inputs(), "100000"),
    "a negative head": (inputs(), "-1"),
    "a head in words": (inputs(), "ten"),
    "a head that ends in the middle": (inputs(), "9"),
    "outputs of texts": inputs()[:-1] + b', "outputs": ["scores"]}',
    "another output": inputs()[:-1] + b', "outputs": [{"name": "logits"}]}',
    "an output twice": inputs()[:-1] + b', "outputs": [{"name": "label"}, {"name": "label"}]}',
    "classes of texts": inputs()[:-1] + b', "outputs": [{"name": "label", "parameters": {"classification": 1}}]}',
    "classes in words": inputs()[:-1] + b', "outputs": [{"name": "scores", "parameters": {"classification": "1"}}]}',
    "binary or not": inputs()[:-1] + b', "parameters": {"binary_data_output": "yes"}}',
    "parameters that are a text": inputs()[:-1] + b', "parameters": "yes"}',
    "a timeout in words": inputs()[:-1] + b', "parameters": {"timeout": "1"}}',
    "an id that is a number": inputs()[:-1] + b', "id": 7}',
    "a very long id": inputs()[:-1] + b', "id": "' + b"7" * 2000 + b'"}',
}


def test_malformed_requests(served: Running):
    """Each is refused with 400 and a text, and the next request is answered."""
    path = f"/v2/models/{MODEL}/infer"
    failures: list[str] = []
    for name, given in MALFORMED.items():
        body, length = given if isinstance(given, tuple) else (given, None)
        headers = {} if length is None else {"Inference-Header-Content-Length": length}
        answer = served.client.post(path, content=body, headers=headers)
        text = answer.json().get("error")
        if answer.status_code != 400 or not isinstance(text, str) or not text:
            failures.append(f"{name}: {answer.status_code} {answer.text[:200]}")
    assert not failures
    good, length = behind(bytes(3072))
    for body, headers in ((inputs(), {}), (good, {"Inference-Header-Content-Length": length})):
        assert served.client.post(path, content=body, headers=headers).status_code == 200


def test_what_is_too_much(served: Running):
    path = f"/v2/models/{MODEL}/infer"
    assert served.client.post(path, content=bytes(4_000_001)).status_code == 413
    assert served.client.post("/v2/repository/index", content=bytes(70_000)).status_code == 413
    assert served.client.post(path, content=inputs()).status_code == 200
    unknown = served.client.post("/v2/models/other/infer", content=inputs())
    assert (unknown.status_code, unknown.json()) == (
        404,
        {"error": "no model has this name; there are: mixer_cifar10, clothes"},
    )
    wrong = served.client.get(path)
    assert (wrong.status_code, wrong.json()) == (405, {"error": "this is asked with another method"})
