"""File access: safe reads of untrusted files, atomic writes, locks between processes, the cache folder.

A path that should be an image, a list or a run may be a pipe that never ends, a device, a sparse file of terabytes or a
link to another user's file. Everything here raises an `OSError` whose `strerror` says in words what is wrong.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from mlpmixer import text

MOST = 1 << 30  # bytes of a file that is read as a whole, unless its reader says less
TEXT = 1 << 26  # bytes of what people and programs write: lists, JSON, TOML

# Opening a pipe does not wait for somebody to write into it, and a terminal does not become ours.
_CAREFULLY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers


def cache_folder() -> Path:
    """`$MLPMIXER_CACHE`, or else the system's cache folder for mlpmixer (Linux: ~/.cache or `$XDG_CACHE_HOME`)."""
    if ours := os.environ.get("MLPMIXER_CACHE"):
        return Path(ours).expanduser()
    from platformdirs import user_cache_path  # not above: most commands never ask

    return user_cache_path("mlpmixer", appauthor=False)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, so that no other user can write to them, whatever the umask."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(0o755, exist_ok=True)


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> BinaryIO:
    """A regular file, opened for reading.

    Args:
        path: The file.
        follow: Whether it may be a link to one.

    Raises:
        OSError: It is missing, a folder, a pipe or a device, or may not be read.
    """
    _require_regular(os.stat(path, follow_symlinks=follow), path)  # noqa: PTH116 (opening some devices does something)
    descriptor = os.open(path, os.O_RDONLY | _CAREFULLY | (0 if follow else _NO_LINK))
    try:
        _require_regular(os.fstat(descriptor), path)  # another one may have taken its place
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: str | os.PathLike[str], most: int = MOST, *, follow: bool = True) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        most: The largest size, in bytes, that is accepted.
        follow: Whether it may be a link.

    Raises:
        OSError: It is larger, not a regular file, or cannot be read.
    """
    with open_regular(path, follow=follow) as file:
        expected = os.fstat(file.fileno()).st_size
        content = file.read(expected + 1) if expected <= most else b""
        if len(content) > expected:  # it grows, or does not say how long it is
            content += file.read(most + 1 - len(content))
    if max(expected, len(content)) > most:
        raise OSError(errno.EFBIG, f"it is larger than {size(most)}", os.fspath(path))
    return content


def read_text(path: str | os.PathLike[str], most: int = TEXT, *, follow: bool = True, errors: str = "strict") -> str:
    """The content of a regular file as UTF-8 text; the arguments are those of `read` and of `bytes.decode`."""
    return read(path, most, follow=follow).decode("utf-8-sig", errors)


def below(folder: str | os.PathLike[str], *names: str) -> Path:
    """The path `folder/name/name…`, refused where one of `names` is a link; it need not exist."""
    path = Path(folder)
    for name in names:
        path = path / name
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link", str(path))
    return path


class NotOurs(PermissionError):
    """A file or folder that other users may have written."""


def require_ours(path: str | os.PathLike[str]) -> None:
    """Refuse a file or folder unless it belongs to this user or to root, and nobody else can write to it.

    Raises:
        NotOurs: Its owner or mode is another.
    """
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
    """Whether a group is root's, or has this user as its only member (many systems make one for each user)."""
    import grp
    import pwd  # not above: Windows has neither

    if group == 0:
        return True
    try:
        me, known = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return known.gr_name == me and {*known.gr_mem} <= {me}


@contextmanager
def locked(
    path: Path, *, wait: bool = False, waiting: Callable[[], object] = lambda: None, remove: bool = False
) -> Iterator[bool]:
    """Hold a lock between processes for the duration of the block; it ends with the process, however that ends.

    Args:
        path: The lock file, created if need be. What it contains is never changed, and a link is refused.
        wait: Wait for another process that holds the lock.
        waiting: Called once before waiting.
        remove: Delete the lock file at the end.

    Yields:
        Whether there is a lock. Some network file systems have none: there, every process enters.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is false.
        OSError: The lock file cannot be made.
    """
    from filelock import FileLock, Timeout  # not above: most commands never lock

    if os.path.lexists(path):
        _require_regular(path.lstat(), path)
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock would survive a killed process
    held = True
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "another process holds the lock", str(path)) from None
            waiting()
            lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        held = False
    except NotImplementedError:
        held = False
    try:
        yield held
    finally:
        if remove:
            with suppress(OSError):
                path.unlink()  # before it is released: whoever waits sees that it is gone
        lock.release()


@contextmanager
def growing(path: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """A name beside `path` under which it may grow, and which no other process writes to meanwhile.

    It is NAME.part, the same each time, so that what a killed process has left can be continued. Where the file system
    has no locks, each process has a private name, and what is left of it is deleted at the end.

    Args:
        path: The file or folder to be made. Its parent folder is created.
        waiting: Called once before waiting for another process.
    """
    make_folder(path.parent)
    with locked(path.with_name(f".{path.name}.lock"), wait=True, waiting=waiting, remove=True) as held:
        if held:
            yield path.with_name(f"{path.name}.part")
            return
        private = f"{path.name}.{uuid.uuid4().hex}.part"
        try:
            yield path.with_name(private)
        finally:
            for left in path.parent.iterdir():
                if left.name.startswith(private):
                    shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def whole_folder(path: Path, fill: Callable[[Path], object], waiting: Callable[[], object] = lambda: None) -> bool:
    """Make a folder that appears complete or not at all.

    Args:
        path: The folder.
        fill: Writes the content into the empty folder that it is given.
        waiting: Called once before waiting for another process that makes the same folder.

    Returns:
        False where `path` exists already; then nothing is done.
    """
    with growing(path, waiting) as part:
        if path.exists():
            return False
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        try:
            fill(part)
            part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return True


def open_new(path: str | os.PathLike[str]) -> BinaryIO:
    """A new file, opened for writing; what had its name, such as a link, is deleted and not followed."""
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
    """Write a file atomically: a temporary name beside `path`, renamed to `path` at the end of the block.

    Where the block fails, the temporary file is deleted, and what was at `path` stays.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def open_end(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened for appending and created if need be; without a buffer. Links are refused."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _CAREFULLY | _NO_LINK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", os.fspath(path)) from None
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is a pipe or a device", os.fspath(path)) from None
        raise
    try:
        _require_regular(os.fstat(descriptor), path)
        return cast(BinaryIO, os.fdopen(descriptor, "ab", buffering=0))
    except BaseException:
        os.close(descriptor)
        raise


def size(count: int) -> str:
    """A number of bytes as text: 512 B, 64 MB, 1 GB."""
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
