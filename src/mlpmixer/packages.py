"""Optional packages: brought by extras, imported when they are first needed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mlpmixer.errors import MissingPackage


def require(package: str, *, extra: str, what: str) -> Any:
    """The module `package`.

    Args:
        package: The name that is imported.
        extra: The extra of mlpmixer's that brings it.
        what: What is asked for, as the first words of the message where it is missing: "reading x.parquet".

    Raises:
        MissingPackage: It is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingPackage(f"{what} needs the package {package}: {how_to_install(extra)}") from error


def missing(*packages: str) -> list[str]:
    """Those of `packages` that are not installed; nothing is imported."""
    return [package for package in packages if find_spec(package) is None]


def how_to_install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'mlpmixer[{extra}]'"
