"""A folder of images: `root/class/*.jpg`, or that within train/, val/ and test/.

Each folder is a class, and has all images below it, however deep. Classes and images stand in the order of their
names as code points, whatever the file system or the language of the machine. Hidden files and files without a
image's extension are left out; so is a test/ folder without class folders, as competitions hand it out, because it
has no labels. The classes are those of train/, where an empty folder makes a class without images.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlpmixer.data.dataset import DataSet, Split, Texts
from mlpmixer.data.sources import imagenet
from mlpmixer.data.sources.naming import EXTENSIONS, SPLIT_WORDS, in_order, require_known
from mlpmixer.errors import DataError
from mlpmixer.text import printable

CAMERAS = {"img", "image", "dsc", "dscn", "dscf", "pxl", "photo", "picture", "pic", "mvimg", "dji", "gopr", "frame"}
LABELS_SHOWN = 3

Folders = frozenset[tuple[int, int]]  # by device and inode


class Files(Split):
    """Images in files of their own; `paths` are absolute, or within `root`."""

    def __init__(self, root: Path, paths: Sequence[str], labels: np.ndarray):
        self.root, self.paths, self.labels = root, Texts(paths), labels

    def read(self, index: int) -> Path:
        return self.root / self.paths[index]

    def where(self, index: int) -> str:
        return str(self.read(index))

    def trace(self, index: int) -> bytes:
        """Its path within the data set, and the size of its file: none has to be opened."""
        return b"%s\0%d" % (os.fsencode(self.paths[index]), self.read(index).stat().st_size)


class FolderImages(Files):
    """All images below `root`; `loops` are links to folders that they lie in, left out."""

    def __init__(self, root: Path, paths: Sequence[str], labels: np.ndarray, loops: Sequence[Path] = ()):
        super().__init__(root, paths, labels)
        self.loops = loops

    def nested(self) -> dict[str, int]:
        """How many images lie in each folder within a class folder."""
        return Counter(place for path in self.paths if "/" in (place := path.rpartition("/")[0]))

    def ignored(self) -> Counter[str]:
        """How many files below are left out for their extension, by that; without those that systems leave anywhere."""
        found: Counter[str] = Counter()
        met: set[tuple[int, int]] = set()
        for place, folders, files in os.walk(self.root, followlinks=True):
            status = Path(place).stat()
            if (here := (status.st_dev, status.st_ino)) in met:  # a link leads here
                folders.clear()
                continue
            met.add(here)
            folders[:] = [name for name in folders if not _is_left_behind(name)]
            lower = [name.lower() for name in files if not _is_left_behind(name)]
            found.update(Path(name).suffix for name in lower if not name.endswith(EXTENSIONS))
        return found


def open_folder(root: Path) -> DataSet:
    folders, images = look(root)
    places = _split_folders(root, folders)
    if places:
        # The images of each class, as paths within the split's folder.
        loops: dict[str, list[Path]] = {split: [] for split in places}
        found = {split: _split(place, split, loops[split]) for split, place in places.items()}
    else:
        _require_no_wrapping(root, folders)
        loops = {"train": []}
        places, found = {"train": root}, {"train": _classes(root, folders, images, loops["train"])}
    labeled = {split: by_class for split, by_class in found.items() if by_class is not None}
    if not labeled:
        raise _flat(places["test"], look(places["test"])[1])
    first = next(iter(labeled))
    classes = tuple(sorted(labeled[first]))
    splits = {}
    for split, by_class in labeled.items():
        require_known(by_class, classes, str(places[split]), str(places[first]))
        splits[split] = _in_order(places[split], by_class, classes, loops[split])
    return DataSet(str(root), imagenet.readable(classes) or classes, splits)


def _split_folders(root: Path, folders: Sequence[str]) -> dict[str, Path]:
    """The folders that are splits; none where folders are classes, even if one is called train."""
    places: dict[str, Path] = {}
    for name in folders:
        split = SPLIT_WORDS.get(name.lower())
        if split in places:
            raise DataError(f"{places[split]} and {root / name} both are the {split} split; rename or move one")
        if split:
            places[split] = root / name
    if len(places) == 1 and len(folders) > 1:
        (place,) = places.values()
        inner, images = look(place)
        if images or not inner:
            return {}
        other = next(name for name in folders if name != place.name)
        raise DataError(
            f"{place} looks like a split, and {root / other} beside it like a class; move one of them elsewhere"
        )
    return {split: places[split] for split in in_order(places)}


def _require_no_wrapping(root: Path, folders: Sequence[str]) -> None:
    """Refuse an only folder that holds folders: it is not the only class, but what was unpacked."""
    if len(folders) == 1:
        inner, images = look(root / folders[0])
        if not images and (len(inner) > 1 or any(name.lower() in SPLIT_WORDS for name in inner)):
            raise DataError(f"{root} holds one folder only, and the classes are within that: open {root / folders[0]}")


def refuse_loops(opened: DataSet) -> None:
    for split in opened.splits.values():
        if isinstance(split, FolderImages) and split.loops:
            raise DataError(
                f"{split.loops[0]} is a link to a folder that it lies in; remove the link, not what it leads to"
            )


def _split(folder: Path, split: str, loops: list[Path]) -> dict[str, list[str]] | None:
    """The images of each class, or None where they have no labels."""
    folders, images = look(folder)
    if images and not folders and split == "test":
        return None
    if images and not folders and imagenet.is_flat_val(images):
        return imagenet.by_class(folder, images)
    return _classes(folder, folders, images, loops)


def _classes(folder: Path, folders: Sequence[str], images: Sequence[str], loops: list[Path]) -> dict[str, list[str]]:
    if images and folders:
        raise DataError(
            f"{folder} holds images ({images[0]}) beside class folders ({folders[0]}); move them into one of those"
        )
    if images:
        raise _flat(folder, images)
    above = lies_in(folder)
    by_class = {name: _below(folder, name, above, loops) for name in folders}
    if not any(by_class.values()):
        raise DataError(
            f"no images ({' '.join(EXTENSIONS)}) in {folder}; they are looked for as {folder / 'cat' / '1.jpg'}, "
            "in a folder for each class"
        )
    return by_class


def _flat(folder: Path, images: Sequence[str]) -> DataError:
    labels = _labels_in(images)
    hint = f"; labels seem to be in their names ({', '.join(labels)}), which a .csv of path,label can say, too"
    return DataError(
        f"the images in {folder} have no labels; sort them into a folder for each class, such as "
        f"{folder / (labels[0] if labels else 'cat') / '1.jpg'}{hint if labels else ''}"
    )


def _labels_in(names: Sequence[str]) -> list[str]:
    """What images called cat.0.jpg and dog-17.jpg seem to show: a few words that all names begin with."""
    words = [re.match(r"([^\d.]+?)[-_. (]*\d+\)?\.\w+$", name) for name in names]
    counts = Counter(word[1] for word in words if word)
    labels = (
        2 <= len(counts) <= len(names) / 2 and None not in words and not CAMERAS & {word.lower() for word in counts}
    )
    return [printable(word, 40) for word, _ in counts.most_common(LABELS_SHOWN)] if labels else []


def _below(root: Path, name: str, above: Folders, loops: list[Path]) -> list[str]:
    """All images below a class's folder, as paths within `root`; links that lead back go to `loops`."""
    found: list[str] = []
    waiting = [(name, above)]
    while waiting:
        place, above = waiting.pop()
        inside = entered(root / place, above)
        if inside is None:
            loops.append(root / place)
            continue
        folders, images = look(root / place)
        found += [f"{place}/{image}" for image in images]
        waiting += [(f"{place}/{folder}", inside) for folder in folders]
    return sorted(found)


def lies_in(folder: Path) -> Folders:
    """The folder itself and all that it lies in, links followed."""
    real = folder.resolve()
    return frozenset(map(_inode, (real, *real.parents)))


def entered(folder: Path, above: Folders) -> Folders | None:
    """`above` and all that one is in with `folder` as well; None if it is one of `above`: a link that leads back,
    without an end for whoever follows it.

    What a link's target lies in counts, too. Otherwise `saw/loop -> ..` would be noticed a step late, in `loop/saw`,
    which is no link but the class folder itself.
    """
    here = _inode(folder)
    if here in above:
        return None
    return above | (lies_in(folder) if folder.is_symlink() else {here})


def _inode(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def look(folder: Path, extensions: tuple[str, ...] = EXTENSIONS) -> tuple[list[str], list[str]]:
    """The folders and the files with such an extension in a folder, by name; links are what they lead to."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if _is_left_behind(name):
                    continue
                if entry.is_dir():
                    folders.append(name)
                elif name.lower().endswith(extensions):
                    files.append(name)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    return sorted(folders), sorted(files)


def _is_left_behind(name: str) -> bool:
    """Hidden, or what a Mac leaves in archives and Windows in folders."""
    return name.startswith(".") or name == "__MACOSX" or name.lower() in ("thumbs.db", "desktop.ini")


def _in_order(
    folder: Path, by_class: Mapping[str, list[str]], classes: Sequence[str], loops: Sequence[Path]
) -> FolderImages:
    paths = [path for name in classes for path in by_class.get(name, ())]
    counts = [len(by_class.get(name, ())) for name in classes]
    return FolderImages(folder, paths, np.repeat(np.arange(len(classes), dtype=np.int64), counts), loops)
