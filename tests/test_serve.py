"""The service: its answers are the Predictor's, whatever it is sent it answers with the right status, and goes on.

Threat → where it is tested, if not here:

    bytes, compressed bodies   test_bytes, test_bytes_of_many_requests; test_serve_life: bodies that are too large
    pixels, scans, parts       test_bombs, test_large_pictures…; test_serve_life: large images; test_images
    endless answers            test_an_answer_without_an_end…
    polyglots, other formats   test_kinds…, test_broken_files; fuzz: images
    slow clients, connections  test_serve_guard
    chunks, smuggling          test_serve_guard
    traversal, links           test_paths_lead_nowhere, test_links_and_pipes…
    addresses (SSRF)           test_no_address_is_fetched
    CSRF, CORS, rebinding      test_other_pages…; test_serve_page: pages of others, a name that is made to lead here
    XSS, formulas              test_markup…; test_serve_page: markup in names; test_predict_command: a spreadsheet
    tokens                     test_tokens; test_serve_page
    logs                       test_serve_life: the command and its log
    pickles                    test_a_pickle…
    overload                   test_what_would_wait…, test_what_came_meanwhile…; test_serve_life; by hand: bench serve
    shutdown, reload           test_serve_life; test_models_change_under_load…
    workers that fail          test_a_worker_that_raises…; test_serve_workers; test_serve_life
    malformed requests         test_malformed_bodies, test_schemathesis…; test_serve_v2; fuzz: requests
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import itertools
import json
import math
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hostile_files
import httpx2
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import Running, running

import mlpmixer
from mlpmixer.errors import UsageError
from mlpmixer.predict.predictor import Prediction, Predictor, Scores
from mlpmixer.serve.app import app_of
from mlpmixer.serve.heat_map import SPREAD
from mlpmixer.serve.served import LOADS, Models
from mlpmixer.serve.service import ANSWERERS, FORMATS, Service, Settings
from mlpmixer.serve.workers import Job, Turn
from mlpmixer.weights.bundled import PHOTO

MODELS = {"mixer_cifar10": "mixer_cifar10", "clothes": "mixer_clothing"}
ASKED = ("predict", "embed", "explain")
GOOD = PHOTO.read_bytes()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def files() -> list[bytes]:
    """Photographs, and images of every kind that is taken."""
    found = [photo.read_bytes() for photo in sorted(Path(__file__).with_name("photos").glob("*.jpg"))]
    with Image.open(PHOTO) as opened:
        small = opened.convert("RGB").resize((90, 70))
    turned = Image.Exif()
    turned[0x0112] = 6
    found += [saved(small, kind) for kind in ("PNG", "WEBP", "GIF", "BMP", "TIFF")]
    found += [saved(small, "JPEG", exif=turned, progressive=True), saved(small.convert("RGBA"), "PNG")]
    return [GOOD, *found, saved(small.convert("L"), "JPEG"), saved(small.convert("CMYK"), "JPEG")]


FILES = files()


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    names = [f"{name}={source}" for name, source in MODELS.items()]
    with running(names, max_body=4_000_000) as found:
        yield found


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Prediction]]:
    """By the Predictor, one file at a time."""
    predictors = {name: Predictor(source, embeddings=True) for name, source in MODELS.items()}
    return {name: [predictor(file) for file in FILES] for name, predictor in predictors.items()}


def ranked(found: Prediction, top: int = 5) -> dict[str, Any]:
    rows = [{"label": label, "score": score} for label, score in found.top[:top]]
    return {"label": found.label, "score": found.score, "top": rows}


def embedded(found: Prediction) -> dict[str, Any]:
    assert found.embedding is not None
    return {"embedding": found.embedding.tolist()}


def form(files: list[bytes], **fields: str) -> dict[str, Any]:
    return {"files": [("image", (f"{number}.jpg", file)) for number, file in enumerate(files)], "data": fields}


def in_base64(files: list[bytes], **options: Any) -> dict[str, Any]:
    return {"json": {"images": [base64.b64encode(file).decode() for file in files], **options}}


def goes_on(served: Running) -> bool:
    return served.client.post("/v1/predict", content=GOOD).status_code == 200


# Answers.


def test_every_route_gives_what_the_predictor_gives(served: Running, expected: dict[str, list[Prediction]]):
    for route, shown in (("predict", ranked), ("embed", embedded)):
        for model, source in MODELS.items():
            wanted = [shown(found) for found in expected[model]]
            version = served.service.models.find(model).version
            assert source  # under the name that the operator gave it
            single = [
                served.client.post(f"/v1/{route}", params={"model": model}, content=file).raise_for_status().json()
                for file in FILES
            ]
            assert [answer["predictions"] for answer in single] == [[one] for one in wanted]
            for sent in (form(FILES, model=model), in_base64(FILES, model=model)):
                answer = served.client.post(f"/v1/{route}", **sent).raise_for_status().json()
                assert answer == {"model": model, "version": version, "predictions": wanted}
    typed = served.client.post("/v1/predict", content=GOOD, headers={"Content-Type": "image/jpeg"})
    assert typed.json()["predictions"] == [ranked(expected["mixer_cifar10"][0])]  # the first model by default
    data_url = f"data:image/jpeg;base64,{base64.b64encode(GOOD).decode()}"
    assert served.client.post("/v1/predict", json={"image": data_url}).json() == typed.json()


def test_many_at_once_get_their_own_answers(served: Running, expected: dict[str, list[Prediction]]):
    failures: list[int] = []

    def ask(start: int) -> None:
        with httpx2.Client(base_url=f"http://{served.address}", timeout=60) as client:
            for number in range(start, start + 30):
                place = number % len(FILES)
                model = [*MODELS][number % 2]
                answer = client.post("/v1/predict", params={"model": model}, content=FILES[place]).json()
                if answer["predictions"] != [ranked(expected[model][place])]:
                    failures.append(number)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(0, 40, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.slow
def test_five_hundred_pictures_by_every_route(served: Running):
    """Whatever they are answered together with, and by however many at once."""
    rng = np.random.default_rng(0)
    images: list[bytes] = []
    for file in itertools.islice(itertools.cycle(FILES[:11]), 500):
        with Image.open(io.BytesIO(file)) as opened:
            left, top, width, height = rng.uniform((0, 0, 0.3, 0.3), (0.3, 0.3, 0.7, 0.7)) * (2 * opened.size)
            crop = opened.convert("RGB").crop((int(left), int(top), int(left + width), int(top + height)))
        images.append(saved(crop.resize((70, 60)), "JPEG", quality=85))
    predictor = Predictor("mixer_clothing", embeddings=True)
    expected = [found for _, found in predictor.stream(images) if isinstance(found, Prediction)]
    wanted, embeddings = [ranked(found) for found in expected], [embedded(found) for found in expected]
    chosen = {"model": "clothes"}
    assert len(expected) == 500

    def alone(client: httpx2.Client, file: bytes) -> dict[str, Any]:
        return client.post("/v1/predict", params=chosen, content=file).json()["predictions"][0]

    def slowly(start: int) -> list[dict[str, Any]]:
        with httpx2.Client(base_url=f"http://{served.address}", timeout=60) as client:
            return [alone(client, file) for file in images[start::16]]

    with ThreadPoolExecutor(16) as threads:
        for start, found in enumerate(threads.map(slowly, range(16))):
            assert found == wanted[start::16]
    for sent in (form(images, **chosen), in_base64(images, **chosen)):
        for route, rows in (("predict", wanted), ("embed", embeddings)):
            answer = served.client.post(f"/v1/{route}", **sent).raise_for_status()
            assert answer.json()["predictions"] == rows
    data = b"".join(struct.pack("<I", len(file)) + file for file in images)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [500], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "embedding"}, {"name": "label"}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = served.client.post("/v2/models/clothes/infer", content=head + data, headers=headers).raise_for_status()
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs["label"] == [found.label for found in expected]
    assert outputs["embedding"] == [value for row in embeddings for value in row["embedding"]]


def test_a_heat_map_is_of_what_the_label_depends_on(served: Running, expected: dict[str, list[Prediction]]):
    answer = served.client.post("/v1/explain", content=GOOD).raise_for_status().json()
    [found] = answer["predictions"]
    wanted = ranked(expected["mixer_cifar10"][0])
    assert {name: found[name] for name in wanted} == wanted
    assert found["explained"] == wanted["label"]
    drops = np.array(found["drops"])
    assert drops.shape == (14, 14)
    predictor = served.service.models.find(None).predictor
    image = predictor.prepared(GOOD).numpy()
    place = predictor.classes.index(found["label"])
    gray = np.round(np.array(predictor.preprocessing.mean) * 255).astype(np.uint8)[:, None, None]
    for row, column in ((0, 0), (7, 7), divmod(int(drops.argmax()), 14)):
        hidden = image.copy()
        rows, columns = (
            slice(max(0, at - SPREAD) * 32 // 14, min(14, at + SPREAD + 1) * 32 // 14) for at in (row, column)
        )
        hidden[:, rows, columns] = gray
        before, after = (
            float(np.log(one.probabilities[place]))
            for one in predictor.scores([image, hidden], prepared=True)
            if isinstance(one, Scores)
        )
        assert drops[row, column] == pytest.approx(before - after, abs=1e-4)


def test_options(served: Running, expected: dict[str, list[Prediction]]):
    wanted = [ranked(expected["clothes"][0], 2)]
    for sent in (
        {"content": GOOD, "params": {"model": "clothes", "top": "2"}},
        {**form([GOOD], model="clothes"), "params": {"top": "2"}},
        form([GOOD], model="clothes", top="2"),
        in_base64([GOOD], model="clothes", top=2),
        in_base64([GOOD], model="clothes", top="2"),
    ):
        assert served.client.post("/v1/predict", **sent).json()["predictions"] == wanted
    refused: list[tuple[dict[str, Any], int]] = [
        *(({"content": GOOD, "params": {"top": top}}, 422) for top in ("0", "6", "-1", "1.5", "x", "", "9" * 5000)),
        ({"content": GOOD, "params": {"tpo": "1"}}, 422),
        ({"content": GOOD, "params": {"model": "other"}}, 404),
        ({"content": GOOD, "params": {"model": "m" * 9000}}, 404),
        (form([GOOD], colour="red"), 422),
        (form([GOOD], model="m" * 2000), 422),
        (in_base64([GOOD], top=True), 422),
        (in_base64([GOOD], top=[1]), 422),
        (in_base64([GOOD], top=10**30), 422),
    ]
    for sent, status in refused:
        answer = served.client.post("/v1/predict", **sent)
        assert answer.status_code == answer.json()["error"]["status"] == status, sent
        assert len(answer.text) < 300  # nothing of the request
    assert goes_on(served)


def test_one_bad_picture_hurts_no_other(served: Running, expected: dict[str, list[Prediction]]):
    bad = {"unreadable": b"<svg/>", "invalid": GOOD[:2000]}
    for sent in (form([GOOD, *bad.values(), FILES[1]]), in_base64([GOOD, *bad.values(), FILES[1]])):
        found = served.client.post("/v1/predict", **sent).raise_for_status().json()["predictions"]
        assert [found[0], found[3]] == [ranked(one) for one in expected["mixer_cifar10"][:2]]
        assert [one["error"]["code"] for one in found[1:3]] == [*bad]
    answer = served.client.post("/v1/predict", **form([*bad.values()]))  # none is good: then it is the request's
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unreadable")
    answer = served.client.post("/v1/predict", content=bad["invalid"])
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "the image is not a readable image (OSError)"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_raises_or_dies_hurts_no_other(served: Running, expected: dict[str, list[Prediction]]):
    """The image at which it happens is answered with 500, all others with their labels."""
    workers = served.service.workers
    assert workers is not None
    answer, replaced = ANSWERERS["predict"], workers.replaced

    def failing(model: Any, images: list[Any]) -> Any:
        if any(image.endswith(b"raise") for image in images):
            raise RuntimeError("it raises")
        if any(image.endswith(b"die") for image in images):
            raise SystemExit  # ends a thread without a word
        return answer(model, images)

    files = [FILES[0], GOOD + b"raise", FILES[1], GOOD + b"die", FILES[2]]
    wanted = [ranked(one) for one in expected["mixer_cifar10"][:3]]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as thread:
        patch.setitem(ANSWERERS, "predict", failing)
        asking = thread.submit(served.client.post, "/v1/predict", **form(files))
        while not asking.done():
            workers.mend()  # the watch of a server does this every second
            time.sleep(0.01)
        found = asking.result().json()["predictions"]
        assert found[::2] == wanted
        assert [one["error"]["status"] for one in found[1::2]] == [500, 500]
        asking = thread.submit(served.client.post, "/v1/predict", content=files[1])
        told = asking.result()
        assert (told.status_code, told.json()["error"]["code"]) == (500, "failed")
        assert "raises" not in told.text
    assert workers.replaced > replaced
    assert goes_on(served)


def test_models_are_described(served: Running):
    first, second = served.client.get("/v1/models").json()["models"]
    assert (first["name"], first["image_size"], len(first["classes"])) == ("mixer_cifar10", [32, 32], 10)
    assert (second["name"], second["embedding_size"]) == ("clothes", 96)
    assert first["reload_error"] is None
    assert served.client.get("/healthz").text == "ok\n"
    assert served.client.get("/readyz").text == "ready\n"


def test_metrics_add_up():
    with running(["mixer_cifar10"], max_body=1_000_000) as served:

        def of(name: str, **labels: str) -> float:
            families = text_string_to_metric_families(served.client.get("/metrics").text)
            samples = [sample for family in families for sample in family.samples]
            found = [one for one in samples if one.name == name and labels.items() <= one.labels.items()]
            return sum(one.value for one in found)

        for _ in range(3):
            assert goes_on(served)
        served.client.post("/v1/embed", **form(FILES[:4]))
        served.client.post("/v1/predict", **form([GOOD, b"<svg/>"]))
        served.client.post("/v1/predict", content=b"<svg/>")
        served.client.post("/v1/predict", content=bytes(1_000_001))
        served.client.post("/v1/predict", content=GOOD, headers={"Origin": "http://evil.test"})
        served.client.post(
            "/v2/models/mixer_cifar10/infer", content=GOOD, headers={"Inference-Header-Content-Length": "0"}
        )
        assert of("mixer_requests_total", route="predict", status="200") == 4
        assert of("mixer_requests_total", route="predict", status="415") == 1
        assert of("mixer_requests_total", route="predict", status="413") == 1
        assert of("mixer_requests_total", route="refused", status="403") == 1
        assert of("mixer_requests_total", route="embed") == 1
        assert of("mixer_requests_total", route="infer") == 1
        assert of("mixer_requests_total") == 9
        assert of("mixer_request_seconds_count", route="predict") == 6
        assert of("mixer_request_seconds_bucket", le="+Inf", route="predict") == 6
        assert of("mixer_images_total", model="mixer_cifar10") == 3 + 4 + 1 + 1
        assert 6 <= of("mixer_batches_total") <= 9
        assert of("mixer_ready") == 1
        assert of("mixer_workers") == 2
        assert of("mixer_wait_seconds") == 0


# What it cannot do now.


def test_before_it_is_ready_and_after():
    """503 with a time, and not a byte of the body read; those who watch are told the same."""
    unready = Service(Models(["mixer_cifar10"], {}), Settings(), workers=1)

    async def ask() -> None:
        transport = httpx2.ASGITransport(app=app_of(unready))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def refused() -> None:
                for path in ("/v1/predict", "/v1/embed", "/v1/explain", "/v2/models/mixer_cifar10/infer"):
                    answer = await client.post(path, content=GOOD)
                    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
                for path in ("/readyz", "/v2/health/ready"):
                    assert (await client.get(path)).status_code == 503
                for path in ("/healthz", "/v2/health/live"):
                    assert (await client.get(path)).status_code == 200

            await refused()
            assert (await client.get("/v1/models")).json() == {"models": []}
            index = await client.post("/v2/repository/index", json={})
            assert index.json() == [{"name": "mixer_cifar10", "version": "", "state": "UNAVAILABLE", "reason": ""}]
            assert (await client.post("/v2/repository/index", json={"ready": True})).json() == []
            assert (await client.get("/v2/models/mixer_cifar10")).status_code == 404
            unready.load()
            unready.start()
            assert (await client.post("/v1/predict", content=GOOD)).status_code == 200
            unready.draining = True
            await refused()

    asyncio.run(ask())
    unready.close()


def heads(served: Running, head: str) -> bytes:
    """The answer to a request whose body is never sent."""
    host, _, port = served.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(65_536)):
            answer += part
        return answer


def test_what_would_wait_too_long_is_refused_on_its_head(served: Running):
    workers = served.service.workers
    assert workers is not None
    rate = workers.rate
    try:
        workers.rate = 400 * 533 / 2 / 7  # seven seconds for an image, of two workers
        for path in ("/v1/predict", "/v2/models/clothes/infer"):
            answer = heads(served, f"POST {path} HTTP/1.1\nHost: {served.address}\nContent-Length: 1000000")
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"\r\nretry-after: 6\r\n" in answer  # five until it would be taken, rounded up
        workers.rate = rate
        workers.pixels[Turn.ALONE] = workers.pixels[Turn.LATER] = 10**12  # maps and lists: single images go first
        assert goes_on(served)
        assert served.client.post("/v1/explain", content=GOOD).status_code == 429
    finally:
        workers.rate = rate
        workers.pixels[Turn.ALONE] = workers.pixels[Turn.LATER] = 0
    assert served.client.post("/v1/explain", content=GOOD).status_code == 200


def test_heads_that_come_at_once_are_not_all_let_in(served: Running):
    """Images that are on their way count as if they were there; those that take long to arrive no more, or slow clients
    could keep others out."""
    workers = served.service.workers
    assert workers is not None
    rate = workers.rate
    host, _, port = served.address.partition(":")
    head = f"POST /v1/predict HTTP/1.1\r\nHost: {served.address}\r\nContent-Length: {len(GOOD)}\r\n\r\n"
    slow: list[socket.socket] = []
    try:
        workers.rate = 400 * 533 / 2 / 0.9  # 0.9 seconds for an image: two are let in, the third would wait too long
        for _ in range(2):
            slow.append(socket.create_connection((host, int(port)), timeout=30))
            slow[-1].sendall(head.encode() + GOOD[:100])
        wait_for(lambda: len(served.service.coming) == 2)
        served.service.coming = dict.fromkeys(served.service.coming, math.inf)  # however long the next one takes
        assert heads(served, head.removesuffix("\r\n\r\n").replace("\r\n", "\n")).startswith(b"HTTP/1.1 429")
        served.service.coming = dict.fromkeys(served.service.coming, 0.0)
        assert goes_on(served)
        workers.rate = rate
        for connection in slow:
            connection.sendall(GOOD[100:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    finally:
        workers.rate = rate
        for connection in slow:
            connection.close()
    assert not served.service.coming


def test_what_came_meanwhile_counts_as_well(served: Running):
    """Behind a body it turns out how much there is: a list is refused where others wait already, whatever its head
    promised; and so is an image, of which many were let in at the same moment."""
    workers = served.service.workers
    assert workers is not None
    try:
        workers.pixels[Turn.LATER] = 10**12
        for sent in (form(FILES[:2]), in_base64(FILES[:2])):
            answer = served.client.post("/v1/predict", **sent)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
            assert int(answer.headers["Retry-After"]) > 1
        assert goes_on(served)
        host, _, port = served.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = f"POST /v1/predict HTTP/1.1\r\nHost: {served.address}\r\nContent-Length: {len(GOOD)}\r\n\r\n"
            connection.sendall(head.encode() + GOOD[:1000])
            wait_for(lambda: served.service.held == 1000)
            workers.pixels[Turn.FIRST] = 10**12
            connection.sendall(GOOD[1000:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 429")
    finally:
        workers.pixels.update(dict.fromkeys(Turn, 0))
    assert served.client.post("/v1/predict", **form(FILES[:2])).status_code == 200


class Caught:
    """In the place of workers: what is submitted stays here."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def wait_for(self, _cost: int, _turn: Turn) -> float:
        return 0.0

    def submit(self, jobs: list[Job]) -> None:
        self.jobs += jobs


def test_an_answer_to_who_leaves_in_the_same_moment_hurts_no_other():
    """Images of two requests are answered together. One of the requests ends before the answers are handed out, and its
    end has not been noticed yet."""
    service = Service(Models(["mixer_cifar10"], {}), Settings(), workers=1)
    caught: Any = Caught()
    service.workers = caught
    asked: Any = None  # the model; nobody looks at it

    async def ask() -> None:
        first, second = (asyncio.create_task(service.ask(asked, [GOOD])) for _ in range(2))
        while len(caught.jobs) < 2:
            await asyncio.sleep(0)
        first.cancel()
        for job in caught.jobs:
            job.done("answer")
        assert await second == ["answer"]
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(ask())


def test_what_takes_too_long_is_given_up(served: Running, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(served.service, "settings", Settings(deadline=0.0))
    for route in ASKED:
        answer = served.client.post(f"/v1/{route}", **form(FILES))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    monkeypatch.undo()
    assert goes_on(served)


# Hostile requests. After each, the next one is answered.


def test_bytes(served: Running):
    """413 on the head, or at the first byte too many."""
    for path in (*(f"/v1/{route}" for route in ASKED), "/v2/models/clothes/infer"):
        head = f"POST {path} HTTP/1.1\nHost: {served.address}\nContent-Length: 10000000000"
        assert heads(served, head).startswith(b"HTTP/1.1 413")
        chunks = itertools.repeat(bytes(1_000_000), 6)
        with contextlib.suppress(httpx2.NetworkError, httpx2.RemoteProtocolError):  # it hung up on us meanwhile
            assert served.client.post(path, content=chunks).status_code == 413
        assert goes_on(served)
    for encoding in ("gzip", "deflate", "br", "x"):
        answer = served.client.post("/v1/predict", content=gzip.compress(GOOD), headers={"Content-Encoding": encoding})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "compressed")
    answer = served.client.post("/v1/predict", content=GOOD, headers={"Content-Encoding": "identity"})
    assert answer.status_code == 200


def wait_for(happened: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if happened():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


def test_bytes_of_many_requests():
    """Together they may take so much memory and no more; one that has gone gives back what it had."""
    with running(["mixer_cifar10"], max_body=1_000_000, max_held=1_500_000) as served:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {served.address}\r\nContent-Length: 1000000\r\n\r\n".encode()
        host, _, port = served.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(head + bytes(900_000))
            wait_for(lambda: served.service.held == 900_000)
            with socket.create_connection((host, int(port)), timeout=30) as second:
                second.sendall(head + bytes(900_000))
                assert second.recv(65_536).startswith(b"HTTP/1.1 429")
            for path in ("/v1/embed", "/v2/models/mixer_cifar10/infer"):
                assert served.client.post(path, content=bytes(900_000)).status_code == 429
            assert goes_on(served)  # a small one still fits
            assert "mixer_held_bytes 900000.0" in served.client.get("/metrics").text
        wait_for(lambda: served.service.held == 0)  # the service has seen that the client has gone
        assert served.client.post("/v1/predict", content=bytes(900_000)).status_code == 415
        assert served.service.held == 0


def png(size: tuple[int, int], mode: str = "RGB", extra: bytes = b"") -> bytes:
    """A small file that claims to be large, with chunks before its pixels."""
    whole = saved(Image.new(mode, (8, 8)), "PNG")
    head = b"IHDR" + struct.pack(">II", *size) + whole[24:29]
    return whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + extra + whole[33:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times, and which claims to have sides of so many pixels."""
    whole = saved(Image.effect_noise((64, 64), 50), "JPEG", progressive=True, quality=5)
    frame, last = whole.index(b"\xff\xc2") + 5, whole.rindex(b"\xff\xda")
    whole = whole[:frame] + struct.pack(">HH", side, side) + whole[frame + 4 :]
    return whole[:last] + count * whole[last:-2] + whole[-2:]


def bombs() -> dict[str, tuple[bytes, int]]:
    """Files that cost much more than they weigh, and the status for each."""
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20), 9))
    bmp = saved(Image.new("RGB", (8, 8)), "BMP")
    profile = chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(100 << 20), 9))
    frames = [Image.new("P", (64, 64), number) for number in range(1_000)]
    jpeg, gif = saved(Image.new("RGB", (8, 8)), "JPEG"), saved(Image.new("P", (8, 8)), "GIF")
    at = jpeg.index(b"\xff\xda")
    return {
        "a 1-bit PNG of 144 megapixels": (saved(Image.new("1", (12_000, 12_000)), "PNG"), 422),
        "an RGB PNG of 49 megapixels": (png((7_000, 7_000)), 422),
        "a PNG of four thousand million pixels a side": (png((2**32 - 1, 2**32 - 1)), 422),
        "a JPEG of 1,000 scans": (scans(1_000, 512), 422),
        "a JPEG of 80 scans of 36 megapixels": (scans(80, 6_000), 422),
        "a PNG with 200 MB of text": (png((8, 8), extra=200 * text), 422),
        "a PNG of 100,000 chunks": (png((8, 8), extra=100_000 * chunk(b"tEXt", b"k\0v")), 422),
        "a PNG with a profile of 100 MB": (png((8, 8), extra=profile), 422),
        "a JPEG of 90,000 segments": (jpeg[:at] + b"Exif\0\0" + 90_000 * b"\xff\xe5\0\2" + jpeg[at:], 422),
        "a GIF with a comment in 90,000 blocks": (gif[:-1] + b"!\xfe" + 90_000 * b"\1a" + b"\0;", 200),
        "a GIF with such a comment before its frame": (gif[:13] + b"!\xfe" + 90_000 * b"\1a" + b"\0" + gif[13:], 422),
        "a GIF of 1,000 frames": (saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), 200),
        "a BMP of 2 gigapixels": (bmp[:18] + 2 * b"\0\xc0\0\0" + bmp[26:], 422),
    }


def test_bombs(served: Running):
    made = bombs()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failures: list[str] = []
    for name, (file, status) in made.items():
        for route in ASKED:
            answer = served.client.post(f"/v1/{route}", content=file)
            if answer.status_code != status or not goes_on(served):
                failures.append(f"{name}: {answer.status_code} {answer.text[:200]}")
    assert not failures
    # Several at once.
    small = [(file, status) for file, status in made.values() if len(file) < 500_000] * 2
    answer = served.client.post("/v1/predict", **form([file for file, _ in small]))
    codes = [one.get("error", {"status": 200})["status"] for one in answer.json()["predictions"]]
    assert codes == [status for _, status in small]
    with ThreadPoolExecutor(8) as threads:  # and by several clients
        found = threads.map(lambda row: served.client.post("/v1/predict", content=row[0]).status_code, small)
        assert [*found] == [status for _, status in small]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB
    assert goes_on(served)


def test_large_pictures_two_at_once_are_answered_one_by_one(served: Running):
    """What is within the limits is answered, however many come."""
    large = saved(Image.new("L", (4_000, 4_000), 200), "PNG")
    answer = served.client.post("/v1/predict", **form([large, large, GOOD])).raise_for_status()
    assert all("label" in one for one in answer.json()["predictions"])
    assert served.service.cost(large) == 16_000_000


def test_kinds_are_known_by_their_content(served: Running):
    """Whatever an image is called, only the formats that people send are opened; EPS, for one, starts a program."""
    Image.init()
    image = Image.effect_noise((64, 64), 50)
    failures: list[str] = []
    tried = 0
    for kind in Image.SAVE:
        for mode in ("RGB", "P", "1", "L", "RGBA"):
            try:
                file = saved(image.convert(mode), kind)
            except Exception:  # of some that is not installed, or another mode is wanted
                continue
            tried += 1
            is_known = kind in (*FORMATS, "MPO")  # which begins with a JPEG
            answer = served.client.post("/v1/predict", content=file, headers={"Content-Type": "image/jpeg"})
            if answer.status_code != (200 if is_known else 415):
                failures.append(f"{kind}, {mode}: {answer.status_code} {answer.text[:150]}")
            break
    assert not failures
    assert tried > 15
    for name, file in {
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "PDF": b"%PDF-1.7\n",
        "zip": zipped(b""),
        "RIFF, but a sound": b"RIFF\x24\0\0\0WAVEfmt ",
        "the first bytes of a JPEG": b"\xff\xd8",
    }.items():
        answer = served.client.post("/v1/predict", content=file, headers={"Content-Type": "image/png"})
        assert answer.status_code == 415, name
        assert file.decode("latin-1") not in answer.text
        assert goes_on(served)
    # A file that is two things is what its beginning says, and nothing of it comes back.
    answer = served.client.post("/v1/predict", content=zipped(GOOD))
    assert answer.json() == served.client.post("/v1/predict", content=GOOD).json()


def zipped(before: bytes) -> bytes:
    file = io.BytesIO(before)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("index.html", "<script>alert(1)</script>")
    return file.getvalue()


def test_broken_files(served: Running):
    """Files cut off and altered anywhere: each gets a status of its own, and none a 500."""
    statuses: set[int] = set()
    for file in FILES[-9:]:
        for place in np.linspace(1, len(file) - 1, 7).astype(int).tolist():
            for broken in (file[:place], file[:place] + bytes([file[place] ^ 0xFF]) + file[place + 1 :]):
                statuses.add(served.client.post("/v1/predict", content=broken).status_code)
    assert statuses <= {200, 415, 422}
    for name, (_, build) in hostile_files.CASES.items():
        if name.startswith("stranger"):
            file = build(Path(os.devnull).parent)
            status = served.client.post("/v1/predict", content=file).status_code
            assert status in ((200,) if name[10:] in ("JPEG", "PNG", "GIF", "TIFF", "WebP") else (400, 415)), name
    assert goes_on(served)


def test_malformed_bodies(served: Running):
    boundary = {"Content-Type": "multipart/form-data; boundary=b"}
    typed = {"Content-Type": "application/json"}
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
    cases: dict[str, tuple[bytes, dict[str, str], int]] = {
        "nothing": (b"", {}, 400),
        "another type": (GOOD, {"Content-Type": "text/plain"}, 415),
        "a form in the address": (b"image=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        "no boundary": (part, {"Content-Type": "multipart/form-data"}, 400),
        "a long boundary": (part, {"Content-Type": f"multipart/form-data; boundary={'b' * 71}"}, 400),
        "another boundary": (part.replace(b"--b", b"--c"), boundary, 400),
        "a form that is none": (b"hello", boundary, 400),
        "a form without an end": (part + GOOD, boundary, 400),
        "an empty form": (b"--b--\r\n", boundary, 400),
        "a form of empty files": (part + b"\r\n--b--\r\n", boundary, 400),
        "a form of very many parts": ((part + b"x\r\n") * 1_001 + b"--b--\r\n", boundary, 422),
        "a part of very many headers": (b"--b\r\n" + b"a: b\r\n" * 100_000 + b"\r\nx\r\n--b--\r\n", boundary, 400),
        "a part with a long header": (b"--b\r\na: " + b"b" * 1_000_000 + b"\r\n\r\nx\r\n--b--\r\n", boundary, 400),
        "no JSON": (b"{", typed, 400),
        "bad UTF-8": (b'{"image": "\xff"}', typed, 400),
        "deep JSON": (b'{"image":' * 9_000, typed, 400),
        "endlessly deep JSON": (b'{"image":' * 300_000, typed, 413),
        "very many keys": (b"{" + b",".join(b'"%d":0' % key for key in range(20_000)) + b"}", typed, 413),
        "a huge number": (b'{"image":' + b"9" * 100_000 + b"}", typed, 400),
        "a list": (b"[]", typed, 422),
        "very many values": (b"[" + b"{}," * 1_100_000 + b"0]", typed, 413),
        "no images": (b'{"images": []}', typed, 400),
        "images that are numbers": (b'{"images": [1]}', typed, 422),
        "one that is a list": (b'{"image": ["AA=="]}', typed, 422),
        "no base64": (b'{"image": "%%%%"}', typed, 400),
        "base64 outside of ASCII": ('{"image": "ä"}'.encode(), typed, 400),
        "half a character": (b'{"image": "\\ud800"}', typed, 400),
        "an empty image": (b'{"image": ""}', typed, 400),
        "very many images": (json.dumps({"images": ["AA=="] * 1_001}).encode(), typed, 422),
        "NaN for an option": (b'{"image": "AA==", "top": NaN}', typed, 422),
    }
    failures: list[str] = []
    for name, (body, headers, status) in cases.items():
        answer = served.client.post("/v1/predict", content=body, headers=headers)
        told = answer.json()["error"]
        if answer.status_code != status or told["status"] != status or not goes_on(served):
            failures.append(f"{name}: {answer.status_code} {answer.text[:200]}")
    assert not failures


def test_paths_lead_nowhere(served: Running):
    """Names are looked up among the models, and no path of a request is ever opened."""
    for path in (
        *("/v1/models/../../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"),
        *("/v1/predict%00", "/v1//predict", "/v1/predict/", "/static/..%5c..%5cetc", "/v2/models/..%2f..%2fetc/config"),
        *("/v2/models/%00/config", "/v2/models/mixer_cifar10/versions/..%2f1", "/docs", "/redoc", "/.git/config"),
    ):
        for method in ("GET", "POST"):
            answer = heads(served, f"{method} {path} HTTP/1.1\nHost: {served.address}\nContent-Length: 0")
            assert answer.split()[1] in (b"404", b"405"), path
            assert b"root:" not in answer
    for name in ("../../etc/passwd", "/etc/passwd", "mixer_cifar10/../clothes", "\0", "mixer_clothing"):
        answer = served.client.post("/v1/predict", content=GOOD, params={"model": name})
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "no model has this name; there are: mixer_cifar10, clothes"
    assert goes_on(served)


def test_no_address_is_fetched(served: Running):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg"
        cases: tuple[tuple[dict[str, Any], int], ...] = (
            ({"json": {"url": url}}, 422),
            ({"json": {"image_url": url, "image": base64.b64encode(GOOD).decode()}}, 422),
            ({"json": {"image": url}}, 400),
            ({"json": {"images": [f"file://{PHOTO}"]}}, 400),
            ({"json": {"image": {"url": url}}}, 422),
            ({"content": url.encode()}, 415),
            ({"content": GOOD, "params": {"url": url}}, 422),
            (form([GOOD], url=url), 422),
            (form([url.encode()]), 415),
        )
        for sent, status in cases:
            assert served.client.post("/v1/predict", **sent).status_code == status, sent
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert goes_on(served)


def test_other_pages_and_other_names(served: Running):
    """A page of another server may not ask, nor may one that has made its own name lead here."""
    port = served.address.partition(":")[2]
    cases: list[tuple[dict[str, str], int]] = [
        ({}, 200),
        ({"Origin": f"http://{served.address}"}, 200),
        ({"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}, 200),
        ({"Host": "LOCALHOST", "Origin": "http://localhost"}, 200),
        ({"Host": f"[::1]:{port}"}, 200),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://127.0.0.1:{int(port) + 1}"}, 403),
        ({"Origin": f"http://{served.address}.evil.test"}, 403),
        ({"Origin": f"http://localhost:{port}"}, 403),  # the same machine by another name: the page cannot be ours
        ({"Host": "evil.test"}, 421),
        ({"Host": f"evil.test:{port}", "Origin": f"http://evil.test:{port}"}, 421),
        ({"Host": f"127.0.0.1.evil.test:{port}"}, 421),
        ({"Host": ""}, 421),
    ]
    for headers, status in cases:
        for path in ("/v1/predict", "/v2/models/clothes/infer"):
            raw = {"Inference-Header-Content-Length": "0"}
            answer = served.client.post(path, content=GOOD, headers=headers | raw)
            assert answer.status_code == status, headers
            assert not any(name.startswith("access-control") or name == "set-cookie" for name in answer.headers)
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert served.client.get("/v1/models", headers=headers).status_code == status
    preflight = served.client.options("/v1/predict", headers={"Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 405
    twice = f"POST /v1/predict HTTP/1.1\nHost: {served.address}\nHost: evil.test\nContent-Length: 0"
    assert heads(served, twice).startswith(b"HTTP/1.1 400")
    assert goes_on(served)


def test_tokens():
    """401 before the body for all but the whole token in the header; those who watch need none."""
    for token in ("s3cret-of-many-letters", "gehäim"):
        with running(["mixer_cifar10"], token=token) as served:
            good = token.encode()
            with httpx2.Client(base_url=f"http://{served.address}", timeout=60) as client:

                def status(headers: list[tuple[bytes, bytes]], path: str = "/v1/predict", client: Any = client) -> int:
                    return client.post(path, content=GOOD, headers=headers).status_code

                wrong = [b"Bearer", b"Bearer " + good[:-1], b"Bearer " + good + b"x", b"Basic " + good]
                wrong += [good, b"Bearer \xff\xfe", b"Bearer geheim", b"Bearer " + good.upper(), b"Bearer null"]
                for value in wrong:
                    assert status([(b"Authorization", value)]) == 401, value
                assert status([]) == 401
                assert status([], f"/v1/predict?token={token}") == 401
                assert status([(b"Authorization", b"Bearer " + good)]) == 200
                assert status([(b"authorization", b"bearer " + good)]) == 200
                for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
                    assert client.get(path).status_code == 200
                for path in ("/metrics", "/v1/models", "/openapi.json", "/v2", "/v2/models/mixer_cifar10"):
                    assert client.get(path).status_code == 401, path
                refused = client.get("/v2")
                assert refused.headers["www-authenticate"] == "Bearer"
                assert refused.json() == {"error": "a token is needed"}
                assert client.get("/v2/health/live").status_code == 200
            twice = f"\nAuthorization: Bearer x\nAuthorization: Bearer {token}"
            for sent, answer in (("", b"401"), ("\nAuthorization: Bearer ", b"401"), (twice, b"400")):
                head = f"POST /v1/predict HTTP/1.1\nHost: {served.address}\nContent-Length: 1000000{sent}"
                assert heads(served, head).split()[1] == answer
            # The library's own clients send only ASCII as text.
            assert served.client.get("/v2", headers=[(b"Authorization", b"Bearer " + good)]).status_code == 200


MARKUP, NAME = '<img src=x onerror="alert(1)">', "<b onclick>"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """A service of a small model, in a file of its own, whose classes are markup and formulas."""
    file = tmp_path / "model.safetensors"
    sizes: dict[str, Any] = hostile_files.MIXER
    model = mlpmixer.create("mixer_pico", num_classes=3, **sizes)
    mlpmixer.save(model, file, classes=(MARKUP, "=cmd|' /C calc'!A0", "ä"))
    with running([f"{NAME}={file}"]) as found:
        yield found, file


def test_an_answer_without_an_end_is_refused(tmp_path: Path):
    """A model of very many classes: a list of some bytes could ask for a gigabyte of JSON."""
    file = tmp_path / "wide.safetensors"
    sizes: dict[str, Any] = hostile_files.MIXER
    mlpmixer.save(mlpmixer.create("mixer_pico", num_classes=5_000, **sizes), file)
    files = [saved(Image.new("RGB", (8, 8)), "BMP")] * 201
    with running([str(file)], {"top": 5_000}) as served:
        assert served.client.post("/v1/predict", **form(files)).status_code == 413
        assert served.client.post("/v1/predict", **form(files[:2])).status_code == 200
        assert len(served.client.post("/v1/embed", **form(files)).json()["predictions"]) == 201
        data = [base64.b64encode(one).decode() for one in files]
        tensor = {"name": "image", "datatype": "BYTES", "shape": [201], "data": data}
        for parameters, status in (({}, 413), ({"binary_data": True}, 200), ({"classification": 5_000}, 413)):
            outputs = [{"name": "scores", "parameters": parameters}]
            body = {"inputs": [tensor], "outputs": outputs}
            answer = served.client.post("/v2/models/wide/infer", json=body)
            assert answer.status_code == status, parameters
        assert goes_on(served)


def test_models_change_under_load_and_no_answer_is_lost_or_mixed(small: tuple[Running, Path], tmp_path: Path):
    """Each answer is of the version that it names, whoever asks while one takes over from the other."""
    served, file = small
    sizes: dict[str, Any] = hostile_files.MIXER
    versions = [file.read_bytes()]
    other = tmp_path / "other.safetensors"
    mlpmixer.save(mlpmixer.create("mixer_pico", num_classes=4, **sizes), other)
    versions.append(other.read_bytes())
    expected: dict[str, list[dict[str, Any]]] = {}
    later, stop = itertools.count(10), threading.Event()

    def ask(client: httpx2.Client, number: int) -> tuple[int, str, Any, bool]:
        place = number % len(FILES)
        sent: dict[str, Any] = form(FILES[place : place + 3]) if number % 4 == 0 else {"content": FILES[place]}
        answer = client.post("/v1/predict", **sent)
        return place, answer.json().get("version", ""), answer.json().get("predictions"), answer.status_code == 200

    def ask_on(start: int) -> list[tuple[int, str, Any, bool]]:
        found = []
        with httpx2.Client(base_url=f"http://{served.address}", timeout=60) as client:
            for number in itertools.count(start):
                found.append(ask(client, number))
                if stop.is_set():
                    return found
        raise AssertionError

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask_on, start) for start in range(3)]
        try:
            for turn in range(4):
                predictor = served.service.models.find(None).predictor
                version = served.service.models.find(None).version
                expected[version] = [ranked(one) for one in predictor(FILES)]
                file.with_suffix(".new").write_bytes(versions[(turn + 1) % 2])
                file.with_suffix(".new").replace(file)
                told: list[str] = []
                for _ in range(LOADS):  # as the watch does
                    told += served.service.models.reload(now=lambda: time.time() + next(later))
                assert "is now version" in told[-1]
        finally:
            stop.set()
    answers = [one for thread in asking for one in thread.result()]
    assert len(expected) == 2
    assert {version for _, version, _, _ in answers} == {*expected}
    for place, version, found, good in answers:
        assert good
        assert found == expected[version][place : place + len(found)]


def test_links_and_pipes_in_the_place_of_a_model_are_not_followed(tmp_path: Path):
    """A run folder of a stranger may have links: nothing that they lead to is opened, at the start or later."""
    run = tmp_path / "run"
    run.mkdir()
    weights, secret = run / "weights.safetensors", tmp_path / "secret"
    secret.write_bytes(b"s3cret\n" * 100)
    weights.symlink_to(secret)
    with pytest.raises(UsageError, match="is a link") as refused:
        Models([str(run)], {})
    assert "s3cret" not in str(refused.value)
    weights.unlink()
    sizes: dict[str, Any] = hostile_files.MIXER
    mlpmixer.save(mlpmixer.create("mixer_pico", num_classes=3, **sizes), weights)
    later = itertools.count(10)
    with running([str(run)]) as served:
        for replace in (
            lambda: weights.symlink_to(secret),
            lambda: weights.symlink_to("/dev/zero"),
            lambda: weights.symlink_to(weights),
            lambda: os.mkfifo(weights),
            weights.mkdir,
        ):
            weights.unlink()
            replace()
            served.service.models.reload(now=lambda: time.time() + next(later))
            [shown] = served.client.get("/v1/models").json()["models"]
            assert re.search("is a link|is not there any more", shown["reload_error"])
            assert goes_on(served)
            if weights.is_dir():
                weights.rmdir()
                weights.touch()


def test_a_file_that_takes_long_to_load_keeps_nobody_from_looking_after_workers():
    loading, workers = threading.Event(), threading.Event()

    class Slow(Models):
        def reload(self, now: Callable[[], float] = time.time) -> list[str]:  # noqa: ARG002
            loading.set()
            assert workers.wait(30)
            return []

    class Looked(Caught):
        def mend(self) -> None:
            if loading.is_set():
                workers.set()

    service = Service(Slow(["mixer_cifar10"], {}), Settings(watch=0.01), workers=1)
    looked: Any = Looked()
    service.workers = looked

    async def watch() -> None:
        watching = asyncio.create_task(service.watch())
        assert await asyncio.to_thread(workers.wait, 30)
        watching.cancel()

    asyncio.run(watch())


def test_markup_in_names_is_data(small: tuple[Running, Path]):
    served, _ = small
    sent: dict[str, Any] = {"files": [("image", (f"{MARKUP}.jpg", GOOD, "text/html"))]}
    answer = served.client.post("/v1/predict", **sent).raise_for_status()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert {row["label"] for row in answer.json()["predictions"][0]["top"]} >= {MARKUP}
    assert ".jpg" not in answer.text
    assert served.client.get("/v1/models").json()["models"][0]["name"] == NAME
    families = [*text_string_to_metric_families(served.client.get("/metrics").text)]
    assert any(sample.labels.get("model") == NAME for family in families for sample in family.samples)
    assert MARKUP not in served.client.get(f"/{MARKUP}").text


def test_a_pickle_in_the_place_of_a_model_is_not_run(small: tuple[Running, Path], tmp_path: Path):
    served, file = small
    version = served.service.models.find(None).version
    later = itertools.count(10)
    attacks: list[Callable[[], bytes]] = [
        lambda: hostile_files.pth({"w": hostile_files.touch(tmp_path)}),
        lambda: hostile_files.CASES["stranger: pickle with a payload, protocol 0"][1](tmp_path),
        lambda: hostile_files.CASES["stranger: single .npy with a payload"][1](tmp_path),
    ]
    good = file.read_bytes()
    for attack in attacks:
        file.write_bytes(attack())
        [told] = served.service.models.reload(now=lambda: time.time() + next(later))
        assert f"stays at version {version}" in told
        assert not (tmp_path / "canary").exists()
        [shown] = served.client.get("/v1/models").json()["models"]
        assert (shown["version"], shown["reloads"]) == (version, 0)
        assert shown["reload_error"]
        assert "mixer_reload_failed{" in served.client.get("/metrics").text
        assert goes_on(served)
    file.write_bytes(good)
    served.service.models.reload(now=lambda: time.time() + next(later))
    assert served.client.get("/v1/models").json()["models"][0]["reload_error"] is None


# The description of it all.


def test_every_route_is_described(served: Running):
    found = served.client.get("/openapi.json").json()
    app: Any = app_of(served.service)
    routes = {
        (route.path, method.lower())
        for route in app.app.router.routes
        for method in route.methods - {"HEAD"}
        if route.path not in ("/openapi.json", "/")
    }
    assert routes == {(path, method) for path, row in found["paths"].items() for method in row.keys() - {"parameters"}}
    names = found["components"]["schemas"]
    text = json.dumps(found)
    assert all(f'"#/components/schemas/{name}"' in text for name in names)
    assert "security" not in found
    refusals = found["paths"]["/v1/predict"]["post"]["responses"]
    assert {*refusals} == {
        *("200", "400", "401", "403", "404", "413", "415", "421", "422", "429", "500", "503", "504"),
    }


@pytest.mark.slow
def test_schemathesis_finds_nothing(served: Running, tmp_path: Path):
    """Answers as they are described, and no 5xx, to requests made up from the description and against it."""
    pytest.importorskip("schemathesis")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://{served.address}/openapi.json"]
    options = ["--exclude-checks", "positive_data_acceptance", "--max-examples", "25", "--seed", "1", "--no-color"]
    ran = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert goes_on(served)
