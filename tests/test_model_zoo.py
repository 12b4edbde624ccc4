"""The model zoo holds together, and claims no number without its source."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath

import pytest

from mlpmixer import models
from mlpmixer.errors import UsageError
from mlpmixer.weights.model_zoo import ENTRIES, MODEL_ZOO, Entry, find

every = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def test_names_and_addresses_are_unique() -> None:
    for field in ("name", "url"):
        repeated = [value for value, times in Counter(getattr(entry, field) for entry in ENTRIES).items() if times > 1]
        assert repeated == []
    assert len(MODEL_ZOO) == len(ENTRIES) >= 40


@every
def test_a_name_is_a_model_and_where_it_is_from(entry: Entry) -> None:
    model, _, origin = entry.name.partition(".")
    assert model == entry.model == models.canonical(entry.model)
    assert re.fullmatch("[a-z0-9_]+", origin)
    assert find(entry.name) is entry


@every
def test_an_address_names_a_file_and_its_layout_fits(entry: Entry) -> None:
    assert re.fullmatch(r"https://[a-z.]+/[A-Za-z0-9/%._+-]+\.(npz|pth|safetensors)", entry.url)
    assert (entry.layout == "timm") == (".timm_" in entry.name) == (PurePosixPath(entry.url).suffix != ".npz")
    spelled = re.sub(r"_p(atch)?(?=\d)|resnetv2_", "", entry.url.lower())
    for word, letter in {"tiny": "ti", "small": "s", "base": "b", "large": "l", "_": ""}.items():
        spelled = spelled.replace(word, letter)
    assert entry.model.partition("_")[2].removeprefix("r") in spelled


@every
def test_the_words_say_something(entry: Entry) -> None:
    for words in (entry.what, entry.says):
        assert len(words) >= 5
        assert words == words.strip()
        assert "\n" not in words
    assert entry.what.endswith(".")


@every
def test_a_number_has_its_source(entry: Entry) -> None:
    assert (entry.top1 is None) == (entry.top1_source is None)
    assert entry.top1 is None or (50 < entry.top1 < 91 and entry.num_classes == 1000)
    assert entry.num_classes in (1000, 11221, 21843)


@every
def test_a_checksum_is_hexadecimal_and_what_the_file_name_says(entry: Entry) -> None:
    in_name = re.search(r"-([0-9a-f]{8})\.pth$", entry.url)
    assert entry.sha256 == (in_name[1] if in_name else None)


@every
def test_preprocessing_is_sane(entry: Entry) -> None:
    wanted = entry.preprocessing
    assert wanted.crop[0] == wanted.crop[1] <= wanted.resize <= 2 * wanted.crop[0]
    patch = 32 if entry.model.startswith("bit") else int(re.findall(r"\d+$", entry.model)[0])
    assert wanted.crop[0] % patch == 0
    assert wanted.shape == "short_side" or wanted.resize == wanted.crop[0]
    in_unit = (wanted.mean, wanted.std) == ((0.0,) * 3, (1.0,) * 3)
    assert in_unit == ("miil" in entry.name)
    assert in_unit or (wanted.mean, wanted.std) == ((0.5,) * 3, (0.5,) * 3)


@every
def test_the_gelu_is_the_one_of_training(entry: Entry) -> None:
    in_pytorch = "miil" in entry.name or "augreg2" in entry.name
    assert entry.gelu == (None if entry.model.startswith("bit") else "erf" if in_pytorch else "tanh")
    if entry.layout == "timm" and entry.gelu == "tanh":
        assert "timm runs it with erf" in entry.what


def test_resize_is_as_timm_computes_it() -> None:
    resizes = {(e.preprocessing.crop[0], e.preprocessing.resize) for e in ENTRIES if e.layout == "timm"}
    assert resizes == {(224, 256), (224, 248), (384, 384), (448, 448), (480, 480)}


@pytest.mark.parametrize("name", ["mixer_b16.imagenet1k", "mixer_b16.timm_goog_in21k_ft_in1k"])
def test_the_disagreement_about_the_76_percent_file_is_stated(name: str) -> None:
    says = find(name).says
    assert "Kolesnikov" in says
    assert "76.5 %" in says
    assert "ImageNet alone" in says


def test_a_name_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'mixer_b16.imagnet21k'; did you mean 'mixer_b16.imagenet21k'\?"):
        find("mixer_b16.imagnet21k")
    with pytest.raises(UsageError, match="a name looks like"):
        find("?")
