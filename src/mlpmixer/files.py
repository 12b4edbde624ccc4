"""Files of strangers, opened with care.

What has the name of an image, a list or a run may be a pipe that never ends, a device, a sparse file of terabytes or a
link to somebody else's file. Everything here raises an `OSError` whose `strerror` says in words what is wrong.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from mlpmixer import text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MOST = 1 << 30  # bytes of a file that is read as a whole, unless its reader says less
TEXT = 1 << 26  # bytes of what people and programs write: lists, JSON, TOML

# Opening a pipe does not wait for somebody to write into it, and a terminal does not become ours.
_CAREFULLY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> BinaryIO:
    """A regular file, to be read. `follow`: it may be a link to one."""
    _require_regular(os.stat(path, follow_symlinks=follow), path)  # noqa: PTH116 (opening some devices does something)
    descriptor = os.open(path, os.O_RDONLY | _CAREFULLY | (0 if follow else _NO_LINK))
    try:
        _require_regular(os.fstat(descriptor), path)  # another one may have taken its place
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: str | os.PathLike[str], most: int = MOST, *, follow: bool = True) -> bytes:
    """All of a regular file of at most `most` bytes."""
    with open_regular(path, follow=follow) as file:
        expected = os.fstat(file.fileno()).st_size
        content = file.read(expected + 1) if expected <= most else b""
        if len(content) > expected:  # it grows, or does not say how long it is
            content += file.read(most + 1 - len(content))
    if max(expected, len(content)) > most:
        raise OSError(errno.EFBIG, f"it is larger than {size(most)}", os.fspath(path))
    return content


def read_text(path: str | os.PathLike[str], most: int = TEXT, *, follow: bool = True, errors: str = "strict") -> str:
    """The same as text in UTF-8."""
    return read(path, most, follow=follow).decode("utf-8-sig", errors)


def below(folder: str | os.PathLike[str], *names: str) -> Path:
    """The path of `names` in `folder`, none of which is a link that leads elsewhere; it need not exist."""
    path = Path(folder)
    for name in names:
        path = path / name
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link", str(path))
    return path


class NotOurs(PermissionError):
    """What others may have written."""


def require_ours(path: str | os.PathLike[str]) -> None:
    """A file or folder that belongs to this user or to root, and that nobody else can write to."""
    status = os.stat(path, follow_symlinks=False)  # noqa: PTH116
    if not hasattr(os, "getuid"):  # Windows
        return
    name = text.printable(os.fspath(path))
    if status.st_uid not in (os.getuid(), 0):
        raise NotOurs(f"{name} belongs to another user and is not trusted: make it yours by chown {os.getuid()} {name}")
    others = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _private(status.st_gid))
    if others and not stat.S_ISLNK(status.st_mode):
        raise NotOurs(f"{name} can be written to by other users and is not trusted: run chmod go-w {name}")


def _private(group: int) -> bool:
    """Whether it is root's, or a group of this user alone, as many systems make one for each."""
    import grp
    import pwd  # not above: Windows has neither

    if group == 0:
        return True
    try:
        me, known = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return known.gr_name == me and {*known.gr_mem} <= {me}


def open_lock(path: str | os.PathLike[str]) -> BinaryIO:
    """A file to hold a lock on, made if need be and never changed."""
    return _open_ours(path, os.O_RDWR, "r+b")


def open_new(path: str | os.PathLike[str]) -> BinaryIO:
    """A file to be written, which was not there before; a link of that name is not followed, but replaced."""
    try:
        descriptor = _create(path)
    except FileExistsError:
        os.unlink(path)  # noqa: PTH108 (as the rest of this file)
        descriptor = _create(path)
    return os.fdopen(descriptor, "wb")


def _create(path: str | os.PathLike[str]) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: what is there takes the name `path` at the end, or goes where that is not
    reached, so nobody ever sees half of it."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def open_end(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file that is written to at its end, made if need be; without a buffer."""
    return _open_ours(path, os.O_WRONLY | os.O_APPEND, "ab")


def _open_ours(path: str | os.PathLike[str], flags: int, mode: str) -> BinaryIO:
    try:
        descriptor = os.open(path, flags | os.O_CREAT | _CAREFULLY | _NO_LINK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", os.fspath(path)) from None
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is a pipe or a device", os.fspath(path)) from None
        raise
    try:
        _require_regular(os.fstat(descriptor), path)
        return cast(BinaryIO, os.fdopen(descriptor, mode, buffering=0))
    except BaseException:
        os.close(descriptor)
        raise


def hold(file: BinaryIO, *, wait: bool = False) -> bool:
    """Whether this process has the lock on `file` now; it loses it when the file is closed, or it dies. Where a file
    system has no locks, everybody has it."""
    if fcntl is None:
        return True
    try:
        # Not flock: processes that were forked from this one would hold it, too, and may outlive it.
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def size(count: int) -> str:
    """Bytes for people: 512 B, 64 MB, 1 GB."""
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")):
        if count >= unit:
            return f"{count / unit:,.4g} {name}"
    return f"{count} B"


def _require_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a link", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device", os.fspath(path))
