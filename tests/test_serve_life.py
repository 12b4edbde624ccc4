"""The life of `mixer serve`, in processes of its own: signals, models that are replaced, clients that leave."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from in_processes import SERVER, Mixer, run_mixer

from mlpmixer.errors import MixerError, UsageError
from mlpmixer.weights.bundled import BUNDLED, PHOTO

MINUTE = 20  # after which a test fails that waits for something
CIFAR, CLOTHING = BUNDLED["mixer_cifar10"], BUNDLED["mixer_clothing"]


class Process:
    """A service of one worker in a process of its own, which can be held while it answers."""

    def __init__(self, sources: Sequence[object], log: Path, *, grace: float = 20, **settings: Any):
        self.log = log
        self.go, self.entered, self.computed = SERVER.Event(), SERVER.Semaphore(0), SERVER.Value("i", 0)
        self.go.set()
        ours, theirs = SERVER.Pipe()
        arguments = ([*map(str, sources)], log, grace, settings, theirs, self.go, self.entered, self.computed)
        self.process = SERVER.Process(target=service, args=arguments)
        self.process.start()
        assert ours.poll(MINUTE)
        self.port: int = ours.recv()

    def close(self) -> None:
        self.process.kill()
        self.process.join()

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Status, and the answer, which is JSON or text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=MINUTE)
        try:
            kind = {"Content-Type": "image/jpeg"} if body is not None else {}
            connection.request("GET" if body is None else "POST", path, body, {**kind, **headers})
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.headers["Content-Type"] == "application/json"
            return answer.status, json.loads(text) if is_json else text.decode()
        finally:
            connection.close()

    def predict(self) -> int:
        return self.ask("/v1/predict", PHOTO.read_bytes())[0]

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def memory(self) -> int:
        """Bytes that the process has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def wait_ready(self) -> None:
        wait_until(lambda: self.ask("/readyz")[0] == 200)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Sends it, and waits until the process has got it."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        wait_until(lambda: "stopping" in self.log.read_text())

    def ends(self) -> int | None:
        self.process.join(MINUTE)
        return self.process.exitcode


def service(
    sources: list[str], log: Path, grace: float, settings: Any, port: Any, go: Any, entered: Any, computed: Any
):
    import torch

    from mlpmixer.serve.served import Models
    from mlpmixer.serve.server import listen, run
    from mlpmixer.serve.service import Service, Settings

    class Held(Service):
        def answer(self, group: Any, images: list[Any]) -> Sequence[Any]:
            entered.release()
            assert go.wait(MINUTE)
            computed.value += len(images)
            return super().answer(group, images)

    torch.set_num_threads(1)
    with log.open("w", buffering=1) as file:
        made = Held(
            Models(sources, {}),
            Settings(**settings),
            workers=1,
            tell=lambda line: print(line, file=file),
        )
        listener = listen("127.0.0.1", 0)
        port.send(listener.getsockname()[1])
        try:
            run(made, listener, grace=grace)
        except MixerError as error:
            print(error, file=file)
            sys.exit(error.exit_code)


@contextmanager
def begun(*sources: object, log: Path, **options: Any) -> Iterator[Process]:
    process = Process(sources, log, **options)
    try:
        yield process
    finally:
        process.close()


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + MINUTE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def upload(port: int, end: int = -1) -> socket.socket:
    """A request of which the last byte is missing, or the whole body."""
    data = PHOTO.read_bytes()
    client = socket.create_connection(("127.0.0.1", port), timeout=MINUTE)
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n"
    )
    client.sendall(f"{head}\r\n".encode() + data[:end])
    return client


def test_stopped_while_answering(tmp_path: Path):
    """All that is in work is answered; who asks later is told, and the exit is clean."""
    with begun(CIFAR, log=tmp_path / "log") as process, ThreadPoolExecutor(5) as pool:
        process.wait_ready()
        process.go.clear()
        answers = [pool.submit(process.predict) for _ in range(5)]
        wait_until(lambda: process.metric("mixer_in_flight") == 6)  # with this one
        process.signal(signal.SIGINT)
        assert process.ask("/readyz")[0] == 503
        assert process.ask("/healthz")[0] == 200
        status, answer = process.ask("/v1/predict", PHOTO.read_bytes())
        assert (status, answer["error"]["code"]) == (503, "not_ready")
        process.go.set()
        assert [answer.result() for answer in answers] == [200] * 5
        assert process.ends() == 0


@pytest.mark.slow
def test_stopped_within_bodies(tmp_path: Path):
    """A body that ends within the grace is answered; one that does not end is not waited for."""
    with begun(CIFAR, log=tmp_path / "log", grace=2) as process:
        process.wait_ready()
        with upload(process.port) as ends, upload(process.port):
            wait_until(lambda: process.metric("mixer_in_flight") == 3)
            process.signal()
            ends.sendall(PHOTO.read_bytes()[-1:])
            assert ends.recv(100).startswith(b"HTTP/1.1 200 ")
            assert process.ends() == 0
    assert "requests that were cut off after 2 s: 1" in process.log.read_text()


def test_stopped_twice(tmp_path: Path):
    with begun(CIFAR, log=tmp_path / "log", grace=MINUTE) as process:
        process.wait_ready()
        with upload(process.port):
            wait_until(lambda: process.metric("mixer_in_flight") == 2)
            process.signal()
            assert process.process.exitcode is None
            process.signal()
            assert process.ends() == 0
    assert process.log.read_text().splitlines()[-1] == "stopped at once"


def test_stopped_while_loading(tmp_path: Path):
    """A model that takes for ever: it reads from a pipe into which nobody writes."""
    slow = tmp_path / "slow.safetensors"
    os.mkfifo(slow)
    with begun(CIFAR, slow, log=tmp_path / "log") as process:
        assert process.ask("/readyz")[0] == 503
        assert process.ask("/healthz")[0] == 200
        status, answer = process.ask("/v1/predict", PHOTO.read_bytes())
        assert (status, answer["error"]["code"]) == (503, "not_ready")
        process.signal()
        assert process.ends() == 0


STOPPED_EARLY = """
import os, signal, sys
from mlpmixer.cli import main

class Finder:
    def find_spec(self, name, *_):
        if name == "fastapi":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
main(["serve", "--port", "0"])
"""


def test_stopped_before_it_listens():
    """While it imports what it needs, of which the first is FastAPI."""
    ended = subprocess.run([sys.executable, "-c", STOPPED_EARLY], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_model_that_cannot_be_loaded(tmp_path: Path):
    (tmp_path / "bad.safetensors").write_bytes(b"garbage" * 100)
    with begun(tmp_path / "bad.safetensors", log=tmp_path / "log") as process:
        assert process.ends() == MixerError.exit_code
    assert "bad.safetensors" in process.log.read_text()


def test_clients_that_hung_up_are_not_computed(tmp_path: Path):
    with begun(CIFAR, log=tmp_path / "log", max_latency=1000) as process, ThreadPoolExecutor(1) as pool:
        process.wait_ready()
        process.go.clear()
        first = pool.submit(process.predict)
        assert process.entered.acquire(timeout=MINUTE)
        clients = [upload(process.port) for _ in range(40)]
        for client in clients:
            client.sendall(PHOTO.read_bytes()[-1:])
        wait_until(lambda: process.metric("mixer_in_flight") == 42)
        for client in clients:
            client.close()
        wait_until(lambda: process.metric("mixer_in_flight") == 2)
        process.go.set()
        assert first.result() == 200
        assert process.predict() == 200
        assert process.computed.value == 2


def test_bodies_that_are_too_large(tmp_path: Path):
    """They are refused by what they say of themselves, or at the first byte too many, and are not kept."""
    with begun(CIFAR, log=tmp_path / "log", max_body=100_000) as process:
        process.wait_ready()
        before = process.memory()
        fields = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        with socket.create_connection(("127.0.0.1", process.port), timeout=MINUTE) as client:
            client.sendall(f"{fields}Content-Length: 10000000000\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 413 ")
        with socket.create_connection(("127.0.0.1", process.port), timeout=MINUTE) as client:
            client.sendall(f"{fields}Transfer-Encoding: chunked\r\n\r\n".encode())
            chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
            with suppress(OSError):  # it may have had enough before
                for _ in range(300 * 16):
                    client.sendall(chunk)
            with suppress(ConnectionResetError):
                assert client.recv(100).startswith(b"HTTP/1.1 413 ")
        assert process.memory() - before < 50_000_000
        assert process.predict() == 200


def test_overload_is_refused_by_the_head_alone(tmp_path: Path):
    with begun(CIFAR, log=tmp_path / "log", max_latency=0) as process:
        process.wait_ready()
        with upload(process.port, 0) as client:
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert json.loads(answer.read())["error"]["code"] == "busy"
            client.sendall(PHOTO.read_bytes())  # it is dropped, and the connection stays
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert process.computed.value == 0


@pytest.mark.slow
def test_a_worker_that_hangs(tmp_path: Path):
    """The request fails, and the next one is answered by another worker."""
    with begun(CIFAR, log=tmp_path / "log", watch=0.02, patience=1) as process:
        process.wait_ready()
        process.go.clear()
        status, answer = process.ask("/v1/predict", PHOTO.read_bytes())
        assert (status, answer["error"]["code"]) == (500, "failed")
        process.go.set()
        assert process.predict() == 200
        assert process.metric("mixer_workers_replaced_total") >= 2  # with others, and by itself
        assert process.ask("/healthz")[0] == 200


def test_its_own_address_is_no_strange_name(tmp_path: Path):
    """As those that watch in a cluster ask; no name can be made to look like it."""
    with begun(CIFAR, log=tmp_path / "log", hosts=("mixer.example",)) as process:
        statuses = [process.ask("/healthz", Host=host)[0] for host in ("127.0.0.1", "127.0.0.1:1", "mixer.example")]
        assert statuses == [200] * 3
        assert [process.ask("/healthz", Host=host)[0] for host in ("evil.example", "127.0.0.2", "")] == [421] * 3


def replace(path: Path, data: bytes, *, settled: bool = True) -> None:
    """Puts a whole file in the place of another, as if some time ago."""
    other = path.with_suffix(".new")
    other.write_bytes(data)
    if settled:
        os.utime(other, (time.time() - 100, time.time() - 100 + len(data) / 1e9))
    other.replace(path)


def test_models_are_replaced_while_they_are_asked(tmp_path: Path):
    """By files that are good, broken, half there, gone, there again, and of other classes; no request is lost."""
    path = tmp_path / "served.safetensors"
    shutil.copy(CIFAR, path)
    good, other = CIFAR.read_bytes(), CLOTHING.read_bytes()
    with begun(path, log=tmp_path / "log", watch=0.02) as process, ThreadPoolExecutor(1) as pool:

        def model() -> dict[str, Any]:
            return process.ask("/v1/models")[1]["models"][0]

        def refuses(version: str) -> bool:
            found = model()
            assert found["version"] == version
            return bool(found["reload_error"])

        process.wait_ready()
        first = model()["version"]
        stop = False
        statuses: list[int] = []

        def ask_on() -> None:
            while not stop:
                statuses.append(process.predict())
                time.sleep(0.01)

        asking = pool.submit(ask_on)
        try:
            replace(path, b"garbage" * 1000)
            wait_until(lambda: refuses(first))
            assert process.metric("mixer_reload_failed{") == 1
            replace(path, good)
            wait_until(lambda: not refuses(first))
            assert process.metric("mixer_reload_failed{") == 0
            replace(path, other[: len(other) // 2])
            wait_until(lambda: refuses(first))
            path.rename(tmp_path / "away")
            wait_until(lambda: "not there" in (model()["reload_error"] or ""))
            (tmp_path / "away").write_bytes(other)
            os.utime(tmp_path / "away", (1e9, 1e9))
            (tmp_path / "away").rename(path)
            wait_until(lambda: model()["version"] != first)
            found = model()
            assert found["classes"][0] == "dress"
            assert found["reload_error"] is None
            with path.open("r+b") as file:  # in place, with a pause in the middle, as a copy over a network
                file.truncate(1000)
                file.flush()
                os.utime(path, (1e9 + 1, 1e9 + 1))
                wait_until(lambda: refuses(found["version"]))
                process.predict()
                file.write(good)
            os.utime(path, (1e9 + 2, 1e9 + 2))
            wait_until(lambda: model()["version"] == first)
        finally:
            stop = True
        asking.result()
        assert {*statuses} == {200}
        assert len(statuses) > 5
        assert process.metric("mixer_reloads_total") == 3
        log = process.log.read_text()
        assert "model served stays at version" in log
        assert f"model served is now version {first}" in log


def lines_of(process: Mixer) -> Iterator[dict[str, Any]]:
    for line in process.stdout:
        yield json.loads(line)


def test_the_command_and_its_log():
    """Startup, requests and the end as lines of JSON, without anything of an image."""
    with Mixer("serve", "--port", 0, "--workers", 1, "--json-log") as process:
        lines = lines_of(process)
        listening = next(lines)
        assert listening["event"] == "listening"
        port = int(listening["address"].strip("/").rpartition(":")[2])
        ready = [next(lines)["message"] for _ in range(2)]
        assert ready[0].startswith("model mixer_cifar10: mixer_nano, 10 classes, ")
        assert ready[1] == "ready: 1 worker"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MINUTE)
        form = (
            b'--b\r\nContent-Disposition: form-data; name="secret"; filename="secret\x1b[2J.jpg"\r\n\r\n'
            + PHOTO.read_bytes()
            + b"\r\n--b--\r\n"
        )
        connection.request("POST", "/v1/predict?top=1", form, {"Content-Type": "multipart/form-data; boundary=b"})
        assert json.loads(connection.getresponse().read())["predictions"][0]["label"] == "cat"
        found = next(lines)
        assert found.pop("ms") > 0
        assert found.pop("time").endswith("+00:00")
        expected = {"event": "request", "method": "POST", "route": "/v1/predict", "status": 200, "client": "127.0.0.1"}
        assert found == expected
        connection.request("GET", "/a%0d%0amixer:%20fake%1b[2J%e2%80%ae")
        assert connection.getresponse().read()
        raw = process.stdout.readline()
        assert raw.isascii()
        assert b"\\r\\nmixer: fake\\u001b[2J\\u202e" in raw
        assert json.loads(raw)["status"] == 404
        assert "route" in json.loads(raw)
        connection.close()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"noise\r\n\r\n")
            refused = next(lines)
        assert (refused["event"], refused["code"]) == ("refused", "malformed")
        process.send(signal.SIGTERM)
        assert "stopping" in next(lines)["message"]
        ended = process.finish()
    assert (ended.code, ended.err) == (0, "")


def test_the_client_behind_a_proxy():
    """What a trusted proxy says of it is believed, and of what it says the last address that is no proxy's."""
    with Mixer(
        "serve", "--port", 0, "--workers", 1, "--json-log", "--trusted-proxy", "127.0.0.1", "10.0.0.0/8"
    ) as process:
        lines = lines_of(process)
        port = int(next(lines)["address"].strip("/").rpartition(":")[2])
        told = {"127.0.0.1": "192.0.2.7", "127.0.0.2": "127.0.0.2"}  # by whom → who it was
        for proxy, client in told.items():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MINUTE, source_address=(proxy, 0))
            connection.request("GET", "/healthz", headers={"X-Forwarded-For": "203.0.113.1, 192.0.2.7, 10.1.2.3"})
            assert connection.getresponse().status == 200
            assert next(line for line in lines if line["event"] == "request")["client"] == client
            connection.close()


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_mixer("serve", "--port", port)
    words = f"mixer: cannot listen on 127.0.0.1:{port}: Address already in use; choose another port: --port\n"
    assert ended == (2, b"", words)


def test_addresses_and_options_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch):
    from mlpmixer.cli.serve import serve

    monkeypatch.delenv("MLPMIXER_TOKEN", raising=False)
    failures = []
    rows: tuple[tuple[tuple[str, ...], dict[str, Any], str], ...] = (
        ((), {"port": 99999}, "a port is between 0 and 65535; it is 99999"),
        ((), {"host": "192.0.2.1", "token": "x"}, "cannot listen on 192.0.2.1:8000: "),
        ((), {"host": "no.such.host.invalid", "token": "x"}, "cannot listen on no.such.host.invalid:8000: "),
        ((), {"host": "0.0.0.0"}, "a service on 0.0.0.0 can be reached by others, and needs a token: --token, or "),
        ((), {"token": "sécret"}, "a token has letters of ASCII"),
        ((), {"top": 0}, "--top must be at least 1; it is 0"),
        ((), {"workers": -1}, "--workers must be at least 0; it is -1"),
        ((), {"trusted_proxy": ("10.0.0.1", "*")}, "--trusted-proxy is an address, or a network such as "),
        (("a=mixer_cifar10", "a=mixer_clothing"), {}, "two models are called 'a'"),
        (("nowhere/weights",), {}, "there is no run 'nowhere/weights'"),
    )
    for models, options, words in rows:
        with pytest.raises(UsageError) as found:
            serve(models, **options)
        if not str(found.value).startswith(words):
            failures.append((options, str(found.value)))
    assert not failures


def test_an_address_of_ipv6():
    with Mixer("serve", "--host", "::1", "--port", 0, "--workers", 1) as process:
        address = process.stdout.readline().decode().strip()
        assert address.startswith("http://[::1]:")
        connection = http.client.HTTPConnection("::1", int(address.strip("/").rpartition(":")[2]), timeout=MINUTE)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"
        connection.close()
