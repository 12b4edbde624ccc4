"""One step of learning, against what papers, authors and other libraries say it is."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mlpmixer import create
from mlpmixer.data.loader import Batch
from mlpmixer.data.preprocess import normalize
from mlpmixer.machine.distributed import Group
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models.classifier import Classifier
from mlpmixer.recipe import Loss, Optim, Recipe
from mlpmixer.recipes import toml
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.loss import as_targets, distance_to, loss_of
from mlpmixer.train.optim import lr_at, optimizer_of
from mlpmixer.train.step import TrainStep

CLASSES, BATCH = 4, 8
CPU = Group(torch.device("cpu"))
PLAIN = {"optim.name": "sgd", "optim.momentum": 0.0, "optim.weight_decay": 0.0, "optim.clip": 0.0, "optim.lr": 0.1}


def small(**options: Any) -> Classifier:
    sizes = {"layers": 2, "channels": 16, "token_hidden": 8, "channel_hidden": 32}
    model = shaken(create("mixer_pico", num_classes=CLASSES, image_size=12, **{**sizes, **options})).train()
    model.metadata = ModelInfo(preprocessing=Preprocessing.usual((12, 12)))
    return model


def step_of(model: Classifier, steps: int = 100, /, **changes: Any) -> TrainStep:
    """Constant learning rate and fp32, if nothing else is said; `optim__lr` is optim.lr."""
    usual = {"train.batch_size": BATCH, "train.precision": "fp32", "optim.schedule": "constant"}
    recipe = toml.change(Recipe(), {**usual, **{name.replace("__", "."): value for name, value in changes.items()}})
    return TrainStep(recipe, model, steps, CPU)


def plain_step_of(model: Classifier, **changes: Any) -> TrainStep:
    return step_of(model, **{**PLAIN, **changes})


def batch(seed: int = 0, count: int = BATCH) -> Batch:
    chance = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=chance)
    return Batch(images, torch.randint(0, CLASSES, (count,), generator=chance), torch.arange(count))


def in_parts(whole: Batch, size: int) -> list[Batch]:
    cuts = [slice(n, n + size) for n in range(0, len(whole.labels), size)]
    return [Batch(whole.images[cut], whole.labels[cut], whole.indices[cut]) for cut in cuts]


def gradients(model: nn.Module, *batches: Batch) -> dict[str, Tensor]:
    """Of the mean cross-entropy, by the shortest way."""
    model.zero_grad()
    for one in batches:
        F.cross_entropy(model(normalize(one.images, Preprocessing())), one.labels).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float = 1e-6, atol: float = 1e-7) -> None:
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def twins(**options: Any) -> tuple[Classifier, Classifier]:
    one, other = small(**options), small(**options)
    other.load_state_dict(one.state_dict())
    return one, other


def is_kernel(name: str) -> bool:
    return name.endswith("weight") and "norm" not in name


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float) -> dict[str, Tensor]:
    """With the gradients of chance, which are returned."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    return found


def norm(of: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in of.values()))


class TestOptimizers:
    def test_adamw_is_the_authors_adam_with_their_decay(self):
        """w ← w − lr · m̂ / (√v̂ + ε) − lr · decay · w, the last for kernels only."""
        model, lr, decay = small(), 0.01, 0.1
        optimizer = optimizer_of(model, Optim(name="adamw", weight_decay=decay))
        w = weights(model)
        m, v = ({name: torch.zeros_like(x) for name, x in w.items()} for _ in range(2))
        for step in range(1, 4):
            g = take_step(model, optimizer, lr)
            for name, x in w.items():
                m[name] = 0.9 * m[name] + 0.1 * g[name]
                v[name] = 0.999 * v[name] + 0.001 * g[name] ** 2
                adam = (m[name] / (1 - 0.9**step)) / ((v[name] / (1 - 0.999**step)).sqrt() + 1e-8)
                w[name] = x - lr * adam - (lr * decay * x if is_kernel(name) else 0)
            assert_same(weights(model), w, rtol=1e-5)

    @pytest.mark.parametrize(
        ("model", "others"),
        [
            (create("mixer_pico", num_classes=3), {"norm"}),
            (create("mixer_pico", num_classes=3, untied=True), {"norm"}),
            (create("vit_ti32", num_classes=3, image_size=64), {"norm", "position", "class_token"}),
            (create("bit_r50x1", num_classes=3, image_size=32), {"norm"}),
            (create("nfnet_f0", num_classes=3, depths=(1,), widths=(8,), inner=(4,)), {"gain"}),
            (create("halonet_h1", num_classes=3, units=(1,)), {"norm", ".row", ".column"}),
            (create("botnet50", num_classes=3, image_size=32), {"norm", "positions"}),
        ],
        ids=["mixer", "untied", "vit", "bit", "nfnet", "halonet", "botnet"],
    )
    def test_only_kernels_are_decayed(self, model: Classifier, others: set[str]):
        names = {parameter: name for name, parameter in model.named_parameters()}
        kernels, rest = optimizer_of(model, Optim(weight_decay=0.3)).param_groups
        assert (kernels["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
        decayed = {names[parameter] for parameter in kernels["params"]}
        assert decayed == {
            name for name in names.values() if not name.endswith("bias") and not any(word in name for word in others)
        }
        assert len(decayed) + len(rest["params"]) == len(names)

    @pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lamb", "muon"])
    def test_a_look_for_checkpoints_is_no_step(self, name: str, tmp_path: Path):
        plain, looked = twins()
        how = {"optim__name": name, "optim__weight_decay": 0.1}
        ours, theirs = step_of(looked, **how), step_of(plain, **how)
        assert Checkpoints(tmp_path, CPU, 1).restore(ours.state_dict()) == (0, [])
        for step in range(2):
            ours.step(step, [batch(step)])
            theirs.step(step, [batch(step)])
        assert_same(weights(looked), weights(plain), rtol=0, atol=0)

    @pytest.mark.parametrize("name", ["adam", "sgd", "lamb"])
    def test_the_others_are_torchs_and_timms(self, name: str, timm: Any):  # noqa: ARG002 (brings torchvision)
        from timm.optim.lamb import Lamb

        ours, theirs = twins()
        groups = [
            {"params": [p for n, p in theirs.named_parameters() if is_kernel(n)], "weight_decay": 0.05},
            {"params": [p for n, p in theirs.named_parameters() if not is_kernel(n)], "weight_decay": 0.0},
        ]
        wanted = {
            "adam": lambda: torch.optim.Adam(groups),
            "sgd": lambda: torch.optim.SGD(groups, momentum=0.9),
            "lamb": lambda: Lamb(groups, max_grad_norm=None),  # pyright: ignore[reportArgumentType]
        }[name]()
        optimizer = optimizer_of(ours, Optim(name=name, weight_decay=0.05))  # pyright: ignore[reportArgumentType]
        for step in range(5):
            torch.manual_seed(step)
            take_step(ours, optimizer, 0.02)
            torch.manual_seed(step)
            take_step(theirs, wanted, 0.02)
        assert_same(weights(ours), weights(theirs), rtol=1e-5)

    def test_lamb_leaves_an_array_of_zeros_its_step(self):
        """As fresh heads are: their length is 0, and a step as long would never leave it."""
        model = small()
        nn.init.zeros_(model.get_submodule("head").weight)  # pyright: ignore[reportArgumentType]
        step_of(model, optim__name="lamb").step(0, [batch()])
        assert float(weights(model)["head.weight"].abs().max()) > 0


class TestSchedule:
    @pytest.mark.parametrize(
        ("how", "wanted"),
        [
            (Optim(lr=1, schedule="linear"), [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
            (Optim(lr=1, schedule="linear", warmup_steps=5), [0.2, 0.4, 0.6, 0.8, 1, 1, 0.8, 0.6, 0.4, 0.2]),
            (Optim(lr=2, schedule="linear", final_lr_ratio=0.5), [2, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1]),
            (Optim(lr=1, schedule="constant", warmup_steps=2), [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            (Optim(lr=1, schedule="steps"), [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001]),
            (Optim(lr=1, schedule="steps", milestones=(0.5,), warmup_steps=2), [0.5, 1, 1, 1, 1, *[0.1] * 5]),
            (Optim(lr=1, schedule="cosine"), [(1 + math.cos(math.pi * n / 10)) / 2 for n in range(10)]),
            (
                Optim(lr=1, schedule="cosine", warmup_steps=2, final_lr_ratio=0.1),
                [0.5, 1, *[0.1 + 0.45 * (1 + math.cos(math.pi * n / 8)) for n in range(8)]],
            ),
            (Optim(lr=1, warmup_steps=20), [n / 20 for n in range(1, 11)]),
            (Optim(lr=1, schedule="constant", warmup_steps=20, warmup_share=0.2), [0.5, *[1] * 9]),
            (Optim(lr=1, schedule="constant", warmup_steps=1, warmup_share=0.5), [1] * 10),
            (Optim(lr=1, schedule="constant", warmup_steps=5, warmup_share=0.01), [1] * 10),
        ],
    )
    def test_values(self, how: Optim, wanted: list[float]):
        assert [lr_at(step, 10, how) for step in range(10)] == pytest.approx(wanted)

    @given(st.sampled_from(["linear", "cosine", "steps", "constant"]), st.integers(0, 50), st.integers(1, 50))
    def test_it_rises_to_the_peak_and_then_never_again(self, schedule: Any, warmup: int, steps: int):
        how = Optim(lr=0.5, schedule=schedule, warmup_steps=warmup)
        values = [lr_at(step, steps, how) for step in range(steps)]
        assert all(0 < value <= 0.5 for value in values)
        assert values[:warmup] == sorted(values[:warmup])
        assert values[warmup:] == sorted(values[warmup:], reverse=True)

    def test_the_step_uses_it(self):
        model = small()
        update = plain_step_of(model, optim__warmup_steps=10)
        before, gradient = weights(model), gradients(model, batch())
        update.step(4, [batch()])
        assert_same(weights(model), {name: before[name] - 0.05 * gradient[name] for name in before})


class TestStep:
    def test_a_batch_in_parts_learns_the_same(self):
        whole, parted = twins()
        loss, length = plain_step_of(whole).step(0, [batch()])
        loss_too, length_too = plain_step_of(parted).step(0, in_parts(batch(), 3))
        assert float(loss) == pytest.approx(float(loss_too), abs=1e-6)
        assert float(length) == pytest.approx(float(length_too), rel=1e-5)
        assert_same(weights(parted), weights(whole), atol=1e-6)

    def test_what_it_returns(self):
        model = small()
        images = normalize(batch().images, Preprocessing())
        wanted = F.cross_entropy(model(images), batch().labels).item(), norm(gradients(model, batch()))
        loss, length = plain_step_of(model, optim__clip=1e-3).step(0, [batch()])
        assert float(loss) == pytest.approx(wanted[0], rel=1e-5)
        assert float(length) == pytest.approx(wanted[1], rel=1e-5)  # before it was clipped

    @pytest.mark.parametrize("clip", [0.01, 1e6, 0.0])
    def test_clipping_is_by_the_norm_of_all(self, clip: float):
        model = small()
        before, gradient = weights(model), gradients(model, batch())
        plain_step_of(model, optim__clip=clip).step(0, [batch()])
        shrink = clip / norm(gradient) if clip == 0.01 else 1
        assert norm(gradient) > 0.01
        assert_same(weights(model), {name: before[name] - 0.1 * shrink * gradient[name] for name in before}, atol=1e-6)

    def test_the_average_of_weights(self):
        model = small()
        theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        theirs.update_parameters(model)  # ours begins with the first weights
        update = plain_step_of(model, optim__ema=0.9)
        first, own = weights(model), []
        for step in range(4):
            update.step(step, [batch(step)])
            theirs.update_parameters(model)
            own.append(weights(model))
        with update.averaged():
            inside = weights(model)
        assert_same(inside, weights(theirs.module), rtol=0, atol=0)
        closed = {
            name: 0.9**4 * first[name] + sum(0.1 * 0.9 ** (3 - n) * own[n][name] for n in range(4)) for name in first
        }
        assert_same(inside, closed, rtol=1e-5, atol=1e-6)
        assert_same(weights(model), own[-1], rtol=0, atol=0)

    def test_chance_follows_from_the_step(self):
        def after(step: int, seed: int = 0) -> dict[str, Tensor]:
            torch.manual_seed(0)
            model = small(dropout=0.3, stochastic_depth=0.5)
            update = plain_step_of(model, train__seed=seed)
            torch.rand(step)  # what was drawn before does not matter
            update.step(step, [batch()])
            return weights(model)

        first = after(0)
        assert_same(after(0), first, rtol=0, atol=0)
        assert norm({name: after(1)[name] - first[name] for name in first}) > 1e-4
        assert norm({name: after(0, seed=1)[name] - first[name] for name in first}) > 1e-4

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    @pytest.mark.parametrize("sharpness", ["none", "sam", "gsam"])
    def test_lower_precision_learns_nearly_the_same(self, precision: str, sharpness: str):
        exact, rough = twins()
        before = weights(exact)
        how = {"optim__sharpness": sharpness, "optim__rho": 0.1}
        ours = plain_step_of(rough, train__precision=precision, **how)
        loss, _ = ours.step(0, [batch()])
        plain_step_of(exact, **how).step(0, [batch()])
        assert math.isfinite(float(loss))
        step = norm({name: weights(exact)[name] - before[name] for name in before})
        apart = norm({name: weights(exact)[name] - weights(rough)[name] for name in before})
        assert 0 < apart < 0.05 * step
        assert {p.dtype for p in rough.parameters()} == {torch.float32}

    def test_a_gradient_that_overflows_in_fp16_is_left_out(self):
        model = small()
        update = plain_step_of(model, train__precision="fp16")
        before = weights(model)
        update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        loss, length = update.step(0, [batch()])
        assert_same(weights(model), before, rtol=0, atol=0)
        assert math.isfinite(float(loss))
        assert not math.isfinite(float(length))
        assert update.scaler.get_scale() == 2.0**126


class TestLoss:
    LOGITS = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.1, 0.2, 0.3, -4.0]])
    LABELS = torch.tensor([0, 3])

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_softmax_is_torchs(self, smoothing: float):
        found = loss_of(self.LOGITS, as_targets(self.LABELS, 4), Loss(smoothing=smoothing))
        wanted = F.cross_entropy(self.LOGITS, self.LABELS, label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(found, wanted)

    def test_softmax_of_mixed_labels(self):
        mixed = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
        torch.testing.assert_close(
            loss_of(self.LOGITS, mixed, Loss()), F.cross_entropy(self.LOGITS, mixed, reduction="none")
        )

    def test_sigmoid_is_yes_or_no_for_each_class(self):
        """−Σ y log σ(x) + (1 − y) log(1 − σ(x)), over the classes and not their mean."""
        y, p = as_targets(self.LABELS, 4), 1 / (1 + (-self.LOGITS).exp())
        wanted = -(y * p.log() + (1 - y) * (1 - p).log()).sum(dim=1)
        torch.testing.assert_close(loss_of(self.LOGITS, y, Loss(kind="sigmoid")), wanted)

    def test_the_authors_head_bias_makes_sigmoid_begin_low(self):
        logits = torch.full((1, 1000), -6.9)
        found = float(loss_of(logits, as_targets(torch.tensor([3]), 1000), Loss(kind="sigmoid")))
        assert found == pytest.approx(6.9 + 1.0, abs=0.02)

    def test_half_precision_logits_are_not_summed_in_half_precision(self):
        logits = torch.randn(4, 5000).to(torch.bfloat16)
        targets = as_targets(torch.arange(4), 5000)
        for kind in ("softmax", "sigmoid"):
            found = loss_of(logits, targets, Loss(kind=kind))
            torch.testing.assert_close(found, loss_of(logits.float(), targets, Loss(kind=kind)), rtol=0, atol=0)

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_the_distance_to_a_teacher(self, temperature: float):
        """T² · Σ p log(p / q), with p and q the softened answers of teacher and student."""
        teacher = self.LOGITS.flip(0) * 2
        p, q = (teacher / temperature).softmax(dim=1), (self.LOGITS / temperature).softmax(dim=1)
        wanted = temperature**2 * (p * (p / q).log()).sum(dim=1)
        how = Loss(temperature=temperature)
        torch.testing.assert_close(distance_to(teacher, self.LOGITS, how), wanted)
        assert float(distance_to(teacher, teacher, how).abs().max()) < 1e-6


def uphill(model: Classifier, rho: float, *batches: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients here, and where going uphill by `rho` ends."""
    first, there = gradients(model, *batches), copy.deepcopy(model)
    for name, parameter in there.named_parameters():
        parameter.data += rho * first[name] / norm(first)
    return first, gradients(there, *batches)


def gsam(first: dict[str, Tensor], second: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """∇f_p − α ∇f⊥, where ∇f⊥ is the part of ∇f at right angles to ∇f_p (arXiv 2203.08065, algorithm 1)."""
    inner = sum(float((first[name] * second[name]).sum()) for name in first)
    parallel = {name: inner / norm(second) ** 2 * second[name] for name in first}
    return {name: second[name] - alpha * (first[name] - parallel[name]) for name in first}


class TestSharpness:
    def test_sam(self):
        model = small()
        before, (_, second) = weights(model), uphill(model, 0.3, batch())
        plain_step_of(model, optim__sharpness="sam", optim__rho=0.3).step(0, [batch()])
        assert_same(weights(model), {name: before[name] - 0.1 * second[name] for name in before}, atol=1e-6)

    def test_gsam(self):
        model = small()
        before = weights(model)
        wanted = gsam(*uphill(model, 0.3, batch()), alpha=0.7)
        plain_step_of(model, optim__sharpness="gsam", optim__rho=0.3, optim__alpha=0.7).step(0, [batch()])
        assert_same(weights(model), {name: before[name] - 0.1 * wanted[name] for name in before}, atol=1e-6)

    def test_gsams_rho_falls_as_the_learning_rate_does(self):
        """ρ_t = ρ_min + (ρ_max − ρ_min) (lr_t − lr_min) / (lr_max − lr_min)."""
        model = small()
        how = {"optim__schedule": "linear", "optim__final_lr_ratio": 0.2, "optim__rho": 0.5, "optim__rho_min": 0.1}
        update = plain_step_of(model, optim__sharpness="gsam", **how)
        lr = 0.1 * (0.2 + 0.8 * 0.25)
        before = weights(model)
        wanted = gsam(*uphill(model, 0.1 + 0.4 * 0.25, batch()), alpha=0.4)
        update.step(75, [batch()])
        assert_same(weights(model), {name: before[name] - lr * wanted[name] for name in before}, atol=1e-6)

    @pytest.mark.parametrize("sharpness", ["sam", "gsam"])
    def test_a_batch_in_parts_learns_the_same(self, sharpness: str):
        whole, parted = twins()
        how = {"optim__sharpness": sharpness, "optim__rho": 0.3}
        plain_step_of(whole, **how).step(0, [batch()])
        plain_step_of(parted, **how).step(0, in_parts(batch(), 3))
        assert_same(weights(parted), weights(whole), atol=1e-6)

    @pytest.mark.parametrize("sharpness", ["sam", "gsam"])
    def test_both_looks_see_the_same_dropout(self, sharpness: str):
        """From next to the same place, two looks are as one."""
        once, twice = twins(dropout=0.5, stochastic_depth=0.5)
        plain_step_of(once).step(3, in_parts(batch(), 4))
        plain_step_of(twice, optim__sharpness=sharpness, optim__rho=1e-7).step(3, in_parts(batch(), 4))
        assert_same(weights(twice), weights(once), atol=1e-5)

    @pytest.mark.parametrize("sharpness", ["sam", "gsam"])
    def test_what_is_clipped_is_the_second_look(self, sharpness: str):
        model = small()
        before = weights(model)
        first, second = uphill(model, 0.3, batch())
        wanted = second if sharpness == "sam" else gsam(first, second, alpha=0.4)
        how = {"optim__sharpness": sharpness, "optim__rho": 0.3, "optim__clip": 0.01}
        loss, length = plain_step_of(model, **how).step(0, [batch()])
        assert float(length) == pytest.approx(norm(wanted), rel=1e-4)
        moved = {name: before[name] - 0.1 * wanted[name] * 0.01 / norm(wanted) for name in before}
        assert_same(weights(model), moved, atol=1e-6)
        images = normalize(batch().images, Preprocessing())
        model.load_state_dict(before)
        assert float(loss) == pytest.approx(F.cross_entropy(model(images), batch().labels).item(), rel=1e-5)

    def test_the_weights_come_back_to_the_bit(self):
        model = small()
        before = weights(model)
        plain_step_of(model, optim__sharpness="sam", optim__lr=1e-30).step(0, [batch()])
        assert_same(weights(model), before, rtol=0, atol=0)


COMPILED = """
import mlpmixer, torch
from mlpmixer.data.loader import Batch
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.recipe import Machine, Optim, Recipe, Train
from mlpmixer.machine.distributed import Group
from mlpmixer.train.step import TrainStep

found = []
for compiled in (False, True):
    torch.manual_seed(0)
    model = mlpmixer.create("mixer_pico", num_classes=4, image_size=12, layers=1, channels=16, dropout=0.0)
    torch.nn.init.normal_(model.head.weight)
    model.metadata = ModelInfo(preprocessing=Preprocessing.usual((12, 12)))
    recipe = Recipe(
        optim=Optim(name="sgd", lr=0.1, sharpness="gsam", rho=0.3),
        train=Train(batch_size=4, precision="fp32"),
        machine=Machine(compile=compiled),
    )
    step = TrainStep(recipe, model, 10, Group(torch.device("cpu")))
    images = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8)
    losses = [step.step(n, [Batch(images, torch.arange(4), torch.arange(4))])[0] for n in range(2)]
    found.append((losses, model.state_dict()))
torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
print("same")
"""


@pytest.mark.slow
def test_a_compiled_model_learns_the_same():
    """In a process of its own, where types are not checked: the checks do not compile."""
    command = [sys.executable, "-W", "error", "-c", COMPILED]
    quick = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_VEC_ISA_OK": "1"}  # no pool, no trial of the compiler
    environment = {**os.environ, **quick}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("same\n", "")
