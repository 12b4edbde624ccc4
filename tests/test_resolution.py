"""The same weights at another image size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Says
from torch import Tensor

from mlpmixer import create, load, save
from mlpmixer.errors import UsageError
from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import MixerConfig
from mlpmixer.weights.adapters import change_resolution
from mlpmixer.weights.adapters.grids import Resize
from mlpmixer.weights.adapters.mixer import tile_positions
from mlpmixer.weights.adapters.vit import resample_positions

SMALL: dict[str, Any] = {"layers": 2, "channels": 8, "token_hidden": 6, "channel_hidden": 16, "num_classes": 5}


def small(**options: Any) -> Classifier:
    model = create("mixer_nano", **{"image_size": 16, **SMALL, **options})
    shaken(model)
    return model


def at(model: Classifier, size: tuple[int, int], scheme: Any) -> Classifier:
    """The model with its weights changed to another size, by way of the state alone."""
    family = family_of(model)
    state, config = change_resolution(family, dict(model.state_dict()), model.config, size, scheme)
    changed = family.build(config)
    changed.load_state_dict(state)
    return changed.eval()


class TestTiles:
    """PAPER, appendix C: right after the change, each tile has the tokens of the model run on that tile alone."""

    @pytest.mark.parametrize(
        ("size", "tiles", "options"),
        [
            ((16, 16), (2, 2), {}),
            ((16, 16), (3, 3), {}),
            ((16, 24), (2, 2), {}),
            ((16, 12), (1, 3), {}),
            ((16, 16), (2, 2), {"groups": 4}),
            ((16, 16), (2, 2), {"groups": 2, "group_projection": True}),
            ((16, 16), (2, 2), {"untied": True}),
            ((16, 16), (2, 1), {"pyramid": (1,)}),
            ((16, 16), (2, 2), {"untied": True, "groups": 2, "pyramid": (0, 1)}),
        ],
    )
    def test_each_tile_is_as_if_alone(self, size: tuple[int, int], tiles: tuple[int, int], options: dict[str, Any]):
        model = small(image_size=size, **options)
        large = at(model, (size[0] * tiles[0], size[1] * tiles[1]), "tiles")
        images = torch.randn(2, 3, *large.config.image_size)
        whole = large(images, intermediates=True)[1]["tokens"]
        rows, columns = cast(MixerConfig, model.config).grids()[-1]
        whole = whole.view(2, tiles[0] * rows, tiles[1] * columns, 8)
        for i in range(tiles[0]):
            for j in range(tiles[1]):
                image = images[:, :, i * size[0] : (i + 1) * size[0], j * size[1] : (j + 1) * size[1]]
                alone = model(image, intermediates=True)[1]["tokens"].view(2, rows, columns, 8)
                within = whole[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
                torch.testing.assert_close(within, alone, atol=1e-5, rtol=1e-5)

    def test_hidden_width_grows_with_the_number_of_tiles(self):
        config = cast(MixerConfig, at(small(), (32, 32), "tiles").config)
        assert config.token_hidden == 4 * 6
        assert config.image_size == (32, 32)

    def test_weights_are_block_diagonal_in_the_order_of_tiles(self):
        model = small()
        large = at(model, (32, 32), "tiles")
        w1 = large.get_parameter("blocks.0.token_mixing.fc1.weight").detach()
        order = tile_positions((4, 4), (2, 2)).flatten()
        expected = torch.block_diag(*[model.get_parameter("blocks.0.token_mixing.fc1.weight").detach()] * 4)
        assert torch.equal(w1[:, order], expected)

    def test_tokens_of_tiles_in_raster_order(self):
        positions = tile_positions((1, 2), (2, 2))
        assert positions.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert tile_positions((2, 1), (1, 2)).tolist() == [[0, 2], [1, 3]]

    @pytest.mark.parametrize("size", [(24, 24), (8, 8), (32, 40)])
    def test_only_whole_multiples(self, size: tuple[int, int], says: Says):
        with says(UsageError):
            at(small(), size, "tiles")

    def test_vit_has_no_tiles(self, says: Says):
        with says(UsageError):
            at(create("vit_ti32", layers=1), (448, 448), "tiles")


grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


def resize_matrix(source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """The whole map (target places, source places)."""
    return Resize(source, target).after(torch.eye(source[0] * source[1], dtype=torch.float64)).T


class TestResample:
    @settings(max_examples=40)
    @given(source=grids, target=grids)
    def test_what_is_the_same_everywhere_stays_so(self, source: tuple[int, int], target: tuple[int, int]):
        matrix = resize_matrix(source, target)
        assert matrix.shape == (target[0] * target[1], source[0] * source[1])
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64), atol=1e-6, rtol=0)

    @settings(max_examples=40)
    @given(source=grids, target=grids)
    def test_is_torchs_resize_and_its_transpose(self, source: tuple[int, int], target: tuple[int, int]):
        if target[1] == 1:  # torch 2.13 then resizes the rows wrongly, so that all come out alike
            target = (target[0], 2)
        images = torch.randn(3, 1, *source, dtype=torch.float64)
        expected = F.interpolate(images, size=target, mode="bicubic", antialias=True).flatten(1)
        torch.testing.assert_close(Resize(source, target).after(images.flatten(1)), expected)
        weights = torch.randn(5, target[0] * target[1], dtype=torch.float64)
        torch.testing.assert_close(Resize(source, target).before(weights), weights @ resize_matrix(source, target))

    @settings(max_examples=20)
    @given(grid=grids)
    def test_to_the_same_grid_is_nothing(self, grid: tuple[int, int]):
        torch.testing.assert_close(resize_matrix(grid, grid), torch.eye(grid[0] * grid[1], dtype=torch.float64))

    @pytest.mark.parametrize("size", [(8, 8), (12, 20), (28, 16), (18, 33), (64, 64)])
    @pytest.mark.parametrize("options", [{}, {"groups": 4}, {"untied": True}])
    def test_any_size_runs(self, size: tuple[int, int], options: dict[str, Any]):
        changed = at(small(**options), size, "resample")
        assert bool(changed(torch.randn(1, 3, *size)).isfinite().all())
        assert cast(MixerConfig, changed.config).token_hidden == 6

    def test_token_mixing_is_the_old_one_between_two_changes_of_grid(self):
        model = small()
        changed = at(model, (24, 32), "resample")
        x = torch.randn(2, 6 * 8, 8)
        new, old = (m.get_submodule("blocks.1.token_mixing") for m in (changed, model))
        there, back = resize_matrix((6, 8), (4, 4)).float(), resize_matrix((4, 4), (6, 8)).float()
        torch.testing.assert_close(new(x, None, ""), back @ old(there @ x, None, ""), atol=1e-5, rtol=1e-5)

    def test_a_plain_image_gives_the_same_logits_at_any_size(self):
        """All places see the same, so nothing can depend on how many there are (where the weights do not either)."""
        model = small()
        for block in range(2):
            for name in ("fc2.weight", "fc2.bias"):  # paint the same everywhere
                parameter = model.get_parameter(f"blocks.{block}.token_mixing.{name}")
                parameter.data[:] = parameter.data[:1].clone()
        gray = torch.full((1, 3, 16, 16), 0.3)
        for size in ((20, 12), (32, 32), (8, 8)):
            large = at(model, size, "resample")
            torch.testing.assert_close(large(torch.full((1, 3, *size), 0.3)), model(gray), atol=1e-5, rtol=1e-5)

    def test_pyramids_resample_every_grid(self):
        changed = at(small(pyramid=(0,)), (24, 32), "resample")
        assert changed(torch.randn(1, 3, 24, 32), intermediates=True)[1]["tokens"].shape == (1, 12, 8)


class TestVitPositions:
    def test_the_class_token_keeps_its_own(self):
        position = torch.randn(1, 1 + 16, 6)
        changed = resample_positions(position, (4, 4), (6, 3))
        assert changed.shape == (1, 1 + 18, 6)
        assert torch.equal(changed[:, 0], position[:, 0])

    def test_a_linear_ramp_stays_one_inside(self):
        ramp = torch.arange(8.0).repeat(8, 1).view(1, 64, 1)
        changed = resample_positions(ramp, (8, 8), (16, 16)).view(16, 16)
        torch.testing.assert_close(changed[7, 4:-4].diff(), torch.full((7,), 0.5))

    def test_load_at_another_size(self, tmp_path: Path):
        model = create("vit_ti32", layers=1, image_size=64, num_classes=3)
        shaken(model)
        for name in ("m.safetensors", "m.pth", "m.npz"):
            loaded = load(save(model, tmp_path / name), image_size=(96, 160))
            assert loaded(torch.randn(1, 3, 96, 160)).shape == (1, 3)


class TestLoadAtAnotherSize:
    @pytest.mark.parametrize(("size", "scheme"), [(32, "tiles"), (32, "resample"), (24, "resample")])
    def test_weights_lie_in_order_in_memory(self, size: int, scheme: Any, tmp_path: Path):
        """Our kernels train them right away; they once met weights that lay otherwise."""
        path = save(small(), tmp_path / "model.safetensors")
        model = load(path, image_size=size, resize=scheme)
        assert all(parameter.is_contiguous() for parameter in model.parameters())

    @pytest.mark.parametrize("name", ["m.safetensors", "m.pth", "m.npz"])
    def test_the_sizes_of_the_issue(self, name: str, tmp_path: Path):
        file = save(small(image_size=224, patch_size=32), tmp_path / name)
        for size in (160, 192, 256, 288, 384, 448, (320, 192)):
            model = load(file, image_size=size)
            height, width = (size, size) if isinstance(size, int) else size
            assert model(torch.randn(1, 3, height, width)).shape == (1, 5)
            assert model.metadata.preprocessing.crop == (height, width)
            assert model.metadata.preprocessing.resize >= max(height, width)

    def test_the_papers_scheme_by_name(self, tmp_path: Path):
        file = save(small(), tmp_path / "m.safetensors")
        assert cast(MixerConfig, load(file, image_size=32, resize="tiles").config).token_hidden == 24
        again = load(save(load(file, image_size=32, resize="tiles"), tmp_path / "large.safetensors"))
        assert cast(MixerConfig, again.config).token_hidden == 24

    def test_the_same_size_changes_nothing(self, tmp_path: Path):
        model = small()
        loaded = load(save(model, tmp_path / "m.safetensors"), image_size=16)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))

    def test_bfloat16_stays(self, tmp_path: Path):
        loaded = load(save(small().to(torch.bfloat16), tmp_path / "m.safetensors"), image_size=24)
        assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}

    def test_with_fresh_parts(self, tmp_path: Path):
        file = save(small(), tmp_path / "m.safetensors")
        model = load(file, image_size=24, num_classes=3, fresh=("head", "blocks.0"))
        assert model(torch.zeros(1, 3, 24, 24)).shape == (1, 3)

    def test_a_convolutional_network_just_takes_it(self, tmp_path: Path):
        model = create("bit_r50x1", units=(1, 1), num_classes=3)
        loaded = load(save(model, tmp_path / "m.npz"), image_size=(64, 96))
        assert loaded.config.image_size == (64, 96)
        assert isinstance(loaded(torch.randn(1, 3, 64, 96)), Tensor)
