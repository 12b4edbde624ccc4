"""`fetch` against a real server on this machine that does all that a network can do to a download."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import cast

import pytest
from messages import Says

from mlpmixer.errors import FetchError, UsageError
from mlpmixer.files import cache_folder
from mlpmixer.weights import model_zoo
from mlpmixer.weights.fetch import fetch, path_of

module = import_module("mlpmixer.download")

BODY = random.Random(0).randbytes(400_000)
SHA = hashlib.sha256(BODY).hexdigest()


class Shelf(ThreadingHTTPServer):
    """Serves `body`. Each request uses up one step of `plan`; after the last one everything goes well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.body = BODY
        self.tag: str | None = '"one"'
        self.date: str | None = None
        self.plan: list[str] = []
        self.always = "whole"
        self.seen: list[dict[str, str]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/Mixer-B_16.npz"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""

    def do_GET(self) -> None:
        shelf = cast(Shelf, self.server)
        shelf.seen.append({"path": self.path, **dict(self.headers.items())})
        step = shelf.plan.pop(0) if shelf.plan else shelf.always
        if step[:3].isdigit():
            self.send_error(int(step[:3]), step[4:] or None)
        elif step.startswith("to "):
            self.send_response(302)
            self.send_header("Location", step.removeprefix("to "))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send_body(step)

    def send_body(self, step: str) -> None:
        shelf = cast(Shelf, self.server)
        body, start = shelf.body, 0
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in (shelf.tag, shelf.date) or step == "ignores If-Range"
        if asked and same and step != "ignores Range":
            start = 0 if step == "another part" else int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if shelf.tag:
            self.send_header("ETag", shelf.tag)
        if shelf.date:
            self.send_header("Last-Modified", shelf.date)
        self.send_header("Content-Type", "text/html" if step == "web page" else "application/octet-stream")
        if step in ("chunked", "endless", "trickles"):
            self.send_header("Transfer-Encoding", "chunked")
        elif step == "has a petabyte":
            self.send_header("Content-Length", str(10**15))
        elif step != "no length":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.close_connection = True
        half = start + (len(body) - start) // 2
        if step == "chunked":
            for at in range(start, len(body), 150_000):
                piece = body[at : at + 150_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif step == "endless":
            with contextlib.suppress(OSError):
                while not shelf.released.is_set():
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
        elif step == "trickles":
            with contextlib.suppress(OSError):
                while not shelf.released.wait(0.01):
                    self.wfile.write(b"1\r\nx\r\n")
        elif step in ("drops", "resets", "stalls", "stops at 100000", "a byte at a time"):
            end = {"stops at 100000": 100_000, "a byte at a time": start + 1}.get(step, half)
            self.wfile.write(body[start:end])
            self.wfile.flush()
            if step == "resets":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if step == "stalls":
                shelf.released.wait(10)
        else:
            self.wfile.write(body[start:])


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with Shelf() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _alone_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(module, "BACK_OFF_S", 0.001)


def ranges(shelf: Shelf) -> list[str | None]:
    return [seen.get("Range") for seen in shelf.seen]


def left_in(folder: Path) -> set[str]:
    """The kinds of files there, by what follows the name of the checkpoint."""
    return {path.name.partition(".npz")[2] or "whole" for path in folder.iterdir()}


# When all goes well.


def test_a_file_arrives_once_and_is_then_there(shelf: Shelf, tmp_path: Path) -> None:
    path = fetch(shelf.url, cache=tmp_path / "new" / "cache", sha256=SHA)
    assert path.read_bytes() == BODY
    assert path == path_of(shelf.url, cache=tmp_path / "new" / "cache")
    assert left_in(path.parent) == {"whole"}
    assert fetch(shelf.url, cache=tmp_path / "new" / "cache") == path
    assert len(shelf.seen) == 1


def test_a_name_of_the_ledger_is_the_name_of_the_file(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = dataclasses.replace(model_zoo.find("mixer_b16.imagenet1k"), url=shelf.url, sha256=SHA[:8])
    monkeypatch.setitem(model_zoo.model_zoo(), entry.name, entry)
    assert fetch(entry.name, cache=tmp_path).name == "mixer_b16.imagenet1k.npz"


def test_the_checksum_of_the_ledger_counts(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says
) -> None:
    entry = dataclasses.replace(model_zoo.find("mixer_b16.imagenet1k"), url=shelf.url, sha256="01234567")
    monkeypatch.setitem(model_zoo.model_zoo(), entry.name, entry)
    with says(FetchError):
        fetch(entry.name, cache=tmp_path)
    assert left_in(tmp_path) == set()


def test_the_bytes_are_on_the_disk_before_the_name(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_of(shelf.url, cache=tmp_path)
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_ino, path.exists())))
    fetch(shelf.url, cache=tmp_path)
    assert synced == [(path.stat().st_ino, False)]


def test_equal_file_names_of_different_addresses_do_not_meet(tmp_path: Path) -> None:
    one = path_of("https://huggingface.co/timm/a/resolve/main/model.safetensors", cache=tmp_path)
    two = path_of("https://huggingface.co/timm/b/resolve/main/model.safetensors", cache=tmp_path)
    assert one != two
    assert one.name.endswith("-model.safetensors")


@pytest.mark.parametrize(
    "url", ["https://h/..%2F..%2Fetc%2Fpasswd", "https://h/", "https://h/a%20b?c=/../d", "http://h"]
)
def test_no_address_leads_out_of_the_cache(url: str, tmp_path: Path) -> None:
    path = path_of(url, cache=tmp_path)
    assert path.parent == tmp_path
    assert path.resolve().parent == tmp_path.resolve()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLPMIXER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "mlpmixer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mlpmixer"
    monkeypatch.setenv("MLPMIXER_CACHE", "~/ours")
    assert cache_folder() == tmp_path / "ours"


def test_a_chunked_answer_needs_no_length(shelf: Shelf, tmp_path: Path) -> None:
    shelf.always = "chunked"
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY


def test_a_redirection_is_followed(shelf: Shelf, tmp_path: Path) -> None:
    shelf.plan = ["to /elsewhere"]
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY
    assert shelf.seen[1]["path"] == "/elsewhere"


def test_a_proxy_of_the_environment_is_asked(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{shelf.server_port}")
    assert fetch("http://nowhere.invalid/a.npz", cache=tmp_path).read_bytes() == BODY
    assert shelf.seen[0]["path"] == "http://nowhere.invalid/a.npz"


def test_nothing_is_shown_where_no_one_looks(shelf: Shelf, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fetch(shelf.url, cache=tmp_path)
    assert capfd.readouterr() == ("", "")


# Connections that break.


@pytest.mark.parametrize("how", ["drops", "resets"])
@pytest.mark.parametrize("named_by", ["tag", "date"])
def test_a_broken_download_goes_on_where_it_stopped(shelf: Shelf, tmp_path: Path, how: str, named_by: str) -> None:
    if named_by == "date":
        shelf.tag, shelf.date = None, "Tue, 18 May 2021 00:00:00 GMT"
    shelf.plan = [how, "503", how, how]
    assert fetch(shelf.url, cache=tmp_path, sha256=SHA).read_bytes() == BODY
    assert ranges(shelf)[0] is None
    assert shelf.seen[1]["If-Range"] == (shelf.tag or shelf.date)
    if how == "drops":  # a reset may lose what was under way
        assert ranges(shelf)[1:] == [f"bytes={n}-" for n in (200_000, 200_000, 300_000, 350_000)]


def test_patience_is_counted_from_the_last_new_byte(shelf: Shelf, tmp_path: Path) -> None:
    shelf.plan = ["drops"] * (2 * module.TRIES)
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY


def test_a_server_that_only_sends_whole_files_is_heard_from_the_start(shelf: Shelf, tmp_path: Path) -> None:
    shelf.plan = ["drops", "ignores Range"]
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY


def test_a_server_that_sends_another_part_is_not_believed(shelf: Shelf, tmp_path: Path) -> None:
    shelf.plan = ["drops", "another part"]
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY


def test_without_a_version_nothing_is_continued(shelf: Shelf, tmp_path: Path) -> None:
    shelf.tag, shelf.plan = 'W/"weak"', ["drops"]
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY
    assert ranges(shelf) == [None, None]


@pytest.mark.parametrize("then", ["whole", "ignores If-Range"])
def test_versions_are_not_mixed(shelf: Shelf, tmp_path: Path, then: str) -> None:
    shelf.always = "stops at 100000"
    with pytest.raises(FetchError):
        fetch(shelf.url, cache=tmp_path)
    assert left_in(tmp_path) == {".part", ".part.tag"}
    shelf.body, shelf.tag, shelf.always = BODY[::-1], '"two"', "whole"
    shelf.plan = [then]
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY[::-1]


def test_a_part_that_was_whole_already_is_not_fetched_again(shelf: Shelf, tmp_path: Path) -> None:
    path = path_of(shelf.url, cache=tmp_path)
    path.with_name(path.name + ".part").write_bytes(BODY)
    path.with_name(path.name + ".part.tag").write_text('"one"')
    assert fetch(shelf.url, cache=tmp_path, sha256=SHA).read_bytes() == BODY
    assert ranges(shelf) == [f"bytes={len(BODY)}-"]
    assert left_in(tmp_path) == {"whole"}


def test_a_part_longer_than_the_file_is_thrown_away(shelf: Shelf, tmp_path: Path) -> None:
    path = path_of(shelf.url, cache=tmp_path)
    path.with_name(path.name + ".part").write_bytes(BODY + BODY)
    path.with_name(path.name + ".part.tag").write_text('"one"')
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY


# Downloads that fail: one line, and nothing under the final name.


@pytest.mark.parametrize(
    ("always", "words"),
    [
        ("404", "answers 404 Not Found"),
        ("403", "answers 403 Forbidden"),
        ("503", "answers 503 Service Unavailable; try again later"),
        ("web page", "a web page instead of a file"),
        ("no length", "does not say how long the file is"),
        ("stops at 100000", "ended after 100,000 of 400,000 bytes; try again later"),
        ("to ftp://127.0.0.1/a.npz", "unknown url type: ftp"),
        ("to /models/Mixer-B_16.npz", "answers 302 The HTTP server returned a redirect error that would lead to an"),
        (f"to http://{'a' * 70}.invalid/a", "sends us to an address that is none"),
        ("404 \x1b[2J\x1b]0;pwn\x07", r"answers 404 \x1b[2J\x1b]0;pwn\x07; get"),
        ("has a petabyte", "it has 1,000,000,000,000,000 bytes and only "),
    ],
)
def test_a_failure_is_one_line_that_says_what_to_do(shelf: Shelf, tmp_path: Path, always: str, words: str) -> None:
    shelf.always = always
    with pytest.raises(FetchError) as caught:
        fetch(shelf.url, cache=tmp_path)
    message = str(caught.value)
    assert words in message
    assert message.endswith(f"get it elsewhere ({shelf.url}) and place it at {path_of(shelf.url, cache=tmp_path)}")
    assert message.isprintable()
    assert left_in(tmp_path) <= ({".part", ".part.tag"} if always.startswith("stops") else set())


@pytest.mark.parametrize(("always", "times"), [("404", 1), ("web page", 1), ("503", module.TRIES)])
def test_what_will_not_change_is_not_asked_again(shelf: Shelf, tmp_path: Path, always: str, times: int) -> None:
    shelf.always = always
    with pytest.raises(FetchError):
        fetch(shelf.url, cache=tmp_path)
    assert len(shelf.seen) == times


def test_what_has_no_end_is_given_up_before_the_disk_is_full(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.always = "endless"
    monkeypatch.setattr(module, "SHARE", 2_000_000 / shutil.disk_usage(tmp_path).free)
    with pytest.raises(FetchError, match=r"it has [\d,]+ bytes and only [\d,]+ can be had in .*; make room, choose"):
        fetch(shelf.url, cache=tmp_path)
    assert left_in(tmp_path) == set()
    with pytest.raises(FetchError, match="it has more than 10,000 bytes"):
        module.bring(shelf.url, tmp_path / "small", most=10_000)
    assert left_in(tmp_path) == set()


def test_a_file_that_is_larger_than_it_may_be_is_not_begun(shelf: Shelf, tmp_path: Path, says: Says) -> None:
    with says(FetchError):
        module.bring(shelf.url, tmp_path / "a.npz", most=399_999)
    assert left_in(tmp_path) == set()
    assert module.bring(shelf.url, tmp_path / "a.npz", most=400_000).read_bytes() == BODY


def test_a_server_that_sends_nearly_nothing_is_not_waited_for(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.2)
    for shelf.always in ("trickles", "a byte at a time"):
        with pytest.raises(FetchError, match=r"only \d+ bytes came in 0 s; try again later, or get it elsewhere"):
            fetch(shelf.url, cache=tmp_path)


def test_an_empty_file_is_no_checkpoint(shelf: Shelf, tmp_path: Path, says: Says) -> None:
    shelf.body = b""
    with says(FetchError):
        fetch(shelf.url, cache=tmp_path)
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("sha256", [SHA[::-1], "00000000"])
def test_a_wrong_checksum_deletes_what_came(shelf: Shelf, tmp_path: Path, sha256: str, says: Says) -> None:
    with says(FetchError):
        fetch(shelf.url, cache=tmp_path, sha256=sha256)
    assert left_in(tmp_path) == set()


def test_a_checksum_that_is_asked_for_is_compared_with_a_file_that_is_there(
    shelf: Shelf, tmp_path: Path, says: Says
) -> None:
    path = fetch(shelf.url, cache=tmp_path)
    assert fetch(shelf.url, cache=tmp_path, sha256=SHA[:10].upper()) == path
    with says(FetchError):
        fetch(shelf.url, cache=tmp_path, sha256="00000000")
    assert path.read_bytes() == BODY


def test_without_a_network_what_is_there_is_there_and_the_rest_is_explained(tmp_path: Path, says: Says) -> None:
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.npz"
        path = path_of(url, cache=tmp_path)
        with says(FetchError):
            fetch(url, cache=tmp_path)
        assert left_in(tmp_path) == set()
        path.write_bytes(b"brought by hand")
        assert fetch(url, cache=tmp_path) == path


def test_a_host_without_an_address_is_not_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says
) -> None:
    def no_dns(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_dns)
    monkeypatch.setattr(module, "BACK_OFF_S", 1000.0)
    with says(FetchError):
        fetch("https://example.invalid/a.npz", cache=tmp_path)


def test_https_is_not_left(shelf: Shelf, says: Says) -> None:
    request = module.urllib.request.Request("https://example.invalid/a")
    with says(module.urllib.error.HTTPError) as caught:
        module.StayPrivate().redirect_request(request, None, 302, "Found", {}, shelf.url)
    caught.value.close()


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ("http://93.184.216.34/a", "http://127.0.0.1:631/", True),
        ("http://93.184.216.34/a", "http://localhost/", True),
        ("http://93.184.216.34/a", "http://[::ffff:10.0.0.1]/", True),
        ("http://93.184.216.34/a", "http://169.254.169.254/latest/meta-data", True),
        ("http://10.0.0.1/a", "http://127.0.0.1:631/", True),
        ("http://10.0.0.1/a", "http://10.0.0.2:8080/", False),
        ("http://127.0.0.1:1234/a", "http://127.0.0.1:4321/", False),
        ("http://127.0.0.1:1234/a", "http://10.0.0.1/", False),
        ("http://93.184.216.34/a", "http://93.184.216.35/", False),
        ("http://93.184.216.34/a", "https://10.0.0.1/", False),  # it must show a certificate
    ],
)
def test_nobody_outside_sends_us_to_private_addresses(before: str, after: str, refused: bool, says: Says) -> None:
    request = module.urllib.request.Request(before)
    if not refused:
        assert module.StayPrivate().redirect_request(request, None, 302, "Found", {}, after).full_url == after
        return
    with says(module.urllib.error.HTTPError) as caught:
        module.StayPrivate().redirect_request(request, None, 302, "Found", {}, after)
    caught.value.close()


@pytest.mark.parametrize(
    "url",
    [
        "gs://mixer_models/sam/a.npz",
        "file:///etc/passwd",
        "ftp://host/a",
        "https://",
        "https://host:port/a",
        "https://me:secret@host/a",
        "https://host/a b",
        "https://host/a\r\nX: y",
        "mixer_b16.imagenet21",
    ],
)
def test_an_address_that_cannot_be_fetched_is_refused(url: str, says: Says, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fetch(url, cache=tmp_path)
    says.check(str(caught.value))


@pytest.mark.parametrize("sha256", ["", "1234567", "x" * 64, "0" * 65])
def test_a_checksum_that_is_none_is_refused(sha256: str, tmp_path: Path, says: Says) -> None:
    with says(UsageError):
        fetch("https://host/a", cache=tmp_path, sha256=sha256)


# The disk.


def test_a_full_disk_is_one_line_and_then_the_download_goes_on(shelf: Shelf, tmp_path: Path, says: Says) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with says(FetchError):
            fetch(shelf.url, cache=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_in(tmp_path) == {".part", ".part.tag"}
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY
    assert ranges(shelf) == [None, "bytes=100000-"]


def test_a_part_that_has_filled_the_disk_is_deleted(shelf: Shelf, tmp_path: Path) -> None:
    """On a disk of its own, of 300 kB."""
    shelf.always = "chunked"
    disk = 'mount -t tmpfs -o size=300k none "$0" && '
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, disk + "true", tmp_path], capture_output=True).returncode
    ):
        pytest.skip("no disk can be made here")
    script = FETCHING.replace('print("begins", flush=True)', "mlpmixer.download.SHARE = 2.0")
    told = subprocess.run(
        [*inside, disk + '"$1" -c "$2" "$3" "$0"; ls -A "$0"', tmp_path, sys.executable, script, shelf.url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "No space left on device; choose a writable folder with enough room" in told.stderr
    assert told.stdout == ""


def test_a_cache_that_is_no_folder_is_one_line(shelf: Shelf, tmp_path: Path, says: Says) -> None:
    (tmp_path / "file").touch()
    with says(FetchError):
        fetch(shelf.url, cache=tmp_path / "file" / "cache")


def test_where_files_cannot_be_locked_the_part_is_private(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    shelf.always = "404"
    with pytest.raises(FetchError):
        fetch(shelf.url, cache=tmp_path)
    assert left_in(tmp_path) == set()
    shelf.always, shelf.plan = "whole", ["drops"]
    assert fetch(shelf.url, cache=tmp_path).read_bytes() == BODY
    assert left_in(tmp_path) == {"whole"}
    assert ranges(shelf)[-1] == "bytes=200000-"


# Other processes.

FETCHING = """
import sys
import mlpmixer.download
from mlpmixer.weights.fetch import fetch
mlpmixer.download.BACK_OFF_S = 0.001
print("begins", flush=True)
print(fetch(sys.argv[1], cache=sys.argv[2]))
"""


def fetching(url: str, cache: Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCHING, url, str(cache)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def wait_for(happened: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < end, what
        time.sleep(0.005)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_stopped_leaves_a_part_for_the_next(shelf: Shelf, tmp_path: Path, by: signal.Signals) -> None:
    shelf.plan = ["stalls"]
    path = path_of(shelf.url, cache=tmp_path)
    part = path.with_name(path.name + ".part")
    with fetching(shelf.url, tmp_path) as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 100_000, "no bytes came")
        process.send_signal(by)
        process.communicate()
    assert process.returncode == -by
    assert not path.exists()
    have = part.stat().st_size
    assert fetch(shelf.url, cache=tmp_path, sha256=SHA).read_bytes() == BODY
    assert ranges(shelf) == [None, f"bytes={have}-"]
    assert left_in(tmp_path) == {"whole"}


def test_of_two_processes_one_fetches_and_the_other_waits(shelf: Shelf, tmp_path: Path) -> None:
    shelf.plan = ["stalls"]
    path = path_of(shelf.url, cache=tmp_path)
    ours, theirs = os.openpty()
    with fetching(shelf.url, tmp_path) as one:
        wait_for(lambda: shelf.seen, "nobody asked")
        with fetching(shelf.url, tmp_path, stderr=theirs) as two:
            os.close(theirs)
            assert "waiting for another process that makes" in os.read(ours, 1000).decode()
            assert len(shelf.seen) == 1
            shelf.released.set()
            for process in (one, two):
                out, err = process.communicate()
                assert out.split() == ["begins", str(path)]
                assert not err
    os.close(ours)
    assert path.read_bytes() == BODY
    assert len(shelf.seen) == 2  # the first continued what the server had cut off
    assert left_in(tmp_path) == {"whole"}


def test_whoever_waited_for_a_process_that_was_killed_takes_over(shelf: Shelf, tmp_path: Path) -> None:
    shelf.plan = ["stalls"]
    path = path_of(shelf.url, cache=tmp_path)
    with fetching(shelf.url, tmp_path) as first:
        wait_for(lambda: shelf.seen, "nobody asked")
        waiting = threading.Thread(target=fetch, args=(shelf.url,), kwargs={"cache": tmp_path})
        waiting.start()
        first.kill()
        first.communicate()
    waiting.join(10)
    assert path.read_bytes() == BODY
    assert left_in(tmp_path) == {"whole"}


def test_many_threads_get_the_same_file(shelf: Shelf, tmp_path: Path) -> None:
    shelf.plan = ["drops", "drops"]
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(shelf.url, cache=tmp_path).read_bytes())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BODY] * 8
    assert len(shelf.seen) == 3
    assert left_in(tmp_path) == {"whole"}


def test_a_terminal_shows_how_far_it_is(shelf: Shelf, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    with fetching(shelf.url, tmp_path, stderr=theirs) as process:
        process.communicate()
    os.close(theirs)
    shown = ""
    with contextlib.suppress(OSError):  # nobody has the other end
        while some := os.read(ours, 100_000):
            shown += some.decode(errors="replace")
    os.close(ours)
    assert path_of(shelf.url, cache=tmp_path).name[:12] in shown
    assert "400.0/400.0 kB" in shown


def test_fetching_does_not_need_torch() -> None:
    for name in ("mlpmixer.download", "mlpmixer.weights.fetch", "mlpmixer.weights.model_zoo"):
        source = Path(import_module(name).__file__ or "").read_text()
        assert "import torch" not in source
        assert "from torch" not in source
