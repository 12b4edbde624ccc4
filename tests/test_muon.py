"""Muon: its step is torch's, its matrices are orthogonal, and it keeps one momentum for each map."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mlpmixer import create
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipe import Optim
from mlpmixer.train.muon import maps_of, orthogonal
from mlpmixer.train.optim import optimizer_of

SIZES: dict[str, Any] = {"layers": 2, "channels": 16, "token_hidden": 8, "channel_hidden": 32}


def small() -> Classifier:
    torch.manual_seed(0)
    return create("mixer_pico", num_classes=4, image_size=12, **SIZES)


def learn(models: list[Classifier], seed: int) -> None:
    """The same gradients in all models."""
    torch.manual_seed(seed)
    images, labels = torch.randn(8, 3, 12, 12), torch.randint(0, 4, (8,))
    F.cross_entropy(models[0](images), labels).backward()
    for model in models[1:]:
        for parameter, first in zip(model.parameters(), models[0].parameters(), strict=True):
            parameter.grad = None if first.grad is None else first.grad.clone()


def test_the_maps_are_those_of_the_layers():
    model = small()
    names = {name for name, parameter in model.named_parameters() if any(parameter is one for one in maps_of(model))}
    assert names == {
        f"blocks.{block}.{mlp}.{layer}.weight"
        for block in range(2)
        for mlp in ("token_mixing", "channel_mixing")
        for layer in ("fc1", "fc2")
    }


@pytest.mark.parametrize("name", ["mixer_s32", "vit_s16", "bit_r50x1", "resnet50", "nfnet_f0", "efficientnet_b0"])
def test_every_family_has_maps_and_leaves_stem_and_head_to_adamw(name: str):
    with torch.device("meta"):
        model = create(name)
    maps = {id(parameter) for parameter in maps_of(model)}
    rest = [name for name, parameter in model.named_parameters() if id(parameter) not in maps and parameter.ndim > 1]
    assert len(maps) > 30
    assert any(name.startswith("head") for name in rest)
    assert len(rest) < 8, rest


def test_steps_are_those_of_torchs_muon_and_adamw():
    """Torch's rounds to bf16 on the way: so much may the two differ, of what a step changes."""
    ours, theirs = small(), small()
    start = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    optimizer = optimizer_of(ours, Optim(name="muon", lr=0.01, weight_decay=0.05))
    maps = maps_of(theirs)
    chosen = {id(parameter) for parameter in maps}
    muon = torch.optim.Muon(maps, 0.01, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    others = [(name, parameter) for name, parameter in theirs.named_parameters() if id(parameter) not in chosen]
    kernels = [parameter for name, parameter in others if name.endswith("weight") and parameter.ndim > 1]
    rest = [parameter for _, parameter in others if all(parameter is not kernel for kernel in kernels)]
    adamw = torch.optim.AdamW([{"params": kernels, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], 0.01)
    for step in range(4):
        learn([ours, theirs], step)
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        for one in (optimizer, muon, adamw):
            one.step()
        for model in (ours, theirs):
            model.zero_grad()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        way = (other - start[name]).detach().norm()
        near = 0.08 if ".fc" in name and name.endswith("weight") else 1e-5
        assert float((parameter - other).detach().norm() / way) < near, name


@given(rows=st.integers(1, 24), columns=st.integers(1, 24), spread=st.floats(1, 30), seed=st.integers(0, 2**20))
def test_a_matrix_becomes_orthogonal(rows: int, columns: int, spread: float, seed: int):
    """Singular vectors stay, singular values become about 1, whatever they were within a factor of `spread`."""
    chance = torch.Generator().manual_seed(seed)
    count = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=chance))[0][:, :count]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=chance))[0][:, :count]
    sizes = spread ** torch.rand(count, generator=chance)
    [found] = orthogonal([left @ torch.diag(sizes) @ right.T])
    values = left.T @ found @ right
    assert 0.6 < float(values.diagonal().min()) <= float(values.diagonal().max()) < 1.3
    assert float((values - torch.diag(values.diagonal())).abs().max()) < 1e-3


def test_arrays_of_one_shape_are_computed_together_and_alone_alike():
    """Tall and wide ones, and kernels of convolutions, as the matrices of outputs by inputs that they are."""
    torch.manual_seed(0)
    shapes = [(8, 16), (16, 8), (8, 16), (8, 4, 2, 2), (5, 5), (16, 1, 3, 3)]
    arrays = [torch.randn(shape) for shape in shapes]
    for together, array in zip(orthogonal(arrays), arrays, strict=True):
        [alone] = orthogonal([array])
        torch.testing.assert_close(together, alone)
        [flat] = orthogonal([array.flatten(1)])
        torch.testing.assert_close(alone.flatten(1), flat)
        assert together.shape == array.shape


def test_nothing_comes_of_nothing():
    [found] = orthogonal([torch.zeros(3, 4)])
    assert not found.any()


def test_a_map_has_one_momentum_and_everything_else_adamws_two():
    model = small()
    optimizer = optimizer_of(model, Optim(name="muon"))
    maps = {id(parameter) for parameter in maps_of(model)}
    for parameter in model.parameters():
        wanted = {"momentum_buffer"} if id(parameter) in maps else {"step", "exp_avg", "exp_avg_sq"}
        assert set(optimizer.state[parameter]) == wanted


def test_a_state_that_was_saved_goes_on_exactly():
    whole, first = small(), small()
    how = Optim(name="muon")
    optimizers = [optimizer_of(model, how) for model in (whole, first)]

    def step(model: Classifier, optimizer: torch.optim.Optimizer, seed: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        learn([model], seed)
        optimizer.step()
        model.zero_grad()

    for seed in range(3):
        for model, optimizer in zip((whole, first), optimizers, strict=True):
            step(model, optimizer, seed)
    again: Classifier = copy.deepcopy(first)
    other = optimizer_of(again, how)
    other.load_state_dict(optimizers[1].state_dict())
    for seed in range(3, 6):
        step(whole, optimizers[0], seed)
        step(again, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
