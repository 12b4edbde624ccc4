"""Bringing a file from the network to the local disk: one function, `bring`.

A download grows beside its place as NAME.part and takes its name only when it is whole, checked and on the disk. What
stops it before that (a dropped connection, Ctrl-C, a killed process) leaves the part, and the next `bring` goes on from
there, as long as the server still has the same file. A part that has filled the disk is deleted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import ipaddress
import os
import re
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn

from mlpmixer import files
from mlpmixer.errors import FetchError, MixerError, NotThere, UsageError
from mlpmixer.text import first_line, printable

TRIES = 5  # requests in a row that bring no new byte
BACK_OFF_S = 1.0  # before asking again; twice as long after each request that brought nothing
TIMEOUT_S = 30.0  # without a byte
CHUNK = 1 << 20  # bytes
SLOW_S, SLOW = 60.0, 60_000  # seconds in which so many bytes must come, 1 kB/s
SHARE = 0.95  # of the room on the disk that a file may fill

ABSENT = (403, 404, 410)  # what stores answer for a file that they do not have; Amazon's the first
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers after which it is worth asking again


def bring(url: str, path: Path, *, checksum: str | None = None, most: int | None = None, progress: bool = True) -> Path:
    """Download a file, unless it is there already.

    Args:
        url: An http(s) address.
        path: Where the file will be. One that is there is returned without asking the network or the checksum.
        checksum: As in `check`.
        most: The largest size that is accepted, in bytes, where that is known. In any case it must fit on the disk.
        progress: Show a bar on a terminal.

    Returns:
        `path`.

    Raises:
        FetchError: The server, the network or the disk does not deliver the whole file, or it has another checksum.
    """
    if path.is_file():
        return path
    shown = progress and sys.stderr.isatty()
    columns = "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with (
        disk_errors(path),
        files.growing(path, partial(say_waiting, path, shown)) as part,
        Progress(*columns, console=Console(stderr=True), disable=not shown) as bar,
    ):
        if path.is_file():  # another process brought it while we waited
            return path
        download = _Download(url, path, part, most, bar, bar.add_task(path.name, total=None), _Pace())
        try:
            _insist(download)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                download.forget()
            raise
        if checksum is not None:
            try:
                check(part, checksum, f"it was deleted; try again, and if that fails doubt {url}")
            except FetchError:
                download.forget()
                raise
        part.replace(path)
        download.tag.unlink(missing_ok=True)
    return path


def get(url: str, *, most: int, seconds: float) -> bytes:
    """The bytes behind an address, in memory; asked for once.

    Args:
        url: An http(s) address.
        most: Bytes at most.
        seconds: For all of it, however it comes.

    Raises:
        FetchError: They do not come; the message is the reason only.
    """
    found: list[bytes | Exception] = []

    def work() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "mlpmixer", "Accept-Encoding": "identity"})
            with _opener().open(request, timeout=seconds) as answer:
                if answer.headers.get_content_type() == "text/html":
                    raise FetchError("it is a web page")
                data = answer.read(most + 1)
                if answer.length and len(data) <= most:
                    raise FetchError("the connection broke")
                found.append(data)
        except urllib.error.HTTPError as error:
            with error:
                found.append(FetchError(f"the server answers {error.code} {first_line(error.reason)}"))
        except Exception as error:  # it is raised below, in the thread that waits
            found.append(error)

    # In a thread, since a server may send a byte now and then for ever, and no limit of the socket's ends that.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    result = found[0] if found else TimeoutError()
    if isinstance(result, bytes):
        if len(result) > most:
            raise FetchError(f"it is larger than {files.size(most)}")
        return result
    if isinstance(result, FetchError):
        raise result
    if isinstance(result, TimeoutError) or isinstance(getattr(result, "reason", None), TimeoutError):
        why = f"it is not here after {seconds:g} seconds"
    elif isinstance(result, urllib.error.URLError):
        why = f"no connection to {urllib.parse.urlsplit(url).hostname} ({_words(result.reason)})"
    else:
        why = f"the connection broke ({_words(result)})"
    raise FetchError(printable(" ".join(why.split()), 300)) from result


def check(path: Path, checksum: str, way_out: str) -> None:
    """Compare a file with its checksum.

    Args:
        path: The file.
        checksum: "sha256:" or "md5:" and the hexadecimal digits, or the first of them.
        way_out: The end of the message where they differ.

    Raises:
        FetchError: They differ.
    """
    kind, _, expected = checksum.lower().partition(":")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
    if not actual.startswith(expected):
        raise FetchError(f"the checksum of {path.name} is {actual}, expected {expected}; {way_out}")


def require_address(url: str) -> None:
    """Refuse an address that `bring` cannot fetch from, by a `UsageError`."""
    if url.startswith("gs://"):
        raise UsageError(f"cannot fetch {url}; write it as https://storage.googleapis.com/{url.removeprefix('gs://')}")
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # a port that is no number, an unclosed [
        host = None
    usable = host and url.startswith(("http://", "https://")) and "@" not in url.split("/")[2]
    if not usable or not re.fullmatch("[!-~]+", url):
        raise UsageError(f"cannot fetch '{url}'; an address looks like https://host/path, without spaces or password")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses while `path` is written into a `FetchError` with the way out."""
    try:
        yield
    except MixerError:
        raise
    except OSError as error:
        what = f"cannot write {error.filename or path}: {_words(error)}"
        raise FetchError(f"{what}; choose a writable folder with enough room by the variable MLPMIXER_CACHE") from error


def say_waiting(path: Path, shown: bool) -> None:
    if shown:
        print(f"waiting for another process that makes {path.name}", file=sys.stderr)


class _DroppedError(Exception):
    """This request failed, the next may succeed."""


class _UnreachableError(_DroppedError):
    """No connection at all."""


class _Pace:
    """Of a file that had `size` bytes some time ago."""

    def __init__(self) -> None:
        self.since, self.size = time.monotonic(), 0

    def slow(self, size: int) -> str:
        """What is wrong with it, if it is time to tell."""
        seconds, came = time.monotonic() - self.since, size - self.size
        if seconds < SLOW_S:
            return ""
        self.since, self.size = time.monotonic(), size
        return f"only {came:,} bytes came in {seconds:,.0f} s" if came < SLOW else ""


@dataclass(frozen=True)
class _Download:
    url: str
    path: Path  # where it will be
    part: Path  # where it grows
    most: int | None  # bytes
    bar: Progress
    task: TaskID
    pace: _Pace

    @property
    def tag(self) -> Path:
        """Holds what the server calls this version of the file, so that versions are never mixed."""
        return self.part.with_name(self.part.name + ".tag")

    def begun(self) -> tuple[int, str]:
        """How many bytes are here, and of which version; 0 if that is unknown."""
        tag = self.tag.read_text(encoding="latin-1") if self.part.is_file() and self.tag.is_file() else ""
        return (self.part.stat().st_size if tag else 0), tag

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def fail(self, why: object, advice: str = "", kind: type[FetchError] = FetchError) -> FetchError:
        why = printable(" ".join(str(why).split()), 300)  # partly the server's words
        return kind(
            f"cannot fetch {self.path.name}: {why}; {advice}get it elsewhere ({self.url}) and place it at {self.path}"
        )

    def hurry(self, size: int) -> None:
        """End what brings nearly nothing, though always a little more."""
        if slow := self.pace.slow(size):
            raise self.fail(slow, "try again later, or ")

    def room(self) -> int:
        """Bytes that the part may have, at most. (Some file systems do not say.)"""
        free = shutil.disk_usage(self.part.parent).free or sys.maxsize
        return int(SHARE * free) + (self.part.stat().st_size if self.part.is_file() else 0)

    def require_room(self, size: int) -> None:
        if self.most is not None and size > self.most:
            raise self.fail(f"it has more than {self.most:,} bytes")
        if size > (room := self.room()):
            where = f"only {room:,} can be had in {self.part.parent}"
            raise self.fail(
                f"it has {size:,} bytes and {where}",
                "make room, choose another folder by the variable MLPMIXER_CACHE, or ",
            )


def _insist(download: _Download) -> None:
    """Ask until the part is whole."""
    most, _ = download.begun()
    idle, connected = 0, False
    while True:
        try:
            _receive(download)
            return
        except _DroppedError as drop:
            connected = connected or not isinstance(drop, _UnreachableError)
            size, _ = download.begun()
            idle = 0 if size > most else idle + 1
            if idle == 0:
                download.hurry(size)
            most = max(most, size)
            if not connected or idle >= TRIES:
                raise download.fail(drop, "try again later, or ") from drop
        time.sleep(BACK_OFF_S * 2**idle)


def _receive(download: _Download) -> None:
    """One request for what is missing. Returns when the part is whole."""
    have, tag = download.begun()
    headers = {"User-Agent": "mlpmixer", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        answer = _opener().open(urllib.request.Request(download.url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            _refused(download, error, have)
        return
    except urllib.error.URLError as error:
        kind = _DroppedError if isinstance(error.reason, ConnectionResetError) else _UnreachableError
        host = urllib.parse.urlsplit(download.url).hostname
        raise kind(f"no connection to {host} ({_words(error.reason)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(f"the connection broke ({_words(error)})") from error
    except ValueError as error:  # the name of a host, after a redirection
        raise download.fail(f"the server sends us to an address that is none ({_words(error)})") from error

    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise download.fail("the server sends a web page instead of a file", kind=NotThere)
        now = answer.headers.get("ETag", "")
        if not now.startswith('"'):  # a weak tag does not promise equal bytes
            now = answer.headers.get("Last-Modified", "")
        start, total = 0, answer.length
        if total == 0:
            raise download.fail("the server sends an empty file")
        if answer.status == 206:
            extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            if not extent or int(extent[1]) != have or now != tag:
                download.forget()
                raise _DroppedError("the file on the server has changed")
            start, total = have, int(extent[2])
        if total is None and not answer.chunked:
            raise download.fail("the server does not say how long the file is")
        if total is not None:
            download.require_room(total)
        most = min(download.room(), sys.maxsize if download.most is None else download.most)

        # Old bytes are cut off before the new tag is written: killed in between, we still mix no versions.
        with download.part.open("ab" if start else "wb") as file:
            if not start:
                download.tag.write_text(now, encoding="latin-1")
            size = start
            download.bar.reset(download.task, total=total, completed=size)
            while chunk := _read(answer):
                size += len(chunk)
                if size > most:  # of what came without a length
                    download.forget()
                    download.require_room(size)
                    raise download.fail(f"it has no end within {most:,} bytes")
                file.write(chunk)
                download.bar.update(download.task, completed=size)
                download.hurry(size)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and size != total:
        raise _DroppedError(f"the connection ended after {size:,} of {total:,} bytes")


def _refused(download: _Download, error: urllib.error.HTTPError, have: int) -> None:
    if error.code == 416 and have:
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing is missing: a process was killed between the last byte and the renaming
        download.forget()
        raise _DroppedError("the file on the server has changed")
    if error.code in BUSY:
        raise _DroppedError(f"the server answers {error.code} {error.reason}")
    kind = NotThere if error.code in ABSENT else FetchError
    raise download.fail(f"the server answers {error.code} {error.reason}", kind=kind)


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(f"the connection broke ({_words(error)})") from error


def _words(error: object) -> object:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class StayPrivate(urllib.request.HTTPRedirectHandler):
    """From https to https only: a file without a checksum is as trustworthy as its way here. And nobody outside sends
    us to what only this machine, or its network, can reach; there, https has a certificate to show."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        why = ""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            why = "a redirection that leaves https"
        elif newurl.startswith("http:") and _distance(newurl) < _distance(req.full_url):
            why = "a redirection to a private address"
        if why:
            raise urllib.error.HTTPError(req.full_url, code, why, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _distance(url: str) -> int:
    """0: this machine, 1: its network, 2: the world, or unknown."""
    try:
        found = socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    except (OSError, ValueError):  # then it is not reached, or by a proxy
        return 2
    addresses = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    return min(
        0 if address.is_loopback or address.is_unspecified else 2 if address.is_global else 1 for address in addresses
    )


def _opener() -> urllib.request.OpenerDirector:
    """http and https through the proxies of the environment; unlike urllib's own, no ftp: and no file:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        StayPrivate(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
