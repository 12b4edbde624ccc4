"""`mixer demo`: the whole way once, on this machine."""

from __future__ import annotations


def demo() -> None:
    """Build a Mixer, load weights, predict."""
