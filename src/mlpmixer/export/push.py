"""Pushing: an exported file and its model card to a repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mlpmixer import packages
from mlpmixer.errors import FetchError, UsageError
from mlpmixer.text import first_line

REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def require(repository: str) -> None:
    """Before anything is computed.

    Raises:
        UsageError: It is not the name of a repository.
        MissingPackage: huggingface_hub is not installed.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UsageError(f"a repository is called OWNER/NAME, such as me/garments; got '{repository}'")
    packages.require("huggingface_hub", extra="hub", what="--push")


def push(paths: Sequence[Path], repository: str) -> str:
    """Uploads files to a repository, made if it is not there; the last of them, the card, becomes its README.md.

    The token is the one of `hf auth login`, or `$HF_TOKEN`.

    Args:
        paths: What `export` has written.
        repository: OWNER/NAME.

    Returns:
        The address of the repository.

    Raises:
        FetchError: The server cannot be reached or refuses; the files stay where they are.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi()
    names = [*(path.name for path in paths[:-1]), "README.md"]
    files = [
        huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
        for name, path in zip(names, paths, strict=True)
    ]
    try:
        address = api.create_repo(repository, exist_ok=True)
        api.create_commit(repository, files, commit_message=f"Upload {names[0]}")
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:  # whatever HTTP client it uses
        raise FetchError(
            f"cannot push to {repository}: {first_line(error)}; the files are kept, and `hf auth login` sets the token"
        ) from error
    return str(address)
