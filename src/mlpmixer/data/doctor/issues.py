"""Issues: all that `mixer doctor` may find in a data set, and what to do about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Issue:
    """A kind of finding. `serious`: training stops, or its results are wrong; the others are warnings."""

    title: str
    advice: str
    serious: bool = False


ISSUES = {
    "missing": Issue("Missing files", "Add them, or remove them from the list.", serious=True),
    "empty": Issue("Empty files", "Copy or fetch them again, or delete them.", serious=True),
    "unreadable": Issue("Unreadable files", "Make them readable (chmod u+r), or delete them.", serious=True),
    "not_an_image": Issue(
        "Files that are not images", "Convert them to JPEG or PNG if they are images, or delete them.", serious=True
    ),
    "damaged": Issue("Damaged or truncated images", "Copy or fetch them again, or delete them.", serious=True),
    "too_large": Issue(
        "Images with too many pixels", "Scale them down, or raise the limit with MLPMIXER_MAX_PIXELS.", serious=True
    ),
    "out_of_memory": Issue(
        "Images whose decoding ran out of memory or crashed",
        "Scale them down or save them anew, or delete them.",
        serious=True,
    ),
    "loop": Issue(
        "Links to a folder that they lie in",
        "Remove the links themselves (rm, without -r): what they lead to is the data.",
        serious=True,
    ),
    "label_conflict": Issue(
        "The same image under different labels", "Keep the right one and delete the others.", serious=True
    ),
    "leak": Issue(
        "The same image in different splits",
        "Delete it from train: accuracy on training images says nothing about new ones.",
        serious=True,
    ),
    "duplicates": Issue(
        "Many duplicates within a split",
        "Delete all but one: duplicates make results look more certain than they are, and only weigh more in train.",
        serious=True,
    ),
    "empty_class": Issue("Classes without images", "Add images, or remove the class.", serious=True),
    "not_in_train": Issue(
        "Classes missing from train",
        "Add training images: a class that is never seen is not learned.",
        serious=True,
    ),
    "ignored": Issue(
        "Files skipped for their extension",
        "Convert those that are images to JPEG or PNG; the others do no harm.",
    ),
    "nested": Issue(
        "Folders within class folders",
        "Subfolders are not classes: all images below a class folder belong to it. For finer classes, move them up.",
    ),
    "not_in_split": Issue(
        "Classes missing from a split", "Move some of their images there: otherwise it says nothing about them."
    ),
    "near_label_conflict": Issue("Near duplicates under different labels", "Look at them: copies need one label."),
    "near_leak": Issue(
        "Near duplicates in different splits",
        "Look at them: copies, or shots of one scene, belong in one split.",
    ),
    "duplicate": Issue("Duplicates within a split", "Delete all but one: the others only weigh more."),
    "near_duplicate": Issue("Near duplicates within a split", "Look at them: of copies, one is enough."),
    "imbalanced": Issue("Class imbalance", "Overall accuracy hides small classes: look at each class, or add images."),
    "blank": Issue("Blank images", "Delete them if they show nothing."),
    "tiny": Issue("Much smaller than the others", "Look at them: thumbnails and icons often slip in."),
    "elongated": Issue(
        "Aspect ratio above 4:1",
        "A center crop sees a quarter at most: cut them, or set evaluation.shape to stretch.",
    ),
    "animated": Issue("Animated images", "Only the first frame is used."),
    "rotated": Issue("Rotated by EXIF orientation", "They are turned upright here; other programs may differ."),
    "transparent": Issue("Transparent images", "They are placed on white; change the background if white misleads."),
    "cmyk": Issue("CMYK images", "They are converted without their color profile: save them as RGB."),
    "high_bit_depth": Issue(
        "More than 8 bits per channel", "They are scaled to 8 bits, which darkens very bright ones: save them as 8-bit."
    ),
    "palette": Issue("Palette images", "Nothing to do, but photos lose quality by it: look for the originals."),
    "gray": Issue("Gray images among color images", "Nothing to do, unless one class has most of them."),
    "colored": Issue("Color images among gray images", "Nothing to do, unless one class has most of them."),
}


@dataclass(frozen=True)
class Finding:
    """One of `ISSUES` in a data set, with what it is about.

    Attributes:
        kind: A key of `ISSUES`.
        images: Indices in the sample.
        groups: Groups of such indices.
        classes: Names of classes.
        files: How many other files, by extension.
        paths: Paths.
        note: A remark for the page.
    """

    kind: str
    images: Sequence[int] | np.ndarray = ()
    groups: Sequence[np.ndarray] = ()
    classes: Sequence[str] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    paths: Sequence[str] = ()
    note: str = ""

    @property
    def issue(self) -> Issue:
        return ISSUES[self.kind]
