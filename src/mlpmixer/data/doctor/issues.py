"""All that `mixer doctor` may find wrong with a data set, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Complaint:
    """`serious`: training stops, or its figures are wrong. The others deserve a word."""

    title: str
    advice: str
    serious: bool = False


COMPLAINTS = {
    "missing": Complaint("Files that are not there", "Bring them, or take them off the list.", serious=True),
    "empty": Complaint("Empty files", "Copy or fetch them again, or delete them.", serious=True),
    "unreadable": Complaint("Files that cannot be read", "Allow it (chmod u+r), or delete them.", serious=True),
    "foreign": Complaint(
        "Files that are no images", "Convert them to JPEG or PNG if they are some, or delete them.", serious=True
    ),
    "damaged": Complaint("Damaged or cut short", "Copy or fetch them again, or delete them.", serious=True),
    "bomb": Complaint("Too many pixels", "Scale them down, or raise the limit with MLPMIXER_MAX_PIXELS.", serious=True),
    "deadly": Complaint(
        "Decoding took more memory than there is, or brought its process down",
        "Scale them down or save them anew, or delete them.",
        serious=True,
    ),
    "loop": Complaint(
        "Links to a folder that they lie in",
        "Remove the links themselves (rm, without -r): what they lead to is the data.",
        serious=True,
    ),
    "labels": Complaint(
        "The same image under different labels", "Keep the right one and delete the others.", serious=True
    ),
    "leak": Complaint(
        "The same image in different splits",
        "Delete it from train: what is measured on images that were learnt says nothing.",
        serious=True,
    ),
    "repeats": Complaint(
        "Many images more than once in a split",
        "Delete all but one: figures of the split look surer than they are, and in train the others only weigh more.",
        serious=True,
    ),
    "barren": Complaint("Classes without an image", "Add images, or remove the class.", serious=True),
    "untaught": Complaint(
        "Classes that train lacks", "Add training images: what is never shown is never learnt.", serious=True
    ),
    "ignored": Complaint(
        "Files left out for their extension",
        "Convert those that are images to JPEG or PNG; the others do no harm.",
    ),
    "nested": Complaint(
        "Folders within class folders",
        "Sub-folders are not classes: all below a class folder is of that class. For finer classes, move them up.",
    ),
    "untested": Complaint(
        "Classes that a split lacks", "Move some of their images there: without, it says nothing about them."
    ),
    "alike_labels": Complaint(
        "Images that look the same under different labels", "Look at them: copies need one label."
    ),
    "alike_leak": Complaint(
        "Images that look the same in different splits",
        "Look at them: copies, or shots of one scene, belong in one split.",
    ),
    "repeat": Complaint("The same image more than once in a split", "Delete all but one: the others only weigh more."),
    "alike": Complaint("Images that look the same within a split", "Look at them: of copies, one is enough."),
    "uneven": Complaint("Uneven classes", "Accuracy hides the small ones: look at each class, or add images."),
    "blank": Complaint("One color all over", "Delete them if they show nothing."),
    "tiny": Complaint("Tiny beside the others", "Look at them: thumbnails and icons often slip in."),
    "long": Complaint(
        "Over 4 times as wide as high, or the reverse",
        "A center crop sees a quarter at most: cut them, or set evaluation.shape to stretch.",
    ),
    "moving": Complaint("Several frames", "Only the first is seen."),
    "turned": Complaint("Turned by a note of the camera", "They are seen upright here; other programs may differ."),
    "transparent": Complaint("Transparent", "They are seen on white; lay them on another ground if white misleads."),
    "cmyk": Complaint("In colors for print (CMYK)", "They are seen without their profile: save them as RGB."),
    "deep": Complaint(
        "More than 8 bits", "They are scaled to 8 bits, and over-bright ones darkened: save them as 8-bit."
    ),
    "palette": Complaint("In a palette of colors", "Nothing to do, but photos lose by it: look for the originals."),
    "gray": Complaint("Gray among images in color", "Nothing to do, unless one class has most of them."),
    "colored": Complaint("In color among gray images", "Nothing to do, unless one class has most of them."),
}


@dataclass(frozen=True)
class Finding:
    """One of `COMPLAINTS`, with the images (positions in the sample), groups of them or classes it is about; or how
    many other files, by extension; or where else to look."""

    kind: str
    images: Sequence[int] | np.ndarray = ()
    groups: Sequence[np.ndarray] = ()
    classes: Sequence[str] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    paths: Sequence[str] = ()
    note: str = ""

    @property
    def complaint(self) -> Complaint:
        return COMPLAINTS[self.kind]
