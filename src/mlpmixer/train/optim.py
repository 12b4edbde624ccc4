"""Optimizers, weight decay, and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mlpmixer.recipe import Optim
from mlpmixer.train.muon import Muon, maps_of


class Lamb(torch.optim.Optimizer):
    """LAMB: Adam whose step, for each array of weights, is as long as the array itself times lr (arXiv 1904.00962).

    The decay is added to the step before it is scaled; arrays that are not decayed take Adam's step as it is.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float], eps: float = 1e-6, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                count = state["step"].item()
                state["mean"].lerp_(parameter.grad, 1 - first)
                state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                root = (state["square"] / (1 - second**count)).sqrt_().add_(group["eps"])
                update = state["mean"] / (1 - first**count) / root
                if group["weight_decay"] > 0:
                    update.add_(parameter, alpha=group["weight_decay"])
                    weight, length = parameter.norm(), update.norm()
                    update *= torch.where((weight > 0) & (length > 0), weight / length, 1.0)
                parameter.add_(update, alpha=-group["lr"])


def optimizer_of(model: nn.Module, how: Optim) -> torch.optim.Optimizer:
    """The optimizer of a recipe. Only kernels are decayed: of linear layers and convolutions, not biases, scales of
    normalization or position embeddings."""
    kernels, others = [], []
    for name, parameter in model.named_parameters():
        is_kernel = name.split(".")[-1] == "weight" and parameter.ndim > 1
        (kernels if is_kernel else others).append(parameter)
    groups = [{"params": kernels, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # One pass over all weights, where they are whole arrays.
    fused = not any(isinstance(parameter, DTensor) for parameter in model.parameters())
    optimizer = OPTIMIZERS[how.name](model, groups, how, fused)
    _fill(optimizer)
    return optimizer


OPTIMIZERS: dict[str, Callable[[nn.Module, list, Optim, bool], torch.optim.Optimizer]] = {
    # torch's AdamW shrinks kernels by lr · decay a step. The authors' Adam shrinks them by their own decay times the
    # schedule, apart from lr: their 1e-4 at lr 0.001 is 0.1 here.
    "adamw": lambda _, groups, how, fused: torch.optim.AdamW(groups, how.lr, how.betas, fused=fused),
    "adam": lambda _, groups, how, fused: torch.optim.Adam(groups, how.lr, how.betas, fused=fused),
    "sgd": lambda _, groups, how, fused: torch.optim.SGD(
        groups, how.lr, how.momentum, nesterov=how.nesterov, fused=fused
    ),
    "muon": lambda model, groups, how, fused: Muon(groups, maps_of(model), how.lr, how.betas, fused=fused),
    "lamb": lambda _model, groups, how, _fused: Lamb(groups, how.lr, how.betas),
}


def _fill(optimizer: torch.optim.Optimizer) -> None:
    """Creates the state of before the first step, so that there is something to restore or to save at any time."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # `lr_at` sets it anew for each step
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()


def warmup_of(steps: int, how: Optim) -> int:
    """Warm-up steps of a run: `warmup_steps`, limited to `warmup_share` of a short run."""
    if how.warmup_share == 1:
        return how.warmup_steps  # even more than the run has
    return min(how.warmup_steps, round(how.warmup_share * steps))


def lr_at(step: int, steps: int, how: Optim) -> float:
    """The learning rate of a step, counted from 0: up to the peak in the warm-up, then along the schedule."""
    warmup = warmup_of(steps, how)
    if step < warmup:
        return how.lr * (step + 1) / warmup
    way = (step - warmup) / max(steps - warmup, 1)
    if how.schedule == "steps":
        return how.lr * 0.1 ** sum(step >= milestone * steps for milestone in how.milestones)
    left = {"linear": 1 - way, "cosine": (1 + math.cos(math.pi * way)) / 2, "constant": 1.0}[how.schedule]
    return how.lr * (how.final_lr_ratio + (1 - how.final_lr_ratio) * left)


def ema_decay_at(step: int, how: Optim) -> float:
    """The decay of the moving average of weights in a step, counted from 0."""
    return min(how.ema, (1 + step) / (10 + step)) if how.ema_warmup else how.ema
