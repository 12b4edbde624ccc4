"""Connections of `mixer serve`, over raw sockets: what a client may send, and how slowly."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import pytest
import uvicorn

from mlpmixer.serve.guard import ConnectionLimits, Guard
from mlpmixer.serve.server import Server

QUICK = ConnectionLimits(
    head_seconds=0.3, body_seconds=1.0, answer_seconds=0.5, idle_seconds=0.5, linger_seconds=0.3, connections=450
)
MINUTE = 20  # after which a test fails that waits for something

HOST = "Host: localhost\r\n"
SMALL = f"GET / HTTP/1.1\r\n{HOST}\r\n"


class Toy:
    """An application that says what it got, and can be held."""

    def __init__(self) -> None:
        self.held = threading.Semaphore(0)
        self.go = threading.Event()
        self.cancelled = threading.Semaphore(0)
        self.left = threading.Semaphore(0)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/refuse":  # without a look at the body
            await answer(send, 413, b"no")
            return
        body: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.release()
                return
            body.append(message["body"])
            if not message["more_body"]:
                break
        if path == "/hold":
            scope["mlpmixer.jobs"].append(self.cancelled.release)
            self.held.release()
            while not self.go.is_set():
                await asyncio.sleep(0.01)
        whole = b"".join(body)
        found = {
            "bytes": len(whole),
            "digest": hashlib.sha256(whole).hexdigest(),
            "path": path,
            "names": [name.decode() for name, _ in scope["headers"]],
        }
        await answer(send, 200, b"x" * 50_000_000 if path == "/big" else json.dumps(found).encode())


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Running:
    """A guarded server in a thread, with the toy behind it."""

    def __init__(self, limits: ConnectionLimits):
        self.toy, self.guard = Toy(), Guard(limits)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        config = uvicorn.Config(
            self.toy,
            http=self.guard.protocol,  # pyright: ignore[reportArgumentType] (it makes what a class would)
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self.server = Server(config)
        self.thread = threading.Thread(target=lambda: self.server.run([self.listener]), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.toy.go.set()
        self.server.should_exit = True
        self.thread.join()

    def connect(self) -> Client:
        return Client(self.port)

    def answers(self) -> None:
        """A request is answered, so that nothing before it did harm."""
        with self.connect() as client:
            client.send(SMALL)
            assert client.answer()[0] == 200


class Client:
    """A socket, and what came."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=MINUTE)
        self.came = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: str | bytes) -> None:
        self.socket.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def pour(self, data: bytes, most: int = 1 << 30) -> None:
        """Sends the same over and over, until the server has had enough."""
        try:
            for _ in range(most // len(data)):
                self.socket.sendall(data)
        except OSError:
            return
        raise AssertionError("all of it was taken")

    def more(self) -> bool:
        part = self.socket.recv(1 << 16)
        self.came += part
        return bool(part)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        while b"\r\n\r\n" not in self.came:
            assert self.more(), f"the connection ended after {self.came!r}"
        head, _, self.came = self.came.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if status.split()[1] == "100":
            return 100, headers, b""
        length = int(headers["content-length"])
        while len(self.came) < length:
            assert self.more(), "the connection ended within a body"
        body, self.came = self.came[:length], self.came[length:]
        return int(status.split()[1]), headers, body

    def told(self) -> dict[str, Any]:
        status, _, body = self.answer()
        assert status == 200, body
        return json.loads(body)

    def ends(self) -> bytes:
        """What comes before the connection ends."""
        try:
            while self.more():
                pass
        except ConnectionResetError:
            pass
        return self.came

    def refused(self) -> tuple[int, str]:
        """Status and code of the error after which the connection ends."""
        status, headers, body = self.answer()
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        error = json.loads(body)["error"]
        assert error["status"] == status
        assert not self.ends()
        return status, error["code"]


@contextmanager
def running(limits: ConnectionLimits) -> Iterator[Running]:
    server = Running(limits)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def usual() -> Iterator[Running]:
    with running(ConnectionLimits()) as server:
        yield server


@pytest.fixture(scope="module")
def quick() -> Iterator[Running]:
    with running(QUICK) as server:
        yield server


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + MINUTE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def post(body: bytes, path: str = "/") -> bytes:
    return f"POST {path} HTTP/1.1\r\n{HOST}Content-Length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n"

# What is sent → why it is no request that all read in the same way.
MALFORMED = {
    "both lengths": f"POST / HTTP/1.1\r\n{HOST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, reversed": f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": f"POST / HTTP/1.1\r\n{HOST}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "one length twice": f"POST / HTTP/1.1\r\n{HOST}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": f"POST / HTTP/1.1\r\n{HOST}Content-Length: 3, 3\r\n\r\nabc",
    "less than nothing": f"POST / HTTP/1.1\r\n{HOST}Content-Length: -1\r\n\r\n",
    "a signed length": f"POST / HTTP/1.1\r\n{HOST}Content-Length: +3\r\n\r\nabc",
    "a huge length": f"POST / HTTP/1.1\r\n{HOST}Content-Length: {'9' * 40}\r\n\r\nabc",
    "LF alone": "GET / HTTP/1.1\nHost: localhost\n\n",
    "LF after one field": "GET / HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
    "LF at the end": f"GET / HTTP/1.1\r\n{HOST}\n",
    "LF in chunks": f"{CHUNKED}1\na\n0\n\n",
    "CR in a field": f"GET / HTTP/1.1\r\n{HOST}X: a\rb\r\n\r\n",
    "NUL in a field": f"GET / HTTP/1.1\r\n{HOST}X: a\0b\r\n\r\n",
    "a folded field": f"GET / HTTP/1.1\r\n{HOST}X: a\r\n b\r\n\r\n",
    "a space before the colon": "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "no Host": "GET / HTTP/1.1\r\nX: y\r\n\r\n",
    "two Hosts": f"GET / HTTP/1.1\r\n{HOST}{HOST}\r\n",
    "a coding before chunked": f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": f"POST / HTTP/1.1\r\n{HOST}{'Transfer-Encoding: chunked' + chr(13) + chr(10)}"
    f"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": f"POST / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative chunk": f"{CHUNKED}-1\r\na\r\n0\r\n\r\n",
    "a huge chunk": f"{CHUNKED}FFFFFFFFFFFFFFFFF\r\na",
    "a chunk of no number": f"{CHUNKED}0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk that is longer than it says": f"{CHUNKED}1\r\nab\r\n0\r\n\r\n",
    "HTTP/0.9": "GET / HTTP/0.9\r\n\r\n",
    "HTTP/2 without asking": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": f"GET / HTTP/2.0\r\n{HOST}\r\n",
    "no such method": f"FOO / HTTP/1.1\r\n{HOST}\r\n",
    "a tunnel": f"CONNECT evil:80 HTTP/1.1\r\n{HOST}\r\n",
    "an upgrade with a body": f"POST / HTTP/1.1\r\n{HOST}Connection: upgrade\r\nUpgrade: h2c\r\n"
    f"Content-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\n{HOST}\r\n",
    "letters beyond ASCII in the path": f"GET /\xe9 HTTP/1.1\r\n{HOST}\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "noise": "\x00\xff\x00\xff",
}


def test_what_is_malformed_is_refused_and_the_next_request_is_answered(usual: Running):
    failures = []
    for name, text in MALFORMED.items():
        with usual.connect() as client:
            client.send(text)
            found = client.refused()
            if found != (400, "malformed"):
                failures.append((name, found))
        usual.answers()
    assert not failures


def test_ordinary_requests(usual: Running):
    body = bytes(range(256)) * 1000
    digest = hashlib.sha256(body).hexdigest()
    with usual.connect() as client:
        for _ in range(3):  # over one connection
            client.send(post(body))
            assert client.told()["digest"] == digest
        for byte in post(b"abc", "/slow"):  # in packets of a byte
            client.send(bytes([byte]))
        assert client.told()["bytes"] == 3
        client.send(SMALL + f"GET /%41?b HTTP/1.1\r\n{HOST}\r\n" + SMALL)  # before the first is answered
        assert [client.told()["path"] for _ in range(3)] == ["/", "/A", "/"]
        client.send(f"\r\nPOST / HTTP/1.1\r\n{HOST}Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert client.answer()[0] == 100
        client.send("abc")
        assert client.told()["bytes"] == 3
        client.send(f"GET / HTTP/1.1\r\n{HOST}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        status, headers, _ = client.answer()  # as if it had not asked
        assert (status, headers["connection"]) == (200, "close")
        assert not client.ends()
    with usual.connect() as client:
        client.send(f"GET / HTTP/1.0\r\n{HOST}\r\n")
        assert client.told()["path"] == "/"
        assert not client.ends()


def test_many_chunks_of_a_byte(usual: Running):
    with usual.connect() as client:
        client.send(CHUNKED.encode() + b"1\r\nx\r\n" * 65_536 + b"0\r\n\r\n" + SMALL.encode())
        assert client.told()["bytes"] == 65_536
        assert client.told()["bytes"] == 0


def test_fields_after_a_chunked_body_are_not_headers(usual: Running):
    with usual.connect() as client:
        client.send(f"{CHUNKED}1\r\nx\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
        assert client.told()["names"] == ["host", "transfer-encoding"]
        client.send(f"{CHUNKED}1\r\nx\r\n0\r\n" + "X: y\r\n" * 102)
        status, _, _ = client.answer()
        assert status == 431
    usual.answers()


def test_the_size_of_a_head(usual: Running):
    fields = "X: y\r\n"
    kept = f"GET /{'a' * 16_000} HTTP/1.1\r\n{HOST}" + fields * 98 + f"X: {'b' * 16_000}\r\n\r\n"
    with usual.connect() as client:
        client.send(kept)
        assert len(client.told()["names"]) == 100
        client.send(post(bytes(60_000)) + kept[:10_000].encode())  # a packet of a body and a part of the next head
        client.send(kept[10_000:])
        assert client.told()["bytes"] == 60_000
        client.told()
    for name, head in {
        "101 fields": f"GET / HTTP/1.1\r\n{HOST}{fields * 100}\r\n",
        "a long path": f"GET /{'a' * 40_000} HTTP/1.1\r\n{HOST}\r\n",
        "a long field": f"GET / HTTP/1.1\r\n{HOST}X: {'a' * 40_000}\r\n\r\n",
        "a long name": f"GET / HTTP/1.1\r\n{HOST}{'a' * 40_000}: x\r\n\r\n",
        "fields together": f"GET / HTTP/1.1\r\n{HOST}{('X: ' + 'a' * 700 + chr(13) + chr(10)) * 50}\r\n",
    }.items():
        with usual.connect() as client:
            client.send(head)
            assert client.refused() == (431, "head"), name
    usual.answers()


@pytest.mark.parametrize("part", ["a", "X: y\r\n", "\r\n"], ids=["field", "fields", "empty"])
def test_heads_without_an_end(usual: Running, part: str):
    before = usual.guard.refused["head"]
    with usual.connect() as client:
        client.send("" if part == "\r\n" else f"GET / HTTP/1.1\r\n{HOST}" + ("X: " if part == "a" else ""))
        client.pour((part * 65_536).encode()[:65_536])
    assert usual.guard.refused["head"] == before + 1
    usual.answers()


def test_too_many_requests_before_the_first_is_answered(usual: Running):
    with usual.connect() as client:
        client.send(f"GET /hold HTTP/1.1\r\n{HOST}\r\n")
        assert usual.toy.held.acquire(timeout=MINUTE)
        client.send(SMALL * 200)
        usual.toy.go.set()
        assert client.told()["path"] == "/hold"  # the last one
        client.ends()
    usual.toy.go.clear()
    usual.answers()


# Time.


def test_who_says_nothing_is_closed_without_a_word(quick: Running):
    with quick.connect() as client:
        assert not client.ends()


@pytest.mark.parametrize(
    ("start", "part"),
    [
        ("GET / HTTP/1.1\r\n", ""),
        ("GET / HTTP/1.1\r\n", "X: y\r\n"),
        ("\r\n", "\r\n"),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 1000000\r\n\r\n", ""),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 1000000\r\n\r\n", "x"),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 1000000\r\n\r\n", "x" * 300),
        (CHUNKED, ""),
        (CHUNKED, "1\r\nx\r\n"),
        (f"{CHUNKED}1;extension=", "x" * 500),
    ],
    ids=["head", "fields", "lines", "body", "bytes", "long", "chunks", "chunk", "extension"],
)
def test_who_is_slow_is_refused(quick: Running, start: str, part: str):
    before = quick.guard.refused["slow"]
    with quick.connect() as client:
        client.send(start)
        client.socket.settimeout(0.02)
        until = time.monotonic() + MINUTE
        while time.monotonic() < until:
            try:
                if client.more():
                    break
            except TimeoutError:
                client.send(part)
        client.socket.settimeout(MINUTE)
        assert client.refused() == (408, "slow")
    assert quick.guard.refused["slow"] == before + 1


def test_a_slow_second_request(quick: Running):
    with quick.connect() as client:
        client.send(SMALL)
        client.told()
        client.send("GET /")
        assert client.refused() == (408, "slow")


def test_who_asks_nothing_more_is_closed(quick: Running):
    with quick.connect() as client:
        client.send(SMALL)
        client.told()
        assert not client.ends()


def test_who_does_not_read_the_answer_is_closed(quick: Running):
    with quick.connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        before = quick.guard.refused["unread"]
        client.send(f"GET /big HTTP/1.1\r\n{HOST}\r\n")
        wait_until(lambda: quick.guard.refused["unread"] > before)
        wait_until(lambda: not quick.server.server_state.connections)


def test_who_reads_slowly_gets_the_whole_answer(quick: Running):
    """The last one of a connection, too, which is closed when all of it has gone out."""
    with quick.connect() as client:
        client.send(f"GET /big HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n")
        count = 0
        while part := client.socket.recv(1_000_000):
            count += len(part)
            time.sleep(0.01)
        assert count > 50_000_000


def test_slow_connections_are_shed_while_others_are_answered(quick: Running):
    """400 of 400, as slowhttptest sends them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    clients = [quick.connect() for _ in range(400)]
    try:
        for client in clients:
            with suppress(OSError):  # it was silent for too long already
                client.send(f"GET / HTTP/1.1\r\n{HOST}X-a: ")
        quick.answers()
        for client in clients:
            said = client.ends()
            assert not said or b" 408 " in said
        quick.answers()
    finally:
        for client in clients:
            client.socket.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Answers before the whole request, and clients that leave.


def test_an_answer_to_the_head_alone(usual: Running):
    """The client gets it even if it sends all first, and the connection can be used again."""
    with usual.connect() as client:
        client.send(post(bytes(20_000_000), "/refuse"))
        assert client.answer()[0] == 413
        client.send(post(b"abc"))
        assert client.told()["bytes"] == 3


def test_who_goes_on_sending_after_the_answer_is_closed(quick: Running):
    with quick.connect() as client:
        client.send(f"POST /refuse HTTP/1.1\r\n{HOST}Content-Length: 10000000000\r\n\r\n")
        assert client.answer()[0] == 413
        client.pour(bytes(1 << 16), most=10_000_000_000)
    quick.answers()


def test_who_waits_for_100_and_is_refused(usual: Running, caplog: pytest.LogCaptureFixture):
    with usual.connect() as client:
        client.send(CHUNKED.replace(HOST, f"{HOST}Expect: 100-continue\r\n") + "x\r\n")
        assert client.refused() == (400, "malformed")
    usual.answers()
    assert "Exception" not in caplog.text


def test_a_refusal_is_read_by_who_still_sends(usual: Running):
    with usual.connect() as client:
        client.send(f"POST / HTTP/1.1\r\n{HOST}Content-Length: -1\r\n\r\n")
        client.send(bytes(1_000_000))
        assert client.refused() == (400, "malformed")


def test_who_hangs_up_is_not_computed(usual: Running):
    with usual.connect() as client:
        client.send(f"GET /hold HTTP/1.1\r\n{HOST}\r\n")
        assert usual.toy.held.acquire(timeout=MINUTE)
    assert usual.toy.cancelled.acquire(timeout=MINUTE)
    usual.toy.go.set()
    usual.answers()
    usual.toy.go.clear()


def test_who_hangs_up_within_a_body(usual: Running):
    with usual.connect() as client:
        client.send(f"POST / HTTP/1.1\r\n{HOST}Content-Length: 10\r\n\r\nabc")
        wait_until(lambda: usual.server.server_state.tasks)
    assert usual.toy.left.acquire(timeout=MINUTE)
    usual.answers()


PIECES = [
    *(b"\r\n", b"\n", b"\0", b":", b" ", b"0", b"ffffffff", b"\xff", b"/refuse", b"HTTP/1.0", b"Host: b\r\n"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Connection: upgrade\r\nUpgrade: x\r\n", b"Expect: 100-continue\r\n"),
]


def damaged(random: Random) -> bytes:
    """Up to three requests, one after another, with some bytes missing, wrong or too many."""
    sound = [SMALL.encode(), post(b"abc"), post(b"abc", "/refuse"), f"{CHUNKED}1\r\nx\r\n0\r\n\r\n".encode()]
    seeds = [*sound, *sound, *(text.encode("latin-1") for text in MALFORMED.values())]
    data = b"".join(random.choices(seeds, k=random.choice((1, 1, 2, 3))))
    for _ in range(random.choice((0, 1, 2, 5))):
        place = random.randrange(len(data) + 1)
        middle = random.choice((b"", bytes([random.randrange(256)]), random.choice(PIECES)))
        data = data[:place] + middle + data[place + random.choice((0, 1, 5)) :]
    return data


def test_damaged_requests(quick: Running, caplog: pytest.LogCaptureFixture):
    """Each connection ends, with no answer of 500 and nothing left behind."""
    random = Random(0)
    for _ in range(5):
        clients = []
        for _ in range(40):
            client, data = quick.connect(), damaged(random)
            cut = random.randrange(len(data) + 1)
            with suppress(OSError):
                client.send(data[:cut])
                client.send(data[cut:])
            if random.random() < 0.2:
                client.socket.close()
            else:
                clients.append(client)
        for client in clients:
            assert b" 500 " not in client.ends()
            client.socket.close()
    quick.answers()
    wait_until(lambda: not quick.server.server_state.connections and not quick.server.server_state.tasks)
    assert not quick.guard.idle
    assert "Exception" not in caplog.text
    assert "Traceback" not in caplog.text


def test_the_longest_idle_connection_gives_way():
    with running(ConnectionLimits(connections=5)) as server:
        clients = [server.connect() for _ in range(5)]
        wait_until(lambda: len(server.guard.idle) == 5)
        for client in clients[1:3] + clients[:1]:  # so that the others have been idle for longer
            client.send(SMALL)
            client.told()
        late = [server.connect() for _ in range(3)]
        for client in late:
            client.send(SMALL)
            client.told()
        assert [client.ends() for client in (clients[3], clients[4], clients[1])] == [b"", b"", b""]
        for client in (clients[0], clients[2]):
            client.send(SMALL)
            client.told()
        assert server.guard.refused == {"idle": 3}
        busy = [*late, clients[0], clients[2]]
        for client in busy:
            client.send(f"GET /hold HTTP/1.1\r\n{HOST}\r\n")
            assert server.toy.held.acquire(timeout=MINUTE)
        with server.connect() as newcomer:  # all are at work
            status, headers, _ = newcomer.answer()
            assert (status, headers["retry-after"]) == (503, "5")
        server.toy.go.set()
        for client in busy:
            assert client.told()["path"] == "/hold"
        server.answers()
        for client in (*clients, *late):
            client.socket.close()


def test_a_server_that_stops_ends_connections_with_their_answers():
    with running(ConnectionLimits()) as server, server.connect() as client:
        client.send(SMALL)
        client.told()
        server.guard.draining = True
        client.send(SMALL)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert not client.ends()
