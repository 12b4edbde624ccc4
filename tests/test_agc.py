"""Adaptive gradient clipping: each unit by its own weights, however the gradient came about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shaken
from hypothesis import given, settings
from hypothesis import strategies as st
from in_processes import finish, torchrun
from torch import Tensor, nn

from mlpmixer import create, load
from mlpmixer.data.loader import Batch
from mlpmixer.machine.distributed import Group
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipe import Model, Optim, Recipe
from mlpmixer.recipes import toml
from mlpmixer.recipes.check import check
from mlpmixer.train.agc import EPS, clip_units, norms
from mlpmixer.train.loop import fit
from mlpmixer.train.optim import ema_decay_at, optimizer_of
from mlpmixer.train.step import TrainStep

CPU = Group(torch.device("cpu"))
SHARE = 0.01
PLAIN = {"optim.name": "sgd", "optim.momentum": 0.0, "optim.weight_decay": 0.0, "optim.clip": 0.0, "optim.lr": 0.1}


def small() -> Classifier:
    sizes = {"depths": (1, 1), "widths": (8, 16), "inner": (4, 8), "group_width": 4, "image_size": 12}
    model = shaken(create("nfnet_f0", num_classes=4, **sizes)).train()
    model.metadata = ModelInfo(preprocessing=Preprocessing.usual((12, 12)))
    return model


def batch(count: int = 8) -> Batch:
    chance = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=chance)
    return Batch(images, torch.randint(0, 4, (count,), generator=chance), torch.arange(count))


def step_of(model: Classifier, **changes: Any) -> TrainStep:
    usual = {**PLAIN, "train.batch_size": 8, "train.precision": "fp32", "optim.schedule": "constant"}
    return TrainStep(toml.change(Recipe(), {**usual, **changes}), model, 100, CPU)


def one_by_one(gradient: Tensor, weight: Tensor, share: float) -> Tensor:
    """The formula, unit by unit."""
    if sum(side > 1 for side in weight.shape) <= 1:
        units = [(gradient, weight)]
    else:
        units = [*zip(gradient, weight, strict=True)]
    clipped = []
    for g, w in units:
        limit = share * max(float(w.norm()), EPS)
        clipped.append(g * limit / g.norm() if float(g.norm()) > limit else g.clone())
    return clipped[0] if len(units) == 1 else torch.stack(clipped)


def changes_of(model: Classifier, update: TrainStep, parts: list[Batch]) -> dict[str, Tensor]:
    """The gradients that a step of plain SGD used."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    update.step(0, parts)
    return {name: (before[name] - p.detach()) / 0.1 for name, p in model.named_parameters()}


def assert_clipped(found: dict[str, Tensor], plain: dict[str, Tensor], weights: dict[str, Tensor], **near: Any) -> None:
    """By each unit's norm, all but the head's weight."""
    shorter = 0
    for name, gradient in plain.items():
        wanted = gradient if name == "head.weight" else one_by_one(gradient, weights[name], SHARE)
        torch.testing.assert_close(found[name], wanted, **near)
        shorter += float(wanted.norm()) < 0.9 * float(gradient.norm())
    assert shorter > 3


def test_units_are_rows_kernels_and_whole_vectors():
    rows, kernels, gains, vector, number = (torch.randn(s) for s in ((4, 3), (4, 3, 2, 2), (5, 1, 1, 1), (6,), ()))
    found = norms([rows, kernels, gains, vector, number])
    assert [tuple(norm.shape) for norm in found] == [(4, 1), (4, 1, 1, 1), (1, 1, 1, 1), (1,), ()]
    wanted = (rows.norm(dim=1), kernels.flatten(1).norm(dim=1), gains.norm(), vector.norm(), number.abs())
    for norm, by_hand in zip(found, wanted, strict=True):
        torch.testing.assert_close(norm.flatten(), by_hand.flatten())


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([(4, 3), (3, 2, 2, 2), (5,), (1,), (4, 1, 1, 1), (1, 6)]))
def test_what_is_short_stays_bit_for_bit_and_the_rest_ends_at_its_limit(seed: int, shape: tuple[int, ...]):
    chance = torch.Generator().manual_seed(seed)
    model = small()
    model.other = nn.Parameter(torch.randn(shape, generator=chance))
    scales = 10 ** (4 * torch.rand(shape[0], generator=chance) - 4)
    gradient = torch.randn(shape, generator=chance) * scales.view(-1, *(1,) * (len(shape) - 1))
    model.other.grad = gradient.clone()
    clip_units(model, SHARE)
    wanted = one_by_one(gradient, model.other.detach(), SHARE)
    torch.testing.assert_close(model.other.grad, wanted, rtol=1e-5, atol=0)
    alone = wanted == gradient
    assert torch.equal(model.other.grad[alone], gradient[alone])


def test_weights_of_zero_leave_a_gradient_of_norm_1e5():
    """λ · ε: so they begin to move."""
    model = small()
    model.other = nn.Parameter(torch.zeros(2, 3))
    model.other.grad = torch.randn(2, 3)
    clip_units(model, SHARE)
    torch.testing.assert_close(model.other.grad.norm(dim=1), torch.full((2,), 1e-5))


@pytest.mark.parametrize("how", [{}, {"train.precision": "fp16"}, {"train.precision": "bf16"}])
def test_a_step_clips_all_but_the_heads_weight(how: dict[str, Any]):
    model, twin = small(), small()
    twin.load_state_dict(model.state_dict())
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    near = {"rtol": 1e-3, "atol": 1e-6}  # of differences of weights
    found = changes_of(model, step_of(model, **how, **{"optim.agc": SHARE}), [batch()])
    assert_clipped(found, changes_of(twin, step_of(twin, **how), [batch()]), weights, **near)
    assert torch.equal(model.get_parameter("head.weight"), twin.get_parameter("head.weight"))
    assert not torch.equal(model.get_parameter("head.bias"), twin.get_parameter("head.bias"))


@pytest.mark.parametrize("how", [{"optim.sharpness": "sam", "optim.rho": 0.2}, {"optim.ema": 0.5}])
def test_it_is_of_the_whole_and_final_gradient(how: dict[str, Any]):
    """Of all parts of a batch, and of SAM's second gradient."""
    model, twin = small(), small()
    twin.load_state_dict(model.state_dict())
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    whole = batch()
    parts = [Batch(whole.images[cut], whole.labels[cut], whole.indices[cut]) for cut in (slice(0, 3), slice(3, 8))]
    found = changes_of(model, step_of(model, **how, **{"optim.agc": SHARE}), parts)
    assert_clipped(found, changes_of(twin, step_of(twin, **how), [whole]), weights, rtol=1e-2, atol=1e-5)


def test_the_norm_of_all_is_clipped_afterwards():
    """And what a step returns is the norm before both."""
    models = [small() for _ in range(3)]
    for other in models[1:]:
        other.load_state_dict(models[0].state_dict())
    units = changes_of(models[0], step_of(models[0], **{"optim.agc": SHARE}), [batch()])
    norm = torch.cat([gradient.flatten() for gradient in units.values()]).norm()
    clip = float(norm) / 3
    both = changes_of(models[1], step_of(models[1], **{"optim.agc": SHARE, "optim.clip": clip}), [batch()])
    torch.testing.assert_close(both, {name: g / 3 for name, g in units.items()}, rtol=1e-2, atol=1e-5)
    _, told = step_of(models[2], **{"optim.agc": SHARE, "optim.clip": clip}).step(0, [batch()])
    assert float(told) > 1.1 * float(norm)


def test_a_gradient_that_overflows_in_fp16_is_left_out():
    model = small()
    update = step_of(model, **{"train.precision": "fp16", "optim.agc": SHARE, "optim.clip": 1.0})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    update.step(0, [batch()])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_decay_of_the_average_may_begin_low():
    """min(decay, (1 + t) / (10 + t)), as the authors' code has it."""
    how = Optim(ema=0.9, ema_warmup=True)
    assert [ema_decay_at(t, how) for t in (0, 1, 80, 10_000)] == [0.1, 2 / 11, 0.9, 0.9]
    assert ema_decay_at(0, Optim(ema=0.9)) == 0.9
    model = small()
    update = step_of(model, **{"optim.ema": 0.9, "optim.ema_warmup": True})
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    update.step(1, [batch()])
    with update.averaged():
        averaged = {name: p.detach().clone() for name, p in model.named_parameters()}
    wanted = {name: first[name] * 2 / 11 + p.detach() * 9 / 11 for name, p in model.named_parameters()}
    torch.testing.assert_close(averaged, wanted)


def test_nesterovs_momentum():
    """v ← μ v + g; the step is g + μ v."""
    weight = nn.Linear(3, 2, bias=False)
    optimizer = optimizer_of(weight, Optim(name="sgd", momentum=0.9, nesterov=True, weight_decay=0.0))
    velocity, wanted = torch.zeros(2, 3), weight.weight.detach().clone()
    for _ in range(3):
        gradient = torch.randn(2, 3)
        weight.weight.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        wanted = wanted - 0.5 * (gradient + 0.9 * velocity)
    torch.testing.assert_close(weight.weight.detach(), wanted)


def test_what_makes_no_sense_is_refused():
    for changes, words in (
        ({"optim.agc": -0.1}, "optim.agc must be 0 or more; got -0.1"),
        ({"optim.nesterov": True, "optim.momentum": 0.0}, "optim.nesterov is a form of momentum, and .* is 0"),
    ):
        with pytest.raises(Exception, match=words):
            check(toml.change(Recipe(), changes))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path):
    """A network with kernels, gains and single numbers, replicated and sharded."""
    sizes = {"depths": (1, 2), "widths": (16, 32), "inner": (6, 12), "group_width": 6}
    recipe = toml.change(
        Recipe(name="nfnet", model=Model(name="nfnet_f0", image_size=(28,), options=dict(sizes))),
        {
            "data.classes": "Bag,Coat,Trouser",
            "data.shots": 20,
            "data.val": "",
            "data.test": "",
            "optim.name": "sgd",
            "optim.nesterov": True,
            "optim.lr": 0.5,
            "optim.agc": SHARE,
            "optim.clip": 0.0,
            "optim.ema": 0.9,
            "optim.ema_warmup": True,
            "train.steps": 4,
            "train.batch_size": 12,
            "train.precision": "fp32",
            "machine.workers": 0,
            "machine.log_every": 1,
        },
    )
    ways = ("ddp", "fsdp")
    jobs = [(toml.change(recipe, {"machine.parallel": way}), tmp_path / way) for way in ways]
    finish(torchrun(2, jobs, tmp_path))
    fit(recipe, tmp_path / "local", quiet=True)
    started = create("nfnet_f0", num_classes=3, image_size=28, **sizes).state_dict()
    local = load(tmp_path / "local").state_dict()
    assert any(not torch.equal(local[name], array) for name, array in started.items() if name.endswith("skip_gain"))
    for way in ways:
        torch.testing.assert_close(load(tmp_path / way).state_dict(), local, rtol=1e-4, atol=1e-6)
