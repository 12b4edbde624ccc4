"""HaloNet and its attention: against a loop over pixels, against timm, and the counts of the paper's sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken
from messages import Says
from torch import Tensor, nn

import mlpmixer
from mlpmixer import create, list_models, load, packages, save
from mlpmixer.data.preprocess import normalize
from mlpmixer.engines.engine import Engine
from mlpmixer.engines.table import ENGINES
from mlpmixer.errors import UsageError
from mlpmixer.evaluation.evaluate import evaluate
from mlpmixer.export.export import export
from mlpmixer.export.formats import FORMATS
from mlpmixer.metadata import Preprocessing
from mlpmixer.models import describe
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.measured import measured
from mlpmixer.models.operators.halo import HaloAttention
from mlpmixer.recipe import Model
from mlpmixer.recipes import find, toml
from mlpmixer.report.report import report


def attention(**options: Any) -> HaloAttention:
    layer = HaloAttention(**{"channels": 8, "heads": 2, "block": 4, "halo": 1, **options})
    shaken(layer)
    return layer.double()


def at_each_pixel(layer: HaloAttention, x: Tensor) -> Tensor:
    """The same, query by query and key by key, as the formula has it."""
    (_, _, height, width), stride, heads, block = x.shape, layer.stride, layer.heads, layer.block
    query = torch.einsum("oc,bchw->bohw", layer.query.weight[:, :, 0, 0], x).unflatten(1, (heads, -1))
    both = torch.einsum("oc,bchw->bohw", layer.key_value.weight[:, :, 0, 0], x).unflatten(1, (heads, -1))
    d, step, zero = query.shape[2], stride if layer.offsets == "queries" else 1, layer.window - 1
    rows = []
    for head, y, x_ in product(range(heads), range(0, height, stride), range(0, width, stride)):
        (up, down), (left, right) = divmod(y, block), divmod(x_, block)
        q, logits, values = query[:, head, :, y, x_], [], []
        for i, j in product(range(layer.window), repeat=2):
            row, column = up * block - layer.halo + i, left * block - layer.halo + j
            inside = 0 <= row < height and 0 <= column < width
            kv = both[:, head, :, row, column] if inside else torch.zeros_like(both[:, head, :, 0, 0])
            position = layer.row[i - down // step + zero] + layer.column[j - right // step + zero]
            logits.append((q * kv[:, :d]).sum(1) / d**0.5 + q @ position)
            values.append(kv[:, d:])
        weights = torch.stack(logits, 1).softmax(1)
        rows.append(torch.einsum("bk,bkd->bd", weights, torch.stack(values, 1)))
    size = (len(x), heads, -(-height // stride), -(-width // stride), -1)
    return torch.stack(rows, 1).view(size).permute(0, 1, 4, 2, 3).flatten(1, 2)


class TestAttention:
    def test_is_a_loop_over_pixels(self):
        cases: list[tuple[dict[str, Any], tuple[int, int]]] = [
            ({}, (8, 4)),
            ({"out_channels": 20, "query_channels": 6, "block": 2, "halo": 2}, (2, 4)),
            ({"stride": 2}, (8, 4)),
            ({"stride": 2, "offsets": "queries"}, (8, 4)),
            ({"stride": 4, "halo": 0}, (4, 8)),
            ({"block": 2, "halo": 3}, (2, 4)),  # wider than the block, and than the image
            ({}, (5, 3)),  # padded to whole blocks
            ({"stride": 2}, (5, 7)),
            ({"stride": 2}, (1, 3)),
        ]
        failures = []
        for options, size in cases:
            layer, x = attention(**options), torch.randn(2, 8, *size, dtype=torch.float64)
            off = (layer(x) - at_each_pixel(layer, x)).abs().max().item()
            if not off < 5e-15:
                failures.append((options, size, off))
        assert not failures

    @pytest.mark.usefixtures("timm")
    def test_timms_layer_computes_the_same(self):
        from timm.layers.halo_attn import HaloAttn  # pyright: ignore[reportMissingImports]

        for stride in (1, 2):
            theirs = HaloAttn(16, num_heads=2, block_size=4, halo_size=2, stride=stride).double()
            layer = attention(channels=16, halo=2, stride=stride, offsets="queries")
            with torch.no_grad():
                theirs.q.weight.copy_(layer.query.weight)
                theirs.kv.weight.copy_(layer.key_value.weight)
                theirs.pos_embed.height_rel.copy_(layer.row)
                theirs.pos_embed.width_rel.copy_(layer.column)
            x = torch.randn(2, 16, 8, 12, dtype=torch.float64)
            torch.testing.assert_close(layer(x), theirs(x), atol=1e-14, rtol=0)

    @pytest.mark.usefixtures("timm")
    def test_one_block_without_halo_is_global_attention(self):
        """timm's attention of BoTNet has all queries, all keys, all values; here keys and values go head by head."""
        from timm.layers.bottleneck_attn import BottleneckAttn  # pyright: ignore[reportMissingImports]

        theirs = BottleneckAttn(16, feat_size=(6, 6), num_heads=2).double()
        layer = attention(channels=16, block=6, halo=0)
        key, value = layer.key_value.weight.unflatten(0, (2, -1)).split(8, dim=1)
        with torch.no_grad():
            theirs.qkv.weight.copy_(torch.cat([layer.query.weight, key.flatten(0, 1), value.flatten(0, 1)]))
            theirs.pos_embed.height_rel.copy_(layer.row)
            theirs.pos_embed.width_rel.copy_(layer.column)
        x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
        torch.testing.assert_close(layer(x), theirs(x), atol=1e-14, rtol=0)

    def test_blocks_of_one_pixel_are_local_attention(self):
        layer, x = attention(block=1, halo=1), torch.randn(2, 8, 4, 5, dtype=torch.float64)
        query = layer.query(x).unflatten(1, (2, -1)).flatten(3)  # (B, heads, d, S)
        windows = F.unfold(layer.key_value(x), 3, padding=1).unflatten(1, (2, 8, 9))
        key, value = windows.split(4, dim=2)  # (B, heads, d, 9, S)
        table = (layer.row[2 - 0 : 5, None] + layer.column[None, 2:5]).flatten(0, 1)  # (9, d)
        logits = torch.einsum("bhds,bhdks->bhsk", query / 2, key) + torch.einsum("bhds,kd->bhsk", query, table)
        expected = torch.einsum("bhsk,bhdks->bhds", logits.softmax(3), value).flatten(1, 2).view(2, 8, 4, 5)
        torch.testing.assert_close(layer(x), expected, atol=1e-14, rtol=0)

    def test_one_pixel_alone_is_its_value(self):
        layer, x = attention(block=1, halo=0), torch.randn(2, 8, 3, 5, dtype=torch.float64)
        value = layer.key_value(x).unflatten(1, (2, 8))[:, :, 4:].flatten(1, 2)
        torch.testing.assert_close(layer(x), value, atol=1e-15, rtol=0)

    def test_the_first_rows_of_the_tables_are_never_read(self):
        layer = attention(halo=3)
        layer(torch.randn(1, 8, 8, 8, dtype=torch.float64)).square().sum().backward()
        for table in (layer.row, layer.column):
            assert table.grad is not None
            assert table.grad[: 2 * layer.halo].count_nonzero() == 0
            assert bool(table.grad[2 * layer.halo :].count_nonzero(dim=1).bool().all())

    def test_stride_skips_queries_alone(self):
        """With offsets in pixels, and without any offsets: in timm's way to count, only with tables of zeros."""
        x = torch.randn(2, 8, 8, 12, dtype=torch.float64)
        same = {}
        for offsets, zeros in product(("pixels", "queries"), (False, True)):
            layer, strided = attention(), attention(stride=2, offsets=offsets)
            if zeros:
                nn.init.zeros_(layer.row)
                nn.init.zeros_(layer.column)
            strided.load_state_dict(layer.state_dict())
            same[offsets, zeros] = torch.allclose(strided(x), layer(x)[:, :, ::2, ::2], atol=1e-14, rtol=0)
        assert same == {(offsets, zeros): offsets == "pixels" or zeros for offsets, zeros in same}

    def test_what_cannot_be_is_refused(self, says: Says):
        for options in ({"heads": 3}, {"block": 5, "stride": 2}):
            with says(UsageError):
                attention(**options)


# The network


def small(**options: Any) -> Classifier:
    usual = {"units": (2, 1), "channels": 8, "block_size": 4, "halo": 1, "heads": (2,), "image_size": 32}
    return shaken(create("halonet_h1", **{**usual, "num_classes": 5, **options}))


def test_counts_are_the_papers():
    """In millions 5.5, 8.1, 9.4, 11.8, 19.1, 30.7, 43.4 and 67.4. `tests/test_cost.py` holds what is written down."""
    exact = [5_500_952, 8_100_056, 9_404_312, 11_841_304, 19_101_976, 30_717_272, 43_456_792, 67_433_240]
    rows = [row for row in measured() if row["name"].startswith("halonet_")]
    assert [row["name"] for row in rows] == list_models("halonet_*")
    assert [row["params"] for row in rows[:8]] == exact
    assert round(rows[8]["params"] / 1e6) == 87
    # Of keras_cv_attention_models, which counts a little else besides, and H7 at 640 pixels.
    published = [2.40, 3.04, 3.37, 6.30, 12.17, 32.61, 53.20]
    assert all(0.96 < row["gmacs"] / gmacs < 1 for row, gmacs in zip(rows[:7], published, strict=True))


def test_blocks_fit_all_grids():
    """Each size at its own resolution, but for H7 at the paper's 600 pixels; the variant of Table 2 at 512, too."""
    unfit = []
    for name in list_models("halonet_*"):
        sides = {"halonet_h7": (600, 640), "halonet_h4_base128": (256, 512)}.get(name, describe(name).image_size[:1])
        for side in sides:
            with torch.device("meta"):
                model = create(name, image_size=side, units=(1, 1, 1, 1)).eval()
            for layer in model.modules():
                if isinstance(layer, HaloAttention):
                    layer.register_forward_pre_hook(
                        lambda layer, given, case=(name, side): unfit.extend(
                            case for length in given[0].shape[2:] if length % layer.block
                        )
                    )
            model(torch.empty(1, 3, side, side, device="meta"))
    assert {*unfit} == {("halonet_h7", 600)}


def test_intermediates_and_shapes():
    logits, found = small(final_channels=24)(torch.randn(2, 3, 32, 32), intermediates=True)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "stem": (2, 64, 8, 8),
        "stage0/unit0": (2, 8, 8, 8),
        "stage0/unit1": (2, 8, 8, 8),
        "stage0": (2, 8, 8, 8),
        "stage1/unit0": (2, 16, 4, 4),
        "stage1": (2, 16, 4, 4),
        "features": (2, 24, 4, 4),
        "pre_logits": (2, 24),
        "logits": (2, 5),
    }
    assert torch.equal(found["logits"], logits)


def test_any_size_runs_and_units_start_as_their_shortcuts():
    for size in ((28, 28), (33, 70), (1, 1), (64, 32)):
        model = small(image_size=size, value_ratio=1.5, output_ratio=2.5, conv_stages=1)
        assert bool(model(torch.randn(1, 3, *size)).isfinite().all())
    fresh = create("halonet_h1", units=(2,), channels=8, heads=(2,), image_size=32).eval()
    found = fresh(torch.randn(1, 3, 32, 32), intermediates=True)[1]
    assert torch.equal(found["stage0/unit1"], F.silu(found["stage0/unit0"]))


class TestFiles:
    def test_timms_halonet_h1_comes_back_bit_for_bit(self, timm: Any, tmp_path: Path):
        """Whole, so its depth counts too; its logits on a small image."""
        peer = shaken(timm.create_model("halonet_h1", num_classes=13))
        state = peer.state_dict()
        torch.save(state, tmp_path / "first.pth")
        model = load(tmp_path / "first.pth")
        assert model.name == "halonet_h1"
        images = torch.randn(1, 3, 64, 128)  # 2×4 pixels in the last stage: its blocks are of 8, so timm refuses
        with pytest.raises(AssertionError):
            peer(images)
        assert model(images).shape == (1, 13)
        kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        again = torch.load(save(model, tmp_path / "second.pth", layout="timm"), weights_only=True)
        assert again.keys() == kept.keys()
        assert all(torch.equal(again[name], value) for name, value in kept.items())

    def test_timms_logits_are_ours(self, timm: Any, tmp_path: Path):
        """Two stages, and the 1×1 convolution that timm's halonet_h1 has no use for."""
        from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg  # pyright: ignore[reportMissingImports]

        model = shaken(
            create("halonet_h3", units=(2, 1), activation="relu", offsets="queries", image_size=80, num_classes=5)
        )
        blocks = [ByoBlockCfg("self_attn", d, c, s, br=2 / 3) for d, c, s in ((2, 96, 1), (1, 192, 2))]
        config = ByoModelCfg(
            blocks=tuple(blocks),
            stem_chs=64,
            stem_type="7x7",
            stem_pool="maxpool",
            num_features=1024,
            self_attn_layer="halo",
            self_attn_kwargs={"block_size": 10, "halo_size": 3},
        )
        peer = ByobNet(config, num_classes=5).eval()
        file = save(model, tmp_path / "model.safetensors", layout="timm")
        timm.models.load_checkpoint(peer, str(file))
        images = torch.randn(2, 3, 80, 80)
        with torch.no_grad():
            expected, got = peer(images), model(images)
        assert float(expected.abs().max()) > 0.1
        assert float((got - expected).abs().max()) <= 1e-4
        loaded = load(file)
        assert (loaded.name, loaded.config.image_size) == ("halonet", (256, 256))
        with torch.no_grad():
            assert torch.equal(loaded(images), got)

    def test_our_own_files(self, tmp_path: Path):
        for options in ({}, {"conv_stages": 1, "value_ratio": 1.5, "final_channels": 12, "activation": "relu"}):
            model = small(**options)
            loaded = load(save(model, tmp_path / "m.safetensors"))
            assert loaded.config == model.config
            images = torch.randn(2, 3, 32, 32)
            assert torch.equal(loaded(images), model(images))
            larger = load(tmp_path / "m.safetensors", image_size=(48, 40))
            assert larger.config.image_size == (48, 40)
            more = torch.randn(2, 3, 48, 40)
            assert torch.equal(larger(more), model(more))

    def test_what_timm_does_not_have_is_refused(self, tmp_path: Path, says: Says):
        cases: list[dict[str, Any]] = [{}, {"conv_stages": 1}, {"value_ratio": 2.0}]
        for options in cases:
            with says(UsageError):
                save(small(**options), tmp_path / "m.pth")
        file = save(small(offsets="queries", block_size=6), tmp_path / "m.pth")
        with says(UsageError):
            load(file)  # a window that no size has

    def test_configs_that_cannot_be_are_refused(self, says: Says):
        cases: list[dict[str, Any]] = [
            {"units": ()},
            {"units": (1,) * 9},
            {"units": (1, 0)},
            {"block_size": 7},
            {"halo": -1},
            {"heads": (3,)},
            {"heads": (2, 2, 2)},
            {"heads": (0,)},
            {"value_ratio": 0.3},
            {"value_ratio": float("nan")},
            {"output_ratio": float("inf")},
            {"output_ratio": -1.0},
            {"conv_stages": 3},
            {"final_channels": -1},
        ]
        for options in cases:
            with says(UsageError) as error:
                small(**options)
            assert "\n" not in str(error.value)


def test_engines_agree():
    """The compiled one is in `tests/test_mixer.py`: types that are checked, as here, break its graph."""
    model, how = small(image_size=28, conv_stages=1), Preprocessing()
    pixels = torch.randint(0, 256, (5, 3, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(normalize(pixels, how))
    for name, precision, within in (("eager", "bf16", 0.02), ("openvino", "fp32", 1e-4), ("onnx", "fp32", 1e-4)):
        if not packages.missing(*ENGINES[name].packages):
            found = Engine(model, how, name, precision, batch=4, device=torch.device("cpu"))(pixels)
            assert (found.logits - expected).abs().max() <= within * expected.abs().max(), name


@pytest.mark.slow
def test_a_run_is_evaluated_exported_and_reported(tmp_path: Path):
    options = {"units": (1, 1), "channels": 16, "heads": (2,), "block_size": 4, "halo": 1}
    recipe = toml.change(
        replace(find("fashion_mnist"), model=Model(name="halonet_h1", image_size=(28,), options=options)),
        {
            **{"data.classes": "Bag,Coat", "data.shots": 60, "train.steps": 30, "train.batch_size": 16},
            **{"optim.lr": 0.003, "optim.warmup_steps": 2, "machine.workers": 0},
        },
    )
    mlpmixer.fit(recipe, tmp_path / "run", quiet=True)
    assert evaluate(tmp_path / "run", train_images=0, workers=0)["top1"].value > 0.8
    for to in ("onnx", "openvino", "pt2", "safetensors"):  # each refuses what does not answer as the model does
        export(tmp_path / "run", to, output=tmp_path / f"file{FORMATS[to].endings[0]}", count=20)
    assert "halonet_h1" in report([tmp_path / "run"], tmp_path / "page.html").page.read_text(encoding="utf-8")
