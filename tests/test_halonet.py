"""HaloNet and its attention: against a loop over pixels, against timm, and the counts of the paper's sizes."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken
from messages import Says
from torch import Tensor, nn

from mlpmixer.errors import UsageError
from mlpmixer.models.operators.halo import HaloAttention


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
            ({"out_channels": 20, "query_channels": 6, "halo": 2}, (4, 4)),
            ({"stride": 2}, (8, 8)),
            ({"stride": 2, "offsets": "queries"}, (8, 8)),
            ({"stride": 4, "halo": 0}, (4, 8)),
            ({"halo": 5}, (4, 8)),  # wider than the block, and than the image
            ({}, (5, 6)),  # padded to whole blocks
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
        for options in ({"heads": 3}, {"block": 5, "stride": 2}, {"offsets": "blocks"}):
            with says(UsageError):
                attention(**options)
