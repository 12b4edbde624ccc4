"""Token operators: each is its formula, pixel by pixel, and what the papers' authors and timm compute."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken
from messages import Says
from torch import Tensor, nn

from mlpmixer.errors import UsageError
from mlpmixer.models import describe
from mlpmixer.models.isotropic import IsotropicConfig
from mlpmixer.models.operators import OPERATORS
from mlpmixer.models.operators.attention import BottleneckAttention
from mlpmixer.models.operators.depthwise import DepthwiseConv
from mlpmixer.models.operators.halo import HaloAttention
from mlpmixer.models.operators.involution import Involution
from mlpmixer.models.operators.lambda_layer import LambdaLayer, PositionConv, PositionTable
from mlpmixer.models.operators.sasa import StandAloneAttention
from mlpmixer.models.operators.synthesizer import (
    DenseSynthesizer,
    FactorizedDenseSynthesizer,
    FactorizedRandomSynthesizer,
    RandomSynthesizer,
)
from mlpmixer.models.operators.token_mlp import TokenMlp

GRID = (3, 4)  # not square, so that rows and columns cannot be taken for each other
close = torch.testing.assert_close


def exact(operator: nn.Module) -> Any:
    """In float64, with no weight left at a value that would hide a mistake."""
    return shaken(operator).double()


def map_of(channels: int, grid: tuple[int, int] = GRID, images: int = 2) -> Tensor:
    return torch.randn(images, channels, *grid, dtype=torch.float64)


def pixels(grid: tuple[int, int] = GRID) -> Iterator[tuple[int, int]]:
    return itertools.product(range(grid[0]), range(grid[1]))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def point(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1×1 convolution of one pixel."""
    return conv.weight[:, :, 0, 0] @ x if conv.bias is None else conv.weight[:, :, 0, 0] @ x + conv.bias


def small(name: str, **options: Any) -> tuple[nn.Module, IsotropicConfig]:
    config = describe(
        "isotropic_pico",
        token_operator=name,
        image_size=(12, 16),
        channels=32,
        block=1,
        halo=1,
        scope=3,
        window=3,
        **options,
    )
    assert isinstance(config, IsotropicConfig)
    return config.operator(), config


class TestAttention:
    def test_it_is_its_formula_at_each_pixel(self):
        op, x = exact(BottleneckAttention(6, 8, grid=GRID, heads=2)), map_of(6)
        found = op(x)
        query, key, value = op.qkv(x).chunk(3, dim=1)
        for head, (y, c) in itertools.product(range(2), pixels()):
            mine = slice(4 * head, 4 * head + 4)
            q = query[:, mine, y, c]
            logits = torch.stack(
                [
                    (q * key[:, mine, i, j]).sum(1) / 2
                    + q @ (op.positions.row[i - y + GRID[0] - 1] + op.positions.column[j - c + GRID[1] - 1])
                    for i, j in pixels()
                ],
                dim=1,
            )
            wanted = torch.einsum("bs,bcs->bc", logits.softmax(1), value[:, mine].flatten(2))
            close(found[:, mine, y, c], wanted)

    @pytest.mark.parametrize("stride", [1, 2])
    def test_it_is_timms(self, stride: int, timm: Any):
        theirs = timm.layers.bottleneck_attn.BottleneckAttn(16, 24, feat_size=4, stride=stride, num_heads=2)
        ours = shaken(BottleneckAttention(16, 24, grid=(4, 4), heads=2, stride=stride))
        names = {"qkv.weight": "qkv.weight", "positions.row": "pos_embed.height_rel"}
        copy(ours, theirs, names | {"positions.column": "pos_embed.width_rel"})
        x = torch.randn(2, 16, 4, 4)
        close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)

    def test_without_positions_it_is_pytorchs(self):
        op, x = exact(BottleneckAttention(8, grid=GRID, heads=2)), map_of(8)
        silence(op)
        theirs = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).double()
        with torch.no_grad():
            theirs.in_proj_weight.copy_(op.qkv.weight[:, :, 0, 0])
            theirs.out_proj.weight.copy_(torch.eye(8))
        close(tokens(op(x)), theirs(tokens(x), tokens(x), tokens(x))[0], rtol=0, atol=1e-14)

    def test_one_block_without_a_halo_is_the_whole_map(self):
        op, x = exact(HaloAttention(8, heads=2, block=4, halo=0)), map_of(8, (4, 4))
        ours = BottleneckAttention(8, grid=(4, 4), heads=2).double()
        key, value = op.key_value.weight.unflatten(0, (2, 2, 4)).unbind(1)
        with torch.no_grad():
            ours.qkv.weight.copy_(torch.cat([op.query.weight, key.flatten(0, 1), value.flatten(0, 1)]))
            ours.positions.row.copy_(op.row)
            ours.positions.column.copy_(op.column)
        close(ours(x), op(x))


class TestStandAloneAttention:
    @pytest.mark.parametrize("window", [3, 5])
    def test_it_is_its_formula_at_each_pixel(self, window: int):
        op, x = exact(StandAloneAttention(6, 8, heads=2, window=window)), map_of(6)
        found, around = op(x), window // 2
        query, key, value = op.qkv(x).chunk(3, dim=1)
        key, value = (F.pad(part, (around,) * 4) for part in (key, value))  # k = v = 0 outside, and takes part
        for head, (y, c) in itertools.product(range(2), pixels()):
            mine = slice(4 * head, 4 * head + 4)
            q = query[:, mine, y, c]
            offsets = list(itertools.product(range(window), range(window)))
            logits = torch.stack(
                [
                    (q * key[:, mine, y + i, c + j]).sum(1) + q @ torch.cat([op.row[head, i], op.column[head, j]])
                    for i, j in offsets
                ],
                dim=1,
            )
            values = torch.stack([value[:, mine, y + i, c + j] for i, j in offsets], dim=2)
            close(found[:, mine, y, c], torch.einsum("bs,bcs->bc", logits.softmax(1), values))

    def test_it_is_halo_attention_of_single_pixels(self):
        """With its tables in halves of the heads' channels, shared by the heads; and without 1/√d."""
        op, halo = exact(StandAloneAttention(8, heads=2, window=3)), HaloAttention(8, heads=2, block=1, halo=1).double()
        with torch.no_grad():
            op.row[1], op.column[1] = op.row[0], op.column[0]
            query, key, value = op.qkv.weight.chunk(3)
            halo.query.weight.copy_(query)
            # Keys are scaled instead of the logits, the tables' offsets −1, 0, 1 are three in the middle.
            halves = torch.stack([2 * key.unflatten(0, (2, 4)), value.unflatten(0, (2, 4))], dim=1)
            halo.key_value.weight.copy_(halves.flatten(0, 2))
            halo.row.zero_()
            halo.column.zero_()
            halo.row[2:5, :2], halo.column[2:5, 2:] = op.row[0], op.column[0]
        x = map_of(8)
        close(op(x), halo(x))

    def test_of_a_single_pixel_it_is_the_value(self):
        op, x = exact(StandAloneAttention(8, heads=2, window=1)), map_of(8)
        close(op(x), op.qkv(x).chunk(3, dim=1)[2])

    def test_by_two_it_is_averaged(self):
        op, halved = (exact(StandAloneAttention(8, heads=2, window=3, stride=stride)) for stride in (1, 2))
        halved.load_state_dict(op.state_dict())
        x = map_of(8, (4, 6))
        close(halved(x), F.avg_pool2d(op(x), 2))


class TestLambdaLayer:
    @pytest.mark.parametrize("options", [{"scope": 3}, {"scope": 3, "depth": 2}, {"grid": GRID, "depth": 2}])
    def test_it_is_its_formula_at_each_pixel(self, options: dict[str, Any]):
        depth = options.get("depth", 1)
        op, x = exact(LambdaLayer(6, 8, heads=2, keys=3, **options)), map_of(6)
        found = op(x)
        query, key, value = op.qkv(x).split([2 * 3, depth * 3, depth * 4], dim=1)
        query, value = op.norm_query(query), op.norm_value(value)
        key = key.flatten(2).softmax(2).view_as(key).unflatten(1, (depth, 3))
        query, value = query.unflatten(1, (2, 3)), value.unflatten(1, (depth, 4))
        content = torch.einsum("bukij,buvij->bkv", key, value)
        for y, c in pixels():
            positions = torch.zeros(2, 3, 4, dtype=torch.float64)
            for i, j in pixels():
                embedding = position(op.positions, i - y, j - c)
                positions += torch.einsum("ku,buv->bkv", embedding, value[..., i, j])
            if isinstance(op.positions, PositionConv):
                positions += op.positions.conv.get_parameter("bias")[:, None]
            wanted = torch.einsum("bkv,bhk->bhv", content + positions, query[..., y, c]).flatten(1)
            close(found[..., y, c], wanted)

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("table", [False, True])
    def test_it_is_timms(self, stride: int, table: bool, timm: Any):
        # (timm's layer takes its output to have as many channels as its input.)
        layer, scope = timm.layers.lambda_layer.LambdaLayer, None if table else 5
        theirs = layer(16, feat_size=4, stride=stride, num_heads=2, dim_head=3, r=scope).eval()
        ours = shaken(LambdaLayer(16, heads=2, keys=3, stride=stride, scope=5, grid=(4, 4) if table else None))
        names = {"qkv.weight": "qkv.weight"}
        for norm, part in itertools.product(("q", "v"), ("weight", "bias", "running_mean", "running_var")):
            names[f"norm_{'query' if norm == 'q' else 'value'}.{part}"] = f"norm_{norm}.{part}"
        positions = {"positions.conv.weight": "conv_lambda.weight", "positions.conv.bias": "conv_lambda.bias"}
        copy(ours, theirs, names | ({"positions.table": "pos_emb"} if table else positions))
        x = torch.randn(2, 16, 4, 4)
        close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("depth", [1, 4])
    def test_as_wide_as_all_offsets_both_forms_of_positions_are_one(self, depth: int):
        conv = exact(LambdaLayer(8, grid=None, heads=2, keys=3, depth=depth, scope=7))
        table = exact(LambdaLayer(8, grid=(4, 4), heads=2, keys=3, depth=depth))
        state = {name: value for name, value in conv.state_dict().items() if not name.startswith("positions.")}
        weight = conv.positions.conv.weight.detach()
        table.load_state_dict({**state, "positions.table": weight.permute(2, 3, 0, 1)})
        x = map_of(8, (4, 4))
        assert not torch.allclose(conv(x), table(x))  # for the bias of the convolution
        nn.init.zeros_(conv.positions.conv.bias)
        close(conv(x), table(x))

    def test_parameters_by_the_formula(self):
        for h, k, u, r in itertools.product((2, 4), (3, 16), (1, 4), (3, 7)):
            op = LambdaLayer(16, heads=h, keys=k, depth=u, scope=r)
            v = 16 // h
            wanted = 16 * (h * k + u * k + u * v) + 2 * (h * k + u * v) + k * u * r**2 + k
            assert sum(p.numel() for p in op.parameters()) == wanted


class TestInvolution:
    @pytest.mark.parametrize("stride", [1, 2])
    def test_it_is_its_formula_at_each_pixel(self, stride: int):
        op, x = exact(Involution(8, window=3, group=2, reduction=2, stride=stride)), map_of(8, (4, 6))
        found, around = op(x), F.pad(x, (1, 1, 1, 1))
        assert found.shape == (2, 8, 4 // stride, 6 // stride)
        of_kernel = F.avg_pool2d(x, stride)
        norm = op.reduce.norm
        for y, c in pixels((4 // stride, 6 // stride)):
            hidden = point(op.reduce.conv, of_kernel[:, :, y, c].T).T
            hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
            kernels = (F.relu(hidden) @ op.span.weight[:, :, 0, 0].T + op.span.bias).view(2, 4, 1, 3, 3)
            window = around[:, :, stride * y : stride * y + 3, stride * c : stride * c + 3].unflatten(1, (4, 2))
            close(found[:, :, y, c], (kernels * window).sum((3, 4)).flatten(1))

    @pytest.mark.parametrize("stride", [1, 2])
    def test_of_a_constant_kernel_it_is_a_depthwise_convolution(self, stride: int):
        op, x = exact(Involution(8, window=3, group=4, stride=stride)), map_of(8, (4, 6))
        nn.init.zeros_(op.span.weight)
        kernels = op.span.bias.view(2, 1, 3, 3).repeat_interleave(4, dim=0)  # shared in each group
        close(op(x), F.conv2d(x, kernels, stride=stride, padding=1, groups=8))
        conv = DepthwiseConv(8, window=3, stride=stride).double()
        conv.load_state_dict({"weight": kernels.detach(), "bias": torch.zeros(8)})
        close(conv(x), op(x))


class TestSynthesizers:
    def test_dense_is_its_formula_at_each_pixel(self):
        op, x = exact(DenseSynthesizer(8, grid=GRID, heads=2)), map_of(8)
        found, values = [], op.value(x).flatten(2)
        for y, c in pixels():
            hidden = F.relu(point(op.fc1, x[:, :, y, c].T)).T  # (B, C)
            weights = [(hidden[:, 4 * h : 4 * h + 4] @ op.fc2.weight.T).softmax(1) for h in range(2)]
            mixed = [torch.einsum("bs,bcs->bc", weights[h], values[:, 4 * h : 4 * h + 4]) for h in range(2)]
            found.append(point(op.out, torch.cat(mixed, dim=1).T).T)
        close(tokens(op(x)), torch.stack(found, dim=1))

    def test_factorized_dense_has_the_outer_products_as_weights(self):
        op, x = exact(FactorizedDenseSynthesizer(8, grid=GRID, heads=2)), map_of(8)
        hidden = F.relu(op.split(op.fc1(x)))
        for i, j in pixels():
            wanted = (hidden @ op.row.weight[i]) * (hidden @ op.column.weight[j])
            close(op.logits(x)[..., i * GRID[1] + j], wanted)
        dense = DenseSynthesizer(8, grid=GRID, heads=2)
        kinds = (op, dense)
        dense_size, factorized_size = (sum(p.numel() for p in one.parameters()) for one in reversed(kinds))
        assert dense_size - factorized_size == 4 * (12 - 3 - 4)

    def test_random_without_weights_is_the_mean(self):
        op, x = exact(RandomSynthesizer(8, grid=GRID, heads=2)), map_of(8)
        nn.init.zeros_(op.weights)
        mean = op.out(op.value(x)).mean((2, 3), keepdim=True)
        close(op(x), mean.expand(-1, -1, *GRID))

    def test_random_with_sharp_rows_is_a_permutation(self):
        op, x = exact(RandomSynthesizer(8, grid=GRID, heads=2)), map_of(8)
        order = torch.randperm(12)
        with torch.no_grad():
            op.weights.copy_(1000 * F.one_hot(order, 12))
        close(op(x).flatten(2), op.out(op.value(x)).flatten(2)[..., order])

    def test_factorized_random_is_random_of_a_small_rank(self):
        op, x = exact(FactorizedRandomSynthesizer(8, grid=GRID, heads=2, rank=3)), map_of(8)
        full = RandomSynthesizer(8, grid=GRID, heads=2).double()
        full.load_state_dict({"value.weight": op.value.weight, "out.weight": op.out.weight, "weights": op.logits(x)[0]})
        assert torch.linalg.matrix_rank(full.weights).tolist() == [3, 3]
        close(op(x), full(x))

    def test_weights_that_are_not_learned_are_kept_all_the_same(self):
        fixed = RandomSynthesizer(8, grid=GRID, heads=2, learned=False)
        assert {name for name, _ in fixed.named_parameters()} == {"value.weight", "out.weight"}
        assert "weights" in fixed.state_dict()

    def test_the_mixers_token_mixing_without_its_gelu_is_factorized_random(self):
        """With one head of rank D_S, and no softmax, no values of its own and no map after it."""
        mixer, x = exact(TokenMlp(grid=GRID, hidden=5)), map_of(8)
        mixer.gelu = nn.Identity()
        for layer in (mixer.fc1, mixer.fc2):
            nn.init.zeros_(layer.bias)
        synthesizer = FactorizedRandomSynthesizer(8, grid=GRID, heads=1, rank=5).double()
        with torch.no_grad():
            synthesizer.left[0], synthesizer.right[0] = mixer.fc2.weight.T, mixer.fc1.weight
        close(tokens(mixer(x)), synthesizer.logits(x)[:, 0] @ tokens(x))


def test_one_circular_kernel_for_all_channels_is_a_block_circulant_matrix():
    """So a depth-wise convolution as wide as the image is a special token mixing: linear, one for all channels."""
    side, channels = 5, 4
    conv, x = exact(DepthwiseConv(channels, window=side)), map_of(channels, (side, side))
    with torch.no_grad():
        conv.weight.copy_(conv.weight[:1].clone())
        conv.bias.zero_()
    around = F.pad(x, (side // 2,) * 4, mode="circular")
    found = conv(around)[..., side // 2 : -(side // 2), side // 2 : -(side // 2)]
    matrix = torch.zeros(side, side, side, side, dtype=torch.float64)  # from (i, j) to (y, c)
    for (y, c), (i, j) in itertools.product(pixels((side, side)), repeat=2):
        matrix[y, c, i, j] = conv.weight[0, 0, (i - y + side // 2) % side, (j - c + side // 2) % side]
    close(matrix.roll((1, 1), (0, 2)), matrix)  # blocks go round,
    close(matrix.roll((1, 1), (1, 3)), matrix)  # and so do the numbers of each
    close(tokens(found), matrix.view(side**2, side**2) @ tokens(x))


def test_a_constant_map_gives_the_values():
    x = torch.randn(2, 8, 1, 1, dtype=torch.float64).expand(-1, -1, 5, 6)
    attention = exact(BottleneckAttention(8, grid=(5, 6), heads=2))
    close(attention(x), attention.qkv(x).chunk(3, dim=1)[2])
    sasa = exact(StandAloneAttention(8, heads=2, window=3))
    found, value = sasa(x), sasa.qkv(x).chunk(3, dim=1)[2]
    close(found[:, :, 1:-1, 1:-1], value[:, :, 1:-1, 1:-1])
    assert not torch.allclose(found[:, :, 0], value[:, :, 0])  # zeros outside take part


def test_which_operators_are_blind_to_the_order_of_pixels():
    """By a fixed permutation of a map's pixels: with their terms of position, and without."""
    order = torch.randperm(12)
    equivariant: dict[bool, set[str]] = {True: set(), False: set()}
    for name, positions in itertools.product(OPERATORS, (True, False)):
        op = exact(small(name)[0])
        if not positions:
            silence(op)
        x = map_of(32)
        moved = op(x.flatten(2)[..., order].unflatten(2, GRID))
        if torch.allclose(moved.flatten(2), op(x).flatten(2)[..., order]):
            equivariant[positions].add(name)
    assert equivariant[True] == {"identity"}
    assert equivariant[False] == {"identity", "attention", "lambda", "lambda_table"}


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("mixer", {"fc1.weight": 1, "fc2.weight": 0, "fc2.bias": 0}),
        ("dense", {"fc2.weight": 0}),
        ("random", {"weights": (1, 2)}),
        ("factorized_random", {"left": 2, "right": 2}),
    ],
)
def test_which_operators_take_up_another_order_by_their_weights(name: str, moved: dict[str, Any]):
    """So that a network of these learns as well from patches in any fixed order."""
    order = torch.randperm(12)
    op, x = exact(small(name)[0]), map_of(32)
    found = op(x).flatten(2)[..., order]
    with torch.no_grad():
        for parameter, axes in moved.items():
            weight = op.get_parameter(parameter)
            for axis in (axes,) if isinstance(axes, int) else axes:
                weight.copy_(weight.index_select(axis, order))
    close(op(x.flatten(2)[..., order].unflatten(2, GRID)).flatten(2), found)


def test_all_keep_the_map_and_reach_all_of_their_weights():
    for name in OPERATORS:
        op, _ = small(name)
        x = torch.randn(2, 32, *GRID, requires_grad=True)
        y = op(x)
        assert y.shape == x.shape, name
        y.square().sum().backward()
        assert x.grad is not None
        for weight, parameter in op.named_parameters():
            assert parameter.grad is not None, (name, weight)
            assert parameter.grad.abs().sum() > 0, (name, weight)


def test_whose_images_interact_in_training():
    """Those with batch normalization; and once they are trained, none."""
    interact: dict[bool, set[str]] = {True: set(), False: set()}
    for name, training in itertools.product(OPERATORS, (True, False)):
        op = exact(small(name)[0])
        x = map_of(32)
        first = op.train(training)(x)[:1]
        if not torch.allclose(op(torch.cat([x[:1], 3 * x[1:]]))[:1], first):
            interact[training].add(name)
    assert interact == {True: {"lambda", "lambda_table", "involution"}, False: set()}


def test_options_that_do_not_fit(says: Says):
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("attention", {"heads": 5}),
        ("sasa", {"heads": 64}),
        ("sasa", {"window": 4}),
        ("lambda", {"queries": 3}),
        ("lambda", {"keys": 0}),
        ("involution", {"group": 5}),
        ("involution", {"reduction": 5}),
        ("dense", {"heads": 5}),
        ("depthwise", {"window": 2}),
        ("factorized_random", {"rank": 0}),
        ("attntion", {}),
    ]
    for name, options in wrong:
        with says(UsageError):
            describe("isotropic_pico", token_operator=name, **options)


def silence(op: nn.Module) -> None:
    """Puts all terms of position to zero."""
    with torch.no_grad():
        for name, parameter in op.named_parameters():
            if "positions" in name or name in ("row", "column"):
                parameter.zero_()


def position(positions: PositionConv | PositionTable, down: int, right: int) -> Tensor:
    """E of one offset, (k, u)."""
    if isinstance(positions, PositionTable):
        return positions.table[down + GRID[0] - 1, right + GRID[1] - 1]
    side = positions.conv.kernel_size[0]
    i, j = down + side // 2, right + side // 2
    inside = 0 <= i < side and 0 <= j < side
    return positions.conv.weight[:, :, i, j] if inside else torch.zeros(positions.conv.weight.shape[:2]).double()


def copy(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    """Our arrays into timm's; where sides of length 1 are elsewhere, the numbers are in the same order."""
    state = ours.state_dict()
    found = {name: array for name, array in theirs.state_dict().items() if "num_batches" not in name}
    assert (names.keys(), {*names.values()}) == (state.keys(), found.keys())
    theirs.load_state_dict({name: state[our].reshape(found[name].shape) for our, name in names.items()}, strict=False)
