"""`mixer pack`: decode a data set once, to train from it quickly."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mlpmixer.cli.output import say, tell
from mlpmixer.text import to_json


def pack(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    /,
    size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    shape: Literal["short_side", "stretch"] = "short_side",
    on_bad_image: Literal["strict", "skip"] = "strict",
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    json: bool = False,
) -> None:
    """Decode a data set once, to train from it quickly.

    Args:
        data: A data set: a built-in name, a folder of images, a list, shards.
        folder: The new folder; every command that takes a data set takes it.
        size: Reduce the shorter side to N pixels; without it, images keep their sizes.
        shape: With --size, keep proportions (and never enlarge), or bring every image to N by N pixels.
        on_bad_image: At an image that cannot be read, stop (strict), or skip it and say so.
        workers: Number of processes that decode; by default the number of cores.
        json: Print JSON.
    """
    from mlpmixer import data as data_sets

    data_sets.require_source(data)

    from mlpmixer.data.sources.packed import read_manifest
    from mlpmixer.data.sources.packing import pack as write

    started = time.monotonic()
    path = write(data_sets.open(data), folder, size=size, shape=shape, on_bad_image=on_bad_image, workers=workers)
    seconds = time.monotonic() - started
    manifest = read_manifest(path)
    size_in_bytes = sum(file["bytes"] for file in manifest["files"].values())
    for why in manifest["skipped"]:
        tell(f"skipped: {why}")
    if json:
        print(to_json({"folder": str(path), "bytes": size_in_bytes, "seconds": round(seconds, 3), **manifest}))
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest["splits"].items())
    say(f"{path}: {counts}; {size_in_bytes / 1e6:,.1f} MB in {seconds:.1f} s")
