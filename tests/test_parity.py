"""The same numbers as timm and Flax, from the same random weights, in float32: logits within 1e-4."""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import shaken
from messages import Says
from torch import Tensor, nn

from mlpmixer import create, load, save
from mlpmixer.errors import KeyMismatch
from mlpmixer.models import describe, family, family_name
from mlpmixer.weights import layouts
from mlpmixer.weights.adapters import layout_called

CLOSE = 1e-4

# A few layers, which are all alike, on small images; whole models are compared by their shapes, below.
MIXERS = "timm.models.mlp_mixer.MlpMixer"
RESNETS = "timm.models.resnetv2.ResNetV2"
FAMILIES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("mixer_s16", MIXERS, {"layers": 2}, {"num_blocks": 2, "embed_dim": 512}),
    (
        "mixer_h14",
        MIXERS,
        {"layers": 1, "image_size": 56},
        {"num_blocks": 1, "img_size": 56, "patch_size": 14, "embed_dim": 1280},
    ),
    ("vit_ti16", "vit_tiny_patch16_224", {"layers": 2}, {"depth": 2}),
    (
        "vit_l32",
        "vit_large_patch32_224",
        {"layers": 1, "image_size": 64},
        {"depth": 1, "img_size": 64, "num_classes": 1000},
    ),
    (
        "vit_h14",
        "vit_huge_patch14_224",
        {"layers": 1, "image_size": 56},
        {"depth": 1, "img_size": 56, "num_classes": 1000},
    ),
    (
        "vit_s16",
        "vit_small_patch16_224",
        {"layers": 2, "image_size": 64, "pool": "mean"},
        {"depth": 2, "img_size": 64, "class_token": False, "global_pool": "avg", "fc_norm": False},
    ),
    (
        "bit_r50x1",
        RESNETS,
        {"units": (1, 2, 1), "image_size": 64},
        {"layers": (1, 2, 1), "width_factor": 1, "channels": (256, 512, 1024)},
    ),
    (
        "bit_r50x3",
        RESNETS,
        {"units": (1, 2), "image_size": 64},
        {"layers": (1, 2), "width_factor": 3, "channels": (256, 512)},
    ),
    (
        "nfnet_f0",
        "dm_nfnet_f0",
        {"depths": (1, 2), "widths": (256, 64), "inner": (128, 32), "group_width": 32, "kernel_eps": "added"},
        {"depths": (1, 2), "channels": (256, 64), "group_size": 32, "num_features": 128},
    ),
]


def peer_of(timm: Any, theirs: str, options: dict[str, Any], checkpoint: Path) -> nn.Module:
    """timm's model with the checkpoint read by timm itself."""
    if not theirs.startswith("timm."):
        return timm.create_model(theirs, checkpoint_path=str(checkpoint), **options).eval()
    if theirs == RESNETS:
        conv = partial(timm.layers.StdConv2d, eps=1e-8)
        options = {"stem_type": "fixed", "conv_layer": conv, **options}
    module, kind = theirs.rsplit(".", 1)
    peer = getattr(import_module(module), kind)(num_classes=1000, **options)
    timm.models.load_checkpoint(peer, str(checkpoint))
    return peer.eval()


@pytest.mark.parametrize(("ours", "theirs", "options", "their_options"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_timm_loads_what_we_save_and_agrees(
    ours: str, theirs: str, options: dict[str, Any], their_options: dict[str, Any], timm: Any, tmp_path: Path
):
    gelu = {} if ours.startswith("bit") else {"gelu": "erf"}
    model = shaken(create(ours, num_classes=1000, **gelu, **options))
    file = save(model, tmp_path / "model.safetensors", layout="timm")
    peer = peer_of(timm, theirs, their_options, file)
    images = torch.randn(2, 3, *model.config.image_size)
    with torch.no_grad():
        expected, got = peer(images), model(images)
    assert float(expected.abs().max()) > 0.1
    assert float((got - expected).abs().max()) <= CLOSE


def test_timm_runs_the_authors_gelu_when_told(timm: Any, tmp_path: Path):
    from timm.layers import GELUTanh  # pyright: ignore[reportMissingImports]

    model = shaken(create("mixer_s32", num_classes=1000, layers=1, image_size=64))
    file = save(model, tmp_path / "model.pth")
    options = {"num_blocks": 1, "img_size": 64, "embed_dim": 512, "patch_size": 32, "act_layer": GELUTanh}
    peer = peer_of(timm, MIXERS, options, file)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert float((model(images) - peer(images)).abs().max()) <= CLOSE


def flax_mixer(arrays: dict[str, np.ndarray], images: Tensor, patch: int, layers: int) -> np.ndarray:
    """A Mixer in Flax, with the authors' names and Flax's defaults for all else."""
    import flax.linen as linen
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    class Mlp(linen.Module):
        hidden: int

        @linen.compact
        def __call__(self, x):
            hidden = linen.gelu(linen.Dense(self.hidden)(x))  # named in the order of construction
            return linen.Dense(x.shape[-1])(hidden)

    class MixerBlock(linen.Module):
        tokens: int
        channels: int

        @linen.compact
        def __call__(self, x):
            y = Mlp(self.tokens, name="token_mixing")(linen.LayerNorm()(x).swapaxes(1, 2))
            x = x + y.swapaxes(1, 2)
            return x + Mlp(self.channels, name="channel_mixing")(linen.LayerNorm()(x))

    class FlaxMixer(linen.Module):
        @linen.compact
        def __call__(self, x):
            width = arrays["stem/kernel"].shape[-1]
            x = linen.Conv(width, (patch, patch), strides=(patch, patch), name="stem")(x)
            x = x.reshape(x.shape[0], -1, width)
            for i in range(layers):
                tokens = arrays[f"MixerBlock_{i}/token_mixing/Dense_0/kernel"].shape[1]
                channels = arrays[f"MixerBlock_{i}/channel_mixing/Dense_0/kernel"].shape[1]
                x = MixerBlock(tokens, channels, name=f"MixerBlock_{i}")(x)
            x = linen.LayerNorm(name="pre_head_layer_norm")(x).mean(axis=1)
            return linen.Dense(arrays["head/kernel"].shape[1], name="head")(x)

    params = unflatten_dict({name: jnp.asarray(array) for name, array in arrays.items()}, sep="/")
    return np.asarray(FlaxMixer().apply({"params": params}, jnp.asarray(images.permute(0, 2, 3, 1).numpy())))


def test_flax_computes_the_same_from_the_npz_we_save(tmp_path: Path):
    model = shaken(create("mixer_nano", num_classes=11, layers=2, image_size=(30, 22)))  # sides that are padded
    file = save(model, tmp_path / "model.npz")
    config: Any = model.config
    images = torch.randn(2, 3, *config.image_size)
    with np.load(file, allow_pickle=False) as arrays:
        expected = flax_mixer(dict(arrays), images, config.patch_size, config.layers)
    with torch.no_grad():
        got = model(images).numpy()
    assert np.abs(expected).max() > 0.1
    assert np.abs(got - expected).max() <= CLOSE


def test_flax_weights_load_and_agree(tmp_path: Path):
    """The other way: arrays as Flax lays them out, read by us."""
    rng = np.random.default_rng(0)
    template = save(shaken(create("mixer_pico", layers=1, num_classes=4)), tmp_path / "template.npz")
    with np.load(template) as arrays:
        drawn: dict[str, Any] = {k: (0.1 * rng.standard_normal(v.shape)).astype(np.float32) for k, v in arrays.items()}
    np.savez(tmp_path / "drawn.npz", **drawn)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        got = load(tmp_path / "drawn.npz")(images).numpy()
    assert np.abs(got - flax_mixer(drawn, images, 4, 1)).max() <= CLOSE


def flax_vit(arrays: dict[str, np.ndarray], images: Tensor, patch: int, layers: int) -> np.ndarray:
    """A ViT in Flax, built as vit_jax builds it, from parameters named as it has them in memory."""
    import flax.linen as linen
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict, unflatten_dict

    width, heads = arrays["Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"].shape[:2]
    hidden = arrays["Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"].shape[1]

    class AddPositionEmbs(linen.Module):
        @linen.compact
        def __call__(self, x):
            return x + self.param("pos_embedding", linen.initializers.zeros, (1, *x.shape[1:]))

    class MlpBlock(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.gelu(linen.Dense(hidden)(x))  # named in the order of construction
            return linen.Dense(width)(x)

    class Encoder1DBlock(linen.Module):
        @linen.compact
        def __call__(self, x):
            y = linen.LayerNorm()(x)
            x = x + linen.MultiHeadDotProductAttention(num_heads=heads)(y, y)
            y = linen.LayerNorm()(x)
            return x + MlpBlock()(y)

    class Encoder(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = AddPositionEmbs(name="posembed_input")(x)
            for i in range(layers):
                x = Encoder1DBlock(name=f"encoderblock_{i}")(x)
            return linen.LayerNorm(name="encoder_norm")(x)

    class VisionTransformer(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(width, (patch, patch), strides=(patch, patch), padding="VALID", name="embedding")(x)
            x = x.reshape(x.shape[0], -1, width)
            if "cls" in arrays:
                token = self.param("cls", linen.initializers.zeros, (1, 1, width))
                x = jnp.concatenate([jnp.tile(token, [x.shape[0], 1, 1]), x], axis=1)
            x = Encoder(name="Transformer")(x)
            x = x[:, 0] if "cls" in arrays else x.mean(axis=1)
            return linen.Dense(arrays["head/kernel"].shape[1], name="head")(x)

    pixels = jnp.asarray(images.permute(0, 2, 3, 1).numpy())
    drawn = jax.eval_shape(VisionTransformer().init, jax.random.key(0), pixels)
    fresh: dict[str, Any] = flatten_dict(drawn["params"], sep="/")
    assert {name: array.shape for name, array in fresh.items()} == {k: v.shape for k, v in arrays.items()}
    params = unflatten_dict({name: jnp.asarray(array) for name, array in arrays.items()}, sep="/")
    return np.asarray(VisionTransformer().apply({"params": params}, pixels))


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_a_vit_as_vit_jax_has_it_in_memory_loads_agrees_and_comes_back(pool: str, tmp_path: Path):
    model = shaken(create("vit_ti32", num_classes=5, layers=1, image_size=64, pool=pool))
    template = save(model, tmp_path / "template.npz", layout="older")
    rename = {"MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0"}
    rename |= {"LayerNorm_2": "LayerNorm_1", "MlpBlock_3": "MlpBlock_0"}
    with np.load(template) as arrays:
        theirs: dict[str, Any] = {
            re.sub("|".join(rename), lambda found: rename[found[0]], k): v for k, v in arrays.items()
        }
    np.savez(tmp_path / "memory.npz", **theirs)
    images = torch.randn(2, 3, 64, 64)
    loaded = load(tmp_path / "memory.npz")
    with torch.no_grad():
        got = loaded(images).numpy()
    expected = flax_vit(theirs, images, 32, 1)
    assert np.abs(expected).max() > 0.1
    assert np.abs(got - expected).max() <= CLOSE
    assert loaded.metadata.provenance["layout"] == "vit_jax"
    with np.load(save(loaded, tmp_path / "again.npz", layout="vit_jax")) as again:
        assert {k: v.tobytes() for k, v in again.items()} == {k: v.tobytes() for k, v in theirs.items()}
    nested: dict[str, Any] = {f"params/{name}": array for name, array in theirs.items()}
    np.savez(tmp_path / "state.npz", **nested)
    with np.load(save(load(tmp_path / "state.npz"), tmp_path / "again.npz", layout="vit_jax")) as again:
        assert {k: v.tobytes() for k, v in again.items()} == {k: v.tobytes() for k, v in nested.items()}


def test_a_head_that_attends_is_refused_by_name(tmp_path: Path, says: Says):
    """big_vision's pool_type="map", which no model here has."""
    save(create("vit_ti32", num_classes=5, layers=1, image_size=64, pool="mean"), tmp_path / "mean.npz")
    with np.load(tmp_path / "mean.npz") as arrays:
        more: dict[str, Any] = {**arrays, "MAPHead_0/probe": np.zeros((1, 1, 192), np.float32)}
    np.savez(tmp_path / "map.npz", **more)
    with says(KeyMismatch):
        load(tmp_path / "map.npz")


@pytest.mark.parametrize(
    ("theirs", "name", "endings"),
    [
        ("mixer_s32_224", "mixer_s32", ("pth", "safetensors")),
        ("vit_tiny_patch16_224", "vit_ti16", ("pth",)),
        ("resnetv2_50x1_bit", "bit_r50x1", ("safetensors",)),
        pytest.param("dm_nfnet_f0", "nfnet_f0", ("safetensors",), marks=pytest.mark.slow),
    ],
)
def test_a_file_that_timm_wrote_comes_back_bit_for_bit(
    theirs: str, name: str, endings: tuple[str, ...], timm: Any, tmp_path: Path
):
    """Whole models, so their depth counts too."""
    peer = shaken(timm.create_model(theirs, num_classes=13))
    state = peer.state_dict()
    write = {"pth": torch.save, "safetensors": safetensors.torch.save_file}
    read = {"pth": partial(torch.load, weights_only=True), "safetensors": safetensors.torch.load_file}
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = peer(images)
    for ending in endings:
        write[ending](state, tmp_path / f"first.{ending}")
        model = load(tmp_path / f"first.{ending}")
        assert model.name == name
        with torch.no_grad():
            assert float((model(images) - expected).abs().max()) <= CLOSE
        again = read[ending](save(model, tmp_path / f"second.{ending}", layout="timm"))
        assert again.keys() == state.keys()
        assert all(torch.equal(again[key], value) for key, value in state.items())


TIMMS_NAMES = {
    **{f"mixer_{size}": f"mixer_{size}_224" for size in ("s32", "s16", "b32", "b16", "l32", "l16")},
    **{
        f"vit_{short}{patch}": f"vit_{long}_patch{patch}_224"
        for short, long, patch in (
            ("ti", "tiny", 16),
            ("s", "small", 32),
            ("s", "small", 16),
            ("b", "base", 32),
            ("b", "base", 16),
            ("l", "large", 32),
            ("l", "large", 16),
            ("h", "huge", 14),
        )
    },
    **{f"bit_r{size}": f"resnetv2_{size}_bit" for size in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")},
    **{f"nfnet_{size}": f"dm_nfnet_{size}" for size in ("f0", "f1")},
}


def shapes(ours: str) -> dict[str, torch.Size]:
    """In timm's layout."""
    with torch.device("meta"):
        state = create(ours, num_classes=1000).state_dict()
    config = describe(ours)
    return {
        name: tensor.shape
        for line in layouts.pair(layout_called("timm", config, family(family_name(ours))), state)
        for name, tensor in zip(
            line.theirs, line.form.to_theirs(tuple(state[n] for n in line.ours), config), strict=True
        )
    }


def test_whole_models_have_timms_shapes(timm: Any):
    """Of the full size, on shapes alone: the depth that the tests above cut short is right too."""
    failures = []
    for ours, theirs in TIMMS_NAMES.items():
        with torch.device("meta"):
            peer = timm.create_model(theirs, num_classes=1000)
        if shapes(ours) != {n: t.shape for n, t in peer.state_dict().items()}:
            failures.append(ours)
    assert not failures


def test_attention_in_bfloat16_is_attention():
    """On a CPU it is written out."""
    from mlpmixer.models.vit import attend

    query, key, value = (torch.randn(2, 3, 65, 32).bfloat16() for _ in range(3))
    true = attend(query.float(), key.float(), value.float())
    torch.testing.assert_close(attend(query, key, value).float(), true, atol=0.02, rtol=0.02)
