"""The 19 tasks of VTAB-1k: 800 images to learn from, 200 to choose by, and the test.

`vtab:NAME:DIR` is a task in a folder: DIR/NAME in any form that can be opened (train, val and test; or the lists in
which VTAB-1k is passed around), or what tensorflow-datasets has prepared in DIR. There, the first 800 and 200 images
of the splits below are taken, and labels are told as VTAB's authors tell them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from mlpmixer.data.dataset import DataSet
from mlpmixer.data.sources import tfds
from mlpmixer.data.sources.tfrecord import Feature
from mlpmixer.errors import DataError, nearest

TRAIN, VAL = 800, 200  # images


def number_of_objects(found: dict[str, Feature]) -> int:
    """CLEVR shows 3 to 10."""
    return len(found["objects/size"]) - 3


def nearest_object(found: dict[str, Feature]) -> int:
    """By the distance to the camera, in six steps."""
    distance = np.asarray(found["objects/pixel_coords"]).reshape(-1, 3)[:, 2].min()
    return int(np.searchsorted([8.0, 8.5, 9.0, 9.5, 10.0], distance))


def nearest_vehicle(found: dict[str, Feature]) -> int:
    """Up to 8 m, up to 20 m, farther, or none. Cars, vans and trucks are types 0 to 2."""
    away = np.asarray(found["objects/location"]).reshape(-1, 3)[:, 2]
    vehicles = away[np.asarray(found["objects/type"], dtype=np.int64) < 3]
    return int(np.searchsorted([8.0, 20.0, 999.0], vehicles.min(initial=1000.0)))


def in_steps(name: str, values: int, found: dict[str, Feature]) -> int:
    """Sixteen classes of as many neighboring values each as there are for it."""
    return int(int(found[name][0]) // (values / 16))  # pyright: ignore[reportArgumentType] (an integer)


def as_it_is(name: str, found: dict[str, Feature]) -> int:
    return int(found[name][0])  # pyright: ignore[reportArgumentType] (an integer)


@dataclass(frozen=True)
class Task:
    """`prepared`: NAME or NAME/CONFIG in tensorflow-datasets. `splits`: what train, val and test are there. `large`:
    images that the paper takes at 448 pixels, not 224. `times`: what pixels are multiplied with."""

    kind: Literal["natural", "specialised", "structured"]
    classes: int
    prepared: str
    splits: tuple[str, str, str] = ("train", "validation", "test")
    large: bool = True
    label: Callable[[dict[str, Feature]], int] = tfds.plain_label
    needs: tuple[str, ...] = ("label",)
    times: int = 1


NINETY = ("train[:90%]", "train[90%:]", "test")
EIGHTY = ("train[:80%]", "train[80%:]", "test")
SIXTY = ("train[:60%]", "train[60%:80%]", "train[80%:]")
TENTHS = ("train[:80%]", "train[80%:90%]", "train[90%:]")
HALVES = ("train", "test[:50%]", "test[50%:]")

_clevr = partial(Task, "structured", prepared="clevr", splits=("train[:90%]", "train[90%:]", "validation"))
_dsprites = partial(Task, "structured", 16, "dsprites", TENTHS, large=False, times=255)
_smallnorb = partial(Task, "structured", prepared="smallnorb", splits=HALVES, large=False)

VTAB = {
    "caltech101": Task("natural", 102, "caltech101", NINETY),
    "cifar": Task("natural", 100, "cifar100", NINETY, large=False),
    "dtd": Task("natural", 47, "dtd"),
    "oxford_flowers102": Task("natural", 102, "oxford_flowers102"),
    "oxford_iiit_pet": Task("natural", 37, "oxford_iiit_pet", EIGHTY),
    "sun397": Task("natural", 397, "sun397/tfds"),
    "svhn": Task("natural", 10, "svhn_cropped", NINETY, large=False),
    "eurosat": Task("specialised", 10, "eurosat/rgb", SIXTY, large=False),
    "patch_camelyon": Task("specialised", 2, "patch_camelyon", large=False),
    "resisc45": Task("specialised", 45, "resisc45", SIXTY),
    "diabetic_retinopathy": Task("specialised", 5, "diabetic_retinopathy_detection/btgraham-300"),
    "clevr_count": _clevr(classes=8, label=number_of_objects, needs=("objects/size",)),
    "clevr_dist": _clevr(classes=6, label=nearest_object, needs=("objects/pixel_coords",)),
    "dsprites_loc": _dsprites(label=partial(in_steps, "label_x_position", 32), needs=("label_x_position",)),
    "dsprites_ori": _dsprites(label=partial(in_steps, "label_orientation", 40), needs=("label_orientation",)),
    "dmlab": Task("structured", 6, "dmlab"),
    "kitti": Task("structured", 4, "kitti", label=nearest_vehicle, needs=("objects/location", "objects/type")),
    "smallnorb_azi": _smallnorb(classes=18, label=partial(as_it_is, "label_azimuth"), needs=("label_azimuth",)),
    "smallnorb_ele": _smallnorb(classes=9, label=partial(as_it_is, "label_elevation"), needs=("label_elevation",)),
}


def open_task(spec: str, open_folder: Callable[[Path], DataSet | None]) -> DataSet:
    """`vtab:NAME:DIR`; `open_folder`: opens a folder of any kind."""
    name, _, place = spec.removeprefix("vtab:").partition(":")
    if name not in VTAB:
        raise DataError(f"VTAB has no task '{name}'{nearest(name, VTAB)} (it has {', '.join(VTAB)})")
    root = Path(place or ".").expanduser().absolute()
    task = VTAB[name]
    folder = _prepared(root / task.prepared)
    if folder is None and (root / name).is_dir() and (opened := open_folder(root / name)) is not None:
        if missing := {"train", "val", "test"} - {*opened.splits}:
            raise DataError(
                f"{root / name} has no split {' or '.join(sorted(missing))}; VTAB wants train, val and test"
            )
        return opened
    if folder is None:
        raise DataError(f"there is no {name} in {root}: neither {root / name}, nor {root / task.prepared}/VERSION")
    part = partial(tfds.cut, folder, label=task.label, needs=task.needs, times=task.times)
    train, val, test = task.splits
    names = tfds.class_names(folder) if task.needs == ("label",) else None
    return DataSet(
        f"vtab:{name}:{root}",
        names or tuple(map(str, range(task.classes))),
        {"train": part(train, at_most=TRAIN), "val": part(val, at_most=VAL), "test": part(test)},
    )


def is_there(name: str, root: Path) -> bool:
    return (root / name).is_dir() or _prepared(root / VTAB[name].prepared) is not None


def _prepared(folder: Path) -> Path | None:
    """The newest version that is in there."""
    versions = [place for place in folder.glob("*.*.*") if tfds.is_tfds(place)]
    return max(
        versions, key=lambda place: [int(n) if n.isdecimal() else 0 for n in place.name.split(".")], default=None
    )
