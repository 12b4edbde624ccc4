"""The model zoo holds together, and claims no number without its source."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath

from messages import Says

from mlpmixer import models
from mlpmixer.errors import UsageError
from mlpmixer.weights.model_zoo import FILE, Entry, find, model_zoo

ENTRIES = list(model_zoo().values())


def faults(entry: Entry) -> list[str]:
    """What is wrong with an entry."""
    model, _, origin = entry.name.partition(".")
    suffix = PurePosixPath(entry.url).suffix
    spelled = re.sub(r"_p(atch)?(?=\d)|resnetv2_", "", entry.url.lower())
    for word, letter in {"tiny": "ti", "small": "s", "base": "b", "large": "l", "_": ""}.items():
        spelled = spelled.replace(word, letter)
    in_name = re.search(r"-([0-9a-f]{8})\.pth$", entry.url)
    how = entry.preprocessing
    patch = 32 if model.startswith("bit") else int(re.findall(r"\d+$", entry.model)[0])
    in_unit = (how.mean, how.std) == ((0.0,) * 3, (1.0,) * 3)
    in_pytorch = "miil" in entry.name or "augreg2" in entry.name
    rules = {
        "the name is a model and where it is from": model == entry.model == models.canonical(entry.model)
        and bool(re.fullmatch("[a-z0-9_]+", origin))
        and find(entry.name) is entry,
        "the address names a file": bool(
            re.fullmatch(r"https://[a-z.]+/[A-Za-z0-9/%._+-]+\.(npz|pth|safetensors)", entry.url)
        ),
        "the layout fits it": (entry.layout == "timm") == (".timm_" in entry.name) == (suffix != ".npz"),
        "the model is in the address": entry.model.partition("_")[2].removeprefix("r") in spelled,
        "the words say something": entry.what.endswith(".")
        and all(len(w) >= 5 and w == w.strip() and "\n" not in w and "{" not in w for w in (entry.what, entry.says)),
        "a number has its source": (entry.top1 is None) == (entry.top1_source is None),
        "a number is that of 1,000 classes": entry.top1 is None or (50 < entry.top1 < 91 and entry.num_classes == 1000),
        "there are so many classes somewhere": entry.num_classes in (1000, 11221, 21843),
        "the checksum is what the file name says": entry.sha256 == (in_name[1] if in_name else None),
        "the crop is within the image": how.crop[0] == how.crop[1] <= how.resize <= 2 * how.crop[0],
        "the crop is whole patches": how.crop[0] % patch == 0,
        "what is stretched is not cropped": how.shape == "short_side" or how.resize == how.crop[0],
        "values are in [0, 1] for MIIL alone": in_unit == ("miil" in entry.name),
        "values are in [-1, 1] for all others": in_unit or (how.mean, how.std) == ((0.5,) * 3, (0.5,) * 3),
        "the GELU is that of training": entry.gelu
        == (None if model.startswith("bit") else "erf" if in_pytorch else "tanh"),
        "another GELU of the port is told": entry.layout != "timm"
        or entry.gelu != "tanh"
        or "timm runs it with erf" in entry.what,
    }
    return [rule for rule, holds in rules.items() if not holds]


def test_every_entry_keeps_the_rules() -> None:
    assert {entry.name: found for entry in ENTRIES if (found := faults(entry))} == {}


def test_names_and_addresses_are_unique() -> None:
    for field in ("name", "url"):
        repeated = [value for value, times in Counter(getattr(entry, field) for entry in ENTRIES).items() if times > 1]
        assert repeated == []
    assert len(ENTRIES) == FILE.read_text(encoding="utf-8").count("[[groups.files]]") >= 40


def test_resize_is_as_timm_computes_it() -> None:
    resizes = {(e.preprocessing.crop[0], e.preprocessing.resize) for e in ENTRIES if e.layout == "timm"}
    assert resizes == {(224, 256), (224, 248), (384, 384), (448, 448), (480, 480)}


def test_the_disagreement_about_the_76_percent_file_is_stated() -> None:
    for name in ("mixer_b16.imagenet1k", "mixer_b16.timm_goog_in21k_ft_in1k"):
        assert all(words in find(name).says for words in ("Kolesnikov", "76.5 %", "ImageNet alone"))


def test_a_name_that_is_not_there_is_refused_with_the_nearest(says: Says) -> None:
    with says(UsageError):
        find("mixer_b16.imagnet21k")
    with says(UsageError):
        find("?")
