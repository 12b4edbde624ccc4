"""Reading and writing checkpoints: exact both ways, strict, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from conftest import shaken
from messages import Says
from torch import Tensor

from mlpmixer import create, load, save
from mlpmixer.errors import BrokenFile, KeyMismatch, UsageError
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.weights import files
from mlpmixer.weights.fetch import path_of
from mlpmixer.weights.load import open_checkpoint
from mlpmixer.weights.model_zoo import model_zoo

SMALL: dict[str, dict[str, Any]] = {
    "mixer": {"name": "mixer_pico", "layers": 2, "channels": 16, "num_classes": 7},
    "vit": {"name": "vit_ti32", "layers": 2, "image_size": 64, "num_classes": 7},
    "vit mean": {"name": "vit_ti32", "layers": 2, "image_size": 64, "num_classes": 7, "pool": "mean"},
    "bit": {"name": "bit_r50x1", "units": (2, 1), "num_classes": 7},
}
FILES: list[tuple[str, Any]] = [
    ("model.safetensors", None),
    ("model.safetensors", "timm"),
    ("model.pth", None),
    ("model.npz", "linen"),
    ("model.npz", "older"),
]


def make(kind: str, **options: Any) -> Classifier:
    model = create(**{**SMALL[kind], **options})
    shaken(model)
    return model


def arrays(path: Path) -> dict[str, Any]:
    """What is in a file, read without our code."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    if path.suffix == ".pth":
        return {name: value.numpy() for name, value in torch.load(path, weights_only=True).items()}
    return {name: value.numpy() for name, value in safetensors.torch.load_file(path).items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].shape == b[name].shape and a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("name", "layout"), FILES)
class TestRoundTrips:
    def test_the_model_comes_back(self, kind: str, name: str, layout: Any, tmp_path: Path):
        model = make(kind)
        loaded = load(save(model, tmp_path / name, layout=layout))
        assert not loaded.training
        assert loaded.config.num_classes == 7
        images = torch.randn(2, 3, *model.config.image_size)
        if layout == "timm" or name.endswith(".pth"):  # timm's own code computes the exact GELU
            erf: dict[str, Any] = {} if kind == "bit" else {"gelu": "tanh"}
            loaded = load(tmp_path / name, **erf)
        torch.testing.assert_close(loaded(images), model(images), atol=1e-6, rtol=1e-6)

    def test_foreign_arrays_come_back_bit_for_bit(self, kind: str, name: str, layout: Any, tmp_path: Path):
        first = save(make(kind), tmp_path / "first" / name, layout=layout)
        second = save(load(first), tmp_path / "second" / name, layout=layout)
        assert same(arrays(first), arrays(second))


def test_one_file_of_ours_is_enough_to_predict(tmp_path: Path):
    how = Preprocessing(resize=40, crop=(28, 28), mean=(0.1, 0.2, 0.3), interpolation="bicubic")
    model = make("mixer", gelu="erf", dropout=0.1, groups=2, untied=True)
    names = [f"thing {i}" for i in range(7)]
    file = save(model, tmp_path / "m.safetensors", classes=names, preprocessing=how, provenance={"data": "none"})
    loaded = load(file)
    assert loaded.config == model.config
    assert loaded.name == "mixer_pico"
    assert loaded.metadata.classes == tuple(names)
    assert loaded.metadata.preprocessing == how
    assert loaded.metadata.provenance["data"] == "none"
    assert re.match(r"mlpmixer \d", loaded.metadata.provenance["saved_by"])
    again = load(save(loaded, tmp_path / "again.safetensors")).metadata
    assert again is not None
    assert again.classes == tuple(names)  # the metadata travels on by itself


def test_our_header_is_plain_json(tmp_path: Path):
    with safetensors.safe_open(save(make("mixer"), tmp_path / "m.safetensors"), "pt") as file:
        about = json.loads(file.metadata()["mlpmixer"])
    assert about["family"] == "mixer"
    assert about["config"]["gelu"] == "tanh"
    assert about["metadata"]["preprocessing"]["crop"] == [28, 28]


def test_a_file_of_another_version_is_one_line(tmp_path: Path):
    file = save(make("mixer"), tmp_path / "m.safetensors")
    whole = file.read_bytes()
    for version, words in (
        (b"3", r"written by mlpmixer 0\.1; load it there .* save it as \.npz"),
        (b"9", "by a newer"),
    ):
        file.write_bytes(whole.replace(b'\\"version\\": 4', b'\\"version\\": ' + version))
        with pytest.raises(BrokenFile, match=words):
            load(file)


def test_the_oldest_mixer_files_have_sides_of_length_one(tmp_path: Path):
    plain = arrays(save(make("mixer"), tmp_path / "plain.npz", layout="older"))
    quirky = {
        f"opt/target/{name}": (
            array[None] if "kernel1" in name else array[:, None] if "bias" in name and "_phase" in name else array
        )
        for name, array in plain.items()
    }
    np.savez(tmp_path / "quirky.npz", **quirky)
    loaded = load(tmp_path / "quirky.npz")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), make_state(plain, tmp_path), strict=True)
    )
    assert same(arrays(save(loaded, tmp_path / "again.npz", layout="older")), quirky)
    larger = load(tmp_path / "quirky.npz", image_size=56)  # whose arrays have other shapes
    assert load(save(larger, tmp_path / "larger.npz", layout="older")).config.image_size == (56, 56)
    kept = save(loaded, tmp_path / "ours.safetensors")  # and the quirks travel with our own file
    assert same(arrays(save(load(kept), tmp_path / "once more.npz", layout="older")), quirky)


def make_state(plain: dict[str, Any], folder: Path) -> list[Tensor]:
    np.savez(folder / "plain again.npz", **plain)
    return list(load(folder / "plain again.npz").state_dict().values())


def test_bits_first_files_number_their_convolutions(tmp_path: Path):
    plain = arrays(save(make("bit"), tmp_path / "plain.npz", layout="older"))
    numbered = {}
    for i, (name, array) in enumerate(plain.items()):
        numbered[name.replace("standardized_conv2d/", f"standardized_conv2d_{i}/") if i % 2 else name] = array
    np.savez(tmp_path / "numbered.npz", **numbered)
    again = save(load(tmp_path / "numbered.npz"), tmp_path / "again.npz", layout="older")
    assert same(arrays(again), numbered)


def test_linen_gives_its_class_token_no_position(tmp_path: Path):
    model = make("vit")
    file = save(model, tmp_path / "m.npz", layout="linen")
    assert arrays(file)["pos_embedding"].shape == (1, 4, 192)
    loaded = load(file)
    assert float(loaded.get_parameter("position").detach()[:, 0].abs().max()) == 0
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded(images), model(images))


def test_vit_with_a_representation_layer(tmp_path: Path, says: Says):
    model = make("vit", representation=24)
    for layout in ("linen", "older"):
        assert load(save(model, tmp_path / "m.npz", layout=layout)).get_parameter("head.weight").shape == (7, 24)
    with says(UsageError):
        save(model, tmp_path / "m.pth")


def test_vits_of_unusual_width_must_say_their_heads(tmp_path: Path, says: Says):
    model = make("vit", channels=96, heads=4)
    images = torch.randn(2, 3, 64, 64)
    for layout in ("linen", "older"):  # Flax shows them
        loaded = load(save(model, tmp_path / "m.npz", layout=layout))
        torch.testing.assert_close(loaded(images), model(images))
    file = save(model, tmp_path / "m.pth")
    with says(UsageError):
        load(file)
    torch.testing.assert_close(load(file, heads=4, gelu="tanh")(images), model(images))


class TestWrappedCheckpoints:
    def test_training_checkpoints_and_ddp_prefixes(self, tmp_path: Path):
        model = make("mixer")
        state = torch.load(save(model, tmp_path / "m.pth"), weights_only=True)
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {0: 1.0}}}, tmp_path / "train.pth")
        torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "ddp.pth")
        for name in ("train.pth", "ddp.pth"):
            assert all(
                torch.equal(a, b) for a, b in zip(load(tmp_path / name).parameters(), model.parameters(), strict=True)
            )

    def test_two_sets_of_weights_want_a_word(self, tmp_path: Path, says: Says):
        state = torch.load(save(make("mixer"), tmp_path / "m.pth"), weights_only=True)
        zero = {name: torch.zeros_like(value) for name, value in state.items()}
        torch.save({"model": state, "model_ema": zero}, tmp_path / "both.pth")
        with says(UsageError):
            load(tmp_path / "both.pth")
        assert float(next(load(tmp_path / "both.pth", entry="model_ema").parameters()).detach().abs().max()) == 0
        with says(UsageError):
            load(tmp_path / "both.pth", entry="ema")

    def test_files_from_before_pytorch_1_6(self, tmp_path: Path):
        model = make("mixer")
        state = torch.load(save(model, tmp_path / "m.pth"), weights_only=True)
        torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        assert torch.equal(load(tmp_path / "old.pth").get_parameter("norm.bias"), model.get_parameter("norm.bias"))


def test_an_opened_checkpoint_is_handed_on(tmp_path: Path, says: Says):
    model = make("mixer", gelu="erf")
    for name in ("m.safetensors", "m.npz"):
        file = save(model, tmp_path / name)
        opened = open_checkpoint(file)
        assert (opened.path, opened.config.num_classes) == (file, 7)
        cases: list[dict[str, Any]] = [{}, {"gelu": "tanh"}, {"num_classes": 3, "fresh": ("head",)}]
        for options in cases:
            again, direct = load(opened, **options), load(file, **options)
            assert (again.config, again.metadata) == (direct.config, direct.metadata)
            assert all(torch.equal(a, b) for a, b in zip(again.parameters(), direct.parameters(), strict=True))
        with says(UsageError):
            load(opened, model="mixer_b16")


class TestStrictness:
    def test_missing_extra_and_misshapen_are_all_named(self, tmp_path: Path):
        found = arrays(save(make("mixer"), tmp_path / "m.npz"))
        del found["MixerBlock_1/token_mixing/Dense_0/bias"]
        found["head/scale"] = np.ones(3, np.float32)
        found["pre_head_layer_norm/scale"] = np.ones(5, np.float32)
        np.savez(tmp_path / "odd.npz", **found)
        with pytest.raises(KeyMismatch) as caught:
            load(tmp_path / "odd.npz")
        message = str(caught.value)
        assert "the model has MixerBlock_1/token_mixing/Dense_0/bias 32 that the file lacks" in message
        assert "the file has head/scale 3 that the model lacks" in message
        assert "pre_head_layer_norm/scale is 5 in the file and 16 in the model" in message
        assert "\n" not in message

    def test_a_missing_layer_in_the_middle_stops(self, tmp_path: Path, says: Says):
        found = arrays(save(make("mixer", layers=4), tmp_path / "m.npz"))
        np.savez(tmp_path / "gap.npz", **{k: v for k, v in found.items() if "Block_2/" not in k})
        with says(KeyMismatch):
            load(tmp_path / "gap.npz")

    def test_a_model_can_be_demanded(self, tmp_path: Path, says: Says):
        file = save(make("mixer"), tmp_path / "m.npz")
        with says(UsageError):
            load(file, model="Mixer-B/16")
        whole = save(create("mixer_pico"), tmp_path / "pico.npz")
        assert load(whole, model="mixer_pico").name == "mixer_pico"

    def test_another_number_of_classes_needs_a_word(self, tmp_path: Path, says: Says):
        file = save(make("mixer"), tmp_path / "m.safetensors", classes=list("abcdefg"))
        with says(UsageError):
            load(file, num_classes=3)
        model = load(file, num_classes=3, fresh=("head",))
        assert float(model.get_parameter("head.weight").detach().abs().max()) == 0
        assert model.metadata.classes is None
        assert load(file, num_classes=7).metadata == load(file).metadata

    def test_fresh_parts_start_anew_and_the_rest_is_read(self, tmp_path: Path):
        model = make("mixer")
        loaded = load(save(model, tmp_path / "m.npz"), fresh=("blocks.1", "stem"))
        for name, parameter in loaded.named_parameters():
            kept = torch.equal(parameter, model.get_parameter(name))
            assert kept == (not name.startswith(("blocks.1.", "stem.")))

    def test_fresh_parts_need_not_be_in_the_file(self, tmp_path: Path, says: Says):
        found = arrays(save(make("mixer"), tmp_path / "m.npz"))
        headless = {name: value for name, value in found.items() if not name.startswith("head/")}
        np.savez(tmp_path / "headless.npz", **headless)
        with says(UsageError):
            load(tmp_path / "headless.npz")
        assert load(tmp_path / "headless.npz", num_classes=4, fresh=("head",)).config.num_classes == 4
        assert load(tmp_path / "headless.npz", num_classes=0)(torch.zeros(1, 3, 28, 28)).shape == (1, 16)

    def test_everything_fresh_is_a_new_model(self, tmp_path: Path):
        file = save(make("mixer"), tmp_path / "m.npz")
        model = load(file, fresh=("stem", "blocks", "norm", "head"))
        assert float(model.get_parameter("head.weight").detach().abs().max()) == 0

    def test_a_misspelt_part_is_refused(self, tmp_path: Path, says: Says):
        with says(UsageError):
            load(save(make("mixer"), tmp_path / "m.npz"), fresh=("haed",))

    def test_what_is_no_model_is_named(self, tmp_path: Path, says: Says):
        np.savez(tmp_path / "x.npz", a=np.zeros(3, np.float32))
        with says(KeyMismatch):
            load(tmp_path / "x.npz")

    def test_names_and_paths_that_do_not_exist(self, says: Says):
        with says(UsageError):
            load("nowhere.npz")
        with says(UsageError):
            load("mixer_b16.imagenet21")

    def test_tokens_that_make_no_square_need_a_size(self, tmp_path: Path, says: Says):
        model = make("mixer", image_size=(28, 20))
        file = save(model, tmp_path / "m.npz")
        with says(UsageError):
            load(file)
        assert load(file, stored_size=(28, 20)).config.image_size == (28, 20)


class TestDtypes:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    @pytest.mark.parametrize(("name", "layout"), FILES)
    def test_half_precision_stays_unless_told(self, dtype: torch.dtype, name: str, layout: Any, tmp_path: Path):
        model = make("mixer").to(dtype)
        file = save(model, tmp_path / name, layout=layout)
        loaded = load(file)
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
        assert {p.dtype for p in load(file, dtype=torch.float32).parameters()} == {torch.float32}
        assert {p.dtype for p in load(file, num_classes=2, fresh=("head",)).parameters()} == {dtype}

    def test_mixed_precision_wants_a_word(self, tmp_path: Path, says: Says):
        model = make("mixer")
        model.get_submodule("head").to(torch.float16)
        file = save(model, tmp_path / "m.safetensors")
        with says(UsageError):
            load(file)
        assert {p.dtype for p in load(file, dtype=torch.float32).parameters()} == {torch.float32}


class TestSaving:
    def test_endings_and_layouts_must_fit(self, tmp_path: Path, says: Says):
        with says(UsageError):
            save(make("mixer"), tmp_path / "m.bin")
        with says(UsageError):
            save(make("mixer"), tmp_path / "m.npz", layout="timm")
        with says(UsageError):
            save(make("mixer"), tmp_path / "m.npz", layout="vit_jax")
        with says(UsageError):
            save(make("mixer", groups=2), tmp_path / "m.npz")
        with says(UsageError):
            save(make("mixer"), tmp_path / "m.safetensors", classes=["a", "b", "c"])

    @pytest.mark.parametrize(
        ("info", "words"),
        [
            ({"classes": ["cat", "cat"]}, "it has the class 'cat' twice"),
            ({"classes": ["cat", " "]}, "it has a class without a name"),
            ({"classes": ["cat", "\x1b[2Jdog"]}, r"it has the class '\\x1b\[2Jdog', whose name cannot be printed"),
            ({"preprocessing": Preprocessing(crop=(16, 16))}, "cropped to 16×16 pixels for a model that takes 28×28"),
            ({"preprocessing": Preprocessing(crop=(28, 28), std=(1e-300,) * 3)}, "a deviation of"),
            ({"preprocessing": Preprocessing(crop=(28, 28), mean=(0.5,), std=(0.5,))}, "a mean of"),
        ],
    )
    def test_what_could_not_be_loaded_again_is_not_written(self, info: Any, words: str, tmp_path: Path):
        with pytest.raises(UsageError, match=words):
            save(make("mixer", num_classes=2), tmp_path / "m.safetensors", **info)
        assert not [*tmp_path.iterdir()]

    def test_the_same_model_gives_the_same_bytes_in_any_process(self, tmp_path: Path):
        names = ("m.safetensors", "m.npz", "m.pth")
        code = (
            "import sys, torch, mlpmixer; torch.manual_seed(0)\n"
            "model = mlpmixer.create('mixer_pico', layers=1, channels=8, image_size=8, num_classes=2)\n"
            "model.head.half()\n"
            "for name in sys.argv[2:]:\n"
            "    for i in range(4): mlpmixer.save(model, f'{sys.argv[1]}/{i}-{name}')\n"
        )
        for seed in ("1", "2"):
            (tmp_path / seed).mkdir()
            command = [sys.executable, "-c", code, str(tmp_path / seed), *names]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        for name in names:
            found = [path.read_bytes() for path in tmp_path.rglob(f"*-{name}")]
            assert (len(found), len({*found})) == (8, 1), name

    def test_our_safetensors_are_the_librarys(self, tmp_path: Path):
        """But for the order of the metadata, in which the library has none."""
        given = {
            "b": torch.randn(3, 5, dtype=torch.float16),
            "a": torch.randn(3, dtype=torch.float64),
            "a.int8": torch.arange(7, dtype=torch.int8),
            "ü": torch.tensor(2.5),
            "z": torch.randn(2, 3, dtype=torch.bfloat16),
            "turned": torch.randn(2, 3).T,
        }
        files.write(tmp_path / "ours.safetensors", "safetensors", given, {"only": 'ä "quoted" \n line'})
        found = safetensors.torch.load_file(tmp_path / "ours.safetensors")
        assert all(torch.equal(found[name], value) for name, value in given.items())
        theirs = safetensors.torch.save({k: v.contiguous() for k, v in given.items()}, {"only": 'ä "quoted" \n line'})
        assert len(found) == len(given)
        assert len(theirs) == (tmp_path / "ours.safetensors").stat().st_size

    def test_a_file_whose_name_is_no_text_is_saved_as_ours(self, tmp_path: Path):
        strange = tmp_path / os.fsdecode(b"m\xff.npz")
        try:
            save(make("mixer"), strange)
        except (OSError, UsageError):
            pytest.skip("this file system only takes names that are text")
        again = load(save(load(strange), tmp_path / "m.safetensors")).metadata
        assert again is not None
        assert again.provenance["file"] == strange.name

    def test_a_failed_save_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, says: Says):
        file = save(make("mixer"), tmp_path / "m.npz")
        before = file.read_bytes()
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, usual[1]))
        try:
            with says(UsageError):
                save(make("mixer"), file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert file.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]

    def test_loaded_weights_do_not_hang_on_the_file(self, tmp_path: Path):
        for name, layout in FILES:
            file = save(make("mixer"), tmp_path / name, layout=layout)
            model = load(file)
            expected = {k: v.clone() for k, v in model.state_dict().items()}
            with file.open("r+b") as opened:  # overwritten in place, as `cp` does
                opened.write(os.urandom(file.stat().st_size))
            assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())

    def test_files_are_readable_by_others_as_the_umask_says(self, tmp_path: Path):
        file = save(make("mixer"), tmp_path / "m.safetensors")
        mask = os.umask(0)
        os.umask(mask)
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask

    def test_npz_is_what_numpy_reads(self, tmp_path: Path):
        file = save(make("bit"), tmp_path / "m.npz", layout="older")
        assert zipfile.is_zipfile(file)
        assert arrays(file)["resnet/block2/unit01/a/proj/standardized_conv2d/kernel"].shape == (1, 1, 256, 512)


class TestNamesOfTheModelZoo:
    """A file placed by hand where the model zoo's download would go; no network is touched."""

    def test_what_the_model_zoo_says_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path))
        entry = next(e for e in model_zoo().values() if e.model == "vit_ti16" and e.layout == "timm")
        assert (entry.gelu, entry.num_classes) == ("tanh", 1000)
        model = shaken(create("vit_ti16", num_classes=1000))
        save(model, path_of(entry.name), layout="timm")
        loaded = load(entry.name)
        assert loaded.config.gelu == "tanh"  # as trained, though timm's code would compute the exact form
        assert load(path_of(entry.name)).config.gelu == "erf"  # as timm's code reads any file
        assert load(entry.name, gelu="erf").config.gelu == "erf"
        assert loaded.metadata.preprocessing == entry.preprocessing

    def test_another_model_under_its_name_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says):
        monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path))
        save(make("mixer"), path_of("mixer_b16.imagenet1k"))
        with says(UsageError):
            load("mixer_b16.imagenet1k")

    def test_the_model_for_another_image_size_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says
    ):
        monkeypatch.setenv("MLPMIXER_CACHE", str(tmp_path))
        entry = next(e for e in model_zoo().values() if e.model == "vit_ti16" and e.preprocessing.crop == (224, 224))
        save(create("vit_ti16", num_classes=1000, image_size=64), path_of(entry.name), layout=entry.layout)
        with says(UsageError):
            load(entry.name)
