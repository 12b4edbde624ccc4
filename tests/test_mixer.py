"""The Mixer and its variants."""

from __future__ import annotations

import subprocess
import sys
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import shaken
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Says
from torch import Tensor, nn

from mlpmixer import create
from mlpmixer.errors import UsageError
from mlpmixer.models import FAMILIES, describe, family
from mlpmixer.models.layers import Linear, StochasticDepth
from mlpmixer.models.mixer import Mixer, MixerConfig, TokenMixing

SMALL: dict[str, Any] = {"layers": 2, "channels": 8, "token_hidden": 6, "channel_hidden": 16, "num_classes": 5}

# PAPER, Table 1, counted out: without head, and with one for 1,000 classes.
EXACT = {
    "mixer_s32": (18_591_624, 19_104_624),
    "mixer_s16": (18_015_264, 18_528_264),
    "mixer_b32": (59_524_428, 60_293_428),
    "mixer_b16": (59_111_472, 59_880_472),
    "mixer_l32": (205_914_264, 206_939_264),
    "mixer_l16": (207_171_168, 208_196_168),
    "mixer_h14": (431_069_952, 432_350_952),
}


def small(**options: Any) -> Mixer:
    return cast(Mixer, create("mixer_nano", **{"image_size": 16, **SMALL, **options}))


def test_exact_parameter_counts():
    with torch.device("meta"):
        counts = {
            name: tuple(sum(p.numel() for p in create(name, num_classes=n).parameters()) for n in (0, 1000))
            for name in EXACT
        }
    assert counts == EXACT


def test_the_papers_notation_is_a_name():
    assert create("Mixer-B/16", **SMALL, image_size=32, patch_size=8).name == "mixer_b16"
    assert describe("BiT-R50x1") == describe("bit_r50x1")
    assert describe("ViT-L/32") == describe("vit_l32")


def test_what_does_not_exist_or_fit_is_refused_kindly(says: Says):
    with says(UsageError):
        create("mixer_b61")
    wrong: list[dict[str, Any]] = [
        {"drop_out": 0.1},
        {"dropout": 1.5},
        {"groups": 3},
        {"image_size": 0},
        {"layers": 0},
        {"pyramid": (9,)},
        {"pyramid": (1,)},
        {"num_classes": -1},
    ]
    for options in wrong:
        with says(UsageError):
            create("mixer_s32", **options)


@pytest.mark.parametrize("channels", ["a", 96.0])
def test_values_of_another_type_are_refused_kindly(channels: Any):
    """By the config itself: in tests, types are checked before it is made."""
    with pytest.raises(UsageError, match=f"^channels must be a whole number, 1 or more; got {channels!r}$"):
        MixerConfig.require_positive(SimpleNamespace(channels=channels), "channels")  # pyright: ignore[reportArgumentType]


def test_images_of_another_size_are_refused(says: Says):
    with says(UsageError):
        small()(torch.zeros(1, 3, 16, 20))


def test_begins_as_flax_does():
    model = create("mixer_s32", num_classes=10)
    fc = cast(Mixer, model).blocks[0].get_submodule("channel_mixing.fc1").weight
    assert isinstance(fc, Tensor)
    assert abs(float(fc.detach().var()) * 512 - 1) < 0.02  # variance 1 / fan_in
    assert float(fc.detach().abs().max()) <= 2 * 512**-0.5 / 0.87962566 + 1e-6  # cut off at ±2σ
    stem = cast(Mixer, model).stem.patches.weight
    assert abs(float(stem.detach().var()) * 32 * 32 * 3 - 1) < 0.02
    w1 = model.get_parameter("blocks.3.token_mixing.fc1.weight").detach()
    assert abs(float(w1.var()) * 49 - 1) < 0.05
    assert all(float(p.detach().abs().max()) == 0 for name, p in model.named_parameters() if name.endswith("bias"))
    assert float(model.get_parameter("head.weight").detach().abs().max()) == 0


def test_head_bias():
    assert torch.equal(small(head_bias=-6.9)(torch.randn(2, 3, 16, 16)), torch.full((2, 5), -6.9))
    assert "head.bias" not in small(head_bias=None).state_dict()
    assert small(num_classes=0)(torch.randn(2, 3, 16, 16)).shape == (2, 8)  # pre-logits


def test_both_gelus():
    torch.manual_seed(1)
    tanh, erf = small(gelu="tanh"), small(gelu="erf")
    erf.load_state_dict(shaken(tanh).state_dict())
    images = 3 * torch.randn(4, 3, 16, 16)
    difference = (tanh(images) - erf.eval()(images)).abs().max()
    assert 1e-7 < float(difference.detach()) < 1e-2
    mlp = tanh.blocks[0].get_submodule("channel_mixing")
    x = torch.linspace(-5, 5, 1001)
    cubic = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(mlp.get_submodule("gelu")(x), cubic, atol=1e-6, rtol=0)


@settings(max_examples=25)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    patch=st.integers(1, 12),
    channels=st.integers(1, 5),
    batch=st.integers(1, 3),
)
def test_any_patch_any_size_any_channels(height: int, width: int, patch: int, channels: int, batch: int):
    model = small(image_size=(height, width), patch_size=patch, in_channels=channels)
    shaken(model)
    logits, seen = model(torch.randn(batch, channels, height, width), intermediates=True)
    places = -(-height // patch) * -(-width // patch)
    assert logits.shape == (batch, 5)
    assert seen["stem"].shape == (batch, places, 8)
    assert bool(logits.isfinite().all())


def test_a_size_that_is_no_multiple_is_padded_on_both_sides():
    model = small(image_size=(10, 13), patch_size=4)
    assert model.stem.grid == (3, 4)
    assert model.stem.padding == (1, 2, 1, 1)


def test_intermediates_add_up():
    model = shaken(small())
    images = torch.randn(2, 3, 16, 16)
    logits, seen = model(images, intermediates=True)
    assert torch.equal(logits, model(images))
    assert list(seen) == [
        "stem",
        *(f"block{i}{part}" for i in (0, 1) for part in ("/token_hidden", "/token_mixing", "/channel_mixing", "")),
        "tokens",
        "pre_logits",
        "logits",
    ]
    for i, before in ((0, "stem"), (1, "block0")):
        sum_ = seen[before] + seen[f"block{i}/token_mixing"] + seen[f"block{i}/channel_mixing"]
        torch.testing.assert_close(sum_, seen[f"block{i}"])
    assert seen["block0/token_hidden"].shape == (2, 6, 8)  # D_S × C
    torch.testing.assert_close(seen["tokens"].mean(1), seen["pre_logits"])


@pytest.mark.parametrize("asked", [False, True])
def test_intermediates_live_on_only_when_asked_for(asked: bool):
    model = small().eval()
    seen: list[weakref.ref[Any]] = []
    for part in ("stem", "blocks.0.token_mixing.gelu", "blocks.0.channel_mixing", "norm"):
        model.get_submodule(part).register_forward_hook(lambda _, __, out: seen.append(weakref.ref(out)))
    with torch.inference_mode():
        result = model(torch.randn(1, 3, 16, 16), intermediates=asked)
    assert len(seen) == 4
    assert [ref() is not None for ref in seen] == [asked] * 4
    del result


def test_a_forward_pass_is_the_papers_formula():
    model = shaken(small())
    x = torch.randn(3, 16, 8)
    block = model.get_submodule("blocks.0")
    w = {name: p.detach() for name, p in block.named_parameters()}
    gelu = nn.GELU(approximate="tanh")
    u = torch.stack(
        [
            row
            + w["token_mixing.fc2.weight"]
            @ gelu(w["token_mixing.fc1.weight"] @ n + w["token_mixing.fc1.bias"][:, None])
            + w["token_mixing.fc2.bias"][:, None]
            for row, n in zip(x, block.get_submodule("norm1")(x), strict=True)
        ]
    )
    hidden = gelu(block.get_submodule("norm2")(u) @ w["channel_mixing.fc1.weight"].T + w["channel_mixing.fc1.bias"])
    y = u + hidden @ w["channel_mixing.fc2.weight"].T + w["channel_mixing.fc2.bias"]
    torch.testing.assert_close(block(x), y, atol=1e-5, rtol=1e-5)


class TestStochasticDepth:
    def test_rises_evenly_from_the_first_layer_to_the_last(self):
        model = small(layers=5, stochastic_depth=0.2)
        chances = [block.get_submodule("drop").p for block in model.blocks]
        assert chances == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])

    def test_leaves_whole_examples_out_and_does_not_rescale(self):
        branch = torch.ones(20_000, 3, 2)
        dropped = StochasticDepth(0.3).train()(branch)
        kept = dropped[:, 0, 0]
        assert set(kept.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(dropped, kept[:, None, None].expand_as(dropped))  # all of an example or nothing
        assert abs(float(kept.mean()) - 0.7) < 0.02

    def test_rescaled_form_keeps_the_mean(self):
        branch = torch.ones(20_000, 1, 1)
        dropped = StochasticDepth(0.3, rescale=True).train()(branch)
        assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
        assert abs(float(dropped.mean()) - 1) < 0.02

    def test_both_branches_of_a_block_are_drawn_by_themselves(self):
        block = small(layers=1, stochastic_depth=0.5).train().get_submodule("blocks.0")
        block.get_submodule("drop").p = 0.5  # pyright: ignore[reportArgumentType]
        shaken(block).train()
        seen: dict[str, Tensor] = {}
        x = torch.randn(400, 16, 8)
        out = block(x, seen)
        token_kept = ((out - x - seen["block0/channel_mixing"]).flatten(1).abs().amax(1) > 1e-5) & (
            (out - x).flatten(1).abs().amax(1) > 1e-5
        )
        nothing = (out - x).flatten(1).abs().amax(1) == 0
        assert 50 < int(nothing.sum()) < 150  # a quarter loses both
        assert int(token_kept.sum()) > 0

    def test_does_nothing_in_evaluation(self):
        branch = torch.randn(5, 3, 2)
        assert torch.equal(StochasticDepth(0.9).eval()(branch), branch)
        assert float(StochasticDepth(1.0, rescale=True).train()(branch).abs().max()) == 0


def test_dropout_acts_in_training_only():
    model = shaken(small(dropout=0.5))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(images), model(images))
    assert not torch.equal(model.train()(images), model(images))


class TestVariants:
    """Appendix A.1: options of the same class."""

    def test_untied_with_equal_weights_is_the_tied_mixer(self):
        tied = shaken(small())
        untied = small(untied=True).eval()
        state = dict(tied.state_dict())
        for name, value in tied.state_dict().items():
            if "token_mixing" in name:
                state[name] = value.expand(8, *value.shape)
        untied.load_state_dict(state)
        images = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(untied(images), tied(images), atol=1e-5, rtol=1e-5)

    def test_untied_columns_have_their_own_weights(self):
        model = small(untied=True)
        assert model.get_parameter("blocks.0.token_mixing.fc1.weight").shape == (8, 6, 16)
        columns = model.get_parameter("blocks.0.token_mixing.fc1.weight").detach()
        assert not torch.equal(columns[0], columns[1])

    def test_grouping_puts_neighboring_columns_end_to_end(self):
        mixing = cast(TokenMixing, small(groups=4).get_submodule("blocks.0.token_mixing"))
        x = torch.randn(2, 16, 8)
        stacked = mixing.stack(x)
        assert stacked.shape == (2, 64, 2)
        for column in range(2):
            for g in range(4):
                assert torch.equal(stacked[:, g * 16 : (g + 1) * 16, column], x[:, :, column * 4 + g])
        assert torch.equal(mixing.unstack(stacked), x)
        assert mixing.fc1.weight.shape == (6, 64)

    def test_projection_by_the_identity_is_plain_grouping(self):
        plain = shaken(small(groups=2))
        projected = small(groups=2, group_projection=True).eval()
        state = {**plain.state_dict()}
        for i in range(2):
            state[f"blocks.{i}.token_mixing.project.weight"] = torch.eye(8)
        projected.load_state_dict(state)
        images = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(projected(images), plain(images))

    def test_pyramid_hands_on_fewer_places(self):
        model = shaken(small(layers=3, image_size=(32, 16), pyramid=(0, 2)))
        _, seen = model(torch.randn(2, 3, 32, 16), intermediates=True)
        assert [seen[name].shape[1] for name in ("stem", "block0", "block1", "block2")] == [32, 8, 8, 2]

    def test_pyramid_skips_over_by_averaging_2x2_places(self):
        block = small(layers=1, pyramid=(0,)).get_submodule("blocks.0")
        x = torch.arange(16.0).view(1, 4, 4, 1).expand(1, 4, 4, 8)
        halved = block.get_submodule("skip")(x.flatten(1, 2)).view(2, 2, 8)
        assert halved[:, :, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]

    @pytest.mark.parametrize(
        "options",
        [
            {"untied": True},
            {"groups": 2},
            {"groups": 2, "group_projection": True},
            {"pyramid": (1,)},
            {"untied": True, "groups": 4},
        ],
    )
    def test_all_learn(self, options: dict[str, Any]):
        model = small(**options).train()
        nn.init.normal_(model.get_parameter("head.weight"))
        model(torch.randn(4, 3, 16, 16)).square().mean().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        assert all(float(p.grad.abs().max()) > 0 for p in model.parameters() if p.grad is not None)


def test_the_table_and_the_files_agree():
    for name, row in FAMILIES.items():
        assert family(name).name == name
        assert tuple(family(name).sizes) == row.sizes


def test_small_sizes_keep_the_papers_proportions():
    for name in ("pico", "nano", "tiny", "mini"):
        config = cast(MixerConfig, describe(f"mixer_{name}"))
        assert config.token_hidden == config.channels / 2
        assert config.channel_hidden == config.channels * 4


def test_linear_starts_without_bias_too():
    assert Linear(3, 4, bias=False).bias is None


@pytest.mark.slow
def test_compiles_into_one_graph_where_types_are_not_checked():
    """In a process of its own: checked types, as in these tests, break the graph and speak before our own errors do."""
    code = (
        "import torch, mlpmixer\n"
        "try: mlpmixer.create('mixer_pico', gelu='exact')\n"
        'except ValueError as error: assert \'must be "tanh" or "erf"; got\' in str(error)\n'
        "small = {'mixer_pico': {'layers': 1}, 'vit_ti32': {'layers': 1}, 'bit_r50x1': {'units': (1,)}}\n"
        "small |= {'halonet_h1': {'units': (1, 1)}, 'efficientnet_b0': {'width': 0.25, 'depth': 0.1}}\n"
        "small['nfnet_f0'] = {'depths': (1, 1), 'widths': (32, 64), 'inner': (16, 32)}\n"
        "relatives = ('sasa_resnet50', 'lambda_resnet50', 'rednet50')\n"
        "small |= {name: {'units': (1,), 'channels': 32} for name in relatives}\n"
        "small['botnet50'] = {'units': (1,), 'operator_units': (1,), 'channels': 32}\n"
        "small['isotropic_pico'] = {'layers': 1}\n"
        "for name, options in small.items():\n"
        "    torch._dynamo.reset()\n"
        "    model = mlpmixer.create(name, image_size=32, num_classes=3, **options).train()\n"
        "    graph = torch.compile(model, fullgraph=True, backend='aot_eager')\n"
        "    graph(torch.randn(2, 3, 32, 32)).sum().backward()\n"
        "    graph(torch.randn(2, 3, 32, 32), intermediates=True)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
