"""Downloading checkpoints: `fetch` gives the local path of one."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from pathlib import Path, PurePosixPath

from mlpmixer.download import bring, check, require_address
from mlpmixer.errors import UsageError
from mlpmixer.files import cache_folder
from mlpmixer.weights.model_zoo import find


def fetch(
    name_or_url: str, *, cache: str | os.PathLike[str] | None = None, sha256: str | None = None, progress: bool = True
) -> Path:
    """The local path of a checkpoint, downloaded first if it is not there yet.

    A file that is there is returned without looking at network or checksum, unless `sha256` is given.

    Args:
        name_or_url: A name of the model zoo or an http(s) address.
        cache: The folder; by default `cache_folder()`.
        sha256: The hexadecimal checksum or its first digits, at least 8; by default what the model zoo knows of it.
        progress: Show a bar on a terminal.

    Raises:
        UsageError: There is no such name, or the address or checksum is none.
        FetchError: It cannot be downloaded, written, or is another file than expected.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise UsageError(f"sha256 is '{sha256}': not 8 to 64 hexadecimal digits")
    url, known, path = _locate(name_or_url, cache)
    expected = sha256 or known
    if path.is_file() and sha256 is not None:
        check(path, f"sha256:{sha256}", f"delete {path} to fetch it again")
    return bring(url, path, checksum=f"sha256:{expected}" if expected else None, progress=progress)


def path_of(name_or_url: str, *, cache: str | os.PathLike[str] | None = None) -> Path:
    """The local path of a checkpoint, whether it is there or not."""
    return _locate(name_or_url, cache)[2]


def _locate(name_or_url: str, cache: str | os.PathLike[str] | None) -> tuple[str, str | None, Path]:
    """Address, checksum where known, local path."""
    folder = (cache_folder() if cache is None else Path(cache).expanduser()).absolute()
    if "://" not in name_or_url:
        entry = find(name_or_url)
        return entry.url, entry.sha256, folder / (entry.name + PurePosixPath(entry.url).suffix)
    require_address(name_or_url)
    last = PurePosixPath(urllib.parse.urlsplit(name_or_url).path).name
    readable = re.sub(r"[^A-Za-z0-9._+-]+", "_", urllib.parse.unquote(last))[-100:]
    # Many checkpoints are called model.safetensors: part of the name is the whole address, digested.
    return name_or_url, None, folder / f"{hashlib.sha256(name_or_url.encode()).hexdigest()[:8]}-{readable}"
